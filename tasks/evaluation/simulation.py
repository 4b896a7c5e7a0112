"""How often intervals hold the truth, and how often the test finds a difference where there is none, on simulated rows.

Coverage: rows are drawn from distributions whose true score is known, most of them with rows that score nothing (a
model that misses a document misses all of it), and the share of 95 % BCa intervals that hold the true score is counted.
A share below 95 % means that intervals are too narrow.

A/A: two systems of equal quality answer the same documents in text; documents differ in difficulty for both alike. The
share of verdicts "better" at the two-sided 5 % level should be 2.5 %, and that of "worse" the same.

``RESULTS`` are the figures that ``COMMAND`` gave; a report may quote them (``sentence``).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from tasks.evaluation import comparison, scoring, significance
from tasks.evaluation.metric import Array, RowScores, ratio
from tasks.evaluation.predictions import Prediction

COMMAND = "python -m flows.bench statistics"
#: (what, rows, trials, share) as ``measure`` found them.
RESULTS = (
    ("coverage of micro F1", 50, 2000, 0.947),
    ("coverage of micro F1", 200, 2000, 0.9525),
    ("coverage of mean of row F1", 50, 2000, 0.950),
    ("coverage of mean of row F1", 200, 2000, 0.949),
    ("coverage of paired difference of micro F1", 50, 2000, 0.9235),
    ("coverage of paired difference of micro F1", 200, 2000, 0.9385),
    ('A/A verdict "better"', 50, 500, 0.024),
    ('A/A verdict "better"', 200, 500, 0.026),
)
ROWS = (50, 200)
COVERAGE_TRIALS = 2000
TEST_TRIALS = 500
_RESAMPLES = 1000
_PERMUTATIONS = 999
_NOMINAL = 0.95
_FALSE_BETTER = significance.LEVEL / 2
#: Share of documents where a system finds nothing at all.
_ZERO = 0.6
_GOLD, _SPURIOUS = 3.5, 1.2  # triples a document: in the reference, and predicted besides the hits
_SKILL = (3.0, 1.5)  # beta distribution of the share found where something is found
_MEAN_SKILL = _SKILL[0] / sum(_SKILL)


def _micro_f1(rng: np.random.Generator, n: int) -> RowScores:
    """Micro F1 of triples."""
    return _f1(_counts(rng, rng.poisson(_GOLD - 1, n) + 1, _skill(rng, n)))


def _mean_f1(rng: np.random.Generator, n: int) -> RowScores:
    """The mean of row scores."""
    scores = _skill(rng, n)
    return RowScores("score", np.stack([scores, np.ones(n)], axis=1), _mean_value, scores)


def _difference(rng: np.random.Generator, n: int) -> RowScores:
    """The difference of two systems' micro F1 on the same documents, the second less skilled, difficulty shared."""
    gold, skill = rng.poisson(_GOLD - 1, n) + 1, _skill(rng, n)
    both = np.hstack([_counts(rng, gold, skill), _counts(rng, gold, 0.8 * skill)])
    return RowScores("score", both, lambda s: {"score": _micro(s[..., :3]) - _micro(s[..., 3:])}, np.zeros(n))


def _true_f1(skill: float = 1.0) -> float:
    hits = _GOLD * (1 - _ZERO) * _MEAN_SKILL * skill
    return 2 * hits / (hits + _SPURIOUS + _GOLD)


#: What is simulated: its rows, and its true value.
STATISTICS: dict[str, tuple[Callable[[np.random.Generator, int], RowScores], float]] = {
    "micro F1": (_micro_f1, _true_f1()),
    "mean of row F1": (_mean_f1, (1 - _ZERO) * _MEAN_SKILL),
    "paired difference of micro F1": (_difference, _true_f1() - _true_f1(0.8)),
}


def coverage(statistic: str, rows: int, trials: int, seed: int = 0) -> dict[str, Any]:
    """The share of 95 % intervals that hold the true value; ``error`` is its standard error."""
    draw, truth = STATISTICS[statistic]
    below = above = 0
    for trial in range(trials):
        scores = draw(np.random.default_rng([seed, rows, trial]), rows)
        interval = comparison.sample(scores, task=statistic, resamples=_RESAMPLES, seed=trial)["score"].interval()
        below, above = below + (interval.high < truth), above + (interval.low > truth)
    share = 1 - (below + above) / trials
    return {
        "what": f"coverage of {statistic}",
        "rows": rows,
        "trials": trials,
        "share": share,
        "nominal": _NOMINAL,
        "error": _error(_NOMINAL, trials),
        "below_the_truth": below / trials,
        "above_the_truth": above / trials,
    }


