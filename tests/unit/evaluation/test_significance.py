"""The paired test against brute force and scipy, Holm by hand, and the words that a test allows."""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks import plugins
from tasks.errors import DataError
from tasks.evaluation import scoring, significance
from tasks.evaluation.comparison import Interval
from tasks.evaluation.predictions import Prediction
from tasks.evaluation.scoring import SystemScores
from tasks.evaluation.significance import PairedTest, paired_test

LABELS = "甲乙丙"


def system(answers: str, gold: str, *, task: str = "t", metric: str = "classification", size: int = 1) -> SystemScores:
    """One label a row; ``size`` rows make a group."""
    return scoring.sampled(rows(answers, gold, task=task, metric=metric, size=size), resamples=200, seed=0)


def rows(
    answers: str, gold: str, *, task: str = "t", metric: str = "classification", size: int = 1
) -> list[Prediction]:
    return [
        Prediction(f"{i:03d}", task, metric, "", g, a, group=f"d{i // size}" if size > 1 else "")
        for i, (a, g) in enumerate(zip(answers, gold, strict=True))
    ]


def some(rng: random.Random, n: int, right: float = 0.5, gold: str | None = None) -> str:
    """``n`` answers; against ``gold`` so large a share is right."""
    return "".join(rng.choice(LABELS) if gold is None or rng.random() > right else gold[i] for i in range(n))


def macro_f1(answers: list[str], gold: list[str]) -> float:
    from sklearn.metrics import f1_score

    return float(f1_score(gold, answers, average="macro", zero_division=0))


def by_brute_force(
    parts: list[tuple[str, str, str]], size: int, score: Callable[[list[str], list[str]], float] = macro_f1
) -> tuple[float, float, float]:
    """(p worse, p better, p) over every swap; ``parts``: (a, b, gold) of each task."""
    groups = [range(start, start + size) for start in range(0, len(parts[0][2]), size)]
    seen: list[float] = []
    for swaps in itertools.product((False, True), repeat=len(groups)):
        swapped = {i for swap, group in zip(swaps, groups, strict=True) if swap for i in group}
        differences = []
        for a, b, gold in parts:
            first = [b[i] if i in swapped else a[i] for i in range(len(gold))]
            second = [a[i] if i in swapped else b[i] for i in range(len(gold))]
            differences.append(score(first, list(gold)) - score(second, list(gold)))
        seen.append(float(np.mean(differences)))
    observed = seen[0]
    return (
        sum(d <= observed + 1e-9 for d in seen) / len(seen),
        sum(d >= observed - 1e-9 for d in seen) / len(seen),
        sum(abs(d) >= abs(observed) - 1e-9 for d in seen) / len(seen),
    )


def p_values(test: PairedTest) -> tuple[float, float, float]:
    return test.p_worse, test.p_better, test.p_value


@settings(max_examples=15, deadline=None)
@given(st.lists(st.tuples(*[st.sampled_from(LABELS)] * 3), min_size=1, max_size=7))
def test_p_of_macro_f1_is_that_of_every_swap(triples: list[tuple[str, str, str]]) -> None:
    a, b, gold = ("".join(column) for column in zip(*triples, strict=True))
    test = paired_test(system(a, gold), system(b, gold), permutations=100, seed=0)
    assert p_values(test) == pytest.approx(by_brute_force([(a, b, gold)], 1))


def test_groups_are_swapped_whole_and_in_all_their_tasks() -> None:
    rng = random.Random(5)
    parts = [(some(rng, 14), some(rng, 14), some(rng, 14)) for _ in range(2)]
    a, b = (
        scoring.sampled(
            [row for t, part in enumerate(parts) for row in rows(part[side], part[2], task=f"t{t}", size=2)],
            resamples=200,
            seed=0,
        )
        for side in (0, 1)
    )
    test = paired_test(a, b, permutations=100, seed=0)
    assert (test.rows, test.groups) == (28, 7)
    assert test.difference.value == pytest.approx(
        np.mean([macro_f1(list(x), list(g)) for x, _, g in parts])
        - np.mean([macro_f1(list(y), list(g)) for _, y, g in parts])
    )
    assert p_values(test) == pytest.approx(by_brute_force(parts, 2))
    alone = paired_test(a, b, permutations=100, seed=0, task="t1")
    assert (alone.rows, alone.groups) == (14, 7)
    assert p_values(alone) == pytest.approx(by_brute_force(parts[1:], 2))


