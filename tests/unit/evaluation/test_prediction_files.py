"""Predictions files of every known form, paired with their references by name; each problem names file:line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tasks.errors import ConfigError, DataError
from tasks.evaluation import predictions
from tasks.evaluation.files import json_records
from tasks.evaluation.files.prediction_files import Answers, Columns, read
from tasks.evaluation.predictions import Prediction

TRIPLES = Columns(metric="triples")
TEXT = Columns(metric="generation")
BLUE = Columns()


def lines(path: Path, *rows: Any, end: str = "\n", encoding: str = "utf-8") -> Path:
    text = end.join(row if isinstance(row, str) else json.dumps(row, ensure_ascii=False) for row in rows)
    path.write_bytes((text + end).encode(encoding))
    return path


def blue(sample_id: str, target: str, task: str = "CHIP-CTC", **more: Any) -> dict[str, Any]:
    row = {"input": f"{task} {sample_id}", "target": target, "answer_choices": ["病因", "治疗"], "task_type": "cls"}
    return {**row, "task_dataset": task, "sample_id": sample_id, **more}


def problem(path: Path, columns: Columns = TRIPLES, references: Path | None = None) -> str:
    with pytest.raises(DataError) as caught:
        read(path, columns, references)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def pairs(answers: Answers) -> list[tuple[str, str, str]]:
    return [(p.id, p.prediction, p.reference) for p in answers.predictions]


# --- forms of a file -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_line_ends_and_the_byte_order_mark_change_nothing(tmp_path: Path, end: str, encoding: str) -> None:
    rows = [
        {"text": f"文{i}\u2028\x85", "answer": "甲_组成_乙\n丙_组成_丁", "prediction": f"甲\n{i}"} for i in range(3)
    ]
    path = lines(tmp_path / "p.jsonl", rows[0], "", *rows[1:], end=end, encoding=encoding)
    found = read(path, TRIPLES).predictions
    assert [(p.prompt, p.reference, p.prediction) for p in found] == [
        (f"文{i}\u2028\x85", "甲_组成_乙\n丙_组成_丁", f"甲\n{i}") for i in range(3)
    ]
    assert json_records.read(path).lines == [1, 3, 4]


@pytest.mark.parametrize("indent", [None, 4])
def test_an_array_holds_the_same_rows_as_lines(tmp_path: Path, indent: int | None) -> None:
    """The triple-extraction scripts' ft_pt_answer.json."""
    rows = [
        {"text": "问", "ori_answer": "a_组成_b", "gen_answer": "a_组成_c", "f1": 0.0},
        {"text": "", "ori_answer": "", "gen_answer": "", "f1": 0.0},
    ]
    path = tmp_path / "ft_pt_answer.json"
    path.write_text(json.dumps(rows, ensure_ascii=False, indent=indent), encoding="utf-8")
    assert pairs(read(path, TRIPLES)) == [("row 0000001", "a_组成_c", "a_组成_b"), ("row 0000002", "", "")]
    assert json_records.read(path).lines == ([1, 1] if indent is None else [2, 8])


def test_our_own_predictions_come_back_as_they_were_written(tmp_path: Path) -> None:
    noted = ("length", 7, 3, 0.5, True, "d1", 2, 1.5, 4, False)
    full = Prediction("r1", "chat", "chat", "问", "答", "答。", {"references": ["答", "好"]}, *noted)
    every = [full, Prediction("r2", "triples", "triples", "p", "r", "")]
    predictions.append(tmp_path / "tuned.jsonl", every)
    assert read(tmp_path / "tuned.jsonl", BLUE).predictions == every


def test_what_python_writes_and_json_forbids_is_read(tmp_path: Path) -> None:
    row = {"answer": "a", "prediction": "\ud83d", "nll": float("nan")}
    path = tmp_path / "p.jsonl"
    path.write_text(json.dumps(row), encoding="utf-8")
    (found,) = read(path, TEXT).predictions
    assert found.prediction == "\ud83d" and found.nll != found.nll
    assert found.finish_reason == ""  # nobody noted it: neither stopped nor cut


