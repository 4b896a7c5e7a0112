"""Real public files (env WEITIAO_SHARED): every row is accounted for; counts are those that describe the files."""

from __future__ import annotations

import json
import unicodedata
from pathlib import Path

import pytest
from data_cases import Prepare

from tasks.conversation import Row, read_rows

LABELLED = {
    "CHIP-CDEE": 1587,
    "CHIP-CDN": 2500,
    "CHIP-CTC": 821,
    "CHIP-MDCFNPC": 1000,
    "CHIP-STS": 4051,
    "CMeEE-V2": 1000,
    "CMeIE": 2000,
    "IMCS-V2-MRG": 1000,
    "IMCS-V2-NER": 1000,
    "KUAKE-IR": 2366,
    "KUAKE-QIC": 1100,
    "KUAKE-QTR": 1000,
}


def prompt(row: Row) -> str:
    return "".join(unicodedata.normalize("NFKC", row.prompt[-1].content).split())


def test_promptcblue_labelled_is_read_whole_whatever_its_line_ends(run: Prepare, shared: Path) -> None:
    dataset = run("promptcblue", path=shared / "data/promptcblue/labelled")
    report = json.loads((dataset.path / "report.json").read_text(encoding="utf-8"))
    assert {task: account["read"] for task, account in report["tasks"].items()} == LABELLED
    assert dataset.rows["read"] == sum(LABELLED.values()) == 19425
    assert dataset.rows["dropped"]["empty target"] == 15  # all of CMeIE
    assert report["tasks"]["CMeIE"]["dropped"] == {"empty target": 15}
    assert report["files"]["KUAKE-IR-500.json"]["dropped"] == {"duplicate row": 500}  # the other IR file holds them all
    assert dataset.rows["dropped"] == {"duplicate row": 548, "empty target": 15, "nearly the same as an earlier row": 6}
    prompts = {part: {prompt(row) for row in read_rows(dataset.rows_file(part))} for part in dataset.splits}
    assert prompts["train"] & prompts["test"] == prompts["train"] & prompts["validation"] == set()
    assert prompts["validation"] & prompts["test"] == set()
    assert all(set(part["tasks"]) == set(LABELLED) for part in report["splits"].values())


def test_a_small_cap_still_covers_all_tasks(run: Prepare, shared: Path) -> None:
    caps = {"train": 60, "validation": 20, "test": 24}
    dataset = run("promptcblue", path=shared / "data/promptcblue/labelled", max_rows=caps)
    assert dataset.splits == caps
    for part in caps:
        assert {row.task for row in read_rows(dataset.rows_file(part))} == set(LABELLED)


def test_toy_examples_hold_out_a_test_set_because_theirs_has_no_answers(run: Prepare, shared: Path) -> None:
    dataset = run("promptcblue", path=shared / "data/promptcblue/toy_examples")
    report = json.loads((dataset.path / "report.json").read_text(encoding="utf-8"))
    assert dataset.rows == {"read": 240, "kept": 160, "dropped": {"empty target": 80}}
    assert report["files"]["test.json"]["kept"] == 0
    assert set(report["skipped_files"]) == {"dev_structured.json", "results.json"}
    assert len(report["tasks"]) == 16


@pytest.mark.parametrize("name", ["spo_train.json", "spo_train_text_answer.json"])
def test_triples_keeps_all_rows_and_both_forms_agree(run: Prepare, shared: Path, name: str) -> None:
    dataset = run("triples", path=shared / "data/triples" / name, near_duplicates=None)
    assert dataset.rows == {"read": 1441, "kept": 1441, "dropped": {}}
    rows = {row.id.partition("#")[2]: row for part in dataset.splits for row in read_rows(dataset.rows_file(part))}
    assert sum(row.reference == "" for row in rows.values()) == 22
    assert sum(len(row.reference.split("\n")) for row in rows.values()) == 6514
    other = run("triples", path=shared / "data/triples/spo_train.json", near_duplicates=None)
    same = {row.id.partition("#")[2]: row for part in other.splits for row in read_rows(other.rows_file(part))}
    assert {number: row.messages for number, row in rows.items()} == {n: row.messages for n, row in same.items()}


def test_advertisegen_in_gbk_with_crlf(run: Prepare, shared: Path) -> None:
    dataset = run("advertisegen", path=shared / "data/advertisegen/train_subset_caixiaomao.json")
    assert dataset.rows["read"] == 5000
    rows = [row for part in dataset.splits for row in read_rows(dataset.rows_file(part))]
    assert all(row.messages[0].content.startswith("类型#") for row in rows)


def test_advertisegen_dev_in_three_forms_has_the_same_pairs(run: Prepare, shared: Path) -> None:
    folder = shared / "data/advertisegen"
    found = []
    for name, file in (
        ("advertisegen", "dev.json"),
        ("conversations", "dev_conversations.json"),
        ("messages", "dev_messages.json"),
    ):
        dataset = run(name, path=folder / file, validation_share=0, test_share=0, near_duplicates=None)
        assert dataset.rows == {"read": 1070, "kept": 1069, "dropped": {"duplicate row": 1}}
        found.append([row.messages for row in read_rows(dataset.rows_file("train"))])
    assert found[0] == found[1] == found[2]


def test_advertisegen_rows_of_one_content_share_references(run: Prepare, shared: Path) -> None:
    folder = shared / "data/advertisegen"
    dataset = run("advertisegen", train=folder / "train_subset_caixiaomao.json", test=folder / "dev.json")
    rows = list(read_rows(dataset.rows_file("test")))
    assert len(rows) == 1070  # a test set is left as it is, its exact duplicate included
    assert len({row.messages[0].content for row in rows}) == 1000
    for row in rows:
        same = list(dict.fromkeys(other.reference for other in rows if other.messages[0] == row.messages[0]))
        assert row.fields.get("references", [row.reference]) == same


def test_pretty_printed_objects_without_commas_and_train_that_holds_dev(run: Prepare, shared: Path) -> None:
    folder = shared / "data/advertisegen"
    path = folder / "variants/train_prettyprinted_mhsbz.json"
    dataset = run("advertisegen", path=path)
    assert dataset.rows["read"] == 1240
    against_dev = run("advertisegen", train=path, test=folder / "dev.json", min_keep_ratio=0)
    # 1,070 of its rows are dev's; of them one is a duplicate and four are near others, of the rest one is
    assert against_dev.rows["dropped"] == {
        "leak: prompt is in test": 1065,
        "nearly the same as an earlier row": 5,
        "duplicate row": 1,
    }
    assert against_dev.splits["train"] + against_dev.splits["validation"] == 169


def test_conversations_of_the_medical_tutorial(run: Prepare, shared: Path) -> None:
    dataset = run("conversations", path=shared / "data/medical/submit_project_child/dev.json")
    assert dataset.rows["read"] == 960