def test_random_swaps_come_to_the_p_of_all_swaps() -> None:
    """15 differing rows are drawn at random; brute force takes all 32,768 swaps of the accuracy."""
    rng = random.Random(8)
    gold = some(rng, 40)
    a, b = some(rng, 40, 0.7, gold), some(rng, 40, 0.3, gold)
    right = [np.array([x == g for x, g in zip(side, gold, strict=True)], dtype=float) for side in (a, b)]
    from scipy.stats import permutation_test

    theirs = permutation_test(
        right, lambda x, y, axis: np.mean(x - y, axis=axis), permutation_type="samples", n_resamples=20000, rng=1
    )
    mine = paired_test(*(triples(r) for r in right), permutations=20000, seed=2)
    assert mine.difference.value == pytest.approx(float(theirs.statistic))
    # three standard errors of two random estimates of the same p
    error = 3 * (2 * theirs.pvalue * (1 - theirs.pvalue) / 20000) ** 0.5
    assert mine.p_value == pytest.approx(theirs.pvalue, abs=error)
    assert mine.p_worse + mine.p_better > 1


def triples(right: np.ndarray) -> SystemScores:
    """Rows of one triple each, so that micro F1 is the share of right rows."""
    answers = [
        Prediction(f"{i:03d}", "t", "triples", "", "甲_乙_丙", "甲_乙_丙" if r else "甲_乙_丁")
        for i, r in enumerate(right)
    ]
    return scoring.sampled(answers, resamples=200, seed=0)


def test_the_smallest_p_of_random_swaps_is_one_in_all_of_them() -> None:
    right = np.ones(200)
    test = paired_test(triples(right), triples(0 * right), permutations=499, seed=0)
    assert (test.p_value, test.p_better, test.p_worse) == (1 / 500, 1 / 500, 1)
    assert test.verdict(0.05) == "better" and test.verdict(0.001) == "not separable"


def test_turning_the_systems_around_turns_the_test_around() -> None:
    rng = random.Random(1)
    gold = some(rng, 60)
    a, b = system(some(rng, 60, 0.6, gold), gold), system(some(rng, 60, 0.2, gold), gold)
    one, other = (paired_test(*pair, permutations=300, seed=3) for pair in ((a, b), (b, a)))
    assert (one.p_worse, one.p_better, one.p_value) == (other.p_better, other.p_worse, other.p_value)
    assert one.difference.value == -other.difference.value
    assert one.verdict() == "better" and other.verdict() == "worse"


METRICS = sorted(plugins.names(scoring.METRICS))


@pytest.mark.parametrize("metric", [name for name in METRICS if name != "promptcblue"])
def test_systems_scored_together_keep_their_values(metric: str) -> None:
    """What the permutation test starts from are the very values that are reported."""
    rng = random.Random(4)
    texts = ["甲_治疗_乙", "甲_病因_丙\n甲_治疗_乙", "丁_治疗_乙", "我不知道", ""]

    def answers() -> list[Prediction]:
        drawn = [(texts[i % 3], rng.choice(texts), rng.random()) for i in range(20)]
        return [
            Prediction(f"{i:02d}", "t", metric, "", gold, text, nll=3 + nll, nll_tokens=5)
            for i, (gold, text, nll) in enumerate(drawn)
        ]

    check_alignment([scoring.sampled(answers(), resamples=100, seed=0) for _ in range(2)])


def test_promptcblue_systems_scored_together_keep_their_values(shared: Path) -> None:
    rng = random.Random(4)
    every = (shared / "data/promptcblue/toy_examples/dev.json").read_text(encoding="utf-8").splitlines()
    real = [json.loads(line) for line in every]
    assert len({r["task_dataset"] for r in real}) == 16

    def answers() -> list[Prediction]:
        return [
            Prediction(
                id=f"{i:04d}",
                task=r["task_dataset"],
                metric="promptcblue",
                prompt=r["input"],
                reference=r["target"],
                prediction=rng.choice([r["target"], real[i - 1]["target"], "我不知道"]),
                fields={name: r[name] for name in ("answer_choices", "sample_id", "task_type")},
            )
            for i, r in enumerate(real)
        ]

    check_alignment([scoring.sampled(answers(), resamples=100, seed=0) for _ in range(2)])


