"""Batches: every row once an epoch, the same for the same seed, targets counted as the loss counts them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tasks.models.tokens import TokenRows, Tokens, shard_file, write_shard
from tasks.training.batching import BatchPlan, Limits, collate, divided, micro_batches, worst


def plan(rows: int = 103, batch: int = 8, seed: int = 1) -> BatchPlan:
    lengths = np.random.default_rng(0).integers(5, 60, rows)
    return BatchPlan(lengths, batch, steps=40, seed=seed)


def test_every_row_once_an_epoch_in_another_order() -> None:
    p = plan()
    first = [p.rows(s) for s in range(13)]
    second = [p.rows(s) for s in range(13, 26)]
    for epoch in (first, second):
        assert sorted(np.concatenate(epoch)) == list(range(103))
    assert np.concatenate(first).tolist() != np.concatenate(second).tolist()


def test_rows_of_a_step_do_not_depend_on_what_was_asked_before() -> None:
    forward = [plan().rows(s).tolist() for s in range(26)]
    p = plan()
    assert [p.rows(s).tolist() for s in reversed(range(26))] == forward[::-1]
    assert plan(seed=2).rows(0).tolist() != forward[0]


def test_little_is_padded() -> None:
    p = plan(rows=1024, batch=16)
    real = sum(int(p.lengths[p.rows(s)].sum()) for s in range(64))
    padded = sum(int(p.lengths[p.rows(s)].max()) * 16 for s in range(64))
    assert real / padded > 0.85  # random batches of these lengths reach 0.55


@pytest.mark.parametrize(
    ("rows", "batch", "epochs", "max_steps", "steps"),
    [
        (100, 10, 1.0, None, 10),
        (101, 10, 1.0, None, 11),
        (100, 10, 2.5, None, 25),
        (100, 10, 0.7, None, 7),
        (100, 10, 9.0, 7, 7),
        (3, 8, 0.1, None, 1),
    ],
)
def test_steps(rows: int, batch: int, epochs: float, max_steps: int | None, steps: int) -> None:
    assert BatchPlan.steps_for(rows, batch, epochs, max_steps) == steps


def rows_of(folder: Path) -> TokenRows:
    """Two rows: 5 6 7, of which 5 and 7 are marked; 8 9, of which 9 is."""
    (folder / "train").mkdir()
    parts = [Tokens(np.array([5, 6, 7, 8, 9], np.int32), np.array([1, 0, 1, 0, 1], np.uint8), np.array([3, 2]))]
    write_shard(shard_file(folder, "train", 0), parts, shards=1, settings="", facts={})
    return TokenRows(folder, "train")


def test_padded_batch_and_its_targets(tmp_path: Path) -> None:
    batch = collate(rows_of(tmp_path), np.array([1, 0]), packed=False)
    assert batch["input_ids"].tolist() == [[8, 9, 0], [5, 6, 7]]
    assert batch["attention_mask"].tolist() == [[1, 1, 0], [1, 1, 1]]
    # 8 predicts 9; 6 predicts 7; the first token of a row is marked, but nothing predicts it
    assert batch["places"].tolist() == [0, 4]
    assert batch["targets"].tolist() == [9, 7]


def test_packed_batch_and_its_targets(tmp_path: Path) -> None:
    rows = rows_of(tmp_path)
    batch = collate(rows, np.array([1, 0]), packed=True)
    assert batch["input_ids"].tolist() == [[8, 9, 5, 6, 7]]
    assert batch["position_ids"].tolist() == [[0, 1, 0, 1, 2]]
    assert batch["cu_seq_lens_q"].tolist() == [0, 2, 5]
    assert batch["max_length_q"] == 3
    assert batch["places"].tolist() == [0, 3]
    assert batch["targets"].tolist() == [9, 7]
    assert rows.targets.tolist() == [1, 1]


LENGTHS = np.array([10, 30, 20, 40, 5, 5])


@pytest.mark.parametrize(
    ("limits", "parts"),
    [
        (Limits(6), [[3, 1, 2, 0, 4, 5]]),
        (Limits(2), [[3, 1], [2, 0], [4, 5]]),
        (Limits(6, tokens=50), [[3], [1, 2], [0, 4, 5]]),  # 40 | 30 + 20 | 10 + 5 + 5
        (Limits(6, tokens=60, packed=False), [[3], [1, 2], [0, 4, 5]]),  # 40 (two: 80) | 2 x 30 | 3 x 10
        (Limits(6, tokens=8), [[3], [1], [2], [0], [4], [5]]),  # a row longer than the limit goes alone
    ],
)
def test_micro_batches_keep_the_limits(limits: Limits, parts: list[list[int]]) -> None:
    assert [p.tolist() for p in limits.cut(np.arange(6), LENGTHS)] == parts


def test_processes_get_about_as_many_tokens_and_as_many_micro_batches() -> None:
    shares = divided(np.arange(6), LENGTHS, 2)
    assert [s.tolist() for s in shares] == [[3, 0, 4], [1, 2, 5]]  # 40+10+5 and 30+20+5
    first, second = (micro_batches(np.arange(6), LENGTHS, rank, 2, Limits(2)) for rank in (0, 1))
    assert len(first) == len(second) == 2
    alone = [micro_batches(np.array([3]), LENGTHS, rank, 2, Limits(2)) for rank in (0, 1)]
    assert [[p.tolist() for p in parts] for parts in alone] == [[[3]], [[]]]


def test_the_worst_micro_batch_is_that_of_the_longest_rows() -> None:
    assert worst(LENGTHS, Limits(3)).tolist() == [3, 1, 2]
    assert worst(LENGTHS, Limits(3, tokens=55)).tolist() == [1, 2]  # 50 tokens; row 3 alone has 40
