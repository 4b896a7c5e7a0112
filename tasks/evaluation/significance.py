"""Whether two systems differ: a paired permutation test, the size of the difference, and what may be said of it.

The verdict comes from the p-value of the permutation test at a stated level, adjusted where several pairs are looked at
(``holm``). If the two systems were alike, it would not matter which of them gave which answers to a group (a document,
a dialogue), so the test swaps the two systems' answers of every group at random and asks how often the difference
becomes as large as the one seen. The paired BCa bootstrap interval shows the *size* of the difference and decides
nothing; near the level the two may disagree.

Methods with several training seeds are compared by their seeds' means, a group's answers of all seeds swapped together.
The rows decide such a test, not the seeds: it says whether *these* trained models differ. A winner between two methods
is therefore named only where, besides, every seed of one lies above every seed of the other.

Source: Good, Permutation, Parametric and Bootstrap Tests of Hypotheses (2005), chapter 3; Phipson and Smyth (2010) for
the +1 of random permutations; Holm (1979).
g: groups, k: statistics, p: permutations, s: seeds.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from statistics import NormalDist
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_array

from tasks.errors import DataError
from tasks.evaluation import comparison, scoring
from tasks.evaluation.comparison import Interval
from tasks.evaluation.metric import Array
from tasks.evaluation.scoring import SystemScores, TaskScores

Verdict = Literal["better", "worse", "not separable"]
Systems = SystemScores | Sequence[SystemScores]

LEVEL = 0.05
#: With so many groups or fewer every permutation is looked at: 2^12 = 4,096 of them.
_EXACT_GROUPS = 12
_CHUNK_CELLS = 1 << 22  # swaps held at a time: 32 MiB of float64
#: Differences within it are equal: sums are added in another order than the observed ones.
_TIE = 1e-10
#: (z of 97.5 %) + (z of 80 %): standard errors that a difference needs to be found in 80 % of tests at the 5 % level.
_POWER = NormalDist().inv_cdf(0.975) + NormalDist().inv_cdf(0.80)


@dataclass(frozen=True)
class PairedTest:
    """Two systems, or two methods of several seeds, over the same rows: a minus b.

    Attributes:
        difference: of the score (mean over seeds), with its paired 95 % BCa bootstrap interval.
        p_value: two-sided, of the permutation test; the smallest possible is 2 / 2^g, or 1 / (p + 1).
        p_worse, p_better: one-sided: small where a is worse, better.
        rows, groups: what was resampled and swapped are groups; rows without one count by themselves.
        detectable: the smallest true difference that as many groups show in 80 % of tests, two-sided at the 5 % level:
            2.80 standard errors of the paired difference. About: it rests on the spread of these two systems.
        seeds: how many of a, of b.
        apart: every seed of one lies above every seed of the other; always true of single systems that differ.
    """

    difference: Interval
    p_value: float
    p_worse: float
    p_better: float
    rows: int
    groups: int
    detectable: float
    seeds: tuple[int, int] = (1, 1)
    apart: bool = True

    def verdict(self, level: float = LEVEL, adjusted_p: float | None = None) -> Verdict:
        """A word other than "not separable" only where p is below ``level`` and no seeds overlap.

        Args:
            adjusted_p: the p-value after ``holm``, where this is one of several tests.
        """
        if not (self.p_value if adjusted_p is None else adjusted_p) < level or not self.apart:
            return "not separable"
        return "better" if self.difference.value > 0 else "worse"

    @property
    def size(self) -> str:
        """n in words: rows, or documents where a group holds several rows."""
        return f"n={self.rows}" if self.groups == self.rows else f"n={self.groups} documents ({self.rows} rows)"

    def to_json(self) -> dict[str, Any]:
        return {
            **self.difference.to_json(),
            "p_value": self.p_value,
            "p_worse": self.p_worse,
            "p_better": self.p_better,
            "rows": self.rows,
            "groups": self.groups,
            "detectable": self.detectable,
            "seeds": list(self.seeds),
            "apart": self.apart,
        }


def paired_test(a: Systems, b: Systems, *, permutations: int, seed: int, task: str | None = None) -> PairedTest:
    """Test the headline (the mean of the tasks' primary values), or one task's primary value.

    With 12 or fewer groups on which the systems differ all permutations are enumerated, otherwise ``permutations``
    random ones are drawn. A group that occurs in several tasks is swapped in all of them together.

    Args:
        a, b: systems sampled (``scoring.sampled``) over the same rows with the same seed of resampling; several are
            the training seeds of one method. Seeds pair up in their order; fewer ones are used again in turn.

    Raises:
        DataError: the systems were not scored on the same rows.
    """
    sides = [[x] if isinstance(x, SystemScores) else list(x) for x in (a, b)]
    first, second = sides
    tasks = sorted({name for s in (*first, *second) for name in s.tasks}) if task is None else [task]
    aligned = align([*first, *second], tasks)
    codes = _groups([aligned[0].tasks[name] for name in tasks])
    groups = 1 + max(int(c.max()) for c in codes)
    pairs = _pairs(aligned[: len(first)], aligned[len(first) :])
    swaps = [_Swaps([(x.tasks[t], y.tasks[t]) for x, y in pairs], c, groups) for t, c in zip(tasks, codes, strict=True)]
    p_worse, p_better, p_value = _p_values(swaps, permutations=permutations, seed=seed)
    scores = [[s.headline if task is None else s.primary(task) for s in side] for side in sides]
    difference = comparison.mean_of_same_rows(scores[0]) - comparison.mean_of_same_rows(scores[1])
    low, high = ([f(s.value for s in side) for side in scores] for f in (min, max))
    return PairedTest(
        difference=difference.interval(),
        p_value=p_value,
        p_worse=p_worse,
        p_better=p_better,
        rows=sum(len(c) for c in codes),
        groups=groups,
        detectable=_POWER * float(np.std(difference.draws, ddof=1)),
        seeds=(len(first), len(second)),
        apart=low[0] > high[1] or low[1] > high[0],
    )


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusted p-values, in the order given: below a level they keep the chance of any false verdict below it."""
    m, adjusted, largest = len(p_values), [0.0] * len(p_values), 0.0
    for rank, index in enumerate(sorted(range(m), key=lambda i: p_values[i])):
        largest = max(largest, min(1.0, (m - rank) * p_values[index]))
        adjusted[index] = largest
    return adjusted


def conclusion(test: PairedTest, this: str, other: str, level: float = LEVEL, adjusted_p: float | None = None) -> str:
    """What the test of ``this`` (a) against ``other`` (b) allows to say; names a winner only where it found one."""
    low, high = test.difference.low, test.difference.high
    p = test.p_value if adjusted_p is None else adjusted_p
    shown = f"{test.difference.value:+.3f} [{low:+.3f}, {high:+.3f}], {shown_p(p)}"
    if adjusted_p is not None:
        shown += " adjusted for several tests"
    match test.verdict(level, adjusted_p):
        case "not separable" if test.difference.value == low == high == 0 and test.p_value == 1:
            return f"{this} and {other} score the same on every one of {test.rows} rows."
        case "not separable" if p < level:
            return (
                f"the seeds of {this} and of {other} overlap, so no method is named: {shown}, {test.size}, tells these "
                f"trained models apart, but not what other seeds would give."
            )
        case "not separable":
            overlap = "" if test.apart or test.seeds == (1, 1) else ", and their seeds overlap"
            unit = "rows" if test.groups == test.rows else "documents"
            return (
                f"{test.size} cannot separate {this} from {other}: {shown}{overlap}; "
                f"the smallest difference that so many {unit} can show is about {test.detectable:.2g}."
            )
        case word:
            seeds = "" if test.seeds == (1, 1) else f", every seed ({test.seeds[0]} against {test.seeds[1]})"
            return f"{this} is {word} than {other}: {shown}, {test.size}{seeds}."


def shown_p(p: float) -> str:
    """A p-value as sentences and tables show it."""
    return "p<0.001" if p < 0.001 else f"p={p:.2g}"


def align(systems: Sequence[SystemScores], tasks: Sequence[str]) -> list[SystemScores]:
    """The systems with common columns of statistics in ``tasks``, by scoring all their rows of a task together.

    A metric lays out columns by what it finds in the rows (labels), so two systems' sums may be mixed only after this.
    Systems that are compared in several pairs are aligned once beforehand: text is not scored again then.

    Raises:
        DataError: the systems were not scored on the same rows.
    """
    aligned = {name: _scored_together([s.tasks.get(name) for s in systems], name) for name in tasks}
    return [replace(s, tasks={**s.tasks, **{t: aligned[t][i] for t in tasks}}) for i, s in enumerate(systems)]


def _scored_together(given: Sequence[TaskScores | None], name: str) -> list[TaskScores]:
    systems = [task for task in given if task is not None]
    asked = [[(p.id, p.metric, p.reference, p.group) for p in task.predictions] for task in systems]
    if len(systems) < len(given) or any(rows != asked[0] for rows in asked):
        raise DataError(f"task {name}: the systems were not scored on the same rows; compare them on common rows")
    if systems[0].columns is not None and all(task.columns is systems[0].columns for task in systems):
        return systems
    together = scoring.score_rows(systems[0].metric, [p for t in systems for p in t.predictions], systems[0].options)
    n, columns = len(asked[0]), object()
    return [
        replace(
            task,
            scores=replace(task.scores, statistics=together.statistics[i * n : (i + 1) * n], values=together.values),
            columns=columns,
        )
        for i, task in enumerate(systems)
    ]


def _groups(tasks: Sequence[TaskScores]) -> list[npt.NDArray[np.intp]]:
    """Per task [n] the number of each row's group, counted through all tasks."""
    seen: dict[Any, int] = {}
    return [
        np.array([seen.setdefault(p.group or (t, i), len(seen)) for i, p in enumerate(task.predictions)])
        for t, task in enumerate(tasks)
    ]


def _pairs(first: Sequence[SystemScores], second: Sequence[SystemScores]) -> list[tuple[SystemScores, SystemScores]]:
    """Pairs that hold every seed of a side equally often, so that their mean difference is that of the sides' means."""
    count = math.lcm(len(first), len(second))
    return [(first[i % len(first)], second[i % len(second)]) for i in range(count)]


class _Swaps:
    """One task of paired systems, and what swapping groups makes of their difference."""

    def __init__(
        self, pairs: Sequence[tuple[TaskScores, TaskScores]], codes: npt.NDArray[np.intp], groups: int
    ) -> None:
        n = len(codes)
        by_group = csr_array((np.ones(n), (codes, np.arange(n))), shape=(groups, n))
        self._values, self._primary = pairs[0][0].scores.values, pairs[0][0].scores.primary
        self._sums = [[np.asarray(t.scores.statistics.sum(axis=0), dtype=np.float64) for t in pair] for pair in pairs]
        self._moves = [by_group @ (a.scores.statistics - b.scores.statistics) for a, b in pairs]

    def differing(self) -> npt.NDArray[np.bool_]:
        """[g] whether a swap of the group changes any sum of any pair."""
        moved = [np.asarray(abs(move).sum(axis=1)).reshape(-1) > 0 for move in self._moves]
        return np.logical_or.reduce(moved)  # type: ignore[no-any-return]

    def keep(self, groups: npt.NDArray[np.bool_]) -> None:
        self._moves = [move[groups] for move in self._moves]

    def differences(self, swapped: Array) -> Array:
        """[p] mean difference of the pairs for each row of ``swapped`` [p, g]: 1 where a group is swapped, else 0."""
        total = np.zeros(len(swapped))
        for (a, b), move in zip(self._sums, self._moves, strict=True):
            moved = swapped @ move
            total += self._values(a - moved)[self._primary] - self._values(b + moved)[self._primary]
        return total / len(self._moves)


def _p_values(tasks: Sequence[_Swaps], *, permutations: int, seed: int) -> tuple[float, float, float]:
    """One-sided (a is worse), one-sided (a is better), two-sided."""
    differing = np.logical_or.reduce([t.differing() for t in tasks])
    for t in tasks:
        t.keep(differing)  # a group that both answered alike changes nothing when swapped
    groups = int(differing.sum())
    exact = groups <= _EXACT_GROUPS
    swaps = _every(groups) if exact else _random(groups, permutations, seed)
    seen = _mean_difference(tasks, np.zeros((1, groups)))[0]
    draws = np.concatenate([_mean_difference(tasks, part) for part in swaps])
    as_extreme = [draws <= seen + _TIE, draws >= seen - _TIE, np.abs(draws) >= abs(seen) - _TIE]
    # the arrangement seen is one of all; of random ones it is one more
    worse, better, either = (
        float(hits.mean() if exact else (hits.sum() + 1) / (len(draws) + 1)) for hits in as_extreme
    )
    return worse, better, either


def _mean_difference(tasks: Sequence[_Swaps], swapped: Array) -> Array:
    return np.mean([t.differences(swapped) for t in tasks], axis=0)  # type: ignore[no-any-return]


def _every(groups: int) -> Iterator[Array]:
    numbers = np.arange(2**groups)[:, None]
    yield (numbers >> np.arange(groups) & 1).astype(np.float64)


def _random(groups: int, permutations: int, seed: int) -> Iterator[Array]:
    rng = np.random.default_rng(seed)
    step = max(1, _CHUNK_CELLS // groups)
    for start in range(0, permutations, step):
        yield rng.integers(0, 2, size=(min(step, permutations - start), groups), dtype=np.uint8).astype(np.float64)
