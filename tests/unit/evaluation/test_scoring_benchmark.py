"""The rows that scoring is measured on, and what the measurement reports."""

from __future__ import annotations

import pytest

from tasks.evaluation import scoring, scoring_benchmark


@pytest.mark.parametrize("metric", scoring_benchmark.METRICS)
def test_rows_are_neither_all_right_nor_all_wrong_and_the_same_every_time(metric: str) -> None:
    rows = scoring_benchmark.generate(metric, 200, seed=1)
    assert rows == scoring_benchmark.generate(metric, 200, seed=1)
    assert 0.4 < scoring.mean_score(rows) < 0.95


def test_triples_are_right_as_often_as_is_said() -> None:
    rows = scoring_benchmark.generate("triples", 2000, seed=1)
    gold, predicted = (
        [set(text.split("\n")) for text in texts]
        for texts in ((r.reference for r in rows), (r.prediction for r in rows))
    )
    count = sum(map(len, gold))
    assert count / 2000 == pytest.approx(3.5, abs=0.15)
    assert sum(len(g & p) for g, p in zip(gold, predicted, strict=True)) / count == pytest.approx(0.75, abs=0.02)


def test_measurement_names_rows_times_and_score() -> None:
    results = scoring_benchmark.measure(50, 100, ["triples", "classification"])
    assert [r["metric"] for r in results] == ["triples", "classification"]
    for r in results:
        assert (r["rows"], r["resamples"]) == (50, 100)
        assert r["score"]["low"] < r["score"]["value"] < r["score"]["high"]
    shown = scoring_benchmark.table(results)
    assert shown.count("| 50 | 100 |") == 2 and "44 labels" in shown