@pytest.mark.parametrize(
    ("row", "prompt", "reference"),
    [
        ({"prompt": "p", "reference": "r", "target": "no"}, "p", "r"),
        ({"input": "p", "target": "r"}, "p", "r"),
        ({"instruction": "抽取：", "input": "文", "output": "r"}, "抽取：文", "r"),
        ({"instruction": ["一", "二"], "output": "r"}, "一二", "r"),
        ({"text": "p", "answer": "r"}, "p", "r"),
        ({"prompt": "p", "response": "r"}, "p", "r"),
        ({"content": "p", "summary": "r"}, "p", "r"),
        ({"text": "p", "label": 3}, "p", "3"),
        (
            {"conversations": [{"role": "user", "content": "p"}, {"role": "assistant", "content": "r"}]},
            "p",
            "r",
        ),
    ],
)
def test_the_columns_of_the_known_data_sets_are_found(tmp_path: Path, row: Any, prompt: str, reference: str) -> None:
    (found,) = read(lines(tmp_path / "p.jsonl", {**row, "prediction": "x"}), TEXT).predictions
    assert (found.prompt, found.reference, found.prediction) == (prompt, reference, "x")


def test_named_columns_go_before_the_known_ones(tmp_path: Path) -> None:
    row = {"prediction": "old", "answer": "no", "mine": "x", "truth": "r"}
    columns = Columns(prediction="mine", reference="truth", metric="generation")
    (found,) = read(lines(tmp_path / "p.jsonl", row), columns).predictions
    assert (found.prediction, found.reference) == ("x", "r")
    text = problem(tmp_path / "p.jsonl", Columns(prediction="mein", metric="generation"))
    assert text.startswith(f"prediction_column=mein: no such column in {tmp_path / 'p.jsonl'}:1; did you mean mine?")


def test_a_list_of_references_is_kept_whole(tmp_path: Path) -> None:
    path = lines(tmp_path / "p.jsonl", {"input": "文", "output": ["问一", "问二"], "prediction": "问二"})
    (found,) = read(path, TEXT).predictions
    assert found.reference == "问一" and found.fields["references"] == ["问一", "问二"]


def test_a_row_decides_its_task_and_metric_unless_a_metric_is_given(tmp_path: Path) -> None:
    rows = [blue("s1", "病因", prediction="治疗"), blue("s2", "x", "MedDG", prediction="y", answer_choices=None)]
    path = lines(tmp_path / "p.jsonl", *rows)
    assert [(p.task, p.metric) for p in read(path, BLUE).predictions] == [
        ("CHIP-CTC", "promptcblue"),
        ("MedDG", "promptcblue"),
    ]
    assert {p.metric for p in read(path, TEXT).predictions} == {"generation"}
    assert read(path, BLUE).predictions[0].fields == {
        "answer_choices": ["病因", "治疗"],
        "sample_id": "s1",
        "task_type": "cls",
    }
    with pytest.raises(ConfigError, match=r"metric: must be set, as .*q\.jsonl:1 names neither"):
        read(lines(tmp_path / "q.jsonl", {"answer": "a", "prediction": "b"}), BLUE)


def test_options_written_as_text_are_read_and_never_evaluated(tmp_path: Path) -> None:
    path = lines(tmp_path / "p.jsonl", blue("s1", "病因", prediction="", answer_choices="['病因', '治疗']"))
    assert read(path, BLUE).predictions[0].fields["answer_choices"] == ["病因", "治疗"]
    path = lines(tmp_path / "p.jsonl", blue("s1", "病因", prediction="", answer_choices="[str(1)]"))
    assert 'p.jsonl:1: answer_choices="[str(1)]": must be a list of texts, or null' in problem(path, BLUE)


def test_a_column_groups_rows(tmp_path: Path) -> None:
    rows = [{"input": f"文{i // 2}", "output": "问", "prediction": "问"} for i in range(3)]
    path = lines(tmp_path / "p.jsonl", *rows)
    by_document = Columns(metric="generation", group="input")
    assert [p.group for p in read(path, by_document).predictions] == ["文0", "文0", "文1"]
    path = lines(path, *rows, {"output": "问", "prediction": "问"})
    assert "p.jsonl:4: input=null: must be a text" in problem(path, by_document)


# --- references in a file of their own -------------------------------------------------------------------------------