def check_alignment(systems: list[SystemScores]) -> None:
    for before, after in zip(systems, significance.align(systems, list(systems[0].tasks)), strict=True):
        for task in before.tasks:
            own, common = before.tasks[task].scores, after.tasks[task].scores
            assert common.point() == pytest.approx(own.point()), task
            assert common.facts == own.facts and (common.rows == own.rows).all()


def test_aligned_systems_are_not_scored_again() -> None:
    rng = random.Random(4)
    gold = some(rng, 20)
    systems = [system(some(rng, 20), gold) for _ in range(2)]
    aligned = significance.align(systems, ["t"])
    assert significance.align(aligned, ["t"])[0].tasks["t"] is aligned[0].tasks["t"]
    fresh, again = (paired_test(*pair, permutations=200, seed=0) for pair in (systems, aligned))
    assert fresh == again


def test_systems_over_other_rows_are_refused() -> None:
    a = system("甲乙", "甲甲")
    for other in (system("甲乙甲", "甲甲甲"), system("甲乙", "甲乙"), system("甲乙", "甲甲", task="u")):
        with pytest.raises(DataError, match=r"task \w: the systems were not scored on the same rows"):
            paired_test(a, other, permutations=100, seed=0)


def test_detectable_difference_is_found_in_four_tests_of_five() -> None:
    """Simulated: a true difference of that size is called at the 5 % level in about 80 % of samples."""
    rng = np.random.default_rng(6)
    n, lower = 100, 0.5
    draw = partial(rng.random, n)
    alike = [
        paired_test(triples(draw() < lower), triples(draw() < lower), permutations=100, seed=0).detectable
        for _ in range(5)
    ]
    detectable = float(np.mean([size for size in alike if size is not None]))
    # two independent shares near 0.5: standard error sqrt(2 * 0.25 / 100) = 0.0707, times 2.80
    assert detectable == pytest.approx(2.802 * 0.0707, rel=0.08)
    found = [
        paired_test(triples(draw() < lower + detectable), triples(draw() < lower), permutations=299, seed=i).verdict()
        for i in range(150)
    ]
    assert found.count("better") / 150 == pytest.approx(0.8, abs=3 * (0.8 * 0.2 / 150) ** 0.5 + 0.02)


# --- Holm ---------------------------------------------------------------------------------------------------------


def test_holm_by_hand() -> None:
    # sorted 0.005 0.01 0.03 0.04 times 4 3 2 1: 0.02 0.03 0.06 0.04; never below an earlier one
    assert significance.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert significance.holm([0.5, 0.9]) == [1.0, 1.0]
    assert significance.holm([0.2]) == [0.2]
    assert significance.holm([]) == []


@given(st.lists(st.floats(0, 1), max_size=8), st.floats(0.001, 0.5))
def test_holm_rejects_what_its_steps_reject(p: list[float], level: float) -> None:
    """The step-down rule as Holm states it: compare the i-th smallest with level / (m - i), stop at the first over."""
    rejected, going = set(), True
    for i, index in enumerate(sorted(range(len(p)), key=lambda k: p[k])):
        going = going and p[index] * (len(p) - i) <= level
        if going:
            rejected.add(index)
    assert {i for i, adjusted in enumerate(significance.holm(p)) if adjusted <= level} == rejected


# --- seeds --------------------------------------------------------------------------------------------------------


def test_seeds_are_swapped_together() -> None:
    """Six rows, two seeds each: every swap by hand, the mean over seeds of the accuracy."""
    rng = random.Random(3)
    a, b = ([np.array([rng.random() < share for _ in range(6)]) for _ in range(2)] for share in (0.9, 0.3))
    test = paired_test([triples(x) for x in a], [triples(x) for x in b], permutations=100, seed=0)
    per_row = np.mean(a, axis=0) - np.mean(b, axis=0)
    seen = [float(np.mean(per_row * signs)) for signs in itertools.product((1, -1), repeat=6)]
    assert test.difference.value == pytest.approx(seen[0])
    assert test.p_better == pytest.approx(sum(d >= seen[0] - 1e-9 for d in seen) / 64)
    assert test.seeds == (2, 2)


