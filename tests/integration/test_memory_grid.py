"""The planner's promise: predicted memory beside the measured peak of real workers, over the whole grid."""

from __future__ import annotations

import pytest

from tasks.training import memory_benchmark


@pytest.mark.slow
def test_predictions_are_within_15_percent_at_the_median_and_30_at_worst() -> None:
    grid = memory_benchmark.GRID
    assert len(grid) >= 24
    assert {p.checkpointing for p in grid} == {"none", "full", "selective"} and len({p.length for p in grid}) >= 4
    results = memory_benchmark.measure(grid, "cpu")
    print(memory_benchmark.table(results))
    assert [r["trainable"] for r in results] == [r["predicted_trainable"] for r in results]
    told = memory_benchmark.summary(results)
    assert told["median"] <= 0.15 and told["largest"] <= 0.30