def test_promptcblue_rows_pair_by_task_and_id_whatever_their_order(tmp_path: Path) -> None:
    gold = lines(tmp_path / "gold.json", blue("1", "病因"), blue("1", "是的", "CHIP-STS"), blue("2", "治疗"))
    ours = lines(tmp_path / "test_predictions.json", blue("2", "p2"), blue("1", "sts", "CHIP-STS"), blue("1", "p1"))
    answers = read(ours, BLUE, gold)
    assert [(p.task, *pair) for p, pair in zip(answers.predictions, pairs(answers), strict=True)] == [
        ("CHIP-CTC", "1", "p1", "病因"),
        ("CHIP-STS", "1", "sts", "是的"),
        ("CHIP-CTC", "2", "p2", "治疗"),
    ]
    assert answers.references == f"{gold}, target, paired by task and sample_id"


def test_a_target_alone_is_not_both_prediction_and_reference(tmp_path: Path) -> None:
    path = lines(tmp_path / "p.json", blue("1", "病因"))
    assert "p.json:1: no column prediction, so that target is the prediction: references=FILE" in problem(path, BLUE)
    answers = read(path, BLUE, may_lack=True)  # to be submitted
    assert (answers.references, pairs(answers)) == ("", [("1", "病因", "")])


def test_a_prediction_beside_the_row_needs_no_second_file_but_takes_it(tmp_path: Path) -> None:
    ours = lines(tmp_path / "p.json", blue("1", "own", prediction="x"))
    assert pairs(read(ours, BLUE)) == [("1", "x", "own")]
    assert pairs(read(ours, BLUE, lines(tmp_path / "g.json", blue("1", "other")))) == [("1", "x", "other")]


def test_missing_predictions_are_counted_and_surplus_ones_refused(tmp_path: Path) -> None:
    gold = lines(tmp_path / "gold.json", *(blue(str(i), "病因") for i in range(4)))
    answers = read(lines(tmp_path / "p.json", blue("3", "a"), blue("1", "b")), BLUE, gold)
    assert pairs(answers) == [("1", "b", "病因"), ("3", "a", "病因")]
    assert answers.unanswered == [f"{gold}:1", f"{gold}:3"]
    text = problem(lines(tmp_path / "p.json", blue("1", "a"), blue("8", "b"), blue("9", "c")), BLUE, gold)
    assert text.startswith(f"{tmp_path / 'p.json'}:2: no reference left in {gold} for task and sample_id CHIP-CTC 8")
    assert "; 2 such rows of 3;" in text
    text = problem(lines(tmp_path / "p.json", blue("1", "a"), blue("1", "b")), BLUE, gold)
    assert "p.json:2: no reference left" in text and "was answered already" in text


def test_rows_that_share_an_id_are_told_apart_by_their_prompt(tmp_path: Path) -> None:
    gold = lines(tmp_path / "g.json", blue("1", "病因", input="甲"), blue("1", "治疗", input="乙"))
    answers = read(lines(tmp_path / "p.json", blue("1", "y", input="乙"), blue("1", "x", input="甲")), BLUE, gold)
    assert pairs(answers) == [("1", "x", "病因"), ("1 (2)", "y", "治疗")]


def test_rows_that_share_id_and_prompt_pair_only_where_it_does_not_matter(tmp_path: Path) -> None:
    ours = lines(tmp_path / "p.json", blue("1", "x"), blue("1", "y"))
    gold = lines(tmp_path / "g.json", blue("1", "病因"), blue("1", "病因"))
    assert pairs(read(ours, BLUE, gold)) == [("1", "x", "病因"), ("1 (2)", "y", "病因")]
    gold = lines(gold, blue("1", "病因"), blue("1", "治疗"))
    text = problem(ours, BLUE, gold)
    assert text.startswith(f"{gold}:1 and {gold}:2: the same task and sample_id and prompt (CHIP-CTC 1) with")


def test_dialogues_alone_are_references(tmp_path: Path) -> None:
    """ChatGLM3's files."""
    turns = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "r"}]
    for name in ("conversations", "messages"):
        gold = lines(tmp_path / "g.jsonl", {name: turns})
        assert pairs(read(lines(tmp_path / "p.jsonl", {"prediction": "x"}), TEXT, gold)) == [("row 0000001", "x", "r")]


def test_plain_rows_pair_by_id_where_both_files_have_it(tmp_path: Path) -> None:
    gold = lines(tmp_path / "g.jsonl", {"id": 1, "answer": "one"}, {"id": 2, "answer": "two"})
    answers = read(lines(tmp_path / "p.jsonl", {"id": "2", "prediction": "b"}), TEXT, gold)
    assert pairs(answers) == [("2", "b", "two")]
    assert answers.references.endswith("paired by id")


