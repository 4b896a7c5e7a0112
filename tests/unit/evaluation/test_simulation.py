"""Intervals hold the truth, and tests of equals stay quiet, about as often as they say.

The quick tests allow three standard errors of their few trials; the slow one runs what is stated and shipped.
"""

from __future__ import annotations

import numpy as np
import pytest

from tasks.evaluation import simulation
from tasks.evaluation.metric import RowScores

_QUICK = 300
#: Of 95 % intervals so many at most may hold the truth: 2.8 standard errors of 300 trials.
_WIDEST = 0.985


def test_the_simulated_rows_have_the_score_that_they_are_said_to_have() -> None:
    """A sample so large that its own score is the true one, to three decimals."""
    for draw, truth in simulation.STATISTICS.values():
        scores = draw(np.random.default_rng(1), 1_000_000)
        assert scores.point()["score"] == pytest.approx(truth, abs=0.002)


def test_many_simulated_rows_score_nothing() -> None:
    scores = simulation.STATISTICS["micro F1"][0](np.random.default_rng(1), 10_000)
    assert (scores.statistics[:, 0] == 0).mean() > 0.55


@pytest.mark.parametrize("rows", simulation.ROWS)
@pytest.mark.parametrize("statistic", simulation.STATISTICS)
def test_intervals_hold_the_truth_within_three_points_of_nominal(statistic: str, rows: int) -> None:
    found = simulation.coverage(statistic, rows, _QUICK)
    assert found["share"] == pytest.approx(1 - found["below_the_truth"] - found["above_the_truth"])
    assert 0.92 - 3 * (0.92 * 0.08 / _QUICK) ** 0.5 < found["share"] <= _WIDEST


def test_a_too_narrow_interval_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Half the rows would have to do for so short an interval; the simulation sees it."""
    draw, truth = simulation.STATISTICS["mean of row F1"]

    def twice(rng: np.random.Generator, n: int) -> object:
        scores = draw(rng, n // 2)
        return type(scores)("score", np.repeat(scores.statistics, 2, axis=0), scores.values, scores.rows)

    monkeypatch.setitem(simulation.STATISTICS, "copied rows", (twice, truth))
    assert simulation.coverage("copied rows", 200, _QUICK)["share"] < 0.9


def test_a_too_wide_interval_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every row comes with its mirror at the true mean, so the score never strays and no interval misses it."""
    _, truth = simulation.STATISTICS["mean of row F1"]

    def mirrored(rng: np.random.Generator, n: int) -> RowScores:
        half = rng.uniform(0, 2 * truth, n // 2)
        scores = np.concatenate([half, 2 * truth - half])
        statistics = np.stack([scores, np.ones(n)], axis=1)
        return RowScores("score", statistics, lambda s: {"score": s[..., 0] / s[..., 1]}, scores)

    monkeypatch.setitem(simulation.STATISTICS, "mirrored rows", (mirrored, truth))
    assert simulation.coverage("mirrored rows", 200, _QUICK)["share"] > _WIDEST


def test_a_clearly_better_system_is_called_better() -> None:
    """Half the skill is found among 50 rows nearly always, a fifth less is not: a test that never rejects fails."""
    assert simulation.power(50, 40, skill=0.5) > 0.8
    assert 0.05 < simulation.power(50, 40, skill=0.8) < 0.6


def test_equals_are_seldom_told_apart() -> None:
    found = simulation.false_better(50, 150)
    error = (0.025 * 0.975 / 150) ** 0.5
    assert found["share"] <= 0.025 + 3 * error and found["worse"] <= 0.025 + 3 * error


def test_shipped_figures_are_within_what_is_asked_and_the_sentence_quotes_them() -> None:
    covered = [share for what, _, _, share in simulation.RESULTS if what.startswith("coverage")]
    assert len(covered) == 6 and all(abs(share - 0.95) < 0.03 for share in covered)
    assert f"{min(covered):.1%} to {max(covered):.1%}" in simulation.sentence()


@pytest.mark.slow
def test_full_simulation_gives_the_shipped_figures() -> None:
    results = simulation.measure()
    measured = {(r["what"], r["rows"]): r for r in results}
    assert set(measured) == {(what, rows) for what, rows, _, _ in simulation.RESULTS}
    for what, rows, trials, share in simulation.RESULTS:
        found = measured[what, rows]
        assert found["trials"] == trials
        # another version of numpy may draw otherwise
        assert found["share"] == pytest.approx(share, abs=3 * found["error"])
        if what.startswith("coverage"):
            assert abs(found["share"] - 0.95) < 0.03
        else:  # 500 trials: within three binomial standard errors of 2.5 % on each side
            assert abs(found["share"] - 0.025) <= 3 * (0.025 * 0.975 / trials) ** 0.5
            assert abs(found["worse"] - 0.025) <= 3 * (0.025 * 0.975 / trials) ** 0.5
    assert simulation.table(results).count("\n") == len(results) + 1