def test_a_method_of_several_seeds_meets_a_single_system() -> None:
    rng = np.random.default_rng(3)
    a, base = [rng.random(9) < 0.8 for _ in range(3)], rng.random(9) < 0.5
    test = paired_test([triples(x) for x in a], triples(base), permutations=100, seed=0)
    per_row = np.mean(a, axis=0) - base
    seen = [float(np.mean(per_row * signs)) for signs in itertools.product((1, -1), repeat=9)]
    assert p_values(test) == pytest.approx(
        (
            np.mean([d <= seen[0] + 1e-9 for d in seen]),
            np.mean([d >= seen[0] - 1e-9 for d in seen]),
            np.mean([abs(d) >= abs(seen[0]) - 1e-9 for d in seen]),
        )
    )


def test_two_seeds_meet_three() -> None:
    """Every seed counts alike on its side: the differences of the sides' means are swapped."""
    rng = np.random.default_rng(9)
    a, b = [rng.random(8) < 0.8 for _ in range(2)], [rng.random(8) < 0.4 for _ in range(3)]
    test = paired_test([triples(x) for x in a], [triples(x) for x in b], permutations=100, seed=0)
    per_row = np.mean(a, axis=0) - np.mean(b, axis=0)
    seen = [float(np.mean(per_row * signs)) for signs in itertools.product((1, -1), repeat=8)]
    assert test.difference.value == pytest.approx(seen[0])
    assert test.p_better == pytest.approx(np.mean([d >= seen[0] - 1e-9 for d in seen]))
    assert test.seeds == (2, 3)


def test_overlapping_seeds_name_no_winner_however_small_p_is() -> None:
    shares = lambda *right: [triples(np.arange(200) < r) for r in right]  # noqa: E731
    apart = paired_test(shares(150, 140), shares(100, 90), permutations=999, seed=0)
    assert apart.apart and apart.verdict() == "better"
    overlap = paired_test(shares(190, 100), shares(110, 90), permutations=999, seed=0)
    assert overlap.p_value < 0.05 and not overlap.apart and overlap.verdict() == "not separable"
    said = significance.conclusion(overlap, "A", "B")
    assert said.startswith("the seeds of A and of B overlap, so no method is named") and "better" not in said


# --- words --------------------------------------------------------------------------------------------------------

NOISE = PairedTest(
    Interval(0.02, -0.05, 0.09), 0.56, 0.72, 0.28, rows=50, groups=50, standard_error=0.035, permutations=2000
)


def test_noise_names_no_winner_and_says_what_could_be_shown() -> None:
    assert significance.conclusion(NOISE, "A", "B") == (
        "n=50 cannot separate A from B: +0.020 [-0.050, +0.090], p=0.56; "
        "the smallest difference that so many rows can show is about 0.098."
    )


def test_documents_are_named_where_they_hold_several_rows() -> None:
    said = significance.conclusion(replace(NOISE, rows=120), "A", "B")
    assert said.startswith("n=50 documents (120 rows) cannot separate A from B")
    assert "so many documents can show" in said


def test_the_p_value_decides_and_not_the_interval() -> None:
    wide = replace(NOISE, difference=Interval(0.06, -0.001, 0.12), p_value=0.04)
    assert wide.verdict() == "better"
    assert significance.conclusion(wide, "A", "B") == "A is better than B: +0.060 [-0.001, +0.120], p=0.04, n=50."
    assert wide.verdict(level=0.01) == "not separable"
    assert replace(wide, difference=Interval(-0.06, -0.12, 0.001)).verdict() == "worse"


def test_correction_for_several_tests_can_take_a_winner_back() -> None:
    test = replace(NOISE, difference=Interval(0.06, 0.01, 0.12), p_value=0.03)
    assert test.verdict(adjusted_p=0.09) == "not separable"
    said = significance.conclusion(test, "A", "B", adjusted_p=0.09, family=3)
    assert "cannot separate" in said and "p=0.09 adjusted for 3 tests" in said
    assert "p<0.001" in significance.conclusion(replace(test, p_value=0.0005), "A", "B")


