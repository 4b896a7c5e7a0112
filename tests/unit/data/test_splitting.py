"""Duplicates, leakage, held-out shares, weights and caps, on the keys of rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pytest

from tasks.data.hashing import hash64
from tasks.data.source import SPLITS, MaxRows, SourceConfig, Split
from tasks.data.splitting import OVER_CAP, OVER_WEIGHT, Division, allocate, divide
from tasks.data.spool import Keys


@dataclass(frozen=True)
class R:
    """A row as the division sees it."""

    prompt: str
    reply: str = "答"
    split: Split = "train"
    task: str = "t"
    group: str = ""
    part: int = 0
    records: int = 1


def keys_of(rows: Sequence[R]) -> Keys:
    tasks = sorted({row.task for row in rows})
    prompt = [hash64(row.prompt) for row in rows]
    n = len(rows)
    return Keys(
        records=np.array([row.records for row in rows], np.int32),
        exact=np.array([hash64(f"{row.task}|{row.prompt}|{row.reply}") for row in rows], np.uint64),
        prompt=np.array(prompt, np.uint64),
        group=np.array(
            [hash64(row.group) if row.group else key for row, key in zip(rows, prompt, strict=True)], np.uint64
        ),
        reply=np.array([hash64(row.reply) for row in rows], np.uint64),
        prompt_characters=np.ones(n, np.int32),
        reply_characters=np.ones(n, np.int32),
        line=np.arange(1, n + 1, dtype=np.int32),
        file=np.zeros(n, np.int32),
        part=np.array([row.part for row in rows], np.int16),
        task=np.array([tasks.index(row.task) for row in rows], np.int16),
        free_text=np.ones(n, bool),
        split=np.array([SPLITS.index(row.split) for row in rows], np.int8),
        reason=np.zeros(n, np.int8),
        tasks=tasks,
    )


def divided(
    rows: Sequence[R], near: Sequence[tuple[int, int]] = (), weights: Sequence[float] = (), **values: object
) -> tuple[Keys, Division]:
    keys = keys_of(rows)
    pairs = np.array(near, np.int64).reshape(-1, 2)
    files = sorted({row.split for row in rows})
    division = divide(keys, SourceConfig(source="test", **values), pairs, files=files, weights=weights)
    return keys, division


def reasons(keys: Keys) -> list[str]:
    return [keys.reasons[i] for i in keys.reason]


def splits(keys: Keys) -> list[Split]:
    return [SPLITS[i] for i in keys.split]


NONE_HELD_OUT = {"validation_share": 0, "test_share": 0}


def test_no_prompt_is_in_two_splits_and_nothing_is_lost() -> None:
    rows = [R(f"问题{i % 150}", reply=f"答{i}") for i in range(400)]
    keys, _ = divided(rows, validation_share=0.2, test_share=0.2)
    assert keys.alive.all()
    where: dict[str, set[Split]] = {}
    for row, split in zip(rows, splits(keys), strict=True):
        where.setdefault(row.prompt, set()).add(split)
    assert all(len(found) == 1 for found in where.values())
    sizes = Counter(next(iter(found)) for found in where.values())
    assert 15 <= sizes["test"] <= 45  # 30 of 150 prompts, give or take 2.5 standard deviations or so
    assert 15 <= sizes["validation"] <= 45


def test_a_group_never_straddles_splits() -> None:
    rows = [R(f"问题{i}", group=f"文{i % 40}") for i in range(400)]
    keys, division = divided(rows, group_by="document", validation_share=0.2, test_share=0.2)
    where: dict[str, set[Split]] = {}
    for row, split in zip(rows, splits(keys), strict=True):
        where.setdefault(row.group, set()).add(split)
    assert all(len(found) == 1 for found in where.values())
    assert {split for found in where.values() for split in found} == set(SPLITS)
    assert division.origin["test"].endswith("0.2 of the groups")


def test_a_training_row_whose_group_is_in_validation_is_dropped() -> None:
    keys, _ = divided([R("甲", group="文1"), R("乙", group="文2"), R("丙", split="validation", group="文1")])
    assert reasons(keys) == ["leak: its group is in validation", "", ""]


def test_rows_added_later_never_move_earlier_ones() -> None:
    few, many = ([R(f"问题{i}") for i in range(n)] for n in (200, 400))
    assert splits(divided(few)[0]) == splits(divided(many)[0])[:200]


def test_another_seed_is_another_split_and_the_same_seed_the_same() -> None:
    rows = [R(f"问题{i}") for i in range(100)]

    def places(seed: int) -> list[Split]:
        return splits(divided(rows, split_seed=seed)[0])

    assert places(1) == places(1) != places(2)


def test_train_rows_whose_prompt_is_held_in_another_split_are_dropped_from_train() -> None:
    keys, _ = divided(
        [
            R("甲", "一"),
            R("乙", "二"),
            R("丙", "三"),
            R("乙", "另", "validation"),
            R("丙", "三", "test"),
            R("丙", "四", "validation"),
        ]
    )
    assert reasons(keys) == [
        "",
        "leak: prompt is in validation",
        "leak: prompt is in test",
        "",
        "",
        "leak: prompt is in test",
    ]


def test_near_duplicates_of_validation_and_test_are_dropped_from_train() -> None:
    rows = [R("甲"), R("乙"), R("丙", split="validation"), R("丁", split="test"), R("戊", split="validation"), R("己")]
    keys, _ = divided(rows, near=[(0, 2), (1, 3), (3, 4)])
    assert reasons(keys) == [
        "leak: nearly the same row is in validation",
        "leak: nearly the same row is in test",
        "",
        "",
        "leak: nearly the same row is in test",
        "",
    ]


def test_groups_with_a_prompt_in_common_do_not_leak_it_to_a_held_out_split() -> None:
    rows = [R(f"问题{i}", reply=f"答{i % 2}", group=f"文{i % 2}-{i}") for i in range(100)] + [
        R(f"问题{i}", reply="另", group=f"又{i}") for i in range(100)
    ]
    keys, _ = divided(rows, group_by="document", validation_share=0.3, test_share=0.3)
    where: dict[str, set[Split]] = {}
    for row, split, alive in zip(rows, splits(keys), keys.alive, strict=True):
        if alive:
            where.setdefault(row.prompt, set()).add(split)
    assert all(len(found) == 1 for found in where.values())
    assert {reason.split(":")[0] for reason in reasons(keys)} == {"", "leak"}


def test_exact_duplicates_are_dropped_from_train_only_and_other_replies_kept() -> None:
    rows = [R("甲", "一"), R("甲", "一"), R("甲", "二"), R("甲", "一", task="u"), R("乙")]
    keys, _ = divided([*rows, R("丙", split="test"), R("丙", split="test")], **NONE_HELD_OUT)
    assert reasons(keys) == ["", "duplicate row", "", "", "", "", ""]


def test_of_a_chain_of_near_duplicates_every_row_without_a_kept_neighbour_stays() -> None:
    keys, _ = divided([R("甲"), R("乙"), R("丙"), R("丁")], near=[(0, 1), (1, 2), (2, 3)], **NONE_HELD_OUT)
    assert reasons(keys) == ["", "nearly the same as an earlier row", "", "nearly the same as an earlier row"]


def test_a_split_with_a_file_is_left_alone_and_its_origin_told() -> None:
    rows = [R(f"t{i}") for i in range(50)] + [R(f"v{i}", split="validation") for i in range(3)]
    keys, division = divided(rows, test_share=0.2)
    assert np.flatnonzero(keys.of("validation")).tolist() == [50, 51, 52]
    assert keys.of("test").any()
    assert division.origin["validation"] == "file"
    assert division.origin["test"] == "held out of train: there is no file, 0.2 of the prompts"


@pytest.mark.parametrize("n", [3, 4, 5, 10])
def test_a_held_out_split_is_never_empty_by_chance(n: int) -> None:
    keys, _ = divided([R(f"{n}问{i}") for i in range(n)], validation_share=0.01, test_share=0.01)
    assert keys.of("test").sum() == keys.of("validation").sum() == 1


def test_a_split_that_stays_empty_says_why() -> None:
    assert divided([R("甲")])[1].origin["test"].startswith("empty: there is no file and there are too few prompts")
    rows = [R(f"{i}") for i in range(9)]
    assert divided(rows, test_share=0)[1].origin["test"] == "empty: there is no file and data.test_share=0"


def test_a_cap_keeps_the_tasks_in_proportion_and_does_not_depend_on_the_order() -> None:
    rows = [R(f"大{i}", task="big") for i in range(90)] + [R(f"小{i}", task="small") for i in range(10)]

    def chosen(order: Sequence[R]) -> set[str]:
        keys, _ = divided(order, max_rows=MaxRows(train=20), **NONE_HELD_OUT)
        assert Counter(reasons(keys)) == {"": 20, OVER_CAP: 80}
        return {row.prompt for row, alive in zip(order, keys.alive, strict=True) if alive}

    assert Counter(prompt[0] for prompt in chosen(rows)) == {"大": 18, "小": 2}
    assert chosen(rows) == chosen(rows[::-1])


def test_weights_cut_the_parts_to_their_proportion() -> None:
    rows = [R(f"甲{i}", part=0) for i in range(100)] + [R(f"乙{i}", part=1) for i in range(30)]
    keys, _ = divided(rows, weights=[1, 3], **NONE_HELD_OUT)
    assert Counter(keys.part[keys.alive].tolist()) == {0: 10, 1: 30}
    assert Counter(reasons(keys)) == {"": 40, OVER_WEIGHT: 90}


def test_a_part_without_training_rows_does_not_empty_the_others() -> None:
    rows = [R(f"甲{i}", part=0) for i in range(60)] + [R("乙", part=1, split="test")]
    keys, _ = divided(rows, weights=[1, 1], validation_share=0)
    assert keys.of("train").sum() == 60


def test_steps_count_source_records() -> None:
    rows = [R("甲", records=4), R("甲", records=3), R("乙", records=2), R("乙", "三", "test", records=5)]
    _, division = divided(rows)
    assert division.steps == {"without duplicates": 11, "without leaks": 9, "kept": 9}


@pytest.mark.parametrize(
    ("counts", "total", "expected"),
    [
        ({0: 90, 1: 10}, 10, {0: 9, 1: 1}),
        ({0: 998, 1: 1, 2: 1}, 10, {0: 8, 1: 1, 2: 1}),
        ({0: 5, 1: 3, 2: 1}, 2, {0: 1, 1: 1, 2: 0}),
        ({0: 3, 1: 3}, 5, {0: 2, 1: 3}),
    ],
)
def test_allocate(counts: dict[int, int], total: int, expected: dict[int, int]) -> None:
    assert allocate(counts, total) == expected
