"""Resampling of rows and of groups, against scipy and scikit-learn."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.sparse import csr_array

from tasks.evaluation import comparison, scoring
from tasks.evaluation.comparison import Interval
from tasks.evaluation.metric import Array, Options, RowScores
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
    scores = classification.score(labelled(pairs), Options())
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
    assert paired.low > 0 > (first - second).interval().high


def test_the_order_of_predictions_does_not_matter() -> None:
    dice = random.Random(2)
    every = labelled([(dice.choice("甲乙"), dice.choice("甲乙")) for _ in range(40)])
    shuffled = dice.sample(every, len(every))
    first, second = (scoring.sampled(p, resamples=300, seed=5).headline.interval() for p in (every, shuffled))
    assert first == second


def test_a_value_that_no_row_moves_has_no_width() -> None:
    sampled = comparison.sample(mean_scores(np.ones(10)), task="t", resamples=100, seed=0)["mean"]
    assert sampled.interval() == Interval(1, 1, 1)


def test_rows_of_one_group_count_as_one() -> None:
    """Every row four times over, the copies in one group, tells no more than the rows once."""
    dice = random.Random(3)
    once = labelled([(dice.choice("甲乙丙"), dice.choice("甲乙")) for _ in range(40)])
    copies = [replace(p, id=f"{p.id}-{i}", group=f"document {p.id}") for p in once for i in range(4)]
    alone, grouped, apart = (
        scoring.sampled(rows, resamples=500, seed=0).headline.interval()
        for rows in (once, copies, [replace(p, group="") for p in copies])
    )
    assert (grouped.low, grouped.high) == pytest.approx((alone.low, alone.high))
    assert apart.half_width < 0.6 * alone.half_width  # what resampling rows would pretend


def test_groups_are_drawn_whole() -> None:
    """Two groups can make three sums only, however many rows they hold."""
    values = np.array([1.0, 0, 0, 1, 1, 1])
    groups = np.array([0, 0, 1, 1, 1, 1])
    sampled = comparison.sample(mean_scores(values), task="t", resamples=400, seed=0, groups=groups)["mean"]
    assert {round(float(x), 9) for x in sampled.draws} == {0.5, round(4 / 6, 9), 0.75}
    assert sampled.value == pytest.approx(4 / 6)
    # without the first group 3/4 is left, without the second 1/2; each against their mean, times (g - 1) / g
    assert sampled.influence == pytest.approx([-0.0625, 0.0625])


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 9)), min_size=1, max_size=40))
def test_sums_by_group_are_those_of_a_loop(rows: list[tuple[int, int]]) -> None:
    present = sorted({group for group, _ in rows})
    codes = np.array([present.index(group) for group, _ in rows])
    statistics = np.array([[float(value), 1.0] for _, value in rows])
    expected = [[sum(v for g, v in rows if g == p), sum(g == p for g, _ in rows)] for p in present]
    assert comparison.by_group(statistics, codes).tolist() == expected
    assert comparison.by_group(csr_array(statistics), codes).toarray().tolist() == expected


def test_the_mean_of_seeds_is_taken_in_every_resample() -> None:
    rng = np.random.default_rng(5)
    seeds = [rng.uniform(size=30) for _ in range(3)]
    parts = [comparison.sample(mean_scores(v), task="t", resamples=200, seed=1)["mean"] for v in seeds]
    together = comparison.mean_of_same_rows(parts)
    direct = comparison.sample(mean_scores(np.mean(seeds, axis=0)), task="t", resamples=200, seed=1)["mean"]
    assert together.value == pytest.approx(direct.value)
    assert together.draws == pytest.approx(direct.draws)
    assert together.influence == pytest.approx(direct.influence)


def test_seeds_of_a_method_and_how_far_they_lie_apart() -> None:
    systems = [
        scoring.sampled(labelled([("甲", "甲")] * right + [("乙", "甲")] * (20 - right)), resamples=100, seed=0)
        for right in (10, 14, 12)
    ]
    method = scoring.mean_over_seeds(systems)
    expected = [s.headline.value for s in systems]
    assert method.headline.value == method.primary("t").value == pytest.approx(sum(expected) / 3)
    spread = method.spread()
    assert spread.values == tuple(expected) and (spread.low, spread.high) == (expected[0], expected[1])
    assert spread.sd == pytest.approx(np.std(expected, ddof=1))
    assert scoring.spread([0.5]).sd is None
