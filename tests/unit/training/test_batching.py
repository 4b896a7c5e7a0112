"""Batches: every row once an epoch, the same for the same seed, targets counted as the loss counts them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tasks.training.batching import BatchPlan, TokenRows, micro_batches


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
        (100, 10, 9.0, 7, 7),
        (3, 8, 0.1, None, 1),
    ],
)
def test_steps(rows: int, batch: int, epochs: float, max_steps: int | None, steps: int) -> None:
    assert BatchPlan.steps_for(rows, batch, epochs, max_steps) == steps


def test_padded_batch_and_target_count(tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    save_file(
        {
            "ids": np.array([5, 6, 7, 8, 9], np.int32),
            "learn": np.array([1, 0, 1, 0, 1], np.uint8),
            "offsets": np.array([0, 3, 5], np.int64),
        },
        tmp_path / "train.safetensors",
    )
    rows = TokenRows(tmp_path / "train.safetensors")
    # the first token of row 0 is marked, but nothing predicts it
    assert rows.targets.tolist() == [1, 1]
    batch = rows.padded(np.array([1, 0]), pad_id=0)
    assert batch["input_ids"].tolist() == [[8, 9, 0], [5, 6, 7]]
    assert batch["attention_mask"].tolist() == [[1, 1, 0], [1, 1, 1]]
    assert batch["labels"].tolist() == [[-100, 9, -100], [5, -100, 7]]


def test_micro_batches_are_consecutive_parts() -> None:
    assert [m.tolist() for m in micro_batches(np.arange(7), 3)] == [[0, 1, 2], [3, 4, 5], [6]]
