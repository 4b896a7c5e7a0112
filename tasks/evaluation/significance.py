"""Whether two systems differ: a paired permutation test, the size of the difference, and what may be said of it.

The verdict comes from the p-value of the permutation test at a stated level, adjusted where several pairs are looked at
(``holm``). If the two systems were alike, it would not matter which of them gave which answers to a group (a document,
a dialogue), so the test swaps the two systems' answers of every group at random and asks how often the difference
becomes as large as the one seen. The paired BCa bootstrap interval shows the *size* of the difference and decides
nothing; near the level the two may disagree.

Methods with several training seeds are compared by their seeds' means, a group's answers of all seeds swapped together.
The rows decide such a test, not the seeds: it says whether *these* trained models differ. A winner among them is named
only where, besides, every seed of one lies above every seed of the other. Few seeds do so by chance (2 against 2 of
equal methods in one case of 3), so a sentence speaks of the *methods* only where that chance is below the level too.

Source: Holm (1979); the chance of seeds apart is that of the exact rank-sum test, or of the sign test.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import NormalDist
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from tasks.errors import DataError
from tasks.evaluation import comparison, permutation, scoring
from tasks.evaluation.comparison import Interval
from tasks.evaluation.permutation import Swaps
from tasks.evaluation.scoring import SystemScores, TaskScores

Verdict = Literal["better", "worse", "not separable"]
Systems = SystemScores | Sequence[SystemScores]

LEVEL = 0.05
_POWER = 0.80
_NORMAL = NormalDist()


@dataclass(frozen=True)
class PairedTest:
    """Two systems, or two methods of several seeds, over the same rows: a minus b.

    Attributes:
        difference: of the score (mean over seeds), with its paired 95 % BCa bootstrap interval.
        p_value: two-sided, of the permutation test.
        p_worse, p_better: one-sided: small where a is worse, better.
        rows, groups: what was resampled and swapped are groups; rows without one count by themselves.
        standard_error: of the difference, over groups.
        permutations: random ones, where there are too many to look at all.
        seeds: how many training seeds of a, of b; 0: one given system, which no other seed would change.
        apart: every seed of one lies above every seed of the other; always true of single systems that differ.
    """

    difference: Interval
    p_value: float
    p_worse: float
    p_better: float
    rows: int
    groups: int
    standard_error: float
    permutations: int
    seeds: tuple[int, int] = (0, 0)
    apart: bool = True

    def verdict(self, level: float = LEVEL, adjusted_p: float | None = None) -> Verdict:
        """A word other than "not separable" only where p is below ``level`` and no seeds overlap.

        The word is about these systems; whether it is about methods too, says ``about_methods``.

        Args:
            adjusted_p: the p-value after ``holm``, where this is one of several tests.
        """
        if not (self.p_value if adjusted_p is None else adjusted_p) < level or not self.apart:
            return "not separable"
        return "better" if self.difference.value > 0 else "worse"

    def least_p(self, sides: Literal[1, 2] = 2) -> float:
        """The smallest p-value that so many groups, or so few random permutations, can give."""
        return sides / 2**self.groups if self.groups <= permutation.EXACT_GROUPS else 1 / (self.permutations + 1)

    def detectable_at(self, level: float = LEVEL, family: int = 1) -> float | None:
        """The smallest true difference that as many groups show in 80 % of tests; about: it rests on this spread.

        So many standard errors as the quantiles of 1 - ``level`` / (2 ``family``) and of 80 % make: 2.80 of one test at
        5 %, 3.78 of one among 15. Holm's correction asks for less where others of the family are found.

        Returns:
            None where no difference can be shown (``least_p``), or where these systems show no spread to go by.
        """
        if family * self.least_p() >= level or self.standard_error < permutation.TIE:
            return None
        return (_NORMAL.inv_cdf(1 - level / (2 * family)) + _NORMAL.inv_cdf(_POWER)) * self.standard_error

    @property
    def detectable(self) -> float | None:
        """``detectable_at`` the 5 % level, of a test by itself."""
        return self.detectable_at()

    def about_methods(self, level: float = LEVEL, family: int = 1) -> bool:
        """Whether the seeds are enough, as one of ``family`` tests, to speak of the methods where they lie apart."""
        return self.apart and any(self.seeds) and family * seeds_apart_chance(*self.seeds) < level

    @property
    def unit(self) -> str:
        return "rows" if self.groups == self.rows else "documents"

    @property
    def size(self) -> str:
        """n in words: rows, or documents where a group holds several rows."""
        return f"n={self.rows}" if self.groups == self.rows else f"n={self.groups} documents ({self.rows} rows)"

    @property
    def too_few(self) -> str:
        """What keeps the p-value from becoming smaller."""
        exact = self.groups <= permutation.EXACT_GROUPS
        return f"so few {self.unit}" if exact else f"{self.permutations} random permutations"

    def to_json(self) -> dict[str, Any]:
        return {
            **self.difference.to_json(),
            "p_value": self.p_value,
            "p_worse": self.p_worse,
            "p_better": self.p_better,
            "least_p": self.least_p(),
            "rows": self.rows,
            "groups": self.groups,
            "standard_error": self.standard_error,
            "detectable": self.detectable,
            "seeds": list(self.seeds),
            "apart": self.apart,
        }


def paired_test(a: Systems, b: Systems, *, permutations: int, seed: int, task: str | None = None) -> PairedTest:
    """Test the headline (the mean of the tasks' primary values), or one task's primary value.

    With 12 or fewer groups on which the systems differ all permutations are enumerated, otherwise ``permutations``
    random ones are drawn. A group that occurs in several tasks is swapped in all of them together.

    Args:
        a, b: systems sampled (``scoring.sampled``) over the same rows with the same seed of resampling; a sequence is
            one method's training seeds, be it a single one. They pair up in their order; fewer are used again in turn.

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
    swaps = [Swaps([(x.tasks[t], y.tasks[t]) for x, y in pairs], c, groups) for t, c in zip(tasks, codes, strict=True)]
    p_worse, p_better, p_value = permutation.p_values(swaps, permutations=permutations, seed=seed)
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
        standard_error=float(np.std(difference.draws, ddof=1)),
        permutations=permutations,
        seeds=(_seeds(a), _seeds(b)),
        apart=low[0] > high[1] or low[1] > high[0],
    )


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusted p-values, in the order given: below a level they keep the chance of any false verdict below it."""
    m, adjusted, largest = len(p_values), [0.0] * len(p_values), 0.0
    for rank, index in enumerate(sorted(range(m), key=lambda i: p_values[i])):
        largest = max(largest, min(1.0, (m - rank) * p_values[index]))
        adjusted[index] = largest
    return adjusted


def seeds_apart_chance(a: int, b: int) -> float:
    """How often all of one side's seeds lie above all of the other's, where the methods are equal.

    Of seeds against seeds every order is as likely then: 2 / C(a + b, a). Against a given system (0 seeds) each seed is
    as likely above as below it: 2 / 2^n.
    """
    return 2 / (math.comb(a + b, a) if a and b else 2 ** (a + b))


def seeds_for_methods(given: bool, level: float = LEVEL, family: int = 1) -> int:
    """How many seeds of each method a claim about methods takes at least; of one, against a ``given`` system."""
    return next(n for n in itertools.count(1) if family * seeds_apart_chance(n, 0 if given else n) < level)


def conclusion(
    test: PairedTest, this: str, other: str, level: float = LEVEL, adjusted_p: float | None = None, family: int = 1
) -> str:
    """What the test of ``this`` (a) against ``other`` (b) allows to say; names a winner only where it found one.

    Args:
        adjusted_p: the p-value after ``holm``, where this is one of ``family`` tests.
    """
    d, p = test.difference, test.p_value if adjusted_p is None else adjusted_p
    shown = f"{d.value:+.3f} [{d.low:+.3f}, {d.high:+.3f}], {shown_p(p)}"
    if family > 1:
        shown += f" adjusted for {family} tests"
    if test.verdict(level, adjusted_p) != "not separable":
        return _found(test, this, other, f"{shown}, {test.size}", level, family)
    if d.value == d.low == d.high == 0 and test.p_value == 1:
        return f"{this} and {other} score the same on every one of {test.groups} {test.unit}."
    if p < level:
        return (
            f"{_overlap(test, this, other)}, so no method is named: {shown}, {test.size}, tells these trained models "
            f"apart, but not what other seeds would give."
        )
    overlap = "" if test.apart else f", and {_overlap(test, this, other)}"
    return f"{test.size} cannot separate {this} from {other}: {shown}{overlap}{_reach(test, level, family)}."


def _found(test: PairedTest, this: str, other: str, shown: str, level: float, family: int) -> str:
    """A winner, of methods where the seeds are enough, else of these trained models."""
    word = "better" if test.difference.value > 0 else "worse"
    if not any(test.seeds):
        return f"{this} is {word} than {other}: {shown}."
    counts = " against ".join(str(count) for count in test.seeds if count)
    if test.about_methods(level, family):
        chance = f"{seeds_apart_chance(*test.seeds):.2g}"
        return f"{this} is {word} than {other}: {shown}; all seeds agree ({counts}; by chance in {chance} of cases)."
    given, (first, second) = not all(test.seeds), test.seeds
    needed = seeds_for_methods(given, level, family)
    claim = f"the method takes {needed}" if given else f"the methods takes {needed} against {needed}"
    return (
        f"{_models(this, first)} {'are' if first > 1 else 'is'} {word} than {_models(other, second)}: {shown}; "
        f"all seeds agree ({counts}), but a claim about {claim}."
    )


def _models(name: str, seeds: int) -> str:
    return f"{'these trained models' if seeds > 1 else 'this trained model'} of {name}" if seeds else name


def _overlap(test: PairedTest, this: str, other: str) -> str:
    if all(test.seeds):
        return f"the seeds of {this} and of {other} overlap"
    method, given = (this, other) if test.seeds[0] else (other, this)
    return f"the seeds of {method} do not lie on one side of {given}"


def _reach(test: PairedTest, level: float, family: int) -> str:
    """The smallest difference that could be shown, or that none could."""
    smallest = test.detectable_at(level, family)
    if smallest is not None:
        return f"; the smallest difference that so many {test.unit} can show is about {smallest:.2g}"
    if family * test.least_p() < level:
        return ""
    least = f"the least possible p is {test.least_p():.2g}" + (f", times {family} tests" if family > 1 else "")
    return f"; {test.too_few} cannot show any difference at the level {level:g}: {least}"


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


def _seeds(side: Systems) -> int:
    return 0 if isinstance(side, SystemScores) else len(side)


def _pairs(first: Sequence[SystemScores], second: Sequence[SystemScores]) -> list[tuple[SystemScores, SystemScores]]:
    """Pairs that hold every seed of a side equally often, so that their mean difference is that of the sides' means."""
    count = math.lcm(len(first), len(second))
    return [(first[i % len(first)], second[i % len(second)]) for i in range(count)]
