"""python -m flows.score: any predictions file scored without a model, with intervals, and a test of two systems."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from flows import score_text
from flows.cli import CONF, composed
from flows.score import Score, score
from tasks.config import parse_section
from tasks.errors import ConfigError, DataError
from tasks.evaluation import predictions, scoring
from tasks.evaluation.files import replies
from tasks.evaluation.predictions import Prediction
from tasks.evaluation.promptcblue import suite

ROOT = Path(__file__).parents[3]
scored_by = partial(parse_section, Score)


def scored(**keys: Any) -> dict[str, Any]:
    return score(scored_by({key: str(value) if isinstance(value, Path) else value for key, value in keys.items()}))


def command(*arguments: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "flows.score", *arguments],
        cwd=cwd, capture_output=True, text=True, encoding="utf-8", check=False,
    )  # fmt: skip


def jsonl(path: Path, *rows: Mapping[str, Any]) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def value(values: Mapping[str, Mapping[str, float]], name: str) -> float:
    return values[name]["value"]


#: Hits, predictions, references of the rows: 1 1 2, 1 2 1, 0 0 1 (a malformed line), and nothing at all.
TRIPLES = [
    {"text": "一", "answer": "a_组成_b\nc_组成_d", "prediction": "a_组成_b"},
    {"text": "二", "answer": "a_组成_b", "prediction": "a_组成_b\ne_组成_f"},
    {"text": "三", "answer": "a_组成_b", "prediction": "a_组成"},
    {"text": "四", "answer": "", "prediction": ""},
]


# --- what is computed ------------------------------------------------------------------------------------------------


def test_triples_of_a_plain_file(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "p.jsonl", *TRIPLES)
    result = scored(metric="triples", predictions=path)
    metrics, facts = result["metrics"], result["tasks"]["triples"]["facts"]
    assert [value(metrics, name) for name in ("precision", "recall", "f1")] == pytest.approx([2 / 3, 2 / 4, 4 / 7])
    assert value(metrics, "seed_f1") == pytest.approx((2 / 3 + 2 / 3 + 0 + 0) / 4)
    assert value(metrics, "seed_f1_over_50") == pytest.approx((2 / 3 + 2 / 3) / 50)
    assert (facts["malformed_lines"], facts["empty_predictions"], facts["seed_f1_divisor"]) == (1, 1, 4)
    assert metrics["f1"]["low"] <= value(metrics, "f1") <= metrics["f1"]["high"]
    assert result["score"] == metrics["f1"] and result["rows"] == 4
    assert "official" not in result


def test_the_text_states_interval_rows_divisor_and_counts(tmp_path: Path) -> None:
    text = score_text.shown(scored(metric="triples", predictions=jsonl(tmp_path / "p.jsonl", *TRIPLES)))
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in text.splitlines() if "│" in line]
    (f1,) = (row for row in rows if row[2] == "f1 *")
    assert f1[:2] == ["triples", "4"] and f1[3] == "0.5714" and f1[4].startswith("[")
    assert ["seed_f1 (sum over rows / 4)", "0.3333"] in [row[2:4] for row in rows]
    assert "malformed_lines 1" in text and "empty_predictions 1" in text
    assert f"references: {tmp_path / 'p.jsonl'}, answer" in text


def test_a_mixed_set_gives_one_table_and_the_mean_of_its_tasks(tmp_path: Path) -> None:
    """Our own predictions, as evaluation writes them: each row's task and metric decide."""
    label = [
        Prediction(f"c{i}", "intent", "classification", "", gold, answer)
        for i, (gold, answer) in enumerate([("a", "a"), ("a", "b"), ("b", "b"), ("b", "b")])
    ]
    predictions.append(tmp_path / "tuned.jsonl", label)
    predictions.append(tmp_path / "tuned.jsonl", [Prediction("t", "triples", "triples", "", "a_组成_b", "a_组成_b")])
    result = scored(predictions=tmp_path / "tuned.jsonl")
    assert value(result["metrics"]["intent"], "accuracy") == 3 / 4
    macro = (2 / 3 + 4 / 5) / 2
    assert value(result["metrics"]["intent"], "macro_f1") == pytest.approx(macro)
    assert value(result["metrics"]["triples"], "f1") == 1
    assert result["score"]["value"] == pytest.approx((macro + 1) / 2)
    text = score_text.shown(result)
    assert text.count("┏") == 1 and "intent" in text and "mean of the tasks' *" in text