def test_plain_rows_without_ids_pair_by_line_if_nothing_contradicts(tmp_path: Path) -> None:
    gold = lines(tmp_path / "g.jsonl", {"text": "甲", "answer": "1"}, {"text": "乙", "answer": "2"})
    alone = [{"prediction": "a"}, {"prediction": "b"}]
    for rows in (alone, [{"input": "甲", **alone[0]}, {"input": "乙", **alone[1]}]):
        answers = read(lines(tmp_path / "p.jsonl", *rows), TEXT, gold)
        assert [(p.prediction, p.reference) for p in answers.predictions] == [("a", "1"), ("b", "2")]
        assert answers.references.endswith("paired by line")
    text = problem(lines(tmp_path / "p.jsonl", {"text": "甲", **alone[0]}, {"text": "丙", **alone[1]}), TEXT, gold)
    assert text.startswith(f'{tmp_path / "p.jsonl"}:2: asks "丙", but {gold}:2 asks "乙"')
    text = problem(lines(tmp_path / "p.jsonl", {"prediction": "a"}), TEXT, gold)
    assert f"p.jsonl has 1 rows and {gold} has 2: without an id or sample_id" in text


def test_another_systems_likelihoods_do_not_come_with_its_rows_as_references(tmp_path: Path) -> None:
    theirs = Prediction("r", "chat", "chat", "p", "ref", "base", nll=9.0, nll_tokens=3)
    predictions.append(tmp_path / "base.jsonl", [theirs])
    (found,) = read(
        lines(tmp_path / "p.jsonl", {"id": "r", "prediction": "x"}), BLUE, tmp_path / "base.jsonl"
    ).predictions
    assert (found.prediction, found.reference, found.metric, found.nll) == ("x", "ref", "chat", None)


@pytest.mark.parametrize("group", [None, "input"])
@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ([1], "fields=[1]: must be an object; rename a column"),
        ("x", 'fields="x": must be an object'),
        ({"references": [1, 2]}, "fields.references=[1, 2]: must be a list of texts, or null"),
        ({"references": "你好"}, 'fields.references="你好": must be a list of texts, or null'),
    ],
)
def test_a_column_of_fields_that_is_not_ours_is_an_error(
    tmp_path: Path, fields: Any, expected: str, group: str | None
) -> None:
    rows = [{"input": "文", "answer": "你好", "prediction": "你好", "fields": own} for own in (None, fields)]
    columns = Columns(metric="generation", group=group)
    path = lines(tmp_path / "p.jsonl", *rows)
    assert problem(path, columns).startswith(f"{path}:2: {expected}")
    gold = lines(tmp_path / "g.jsonl", *({"answer": "你好"} for _ in rows))
    assert problem(path, columns, gold).startswith(f"{path}:2: {expected}")  # where they stand, not at the references
    assert problem(lines(gold, {"prediction": "a"}, {"prediction": "b"}), columns, path).startswith(f"{path}:2: ")


def test_a_group_may_stand_among_the_fields_and_options_may_be_null(tmp_path: Path) -> None:
    row = {"answer": "a", "prediction": "a", "fields": {"document": "d", "answer_choices": None, "references": None}}
    (found,) = read(lines(tmp_path / "p.jsonl", row), Columns(metric="generation", group="document")).predictions
    assert found.group == "d"


