"""PromptCBLUE's official conversion and scorer: their own figures, and independent references on random answers."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tasks.data import answers
from tasks.errors import DataError
from tasks.evaluation.metric import Options, RowScores
from tasks.evaluation.metrics import promptcblue
from tasks.evaluation.predictions import Prediction
from tasks.evaluation.promptcblue import lists, scores, submission, suite, texts, trees
from tasks.evaluation.promptcblue.structure import Question, structure

GOLDEN = Path(__file__).parents[2] / "golden"
CHOICES = ["甲", "乙", "甲乙"]


def golden(name: str) -> Any:
    return json.loads((GOLDEN / f"promptcblue_{name}.json").read_text(encoding="utf-8"))


def row(task: str, prediction: str, reference: str = "甲", **fields: Any) -> Prediction:
    own = {"answer_choices": CHOICES, "sample_id": "s-1", **fields}
    return Prediction("1", task, "promptcblue", "", reference, prediction, own)


def score(*rows: Prediction) -> RowScores:
    return promptcblue.score(rows, Options())


def comparable(answers: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """Structured answers, CHIP-CDN's without an order: upstream's comes from a hash and varies between runs."""
    return {
        task: [{**r, "answer": sorted(map(str, r["answer"])) if task == "CHIP-CDN" else r["answer"]} for r in rows]
        for task, rows in answers.items()
    }


# --- text to structure ------------------------------------------------------------------------------------------


def test_texts_become_the_structures_of_the_official_conversion() -> None:
    cases = golden("postprocess")
    assert len(cases) == 23
    dialects = {"ccks2023_16_tasks": "ccks2023", "head_18_tasks": "head"}
    for case in cases:
        task = case["task_dataset"]
        dialect = suite.dialect(task, dialects[case["dialect"]])
        found = structure(case["target"], Question(task, tuple(case["answer_choices"] or ()), dialect))
        assert found.answer == case["structured"], case


def test_nested_answers_become_the_structures_of_the_official_conversion() -> None:
    cases = golden("nested")
    assert len(cases) == 14
    for case in cases:
        found = structure(case["target"], Question(case["task_dataset"], dialect="head"))
        assert found.answer == case["structured"], case


def test_the_older_edition_widens_only_the_first_hundred_marks_of_an_answer() -> None:
    text = "甲实体：" + "子," * 101
    older = structure(text, Question("CMeEE-V2", ("甲",))).answer
    assert [entity["entity"] for entity in older] == ["子"] * 100 + ["子,"]
    newer = structure(text, Question("CMeEE-V2", ("甲",), "head")).answer
    assert [entity["entity"] for entity in newer] == ["子," * 101]


def test_spaces_around_parts_are_dropped_where_the_official_conversion_drops_them() -> None:
    event = structure("如下：\n主体词： 痛 ；描述词： 钝 ， 重 ", Question("CHIP-CDEE"))
    assert event.answer == [{"主体词": "痛", "发生状态": "", "描述词": ["钝", "重"], "解剖部位": []}]
    twice = structure("如下：\n主体词：发生状态：否定", Question("CHIP-CDEE"))
    assert twice.answer == [{"主体词": "发生状态：否定", "发生状态": "否定", "描述词": [], "解剖部位": []}]
    header = "具有 甲 关系的头尾实体对如下："  # is looked for without its spaces, so it stays in the first head
    relation = structure(f"{header}头实体为 子 ，尾实体为 丑 。", Question("CMeIE"))
    assert relation.answer == [{"predicate": "甲", "subject": f"{header} 子", "object": "丑"}]
    attribute = structure("如下：\n 咳嗽 ：甲\n发热：甲 ", Question("IMCS-V2-SR", ("甲",)))
    unknown = "无法根据上下文确定病人是否患有该症状"
    assert attribute.answer == [{"entity": "咳嗽", "attr": "甲"}, {"entity": "发热", "attr": unknown}]


@pytest.mark.parametrize(
    "line",
    [
        "头实体：甲",
        "头实体：甲，尾实体：乙",
        "因果关系：甲、乙",
        "条件关系三元组如下：\n头实体：甲；尾实体：乙",
        "条件关系三元组如下：\n头实体：甲；尾三元组：头实体：乙；尾实体：丙；关系：上下位关系 ",
        "条件关系三元组如下：\n头实体：甲；尾三元组：头实体：乙；关系：因果关系",
    ],
)
def test_a_malformed_causal_line_is_left_out_and_counted(line: str) -> None:
    text = f"{line}\n因果关系三元组如下：\n头实体：子；尾实体：丑"
    found = structure(text, Question("CMedCausal", dialect="head"))
    assert found.answer == [{"predicate": "因果关系", "subject": "子", "object": "丑"}]
    assert found.unread == (0 if line.endswith("上下位关系 ") else 1)  # that line is a header, as upstream reads it


@pytest.mark.parametrize(
    "literal",
    [
        "[('a', 'b', str(open('harmed', 'w')))]",
        "__import__('pathlib').Path('harmed').touch() or []",
        "[('a', 'b', 'c')] * 2",
        "[" * 5000,
        "-" * 9000 + "1",
        "[('" + "a" * 20000 + "', 'b', 'c')]",
        "[('a', 'b', 'c')]\x00",
    ],
)
def test_triples_are_read_as_short_literals_and_never_run(
    literal: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    found = structure(f"1：role=D；logical_rel=or；triples={literal}", Question("Text2DT", dialect="head"))
    assert found.answer == [{"role": "D", "logical_rel": "or", "triples": []}]
    assert found.unread == 1
    assert not list(tmp_path.iterdir())


def test_what_nothing_could_be_made_of_is_counted() -> None:
    def counts(task: str, text: str, dialect: suite.Dialect = "ccks2023") -> tuple[int, int]:
        found = structure(text, Question(task, tuple(CHOICES), dialect))
        return found.unread, found.outside

    assert counts("CMeEE-V2", "实体：\n甲实体：子\n丙实体：丑\n\n好的") == (2, 0)
    assert counts("CMeIE", "没有指定类型的三元组") == (0, 0)
    assert counts(
        "CMeIE", "具有丙关系的头尾实体对如下：头实体为子，尾实体为丑。\n好的\n具有甲关系的头尾实体对如下："
    ) == (1, 1)
    assert counts("CHIP-CDN", "没有对应的标准化实体") == (0, 0)
    assert counts("CHIP-CDN", "甲，丙，丙，丁") == (0, 2)
    assert counts("CHIP-CDEE", "如下：\n主体词：痛\n\n好的") == (1, 0)
    assert counts("CHIP-MDCFNPC", "如下：\n子：甲\n丑：丙\n好的") == (1, 1)
    assert counts("IMCS-V2-MRG", "如下：\n主诉：痛\n好的") == (1, 0)
    assert counts("KUAKE-QIC", "非上述类型") == (0, 0)
    assert counts("KUAKE-QIC", "丙") == (0, 1)
    assert counts("Text2DT", "role=D\n1：role=D；logical_rel=null；triples=[]\n2：role=D", "head") == (2, 0)


@pytest.mark.parametrize(
    ("task", "asked", "dialect"),
    [
        ("CMeEE-V2", None, "ccks2023"),
        ("CMeEE-V2", "head", "head"),
        ("CMeIE", "head", "ccks2023"),
        ("CMeIE-V2", "ccks2023", "head"),
        ("Text2DT", None, "head"),
        ("CMedCausal", None, "head"),
    ],
)
def test_a_task_of_one_edition_decides_the_dialect_and_a_row_the_rest(task: str, asked: str, dialect: str) -> None:
    assert suite.dialect(task, asked) == dialect


def test_a_row_chooses_the_dialect_of_a_shared_task() -> None:
    rows = [row("CMeEE-V2", "甲实体:子", "甲实体：子", **fields) for fields in ({}, {"dialect": "head"})]
    assert [score(r).point()["f1"] for r in rows] == [1, 0]
    assert [score(r).facts["dialects"] for r in rows] == [["ccks2023"], ["head"]]


# --- the official scorer's own figures --------------------------------------------------------------------------


@pytest.fixture
def toy(shared: Path) -> Callable[[str], list[dict[str, Any]]]:
    def read(name: str) -> list[dict[str, Any]]:
        path = shared / "data/promptcblue" / name
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]

    return read


def predictions(predicted: Iterable[dict[str, Any]], gold: Iterable[dict[str, Any]]) -> list[Prediction]:
    return [
        Prediction(
            f"{i:04d}",
            p["task_dataset"],
            "promptcblue",
            p["input"],
            g["target"],
            p["target"],
            {"answer_choices": p["answer_choices"], "sample_id": p["sample_id"]},
        )
        for i, (p, g) in enumerate(zip(predicted, gold, strict=True))
    ]


REFERENCE = "reference_scores/toy_dev_perturbed_seed7"
OFFICIAL_VALUES = {
    "micro": {"precision": "precision", "recall": "recall", "f1": "f1"},
    "macro": {"precision": "macro_precision", "recall": "macro_recall", "f1": "macro_f1"},
    "weighted": {"precision": "weighted_precision", "recall": "weighted_recall", "f1": "weighted_f1"},
    "rouge": {"rouge1": "rouge_1", "rouge2": "rouge_2", "rougeL": "rouge_l"},
    "rouge_sections": {"rouge1": "rouge_1", "rouge2": "rouge_2", "rougeL": "rouge_l"},
}


@pytest.mark.parametrize("side", ["pred", "gold"])
def test_scores_of_all_16_tasks_are_the_official_ones(
    side: str, toy: Callable[[str], list[dict[str, Any]]], shared: Path
) -> None:
    rows = predictions(toy(f"{REFERENCE}.{side}.jsonl"), toy(f"{REFERENCE}.gold.jsonl"))
    files = [shared / f"data/promptcblue/{REFERENCE}.{name}_structured.json" for name in ("gold", side)]
    gold, structured = map(submission.read_structured, files)
    assert comparable(submission.submission(rows)) == comparable(structured)
    from_files = submission.score_structured(gold, structured)
    from_texts = {task: score(*(r for r in rows if r.task == task)) for task in from_files}
    official_scores = (shared / f"data/promptcblue/{REFERENCE}.scores.json").read_text(encoding="utf-8")
    expected = json.loads(official_scores)[f"{side}_vs_gold"]
    assert len(from_files) == 16
    for found in (from_files, from_texts):
        for task, official in expected.items():
            if task.startswith("_"):
                assert scores.overall(found) == pytest.approx(official, abs=1e-9)
                continue
            point = found[task].point()
            for name, own in OFFICIAL_VALUES[official["kind"]].items():
                assert point[own] == pytest.approx(official[name], abs=1e-9), (task, name)
    result = scores.official_result(from_files)
    assert result["success"]
    assert result["score"] == pytest.approx(100 * expected["_overall_mean_of_main_metric"])
    assert result["scoreJson"]["KUAKE-QIC-Macro-F1"] == pytest.approx(100 * expected["KUAKE-QIC"]["f1"])
    assert result["scoreJson"]["CHIP-STS-Micro-F1"] == pytest.approx(100 * expected["CHIP-STS"]["f1"])
    assert result["scoreJson"]["MedDG-RougeL"] == pytest.approx(100 * expected["MedDG"]["rougeL"])


def test_the_submission_of_empty_answers_is_the_official_sample(
    toy: Callable[[str], list[dict[str, Any]]], shared: Path, tmp_path: Path
) -> None:
    rows = toy("toy_examples/test.json")
    submission.write(tmp_path / "results.json", predictions(rows, rows))
    sample = (shared / "data/promptcblue/toy_examples/results.json").read_text(encoding="utf-8")
    assert (tmp_path / "results.json").read_text(encoding="utf-8").strip() == sample.strip()


def test_the_submission_of_the_references_is_the_official_gold(
    toy: Callable[[str], list[dict[str, Any]]], shared: Path, tmp_path: Path
) -> None:
    rows = toy("toy_examples/dev.json")
    submission.write(tmp_path / "results.json", predictions(rows, rows))
    gold = submission.read_structured(shared / "data/promptcblue/toy_examples/dev_structured.json")
    written = submission.read_structured(tmp_path / "results.json")
    assert list(written) == list(gold)
    assert comparable(written) == comparable(gold)


def test_real_references_score_full_marks_and_are_read_whole(shared: Path) -> None:
    for path in sorted((shared / "data/promptcblue/labelled").glob("*.json")):
        rows = [json.loads(line) for line in path.open(encoding="utf-8") if line.strip()]
        rows = [r for r in rows if r["target"].strip()][:300]
        found = score(*predictions(rows, rows))
        assert found.point()[found.primary] == pytest.approx(1, abs=1e-7)
        assert found.facts["reference_unread_lines"] == 0


# --- lists ------------------------------------------------------------------------------------------------------


def test_items_are_counted_over_all_rows_once_an_answer_with_their_keys_dropped() -> None:
    gold = [[{"a": "x", "b": ["1", "2"]}, {"a": "y", "b": []}], [{"a": "z", "b": []}], []]
    predicted = [[{"c": ["1", "2"], "a": "x"}, {"a": "x", "b": ["1", "2"]}, {"a": "y", "b": ["2"]}], [], []]
    found = lists.score(gold, predicted)  # the first two predicted items are one: keys are sorted, then dropped
    assert found.point() == pytest.approx({"precision": 1 / 2, "recall": 1 / 3, "f1": 2 / 5})
    assert list(found.rows) == [0.5, 0, 1]
    assert found.facts == {"answers_without_items": 2, "references_without_items": 1}


def test_list_values_keep_their_order_and_their_type() -> None:
    def f1(gold: Any, predicted: Any) -> float:
        return lists.score([[{"k": gold}]], [[{"k": predicted}]]).point()["f1"]

    assert f1(["a", "b"], ["a", "b"]) == 1
    assert f1(["a", "b"], ["b", "a"]) == 0
    assert f1(1, "1") == 0
    assert lists.score([[]], [[]]).point()["f1"] == 0


# --- labels -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("task", suite.LABELS)
def test_labels_score_as_scikit_learn_reports_them(task: str) -> None:
    from sklearn.metrics import classification_report

    rules = suite.LABELS[task]
    dice = random.Random(task)
    names = [rules.empty_means, "乙", "丙", "丁"]
    for _ in range(20):
        gold = [dice.choice(names) for _ in range(dice.randint(1, 30))]
        predicted = [dice.choice([*names, "", "别的", f"{dice.random()}"]) for _ in gold]
        point = score(*(row(task, f" {p}\n", g) for p, g in zip(predicted, gold, strict=True))).point()
        read = [p or rules.empty_means for p in predicted]
        report = classification_report(gold, read, output_dict=True, zero_division=0)
        main = report[f"{rules.average} avg"]
        for own, name in (("f1", "f1-score"), ("precision", "precision"), ("recall", "recall")):
            assert point[f"{rules.average}_{own}"] == pytest.approx(main[name], abs=1e-12)
        assert point["macro_f1"] == pytest.approx(report["macro avg"]["f1-score"], abs=1e-12)
        assert point["weighted_f1"] == pytest.approx(report["weighted avg"]["f1-score"], abs=1e-12)
        assert point["accuracy"] == pytest.approx(np.mean([a == b for a, b in zip(gold, read, strict=True)]))


@pytest.mark.parametrize(
    ("task", "empty_means", "primary"),
    [
        ("CHIP-CTC", "非上述类型", "macro_f1"),
        ("IMCS-V2-DAC", "非上述类型", "macro_f1"),
        ("KUAKE-QIC", "非上述类型", "macro_f1"),
        ("CHIP-STS", "是的", "weighted_f1"),
        ("KUAKE-IR", "相关", "weighted_f1"),
        ("KUAKE-QTR", "完全不匹配或者没有参考价值", "weighted_f1"),
        ("KUAKE-QQR", "完全一致", "weighted_f1"),
    ],
)
def test_an_empty_label_counts_as_the_first_of_the_official_list(task: str, empty_means: str, primary: str) -> None:
    found = score(row(task, " ", empty_means))
    assert (found.primary, found.point()["accuracy"]) == (primary, 1)


def test_label_facts_tell_where_answers_went() -> None:
    pairs = [("丙", "乙"), ("乙", "乙"), ("", "非上述类型"), ("随便", "丙"), ("又一个", "丙"), ("甲", "丙")]
    found = score(*(row("CHIP-CTC", p, g, answer_choices=["乙", "丙", "甲"]) for p, g in pairs))
    assert found.facts["labels"] == {"丙": 3, "乙": 2, "非上述类型": 1}
    assert found.facts["confusion"] == {
        "乙": {"丙": 1, "乙": 1},
        "非上述类型": {"非上述类型": 1},
        "丙": {"又一个": 1, "甲": 1, "随便": 1},
    }
    assert found.facts["answers_outside_the_labels"] == 3  # none of gold's labels, though one is an option
    assert found.facts["outside_the_choices"] == 2
    assert found.facts["empty_predictions"] == 1


def test_an_empty_label_reference_is_an_error() -> None:
    with pytest.raises(DataError, match=r"row 1 \(task KUAKE-IR\): the reference is empty"):
        score(row("KUAKE-IR", "相关", "  "))


def test_what_the_data_side_calls_labels_and_texts_is_what_is_scored_as_such() -> None:
    assert set(answers.LABEL_TASKS) == set(suite.LABELS) == {t for t, kind in suite.KINDS.items() if kind == "label"}
    assert set(answers.TEXT_TASKS) == {task for task, kind in suite.KINDS.items() if kind in ("text", "report")}


# --- texts ------------------------------------------------------------------------------------------------------

ALPHABET = "abＡ中文病,.。！？?…’”“ \n\té\u3000\ufeff\x1a\x04０1；ΣσİIが한\u0301\u2028"


def test_texts_are_cut_and_scored_as_by_the_tokenizer_and_the_package_that_the_official_scorer_uses() -> None:
    from rouge_chinese import Rouge
    from transformers.models.bert.tokenization_bert_legacy import BasicTokenizer

    tokenizer = BasicTokenizer(tokenize_chinese_chars=True)
    dice = random.Random(11)
    pairs = [["".join(dice.choices(ALPHABET, k=dice.randint(0, 30))) for _ in range(2)] for _ in range(400)]
    for text in (text for pair in pairs for text in pair):
        assert texts.words(text) == tokenizer.tokenize(text)
    joined = [[" ".join(tokenizer.tokenize(text)) or "无 。" for text in pair] for pair in pairs]
    expected = Rouge().get_scores([p for p, _ in joined], [g for _, g in joined], avg=True)
    point = score(*(row("MedDG", p, g) for p, g in pairs)).point()
    assert point == pytest.approx({f"rouge_{n}": expected[f"rouge-{n}"]["f"] for n in "12l"}, abs=1e-12)


def test_every_character_is_cut_as_by_the_tokenizer_that_the_official_scorer_uses() -> None:
    from transformers.models.bert.tokenization_bert_legacy import BasicTokenizer

    tokenizer = BasicTokenizer(tokenize_chinese_chars=True)
    for point in (*range(0xD800), *range(0xE000, 0x32000, 7)):
        assert texts.words(f"a{chr(point)}Ｂ") == tokenizer.tokenize(f"a{chr(point)}Ｂ"), hex(point)


def test_a_perfect_text_is_just_below_one_and_one_word_has_no_rouge_2() -> None:
    assert score(row("MedDG", "多喝水", "多喝水")).point()["rouge_l"] == pytest.approx(2 / (2 + 1e-8), abs=1e-15)
    point = score(row("MedDG", "水", "水")).point()
    assert (point["rouge_1"] > 0.99, point["rouge_2"]) == (True, 0)


def test_an_empty_text_counts_as_none_with_a_full_stop() -> None:
    assert score(row("MedDG", " \n", "无。")).point()["rouge_2"] == pytest.approx(1, abs=1e-8)
    assert score(row("MedDG", "", "多喝水。")).point()["rouge_1"] == pytest.approx(2 * 1 / (2 + 4), abs=1e-7)


def test_reports_average_over_the_sections_of_gold() -> None:
    rows = [
        row("IMCS-V2-MRG", "如下：\n主诉：咳嗽\n建议：多喝水", "如下：\n主诉：咳嗽\n诊断：感冒\n现病史："),  # 1, 0, 0
        row("IMCS-V2-MRG", "如下：\n主诉：咳", "如下：\n主诉：咳嗽"),  # 2 * 1 * 1/2 / (3/2)
    ]
    found = score(*rows)
    # 感冒 against a missing section (无。) is 0; an empty section against a missing one is 1.
    assert found.point()["rouge_l"] == pytest.approx((1 + 0 + 1 + 2 / 3) / 4, abs=1e-7)
    assert list(found.rows) == pytest.approx([2 / 3, 2 / 3], abs=1e-7)


# --- trees ------------------------------------------------------------------------------------------------------


def test_trees_count_as_the_official_functions_do() -> None:
    content = golden("trees")
    cases = content["cases"]
    assert len(cases) == 13
    found = trees.score([c["gold"] for c in cases], [c["predicted"] for c in cases])
    for case, own in zip(cases, found.statistics, strict=True):
        expected = [case["edit_distance"], case["max_edit_distance"], *case["paths"], *case["nodes"]]
        assert list(own) == expected, case["name"]
    assert found.point() == pytest.approx(content["values"], abs=1e-9)
    assert all(0 <= value <= 1 for value in found.rows)


def test_trees_without_triples_are_alike_only_as_a_whole() -> None:
    empty = {"role": "D", "logical_rel": "null", "triples": []}
    found = trees.score([[empty], [empty]], [[empty], [{**empty, "role": "C"}]])
    assert list(found.rows) == [1, 0]
    assert found.point()["tree_ratio"] == 0  # nothing to count by: upstream divides by zero


# --- what every kind keeps --------------------------------------------------------------------------------------

ANSWERS = {
    "entities": ["", "实体：\n甲实体：子，丑\n乙实体：寅", "甲实体：子", "乙实体：子，寅"],
    "relations": ["没有", "具有甲关系的头尾实体对如下：头实体为子，尾实体为丑。", "\n头实体为子，尾实体为丑。"],
    "causal": ["", "因果关系三元组如下：\n头实体：子；尾实体：丑", "上下位关系三元组：\n头实体：子；尾实体：丑\n坏"],
    "terms": ["甲", "乙，甲", "没有对应的标准化实体", "丙"],
    "events": ["", "如下：\n主体词：痛；解剖部位：腹，头", "如下：\n主体词：痛；解剖部位：腹，头\n\n主体词：热"],
    "attributes": ["如下：", "如下：\n咳嗽：甲\n发热：乙", "如下：\n咳嗽：甲", "如下：\n发热：丙"],
    "label": ["甲", "乙", "丙", "甲乙"],
    "text": ["多喝水。", "多休息，多喝水", "好", "a b"],
    "report": ["如下：\n主诉：咳嗽\n诊断：感冒", "如下：\n主诉：咳嗽", "如下：\n诊断：感冒\n建议：多喝水"],
    "tree": [
        "1：role=D；logical_rel=null；triples=[('a', 'b', 'c')]",
        "1：role=C；logical_rel=or；triples=[('a', 'b', 'c'), ('d', 'e', 'f')]\n"
        "2：role=D；logical_rel=null；triples=[]\n3：role=D；logical_rel=null；triples=[('a', 'b', 'c')]",
        "1：role=C；logical_rel=null；triples=[('a', 'b', 'c')]",
    ],
}


@pytest.mark.parametrize("task", suite.KINDS)
def test_values_of_resampled_sums_are_those_of_the_resampled_rows(task: str) -> None:
    dice = random.Random(task)
    answers = ANSWERS[suite.KINDS[task]]
    rows = [row(task, dice.choice(["", "别的", *answers]), dice.choice(answers)) for _ in range(40)]
    found = score(*rows)
    assert found.primary in found.point()
    assert all(0 <= value <= 1 for value in found.rows)
    for _ in range(5):
        drawn = [dice.randrange(len(rows)) for _ in rows]
        sums = np.asarray(found.statistics[drawn].sum(axis=0))
        again = score(*(rows[i] for i in drawn)).point()
        assert {name: float(value) for name, value in found.values(sums).items()} == pytest.approx(again, abs=1e-12)


@pytest.mark.parametrize("task", suite.KINDS)
def test_two_systems_scored_together_keep_their_own_values(task: str) -> None:
    dice = random.Random(task)
    answers = ANSWERS[suite.KINDS[task]]
    gold = [dice.choice(answers) for _ in range(30)]
    one, two = ([row(task, dice.choice(["", extra, *answers]), g) for g in gold] for extra in ("别的", "另一个"))
    together = score(*one, *two)
    for half, rows in ((slice(0, 30), one), (slice(30, 60), two)):
        sums = np.asarray(together.statistics[half].sum(axis=0))
        own = {name: float(value) for name, value in together.values(sums).items()}
        assert own == pytest.approx(score(*rows).point(), abs=1e-12)


FRAGMENTS = st.one_of(
    st.sampled_from("\n\\\x00\ud800\"'[]{：:，；。甲乙CD"),
    st.sampled_from(
        ["实体", "实体：", "头实体为", "，尾实体为", "具有", "关系的头尾实体对如下：", "主体词：", "解剖部位："]
    ),
    st.sampled_from(
        ["头实体：", "；尾实体：", "；尾三元组：", "；关系：", "因果关系三元组如下", "条件关系三元组", "上下位关系"]
    ),
    st.sampled_from(["：role=", "；logical_rel=", "；triples=", "('a','b','c')", "null", "1e999", "主诉：", "诊断："]),
)
ANY_TEXT = st.one_of(st.text(), st.lists(FRAGMENTS, max_size=25).map("".join))


@given(task=st.sampled_from(sorted(suite.KINDS)), dialect=st.sampled_from(suite.DIALECTS), text=ANY_TEXT)
@example(task="Text2DT", dialect="head", text="：role=C\n" * 300)
@settings(deadline=None, max_examples=400)
def test_no_text_is_an_error(task: str, dialect: str, text: str) -> None:
    reference = ANSWERS[suite.KINDS[task]][1]
    found = score(row(task, text, reference, dialect=dialect))
    assert 0 <= found.rows[0] <= 1
    assert all(np.isfinite(value) for value in found.point().values())
    json.dumps(found.facts)


# --- rows and files that cannot be scored -----------------------------------------------------------------------


def test_rows_that_cannot_be_read_are_errors_that_name_them() -> None:
    with pytest.raises(DataError, match="task='CMeEE-V3': PromptCBLUE has no such task; known: CHIP-CDEE"):
        score(row("CMeEE-V3", "甲"))
    with pytest.raises(DataError, match="dialect='latest': PromptCBLUE has ccks2023 and head"):
        score(row("CMeEE-V2", "甲", dialect="latest"))
    with pytest.raises(DataError, match=r"row 1 \(task CMeEE-V2\): answer_choices='疾病' must be a list of texts"):
        score(row("CMeEE-V2", "甲", answer_choices="疾病"))


@pytest.mark.parametrize(
    ("task", "reference"),
    [("CMeEE-V2", "疾病实体：感冒"), ("IMCS-V2-SR", "如下：\n咳嗽：有"), ("CHIP-CDN", "感冒")],
)
def test_answers_that_are_read_by_options_need_them(task: str, reference: str) -> None:
    rows = [row(task, "", reference, answer_choices=choices) for choices in (None, ["感冒"])]
    with pytest.raises(DataError, match=f"task {task}: no row has answer_choices"):
        score(rows[0])
    assert score(*rows).facts["rows_without_choices"] == 1


def test_a_prompt_without_options_may_rightly_have_no_entity() -> None:
    found = score(row("IMCS-V2-NER", "上述句子没有指定类型实体", "上述句子没有指定类型实体", answer_choices=None))
    assert list(found.rows) == [1]


def answered(*samples: str | int, task: str = "KUAKE-IR", answer: Any = "相关") -> dict[str, list[dict[str, Any]]]:
    return {task: [{"sample_id": sample, "answer": answer} for sample in samples]}


@pytest.mark.parametrize(
    ("gold", "predicted", "problem"),
    [
        (answered("a"), {}, "p.json: task KUAKE-IR is missing; g.json has 1 rows of it"),
        (answered("a", "b", "c"), answered("a"), "task KUAKE-IR, sample_id b: is missing, as are 2 of 3 rows"),
        (answered("a"), answered("a", "b"), "sample_id b: is not in g.json, as are 1 of its 2 rows"),
        (answered("a", "b"), answered("a", "a"), "sample_id a: is given more often than g.json"),
        (answered("a", "b"), answered("b", "a"), "sample_id b: stands at place 1, where g.json has a"),
        (answered("a", answer=""), answered("a"), "g.json: task KUAKE-IR, sample_id a: the label is empty"),
        (answered("a"), answered("a", answer=["相关"]), 'sample_id a: answer=["相关"] must be a text'),
        (
            answered("a", task="CMeIE", answer=[]),
            answered("a", task="CMeIE"),
            'answer="相关" must be a list of objects',
        ),
        (
            answered("a", task="IMCS-V2-MRG", answer={}),
            answered("a", task="IMCS-V2-MRG", answer={"主诉": 1}),
            'answer={"主诉": 1} must be an object of texts by section',
        ),
        (
            answered("a", task="Text2DT", answer=[{"role": "D", "logical_rel": "null", "triples": []}]),
            answered("a", task="Text2DT", answer=[]),
            "answer=[] must be a list of nodes, at least one",
        ),
        (answered(task="KUAKE-IR"), answered("a"), "g.json: no task has rows"),
        (answered("a", task="KUAKE"), answered("a", task="KUAKE"), "task='KUAKE': PromptCBLUE has no such task"),
    ],
)
def test_structured_files_that_do_not_fit_are_errors_that_name_the_sample(
    gold: dict[str, Any], predicted: dict[str, Any], problem: str
) -> None:
    with pytest.raises(DataError) as error:
        submission.score_structured(gold, predicted, names=("g.json", "p.json"))
    assert problem in str(error.value)


def test_structured_tasks_that_gold_lacks_are_not_looked_at() -> None:
    gold = answered("a", 2) | answered(task="CMeIE")
    found = submission.score_structured(gold, answered("a", 2) | answered("x", task="CHIP-STS"))
    assert list(found) == ["KUAKE-IR"]


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("{", "cannot be read as JSON"),
        ("[" * 100_000, "cannot be read as JSON"),
        ("[]", "must be {task:"),
        ('{"CMeIE": {}}', "must be {task:"),
        ('{"CMeIE": [{"sample_id": "a"}]}', 'task CMeIE, row 1: must be {"sample_id"'),
        ('{"CMeIE": [{"sample_id": null, "answer": []}]}', "task CMeIE, row 1"),
    ],
)
def test_a_file_of_another_form_is_an_error_that_names_it(content: str, problem: str, tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(DataError) as error:
        submission.read_structured(path)
    assert str(path) in str(error.value)
    assert problem in str(error.value)
    with pytest.raises(DataError, match="absent.json"):
        submission.read_structured(tmp_path / "absent.json")


# --- submissions ------------------------------------------------------------------------------------------------


def test_a_submission_holds_every_task_of_its_edition_in_the_official_order() -> None:
    sixteen = submission.submission([row("MedDG", " 好 "), row("CMeEE-V2", "甲实体：子")])
    assert len(sixteen) == 16
    assert list(sixteen)[:2] == ["CMeEE-V2", "CMeIE"]
    assert sixteen["MedDG"] == [{"sample_id": "s-1", "answer": "好"}]
    assert sixteen["CMeIE"] == []
    eighteen = submission.submission([row("Text2DT", ""), row("CMeIE-V2", "")])
    assert list(eighteen)[-2:] == ["Text2DT", "CMedCausal"]
    assert len(eighteen) == 18


def test_a_submission_keeps_the_order_of_the_rows_and_one_id_per_task() -> None:
    rows = [
        row("MedDG", "一", sample_id="b"),
        row("KUAKE-IR", "相关", sample_id="b"),
        row("MedDG", "二", sample_id="a"),
    ]
    assert submission.submission(rows)["MedDG"] == [
        {"sample_id": "b", "answer": "一"},
        {"sample_id": "a", "answer": "二"},
    ]


@pytest.mark.parametrize(
    ("rows", "problem"),
    [
        ([row("MedDG", "一", sample_id=None)], r"row 1 \(task MedDG\): no sample_id"),
        ([row("MedDG", "一"), row("MedDG", "二")], r"row 1 \(task MedDG\): sample_id s-1 is there twice"),
        ([row("CMeEE-V2", "甲实体：子", answer_choices=None)], "task CMeEE-V2: no row has answer_choices"),
        ([row("CMeIE", ""), row("CMeIE-V2", "")], "tasks CMeIE, CMeIE-V2: no edition of PromptCBLUE has them all"),
    ],
)
def test_a_submission_that_the_official_scorer_could_not_pair_is_an_error(
    rows: Sequence[Prediction], problem: str
) -> None:
    with pytest.raises(DataError, match=problem):
        submission.submission(rows)


@pytest.mark.parametrize("fields", [{"prediction": "好\ud83d"}, {"prediction": "好", "sample_id": "s\ud83d"}])
def test_a_submission_that_utf_8_cannot_hold_names_the_row_and_leaves_the_file_as_it_was(
    fields: dict[str, str], tmp_path: Path
) -> None:
    path = tmp_path / "results.json"
    path.write_text("before", encoding="utf-8")
    with pytest.raises(DataError, match=r"task MedDG, row .*\\ud83d.*: holds half a character") as error:
        submission.write(path, [row("MedDG", "一", sample_id="a"), row("MedDG", **{"reference": "甲", **fields})])
    assert str(error.value).isprintable()
    assert (path.read_text(encoding="utf-8"), list(tmp_path.iterdir())) == ("before", [path])