def test_text_is_counted_in_words_or_characters(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "p.jsonl", {"content": "类型#裙", "summary": "宽松的裤子", "prediction": "宽松的裙子"})
    words, characters = (
        scored(metric="generation", predictions=path, text_unit=unit) for unit in ("words", "characters")
    )
    assert value(characters["metrics"], "rouge_1") == pytest.approx(4 / 5, abs=1e-6)
    assert value(words["metrics"], "rouge_1") == pytest.approx(2 / 3, abs=1e-6)  # 宽松 的 裙子
    assert "rouge_l" in words["tasks"]["generation"]["percent"]
    assert "rouge_1 x100" in score_text.shown(words)


def test_a_broken_models_perplexity_is_scored_counted_and_fits_its_column(tmp_path: Path) -> None:
    """1,000,000 nats over 3 tokens count as 300; with the other row, 100 / 2 a token: e^50."""
    row = {"text": "q", "answer": "字", "prediction": "", "nll_tokens": 3}
    path = jsonl(tmp_path / "p.jsonl", {**row, "nll": 1e6}, {**row, "nll": 0.0})
    text = score_text.shown(scored(metric="perplexity", predictions=path))
    assert "5.1847e+21" in text and "rows_at_the_nll_limit 1" in text


def test_rows_of_a_document_are_resampled_as_one(tmp_path: Path) -> None:
    rows = [{"input": f"文{i // 10}", "output": "甲", "prediction": "甲" if i // 10 % 2 else "乙"} for i in range(80)]
    path = jsonl(tmp_path / "p.jsonl", *rows)
    alone, grouped = (scored(metric="classification", predictions=path, group_by=g) for g in (None, "input"))
    assert (alone["tasks"]["classification"]["groups"], grouped["tasks"]["classification"]["groups"]) == (80, 8)
    widths = [r["metrics"]["accuracy"]["high"] - r["metrics"]["accuracy"]["low"] for r in (alone, grouped)]
    assert widths[1] > 2 * widths[0]  # sqrt(10) in theory


def test_two_systems_are_tested_on_the_same_rows(tmp_path: Path) -> None:
    rng = random.Random(0)
    rows = [{"id": i, "output": "甲"} for i in range(200)]
    good, bad = (
        jsonl(tmp_path / name, *({**row, "prediction": "甲" if rng.random() < right else "乙"} for row in rows))
        for name, right in (("good.jsonl", 0.9), ("bad.jsonl", 0.5))
    )
    result = scored(metric="classification", predictions=good, against=bad)
    against = result["against"]
    assert against["test"]["verdict"] == "better" and against["test"]["p_value"] < 0.01
    assert against["test"]["value"] == pytest.approx(result["score"]["value"] - against["score"]["value"])
    assert against["conclusion"] in score_text.shown(result) and "is better than" in against["conclusion"]
    same = scored(metric="classification", predictions=good, against=good)["against"]
    assert same["test"]["verdict"] == "not separable" and same["test"]["p_value"] == 1
    jsonl(bad, *(row | {"prediction": "甲"} for row in rows[1:]))
    with pytest.raises(DataError, match="not scored on the same rows"):
        scored(metric="classification", predictions=good, against=bad)


# --- PromptCBLUE -----------------------------------------------------------------------------------------------------

_MAIN = {"micro": "f1", "macro": "f1", "weighted": "f1", "rouge": "rougeL", "rouge_sections": "rougeL"}


@pytest.mark.parametrize("ours", ["pred.jsonl", "pred_structured.json", "shuffled.jsonl", "shuffled_structured.json"])
@pytest.mark.parametrize("gold", ["gold.jsonl", "gold_structured.json"])
def test_every_form_scores_as_the_official_scorer_does(shared: Path, tmp_path: Path, ours: str, gold: str) -> None:
    stem = shared / "data" / "promptcblue" / "reference_scores" / "toy_dev_perturbed_seed7"
    expected = json.loads(Path(f"{stem}.scores.json").read_text(encoding="utf-8"))["pred_vs_gold"]
    if ours.startswith("shuffled"):
        rows = Path(f"{stem}.{ours.replace('shuffled', 'pred')}").read_text(encoding="utf-8")
        path = tmp_path / ours
        path.write_text(_shuffled(rows), encoding="utf-8")
    else:
        path = Path(f"{stem}.{ours}")
    result = scored(metric="promptcblue", predictions=path, references=Path(f"{stem}.{gold}"))
    overall = expected.pop("_overall_mean_of_main_metric")
    assert set(result["metrics"]) == set(expected) and len(expected) == 16 and result["rows"] == 80
    for task, numbers in expected.items():
        values, primary = result["metrics"][task], result["tasks"][task]["primary"]
        assert value(values, primary) == pytest.approx(numbers[_MAIN[numbers["kind"]]], abs=1e-6), task
        if numbers["kind"] == "micro":
            for name in ("precision", "recall"):
                assert value(values, name) == pytest.approx(numbers[name], abs=1e-6), task
    assert result["score"]["value"] == pytest.approx(overall, abs=1e-6)
    assert result["official"]["score"] == pytest.approx(100 * overall, abs=1e-4)
    assert result["official"]["missing"] == []


def _shuffled(text: str) -> str:
    rng = random.Random(1)
    if text.startswith('{"CMeEE-V2"'):
        content = json.loads(text)
        return json.dumps({task: rng.sample(rows, len(rows)) for task, rows in content.items()}, ensure_ascii=False)
    lines = text.splitlines()
    return "\n".join(rng.sample(lines, len(lines)))


def test_a_submission_scores_as_the_texts_do_and_needs_no_references(shared: Path, tmp_path: Path) -> None:
    stem = shared / "data" / "promptcblue" / "reference_scores" / "toy_dev_perturbed_seed7"
    ours, gold, out = Path(f"{stem}.pred.jsonl"), Path(f"{stem}.gold.jsonl"), tmp_path / "results.json"
    result = scored(predictions=ours, submission=out)
    assert result == {"predictions": str(ours), "rows": 80, "submission": str(out)}
    assert "no references: nothing was scored" in score_text.shown(result)
    theirs = scored(predictions=out, references=gold)
    assert theirs["metrics"] == scored(predictions=ours, references=gold, seed=42)["metrics"]
    same = scored(predictions=ours, references=Path(f"{stem}.gold_structured.json"), against=out)
    assert same["against"]["test"]["value"] == 0 and same["against"]["conclusion"].endswith("on every one of 80 rows.")
    test_set = shared / "data" / "promptcblue" / "toy_examples" / "test.json"
    with pytest.raises(DataError, match="every reference is empty, as in a test whose gold is kept back"):
        scored(predictions=test_set, references=test_set)


def test_structured_systems_are_tested_over_common_labels(tmp_path: Path) -> None:
    """The first one's answers hold a label that the other's do not, so their label columns differ before."""
    gold = {"CHIP-STS": [{"sample_id": str(i), "answer": "是的" if i % 2 else "不是"} for i in range(40)]}
    good = {"CHIP-STS": [row if i else row | {"answer": "别的"} for i, row in enumerate(gold["CHIP-STS"])]}
    bad = {"CHIP-STS": [row | {"answer": "不是"} for row in gold["CHIP-STS"]]}
    for name, content in (("gold", gold), ("good", good), ("bad", bad)):
        (tmp_path / f"{name}.json").write_text(json.dumps(content), encoding="utf-8")
    result = scored(
        predictions=tmp_path / "good.json", references=tmp_path / "gold.json", against=tmp_path / "bad.json"
    )
    ours, theirs = (1 + 2 * 19 / 39) / 2, (0 + 2 * 20 / 60) / 2
    assert result["score"]["value"] == pytest.approx(ours)
    assert result["against"]["score"]["value"] == pytest.approx(theirs)
    assert result["against"]["test"]["value"] == pytest.approx(ours - theirs)
    assert result["against"]["test"]["verdict"] == "better"
    assert result["official"]["missing"][0] == "CMeEE-V2"


#: By kind of answer: what a model said, and the reference.
EIGHTEEN: dict[suite.Kind, tuple[str, str]] = {
    "entities": ("甲实体:子", "甲实体：子"),  # a half-width mark: the later edition does not fold it
    "relations": (
        "具有甲关系的头尾实体对如下：头实体为子，尾实体为丑。",
        "具有甲关系的头尾实体对如下：头实体为子，尾实体为寅。",
    ),
    "causal": ("因果关系三元组如下：\n头实体：子；尾实体：丑", "因果关系三元组如下：\n头实体：子；尾实体：丑"),
    "terms": ("甲，乙", "乙"),
    "events": ("如下：\n主体词：痛", "如下：\n主体词：痛；解剖部位：腹"),
    "attributes": ("如下：\n咳嗽:甲", "如下：\n咳嗽：甲"),
    "label": ("乙", "甲"),
    "text": ("多休息，多喝水。", "多喝水。"),
    "report": ("如下：\n主诉：咳嗽", "如下：\n主诉：咳嗽\n诊断：感冒"),
    "tree": (
        "1：role=D；logical_rel=null；triples=[('a', 'b', 'c')]",
        "1：role=C；logical_rel=null；triples=[('a', 'b', 'c')]",
    ),
}  # fmt: skip


def test_the_later_editions_tasks_score_as_an_evaluation_of_the_same_rows_does(tmp_path: Path) -> None:
    path = tmp_path / "tuned.jsonl"
    for task in suite.EDITIONS["head"]:
        said, gold = EIGHTEEN[suite.kind(task)]
        fields = {"answer_choices": ["甲", "乙"]}
        rows = [
            Prediction(f"{task}-{i}", task, "promptcblue", "", gold, text, {**fields, "sample_id": str(i)})
            for i, text in enumerate([said, gold, "", said])
        ]
        predictions.append(path, rows)
    result = scored(predictions=path)
    system = scoring.sampled(replies.read(path), resamples=1000, seed=42)
    assert len(result["tasks"]) == len(system.tasks) == 18
    assert result["score"] == system.headline.interval().to_json()
    for name, samples in system.samples.items():
        assert result["metrics"][name] == {v: one.interval().to_json() for v, one in samples.items()}, name
        assert result["tasks"][name]["facts"]["dialects"] == ["head"]
    assert value(result["metrics"]["CMeEE-V2"], "f1") == pytest.approx(2 * 1 / (3 + 4))  # 6 / 7 with marks folded
    assert result["official"]["missing"] == []


def test_missing_predictions_are_said(tmp_path: Path) -> None:
    row = {"input": "x", "answer_choices": ["病因"], "task_type": "cls", "task_dataset": "CHIP-CTC"}
    gold = jsonl(tmp_path / "g.jsonl", *({**row, "target": "病因", "sample_id": i} for i in range(3)))
    ours = jsonl(tmp_path / "p.jsonl", {**row, "target": "病因", "sample_id": 1})
    result = scored(predictions=ours, references=gold)
    assert (result["rows"], result["unanswered"]) == (1, 2)
    assert "not scored: 2 references without a prediction" in score_text.shown(result)


@pytest.mark.parametrize(("dialect", "f1"), [(None, 1.0), ("ccks2023", 1.0), ("head", 0.0)])
def test_a_dialect_decides_how_half_width_marks_are_read(tmp_path: Path, dialect: str | None, f1: float) -> None:
    """The earlier edition folds them first; the later one takes the whole line for one entity."""
    row = {"input": "x", "answer_choices": ["疾病"], "task_dataset": "CMeEE-V2", "sample_id": "1"}
    path = jsonl(tmp_path / "p.jsonl", {**row, "target": "疾病实体：感冒", "prediction": "疾病实体:感冒"})
    result = scored(predictions=path, dialect=dialect)
    assert value(result["metrics"], "f1") == f1


# --- the command -----------------------------------------------------------------------------------------------------


def test_the_command_prints_json_last_and_runs_from_anywhere(tmp_path: Path) -> None:
    jsonl(tmp_path / "a,b.jsonl", *TRIPLES)
    done = command("metric=triples", "predictions=a,b.jsonl", "output=json", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    result = json.loads(done.stdout.splitlines()[-1])
    assert value(result["metrics"], "f1") == pytest.approx(4 / 7)
    again = command("metric=triples", "predictions=a,b.jsonl", "output=json", cwd=tmp_path)
    assert again.stdout == done.stdout


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ((), "predictions: must be set"),
        (("predictions=none.jsonl",), "none.jsonl: no such file"),
        (("predictions=p.jsonl", "metrc=triples"), "metrc: unknown key; did you mean metric?"),
        (("predictions=p.jsonl", "metric=tripels"), "metric='tripels': unknown; did you mean triples? known: chat, "),
        (("predictions=p.jsonl",), "metric: must be set, as p.jsonl:1 names neither a metric nor a task_dataset"),
        (("predictions=bad.jsonl", "metric=triples"), "bad.jsonl:2: broken JSON: "),
        (("predictions=p.jsonl", "metric=triples", "resamples=1"), "resamples=1: "),
        (("predictions=gbk.jsonl", "metric=triples"), "gbk.jsonl:1: not UTF-8 (byte 0x"),
        (("predictions=empty.jsonl", "metric=triples"), "empty.jsonl: holds no rows; read are JSONL"),
        (("predictions=p.jsonl", "metric=triples", "references=bad.jsonl"), "bad.jsonl:2: broken JSON: "),
        (
            ("predictions=p.jsonl", "metric=triples", "references=gold.jsonl"),
            "p.jsonl has 4 rows and gold.jsonl has 1:",
        ),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(tmp_path: Path, arguments: tuple[str, ...], expected: str) -> None:
    jsonl(tmp_path / "p.jsonl", *TRIPLES)
    (tmp_path / "bad.jsonl").write_text('{"prediction": "", "answer": ""}\n{"prediction": \n', encoding="utf-8")
    (tmp_path / "gbk.jsonl").write_bytes(json.dumps(TRIPLES[0], ensure_ascii=False).encode("gbk"))
    (tmp_path / "empty.jsonl").touch()
    jsonl(tmp_path / "gold.jsonl", TRIPLES[0])
    done = command(*arguments, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"error: {expected}")


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ({"references": None}, "references: must be set, as official structured files hold answers alone"),
        ({"metric": "triples"}, "metric=triples: not with official structured files"),
        ({"group_by": "input"}, "group_by=input: not with official structured files"),
        ({"submission": "out.json"}, "submission=out.json: "),
    ],
)
def test_what_structured_files_cannot_have_is_said(tmp_path: Path, keys: dict[str, Any], expected: str) -> None:
    path = tmp_path / "s.json"
    path.write_text('{"MedDG": [{"sample_id": "1", "answer": "好"}]}', encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        scored(**{"predictions": path, "references": path, **keys})
    assert str(caught.value).startswith(expected)


@pytest.mark.parametrize("key", ["predictions", "references", "against"])
def test_a_submission_never_overwrites_what_is_read(tmp_path: Path, key: str) -> None:
    row = {"task_dataset": "MedDG", "sample_id": "1", "target": "好"}
    paths = {name: jsonl(tmp_path / f"{name}.jsonl", row) for name in ("predictions", "references", "against")}
    before = paths[key].read_bytes()
    (tmp_path / "folder").mkdir()
    same = tmp_path / "folder" / ".." / paths[key].name
    with pytest.raises(ConfigError) as caught:
        scored(**paths, submission=same)
    assert str(caught.value) == f"submission={same}: would overwrite {key}={paths[key]}; name a file that is not read"
    assert paths[key].read_bytes() == before
    with pytest.raises(ConfigError, match="would overwrite"):  # before anything is read
        scored(**{**paths, key: tmp_path / "absent.json"}, submission=tmp_path / "absent.json")


def test_dialogues_are_references_of_a_plain_file(tmp_path: Path) -> None:
    gold = jsonl(
        tmp_path / "dev.json",
        {"conversations": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "宽松"}]},
    )
    ours = jsonl(tmp_path / "p.jsonl", {"prediction": "宽松"})
    result = scored(metric="generation", predictions=ours, references=gold, text_unit="characters")
    assert value(result["metrics"], "rouge_l") == 1


def test_a_comparison_needs_references(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "p.jsonl", {"task_dataset": "MedDG", "sample_id": "1", "target": "好"})
    with pytest.raises(ConfigError, match="references: must be set, as against=FILE"):
        scored(predictions=path, submission=tmp_path / "out.json", against=path)


def test_the_keys_file_lists_every_key() -> None:
    values = composed("score", [], CONF / "verbs")
    assert set(values) | {"predictions"} == set(Score.model_fields)
    config = scored_by({**values, "predictions": "p.jsonl"})
    assert config == scored_by({"predictions": "p.jsonl"})


def test_scoring_loads_no_torch() -> None:
    code = "import sys, flows.score; print(*{'torch', 'transformers', 'prefect', 'mlflow'} & {*sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
