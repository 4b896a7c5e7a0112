"""PromptCBLUE's rows: fields, metrics, and what is dropped and why; real files by env WEITIAO_SHARED."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml

from tasks.conversation import Row
from tasks.data.source import Unusable
from tasks.data.sources import promptcblue
from tasks.data.sources.promptcblue import Config, convert, recognise

REPOSITORY = Path(__file__).parents[3]
CTC = {
    "input": " 判断类型：\n 3. 年龄&gt;18岁\n选项：年龄，疾病\n答：",
    "target": "年龄",
    "answer_choices": ["年龄", "疾病"],
    "task_type": "cls",
    "task_dataset": "CHIP-CTC",
    "sample_id": "dev-7",
}


def one(record: dict[str, Any], **values: Any) -> Row:
    return convert(record, "dev.json#1", Config(**values)).row


def why(record: dict[str, Any], **values: Any) -> Unusable:
    with pytest.raises(Unusable) as caught:
        one(record, **values)
    return caught.value


def test_texts_stay_as_they_are_and_the_fields_that_scoring_needs_are_kept() -> None:
    row = one({**CTC, "unseen_entities": True, "other": 1})
    assert [(message.role, message.content) for message in row.messages] == [
        ("user", CTC["input"]),
        ("assistant", "年龄"),
    ]
    assert (row.id, row.task, row.metric) == ("dev.json#1", "CHIP-CTC", "promptcblue")
    assert row.fields == {
        "answer_choices": ["年龄", "疾病"],
        "sample_id": "dev-7",
        "task_type": "cls",
        "unseen_entities": True,
    }


def test_the_system_prompt_is_not_the_sources_business() -> None:
    assert len(one(CTC, system_prompt="你是医生").messages) == 2


@pytest.mark.parametrize("text", ["['年龄', '疾病']", '["年龄", "疾病"]', " ['年龄', '疾病'] "])
def test_choices_may_be_written_as_text_and_the_type_under_its_documented_name(text: str) -> None:
    documented = {**CTC, "answer_choices": text, "type": "cls"}
    del documented["task_type"]
    assert one(documented).fields == one(CTC).fields


@pytest.mark.parametrize("nothing", [None, [], "", " ", "[]", "null", "None"])
def test_no_choices_are_left_out(nothing: Any) -> None:
    assert "answer_choices" not in one({**CTC, "answer_choices": nothing}).fields


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"target": "  "}, "empty target"),
        ({"target": None}, "empty target"),
        ({"target": []}, "empty target"),
        ({"target": 5}, "not a text"),
        ({"input": "\n"}, "empty prompt"),
        ({"input": 5}, "not a text"),
        ({"task_dataset": None}, "no task_dataset"),
        ({"task_dataset": ["CHIP-CTC"]}, "no task_dataset"),
        ({"task_dataset": "CHIP-XYZ"}, "unknown task_dataset"),
        ({"answer_choices": "__import__('os')"}, "answer_choices is not a list"),
        ({"answer_choices": "[" * 5000}, "answer_choices is not a list"),
        ({"answer_choices": [1]}, "answer_choices is not a list"),
        ({"answer_choices": {"a": 1}}, "answer_choices is not a list"),
    ],
)
def test_what_cannot_be_a_row_is_dropped_with_the_reason(change: dict[str, Any], reason: str) -> None:
    assert why({**CTC, **change}).reason == reason


def test_a_dropped_row_is_counted_for_its_task() -> None:
    assert why({**CTC, "target": ""}).task == "CHIP-CTC"
    assert why({**CTC, "answer_choices": 5}).task == "CHIP-CTC"
    unknown = why({**CTC, "task_dataset": "CHIP-XYZ"})
    assert (unknown.task, "CMeEE-V2" in unknown.detail) == ("CHIP-XYZ", True)


@pytest.mark.parametrize("task", sorted(promptcblue.TASKS))
def test_every_task_is_scored_as_the_official_scorer_does(task: str) -> None:
    row = one({**CTC, "task_dataset": task})
    assert (row.task, row.metric) == (task, "promptcblue")


def test_columns_are_configurable_and_a_missing_one_is_named() -> None:
    record = {"question": "问", "reply": "答", "task_dataset": "MedDG"}
    assert one(record, prompt_column="question", response_column="reply").reference == "答"
    problem = why(record)
    assert problem.reason == "no such columns"
    assert "data.prompt_column=input" in problem.detail
    assert "question, reply, task_dataset" in problem.detail


def test_a_record_is_recognised_by_its_task() -> None:
    claim = recognise(CTC)
    assert claim is not None
    assert (claim.strength, claim.why) == (8, "task_dataset CHIP-CTC with input and target")
    assert recognise({**CTC, "task_dataset": "mine"}) is None
    assert recognise({**CTC, "task_dataset": None}) is None
    assert recognise({"input": "问", "target": "答"}) is None
    assert recognise({"input": "问", "task_dataset": "CHIP-CTC"}) is None


def test_the_yaml_states_what_differs_from_every_sources_keys() -> None:
    values = yaml.safe_load((REPOSITORY / "conf/data/promptcblue.yaml").read_text(encoding="utf-8"))
    assert values.pop("defaults") == ["_common", "_self_"]
    assert Config(**values) == Config()
    assert set(values) == {"source", "prompt_column", "response_column"}


# --- real files --------------------------------------------------------------------------------------------------

LABELLED = {
    "CHIP-CDEE": 1587,
    "CHIP-CDN": 2500,
    "CHIP-CTC": 821,
    "CHIP-MDCFNPC": 1000,
    "CHIP-STS": 4051,
    "CMeEE-V2": 1000,
    "CMeIE": 1985,  # of 2,000; 15 have no target
    "IMCS-V2-MRG": 1000,
    "IMCS-V2-NER": 1000,
    "KUAKE-IR": 2366,
    "KUAKE-QIC": 1100,
    "KUAKE-QTR": 1000,
}


def outcomes(path: Path) -> Counter[tuple[str, str]]:
    """(task, reason or kept) of a file's records, read without the project's reader."""
    found: Counter[tuple[str, str]] = Counter()
    for line in re.split(r"\r\n|\n|\r", path.read_bytes().decode("utf-8")):
        if line.strip():
            record = json.loads(line)
            assert recognise(record) is not None
            try:
                row = one(record)
                found[row.task, "kept"] += 1
                assert row.messages[0].content == record["input"]
            except Unusable as problem:
                found[problem.task, problem.reason] += 1
    return found


def test_the_labelled_files_are_kept_but_for_15_empty_targets(shared: Path) -> None:
    files = sorted((shared / "data/promptcblue/labelled").glob("*.json"))
    found = sum((outcomes(path) for path in files), Counter[tuple[str, str]]())
    assert found == {**{(task, "kept"): n for task, n in LABELLED.items()}, ("CMeIE", "empty target"): 15}
    assert found.total() == 19425


def test_toy_rows_are_kept_and_unlabelled_test_rows_dropped_by_task(shared: Path) -> None:
    folder = shared / "data/promptcblue"
    for name in ("train", "dev"):
        assert set(outcomes(folder / f"toy_examples/{name}.json").values()) == {5}
    test = outcomes(folder / "official_test_inputs/test_inputs.json")
    assert {reason for _, reason in test} == {"empty target"}
    assert (test.total(), test["CHIP-CTC", "empty target"]) == (10320, 1060)
    assert len(test) == 16
    assert len(promptcblue.TASKS) == 20