def test_equal_answers_are_called_equal() -> None:
    same = system("甲乙丙", "甲甲甲")
    test = paired_test(same, same, permutations=100, seed=0)
    assert p_values(test) == (1, 1, 1)
    assert significance.conclusion(test, "A", "B") == "A and B score the same on every one of 3 rows."


# --- what so many rows can show -------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", range(1, 6))
def test_too_few_rows_can_show_no_difference_and_say_so(n: int) -> None:
    """All n rows won: of 2^n swaps the one seen and its mirror are as extreme, and with n < 6 that is no 5 %."""
    test = paired_test(triples(np.ones(n)), triples(np.zeros(n)), permutations=100, seed=0)
    assert test.p_value == test.least_p() == 2 / 2**n and test.least_p(sides=1) == 1 / 2**n
    assert test.detectable is None and test.to_json()["detectable"] is None
    said = significance.conclusion(test, "A", "B")
    assert f"so few rows cannot show any difference at the level 0.05: the least possible p is {2 / 2**n:.2g}." in said
    assert "smallest difference" not in said


def test_six_rows_can_show_one_alone_and_not_among_three() -> None:
    won = paired_test(triples(np.ones(6)), triples(np.zeros(6)), permutations=100, seed=0)
    assert won.verdict() == "better"
    one = paired_test(triples(np.ones(6)), triples(np.arange(6) > 0), permutations=100, seed=0)
    # one row of six lost: the bootstrap's standard error is sqrt(1/6 * 5/6 / 6), with 200 resamples about
    assert one.detectable == pytest.approx(2.802 * (5 / 216) ** 0.5, rel=0.15)
    assert one.detectable_at(family=3) is None
    said = significance.conclusion(won, "A", "B", adjusted_p=6 / 64, family=3)
    assert "so few rows cannot show" in said and "the least possible p is 0.031, times 3 tests" in said


def test_few_permutations_are_named_where_they_are_what_is_missing() -> None:
    rng = np.random.default_rng(2)
    test = paired_test(triples(rng.random(60) < 0.5), triples(rng.random(60) < 0.5), permutations=100, seed=0)
    assert test.least_p() == 1 / 101 and test.detectable_at(family=5) is not None
    said = significance.conclusion(test, "A", "B", adjusted_p=1.0, family=15)
    assert "100 random permutations cannot show any difference at the level 0.05" in said
    assert "the least possible p is 0.0099, times 15 tests" in said


@pytest.mark.parametrize(("level", "family", "errors"), [(0.05, 1, 2.80), (0.01, 1, 3.42), (0.05, 15, 3.78)])
def test_the_smallest_difference_grows_with_the_level_and_the_family(level: float, family: int, errors: float) -> None:
    test = replace(NOISE, standard_error=0.1, permutations=100_000)
    assert test.detectable_at(level, family) == pytest.approx(errors / 10, abs=0.0005)
    said = significance.conclusion(test, "A", "B", level, 1.0, family)
    assert f"can show is about {errors / 10:.2g}." in said


def test_a_factor_from_a_family_finds_four_of_five_after_correction() -> None:
    """Normal differences of that size, by scipy: p < level / family in 80 % of them."""
    from scipy.stats import norm

    size = replace(NOISE, standard_error=1.0, permutations=100_000).detectable_at(0.05, 6)
    assert size is not None
    assert norm.sf(norm.isf(0.05 / 12) - size) == pytest.approx(0.8, abs=1e-6)


def test_systems_without_spread_tell_no_smallest_difference() -> None:
    same = system("甲" * 50, "甲" * 50)
    assert paired_test(same, same, permutations=100, seed=0).detectable is None


# --- how many seeds speak of methods --------------------------------------------------------------------------------


@pytest.mark.parametrize(("a", "b"), [(1, 1), (2, 2), (3, 2), (4, 4), (3, 5)])
def test_chance_of_seeds_apart_is_that_of_every_order(a: int, b: int) -> None:
    orders = list(itertools.combinations(range(a + b), a))
    ends = {tuple(range(a)), tuple(range(b, a + b))}
    assert significance.seeds_apart_chance(a, b) == pytest.approx(sum(order in ends for order in orders) / len(orders))


