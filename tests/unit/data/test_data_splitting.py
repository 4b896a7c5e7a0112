"""Duplicates, leakage, held-out shares and caps."""

from __future__ import annotations

from collections import Counter

import pytest

from tasks.conversation import Message, Row
from tasks.data.source import Entry, MaxRows, SourceConfig, Split
from tasks.data.splitting import OVER_CAP, allocate, divide, prompt_key


def entry(prompt: str, reply: str = "答", split: Split = "train", task: str = "t", metric: str = "generation") -> Entry:
    entry.count = getattr(entry, "count", 0) + 1  # type: ignore[attr-defined]
    row_id = f"f#{entry.count}"  # type: ignore[attr-defined]
    row = Row(row_id, (Message("user", prompt), Message("assistant", reply)), task, metric)
    return Entry("f", 1, split, row_id, task, row)


def config(**values: object) -> SourceConfig:
    return SourceConfig(source="test", **values)


def kept(entries: list[Entry], split: Split) -> list[str]:
    return [e.row.messages[0].content for e in entries if e.row is not None and e.split == split]


def test_no_prompt_is_in_two_splits_and_nothing_is_lost() -> None:
    entries = [entry(f"问题{i % 150}", reply=f"答{i}") for i in range(400)]
    divide(entries, config(validation_share=0.2, test_share=0.2))
    where: dict[str, set[str]] = {}
    for e in entries:
        assert e.row is not None
        where.setdefault(prompt_key(e.row), set()).add(e.split)
    assert all(len(splits) == 1 for splits in where.values())
    assert len(where) == 150
    sizes = Counter(next(iter(splits)) for splits in where.values())
    assert 15 <= sizes["test"] <= 45  # 30 of 150 prompts, give or take 2.5 standard deviations or so
    assert 15 <= sizes["validation"] <= 45


def test_prompts_that_differ_in_width_or_spaces_only_stay_together() -> None:
    entries = [entry(text, reply=str(i)) for i in range(40) for text in (f"ＡＢ C{i}？", f"AB  C{i}?\n")]
    divide(entries, config(validation_share=0.3, test_share=0.3))
    for first, second in zip(entries[::2], entries[1::2], strict=True):
        assert first.split == second.split
    assert {e.split for e in entries} == {"train", "validation", "test"}


def test_rows_added_later_never_move_earlier_ones() -> None:
    few, many = ([entry(f"问题{i}") for i in range(n)] for n in (200, 400))
    for entries in (few, many):
        divide(entries, config(validation_share=0.1, test_share=0.1))
    assert [e.split for e in few] == [e.split for e in many[:200]]


def test_another_seed_is_another_split_and_the_same_seed_the_same() -> None:
    def places(seed: int) -> list[str]:
        entries = [entry(f"问题{i}") for i in range(100)]
        divide(entries, config(split_seed=seed))
        return [e.split for e in entries]

    assert places(1) == places(1) != places(2)


def test_train_rows_whose_prompt_is_held_in_another_split_are_dropped_from_train() -> None:
    entries = [
        entry("甲", "一", "train"),
        entry("乙", "二", "train"),
        entry("丙", "三", "train"),
        entry(" 乙 ", "另", "validation"),
        entry("丙", "三", "test"),
        entry("丙", "四", "validation"),
    ]
    divide(entries, config())
    assert [e.reason for e in entries] == [
        "",
        "leak: prompt is in validation",
        "leak: prompt is in test",
        "",
        "",
        "leak: prompt is in test",
    ]


def test_exact_duplicates_are_dropped_and_other_replies_kept() -> None:
    entries = [entry("甲", "一"), entry("甲", "一"), entry("甲", "二"), entry("甲", "一", task="u"), entry("乙")]
    divide(entries, config(validation_share=0, test_share=0))
    assert [e.reason for e in entries] == ["", "duplicate row", "", "", ""]


def test_a_split_with_a_file_is_left_alone_and_its_origin_told() -> None:
    entries = [entry(f"t{i}") for i in range(50)] + [entry(f"v{i}", split="validation") for i in range(3)]
    origin = divide(entries, config(test_share=0.2))
    assert kept(entries, "validation") == ["v0", "v1", "v2"]
    assert kept(entries, "test")
    assert origin["validation"] == "file"
    assert origin["test"] == "held out of train: there is no file, 0.2 of the prompts"


def test_a_held_out_split_is_never_empty_by_chance() -> None:
    for n in (3, 4, 5, 10):
        entries = [entry(f"{n}问{i}") for i in range(n)]
        divide(entries, config(validation_share=0.01, test_share=0.01))
        assert len(kept(entries, "test")) == 1
        assert len(kept(entries, "validation")) == 1


def test_a_split_that_stays_empty_says_why() -> None:
    entries = [entry("甲")]
    assert divide(entries, config())["test"].startswith("empty: there is no file and there are too few prompts")
    entries = [entry(f"{i}") for i in range(9)]
    assert divide(entries, config(test_share=0))["test"] == "empty: there is no file and data.test_share=0"


def test_a_cap_keeps_the_tasks_in_proportion() -> None:
    entries = [entry(f"大{i}", task="big") for i in range(90)] + [entry(f"小{i}", task="small") for i in range(10)]
    divide(entries, config(validation_share=0, test_share=0, max_rows=MaxRows(train=20)))
    assert Counter(e.task for e in entries if e.row is not None) == {"big": 18, "small": 2}
    assert Counter(e.reason for e in entries if e.row is None) == {OVER_CAP: 80}


@pytest.mark.parametrize(
    ("counts", "total", "expected"),
    [
        ({"a": 90, "b": 10}, 10, {"a": 9, "b": 1}),
        ({"a": 998, "b": 1, "c": 1}, 10, {"a": 8, "b": 1, "c": 1}),
        ({"a": 5, "b": 3, "c": 1}, 2, {"a": 1, "b": 1, "c": 0}),
        ({"a": 3, "b": 3}, 5, {"a": 2, "b": 3}),
    ],
)
def test_allocate(counts: dict[str, int], total: int, expected: dict[str, int]) -> None:
    assert allocate(counts, total) == expected


def test_equal_prompts_of_a_test_set_share_their_references() -> None:
    entries = [
        entry("甲", "一", "test"),
        entry("甲", "二", "test"),
        entry("乙", "三", "test"),
        entry("丙", "三", "test", metric="classification"),
        entry("丙", "四", "test", metric="classification"),
        entry("丁", "五"),
        entry("丁", "六"),
    ]
    divide(entries, config())
    assert [e.row.fields for e in entries if e.row] == [{"references": ["一", "二"]}, {"references": ["一", "二"]}] + [
        {}
    ] * 5