# --- problems --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "p.jsonl: holds no rows; read are JSONL"),
        (b"\xef\xbb\xbf\n \n", "p.jsonl: holds no rows"),
        (b"[]", "p.jsonl: holds no rows"),
        (b'{"prediction": "a", "answer": "b"}\n{"prediction": "a", ', "p.jsonl:2: broken JSON: "),
        (b'{"prediction": "a", "answer": "b"}\r{"prediction": "a"', "p.jsonl:2: broken JSON: "),
        (b'{"prediction": "a", "answer": "b"}\n7', "p.jsonl:2: 7 is no row; every row must be a JSON object"),
        (b'{"prediction": "a", "answer": "b"}\nnull', "p.jsonl:2: null is no row"),
        (b'[{"prediction": "a", "answer": "b"},\n\n 7]', "p.jsonl:3: 7 is no row"),
        (b'[{"prediction": "a"}\n{"prediction": "b"}]', "p.jsonl:2: broken JSON: Expecting ',' or ']'"),
        (b'[{"prediction": "a"},\n{"prediction": "b"}', "p.jsonl:2: broken JSON: Expecting ',' or ']'"),
        (b"[1]\n\n[2]", "p.jsonl:3: broken JSON: Text behind the array"),
        (b"[" * 100_000, "p.jsonl:1: broken JSON: Nested too deeply"),
        (b'{"a":' * 100_000, "p.jsonl:1: broken JSON: Nested too deeply"),
        ('{"prediction": "a", "answer": "b"}\n{"answer": "甲"}'.encode("gbk"), "p.jsonl:2: not UTF-8 (byte 0xBC)"),
        ('{"answer": "b"}'.encode("utf-16"), "p.jsonl:1: not UTF-8 (byte 0xFF)"),
        (b"text,prediction\na,b\n", "p.jsonl:1: broken JSON: Expecting value at character 1"),
        (b'{"answer": "a"}', "p.jsonl:1: no column with the prediction; known: prediction, predict, gen_answer"),
        (b'{"prediction": "a"}', "p.jsonl:1: no column with the reference; known: reference, target, output"),
        (b'{"prediction": "a", "answer": "b"}\n{"answer": "b"}', "p.jsonl:2: prediction=null: must be a text; an"),
        (b'{"prediction": "a", "answer": "b"}\n{"prediction": ""}', "p.jsonl:2: answer=null: must be a text"),
        (b'{"prediction": "a", "answer": []}', "p.jsonl:1: answer=[]: must hold one reference at least"),
        (b'{"prediction": 0.5, "answer": "a"}', "p.jsonl:1: prediction=0.5: must be a text"),
        (b'{"prediction": true, "answer": "a"}', "p.jsonl:1: prediction=true: must be a text"),
        (b'{"prediction": "a", "answer": "a", "nll": "1"}', 'p.jsonl:1: nll="1": must be float or int or null'),
        (b'{"prediction": "a", "messages": [{"role": "user", "content": "q"}]}', "p.jsonl:1: its dialogue ends with"),
    ],
)  # fmt: skip
def test_a_problem_names_file_and_line_in_one_line(tmp_path: Path, content: bytes, expected: str) -> None:
    path = tmp_path / "p.jsonl"
    path.write_bytes(content)
    assert problem(path).startswith(f"{tmp_path}/{expected}")


def test_a_missing_file_and_a_folder_are_named(tmp_path: Path) -> None:
    assert problem(tmp_path / "none.jsonl") == f"{tmp_path / 'none.jsonl'}: no such file"
    assert problem(tmp_path) == f"{tmp_path}: is a folder; name a file in it"


@pytest.mark.parametrize(
    ("text", "structured"),
    [
        ('{"CMeEE-V2": [{"sample_id": "1", "answer": []}]}', True),
        ('{\n "CMeEE-V2": [\n {"sample_id": "1", "answer": []}], "MedDG": []}\n', True),
        ('{"output": ["a", "b"], "prediction": "c"}\n', False),
        ('{"conversations": [{"role": "user"}], "prediction": "c"}\n{}', False),
        ('{"conversations": [{"role": "user", "content": "q"}]}\n{}', False),
        ('{"messages": [{"role": "user", "content": "q"}], "tools": []}', False),
        ('{"CMeEE-V2": [{"sample_id": "1", "answer": []}], "MedDG": [{"sample_id": "1"}]}', False),
        ('[{"prediction": "c"}]', False),
        ("{", False),
        ("", False),
    ],
)
def test_the_official_structured_form_is_told_apart(tmp_path: Path, text: str, structured: bool) -> None:
    path = tmp_path / "p.json"
    path.write_text(text, encoding="utf-8-sig")
    assert json_records.is_structured(path) is structured


def test_real_files_of_every_line_end_are_read(shared: Path, tmp_path: Path) -> None:
    """Bare CR, CRLF and LF files of PromptCBLUE rows, as their own predictions against themselves."""
    folder = shared / "data" / "promptcblue" / "labelled"
    for name, count in (("CHIP-CDN-500.json", 500), ("CHIP-CDEE-1588.json", 1587), ("KUAKE-IR-500.json", 500)):
        answers = read(folder / name, BLUE, folder / name)
        assert len(answers.predictions) == count and answers.unanswered == []
        assert all(p.prediction == p.reference for p in answers.predictions)