def test_chance_of_seeds_on_one_side_of_a_given_system_is_that_of_every_sign() -> None:
    for n in (1, 2, 6):
        signs = list(itertools.product((False, True), repeat=n))
        assert significance.seeds_apart_chance(n, 0) == sum(len(set(s)) == 1 for s in signs) / len(signs)


def test_seeds_that_a_claim_about_methods_takes() -> None:
    # 2 / C(8, 4) = 0.029, 2 / C(6, 3) = 0.1; 2 / 2^6 = 0.031, 2 / 2^5 = 0.062
    assert significance.seeds_for_methods(given=False) == 4 and significance.seeds_for_methods(given=True) == 6
    # among 6 pairs 6 * 2 / C(10, 5) = 0.048; among 15 of them it takes 15 * 2 / C(12, 6) = 0.032
    assert [significance.seeds_for_methods(False, family=family) for family in (1, 6, 15)] == [4, 5, 6]
    assert significance.seeds_for_methods(False, level=0.01) == 5


def method(*right: int) -> list[SystemScores]:
    """A seed for each number, which answers so many of 200 rows right."""
    return [triples(np.arange(200) < r) for r in right]


def test_two_seeds_against_two_speak_of_trained_models_only() -> None:
    test = paired_test(method(150, 140), method(100, 90), permutations=999, seed=0)
    assert test.apart and test.verdict() == "better" and not test.about_methods()
    said = significance.conclusion(test, "A", "B")
    assert said.startswith("these trained models of A are better than these trained models of B: +0.250")
    assert said.endswith("all seeds agree (2 against 2), but a claim about the methods takes 4 against 4.")
    among = significance.conclusion(test, "A", "B", adjusted_p=0.015, family=15)
    assert among.endswith("takes 6 against 6.")
    other = significance.conclusion(paired_test(method(90), method(150, 140), permutations=999, seed=0), "B", "A")
    assert other.startswith("this trained model of B is worse than these trained models of A")


def test_four_seeds_against_four_speak_of_methods() -> None:
    test = paired_test(method(150, 140, 145, 152), method(100, 90, 95, 92), permutations=999, seed=0)
    assert test.about_methods() and not test.about_methods(family=2) and not test.about_methods(level=0.02)
    said = significance.conclusion(test, "A", "B")
    assert said.startswith("A is better than B: +0.") and "trained model" not in said
    assert said.endswith("all seeds agree (4 against 4; by chance in 0.029 of cases).")


def test_seeds_meet_a_given_system() -> None:
    base = triples(np.arange(200) < 60)
    few = paired_test(method(150, 140), base, permutations=999, seed=0)
    assert few.seeds == (2, 0)
    said = significance.conclusion(few, "A", "the base")
    assert said.startswith("these trained models of A are better than the base: ")
    assert said.endswith("all seeds agree (2), but a claim about the method takes 6.")
    enough = paired_test(base, method(*range(140, 146)), permutations=999, seed=0)
    assert significance.conclusion(enough, "the base", "A").startswith("the base is worse than A: ")
    split = paired_test(base, method(190, 50), permutations=999, seed=0)
    assert split.p_value < 0.05 and split.verdict() == "not separable"
    said = significance.conclusion(split, "the base", "A")
    assert said.startswith("the seeds of A do not lie on one side of the base, so no method is named")


def test_equal_methods_are_seldom_told_apart_though_their_models_are() -> None:
    """One distribution of seeds for both: 2 against 2 lie apart in 1/3 of trials; no methods are told apart by that."""
    rng = np.random.default_rng(12)
    named = claimed = 0
    for seeds in (2, 4):
        for trial in range(40):
            sides = [[triples(rng.random(150) < s) for s in rng.uniform(0.3, 0.8, seeds)] for _ in range(2)]
            test = paired_test(*sides, permutations=199, seed=trial)
            named += seeds == 2 and test.verdict() != "not separable"
            claimed += test.verdict() != "not separable" and test.about_methods()
    assert named > 40 * 0.15
    assert claimed <= 80 * 0.05
