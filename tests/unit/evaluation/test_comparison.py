"""Resampling against scipy and scikit-learn, and the words that intervals allow."""

from __future__ import annotations

import random

import numpy as np
import pytest

from tasks.evaluation import comparison, scoring
from tasks.evaluation.comparison import Interval
from tasks.evaluation.metric import Array, RowScores
from tasks.evaluation.metrics import classification
from tasks.evaluation.predictions import Prediction


def mean_scores(values: Array) -> RowScores:
    """A metric that is a plain mean."""
    statistics = np.stack([values, np.ones_like(values)], axis=1)
    return RowScores("mean", statistics, lambda s: {"mean": s[..., 0] / s[..., 1]}, values)


def labelled(pairs: list[tuple[str, str]], task: str = "t") -> list[Prediction]:
    return [Prediction(f"{i:04d}", task, "classification", "", gold, text) for i, (text, gold) in enumerate(pairs)]


def test_interval_of_a_skewed_mean_equals_scipys_bca() -> None:
    from scipy.stats import bootstrap

    values = np.random.default_rng(1).exponential(size=60)
    theirs = bootstrap((values,), np.mean, n_resamples=100000, method="BCa", rng=2).confidence_interval
    mine = comparison.sample(mean_scores(values), task="t", resamples=100000, seed=3)["mean"].interval()
    assert mine.value == pytest.approx(values.mean())
    assert (mine.low, mine.high) == pytest.approx((theirs.low, theirs.high), abs=0.006)
    assert mine.high - mine.value > mine.value - mine.low  # the long tail is above


def test_draws_spread_as_the_standard_error_says() -> None:
    values = np.random.default_rng(4).normal(size=400)
    draws = comparison.sample(mean_scores(values), task="t", resamples=4000, seed=0)["mean"].draws
    assert draws.std() == pytest.approx(values.std() / 20, rel=0.05)
    assert draws.mean() == pytest.approx(values.mean(), abs=0.005)


def test_resampled_macro_f1_is_macro_f1_of_the_resampled_rows() -> None:
    from sklearn.metrics import f1_score

    dice = random.Random(7)
    pairs = [(dice.choice("甲乙丙丁"), dice.choice("甲乙丙")) for _ in range(12)]
    scores = classification.score(labelled(pairs))
    for weights in comparison._weights(np.random.default_rng(0), 12, 50):
        found = scores.values(weights @ scores.statistics)["macro_f1"]
        for counts, value in zip(weights, found, strict=True):
            drawn = [pair for pair, count in zip(pairs, counts, strict=True) for _ in range(int(count))]
            predicted, gold = zip(*drawn, strict=True)
            assert value == pytest.approx(f1_score(gold, predicted, average="macro", zero_division=0))


def test_headline_is_the_unweighted_mean_of_the_tasks() -> None:
    big = labelled([("甲", "甲")] * 30, "big")
    small = labelled([("乙", "甲")] * 3, "small")
    system = scoring.sampled([*big, *small], resamples=200, seed=0)
    assert system.headline.value == 0.5 == scoring.mean_score([*big, *small])
    assert system.rows == 33


def test_a_part_of_a_system_scores_as_its_rows_alone() -> None:
    dice = random.Random(9)
    every = labelled([(dice.choice("甲乙丙"), dice.choice("甲乙")) for _ in range(30)])
    kept = every[:7]
    part = scoring.part(scoring.sampled(every, resamples=100, seed=0), kept.__contains__, resamples=100, seed=0)
    alone = scoring.sampled(kept, resamples=100, seed=0)
    assert part is not None and part.rows == 7
    assert part.headline.interval() == alone.headline.interval()
    assert scoring.part(alone, lambda _: False, resamples=100, seed=0) is None


def test_the_difference_of_two_systems_is_paired() -> None:
    rng = np.random.default_rng(8)
    hard = rng.uniform(size=80)  # difficulty that both systems share
    a, b = hard, hard + 0.05 + rng.normal(scale=0.01, size=80)
    first, second = (comparison.sample(mean_scores(v), task="t", resamples=2000, seed=1)["mean"] for v in (a, b))
    paired = (second - first).interval()
    assert paired.value == pytest.approx(b.mean() - a.mean())
    assert paired.half_width < first.interval().half_width / 5
    assert comparison.verdict(paired) == "better"
    assert comparison.verdict((first - second).interval()) == "worse"


def test_the_order_of_predictions_does_not_matter() -> None:
    dice = random.Random(2)
    every = labelled([(dice.choice("甲乙"), dice.choice("甲乙")) for _ in range(40)])
    shuffled = dice.sample(every, len(every))
    first, second = (scoring.sampled(p, resamples=300, seed=5).headline.interval() for p in (every, shuffled))
    assert first == second


def test_a_value_that_no_row_moves_has_no_width() -> None:
    sampled = comparison.sample(mean_scores(np.ones(10)), task="t", resamples=100, seed=0)["mean"]
    assert sampled.interval() == Interval(1, 1, 1)


def test_intervals_cover_the_truth_about_as_often_as_they_say() -> None:
    rng = np.random.default_rng(11)
    hits = 0
    for trial in range(300):
        values = rng.beta(0.5, 0.5, size=50)
        interval = comparison.sample(mean_scores(values), task="t", resamples=400, seed=trial)["mean"].interval()
        hits += interval.low <= 0.5 <= interval.high
    assert hits / 300 > 0.95 - 3 * (0.95 * 0.05 / 300) ** 0.5


def test_words_name_a_winner_only_beyond_noise() -> None:
    noise = comparison.conclusion(Interval(0.04, -0.05, 0.13), rows=50, this="A", other="B")
    assert "cannot separate A from B" in noise and "about 0.090" in noise and "better" not in noise
    assert "A is better than B beyond noise" in comparison.conclusion(
        Interval(0.2, 0.1, 0.3), rows=50, this="A", other="B"
    )
    assert "A is worse than B beyond noise" in comparison.conclusion(
        Interval(-0.2, -0.3, -0.1), rows=50, this="A", other="B"
    )
    assert "score the same" in comparison.conclusion(Interval(0, 0, 0), rows=50, this="A", other="B")