def false_better(rows: int, trials: int, seed: int = 0) -> dict[str, Any]:
    """The share of A/A comparisons that name the first system better; ``error`` is its standard error."""
    verdicts = _verdicts(rows, trials, seed)
    return {
        "what": 'A/A verdict "better"',
        "rows": rows,
        "trials": trials,
        "share": verdicts.count("better") / trials,
        "nominal": _FALSE_BETTER,
        "error": _error(_FALSE_BETTER, trials),
        "worse": verdicts.count("worse") / trials,
    }


def power(rows: int, trials: int, skill: float, seed: int = 0) -> float:
    """The share of comparisons that name the first system better, where the second has ``skill`` of its skill."""
    return _verdicts(rows, trials, seed, skill).count("better") / trials


def measure(coverage_trials: int = COVERAGE_TRIALS, test_trials: int = TEST_TRIALS) -> list[dict[str, Any]]:
    """Every coverage and the A/A rate at each number of rows."""
    covered = [coverage(name, rows, coverage_trials) for name in STATISTICS for rows in ROWS]
    return covered + [false_better(rows, test_trials) for rows in ROWS]


def table(results: Sequence[Mapping[str, Any]]) -> str:
    """The results as Markdown."""
    lines = ["| what | rows | trials | measured | nominal | in standard errors |", "|---|---:|---:|---:|---:|---:|"]
    for r in results:
        off = (r["share"] - r["nominal"]) / r["error"]
        cells = (r["what"], r["rows"], f"{r['trials']:,}", f"{r['share']:.1%}", f"{r['nominal']:.1%}", f"{off:+.1f}")
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines)


def sentence() -> str:
    """What the shipped figures say about intervals, for a report."""
    covered = [share for what, _, _, share in RESULTS if what.startswith("coverage")]
    return (
        f"On simulated rows of which {_ZERO:.0%} score nothing, {_NOMINAL:.0%} intervals held the truth in "
        f"{min(covered):.1%} to {max(covered):.1%} of trials (n=50 and n=200; {COMMAND})."
    )


def _skill(rng: np.random.Generator, n: int) -> Array:
    return np.where(rng.random(n) < _ZERO, 0.0, rng.beta(*_SKILL, n))


def _counts(rng: np.random.Generator, gold: npt.NDArray[np.int64], skill: Array) -> Array:
    """[n, 3] hits, predicted, gold."""
    hits = rng.binomial(gold, skill)
    return np.stack([hits, hits + rng.poisson(_SPURIOUS, len(gold)), gold], axis=1).astype(np.float64)


def _micro(sums: Array) -> Array:
    return ratio(2 * sums[..., 0], sums[..., 1] + sums[..., 2])


def _f1(counts: Array) -> RowScores:
    return RowScores("score", counts, lambda s: {"score": _micro(s)}, np.zeros(len(counts)))


def _mean_value(sums: Array) -> Mapping[str, Array]:
    return {"score": sums[..., 0] / sums[..., 1]}


def _verdicts(rows: int, trials: int, seed: int, skill: float = 1.0) -> list[str]:
    """On two systems that answer the same documents by themselves, the second with ``skill`` of the first's skill."""
    return [_verdict(rows, np.random.default_rng([seed, rows, trial]), trial, skill) for trial in range(trials)]


def _verdict(rows: int, rng: np.random.Generator, trial: int, skill: float) -> str:
    gold, found = rng.poisson(_GOLD - 1, rows) + 1, _skill(rng, rows)
    systems = [
        scoring.sampled(_answers(_counts(rng, gold, share * found)), resamples=_RESAMPLES, seed=trial)
        for share in (1.0, skill)
    ]
    return significance.paired_test(*systems, permutations=_PERMUTATIONS, seed=trial).verdict()


def _answers(counts: Array) -> list[Prediction]:
    """Triples in text with so many hits, predictions and references a row."""
    return [
        Prediction(
            id=f"{i:05d}",
            task="triples",
            metric="triples",
            prompt="",
            reference="\n".join(f"甲{j}_症状_乙" for j in range(int(gold))),
            prediction="\n".join(f"甲{j}_症状_{'乙' if j < hits else '丙'}" for j in range(int(predicted))),
        )
        for i, (hits, predicted, gold) in enumerate(counts)
    ]


def _error(share: float, trials: int) -> float:
    return math.sqrt(share * (1 - share) / trials)
