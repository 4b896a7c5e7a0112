"""The paired permutation test: p-values of a difference when the two systems' answers of groups are swapped.

With few groups every permutation is looked at, else random ones. Knows the sums of systems whose statistics have common
columns (significance.align), not what a p-value allows to say (significance.py).

Source: Good, Permutation, Parametric and Bootstrap Tests of Hypotheses (2005), chapter 3; Phipson and Smyth (2010) for
the +1 of random permutations.
n: rows, g: groups, k: statistics, p: permutations.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_array

from tasks.evaluation.metric import Array
from tasks.evaluation.scoring import TaskScores

#: With so many groups or fewer every permutation is looked at: 2^12 = 4,096 of them.
EXACT_GROUPS = 12
#: Differences within it are equal: sums are added in another order than the observed ones.
TIE = 1e-10
_CHUNK_CELLS = 1 << 22  # swaps held at a time: 32 MiB of float64


class Swaps:
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


def p_values(tasks: Sequence[Swaps], *, permutations: int, seed: int) -> tuple[float, float, float]:
    """One-sided (a is worse), one-sided (a is better), two-sided."""
    differing = np.logical_or.reduce([t.differing() for t in tasks])
    for t in tasks:
        t.keep(differing)  # a group that both answered alike changes nothing when swapped
    groups = int(differing.sum())
    exact = groups <= EXACT_GROUPS
    swaps = _every(groups) if exact else _random(groups, permutations, seed)
    seen = _mean_difference(tasks, np.zeros((1, groups)))[0]
    draws = np.concatenate([_mean_difference(tasks, part) for part in swaps])
    as_extreme = [draws <= seen + TIE, draws >= seen - TIE, np.abs(draws) >= abs(seen) - TIE]
    # the arrangement seen is one of all; of random ones it is one more
    worse, better, either = (
        float(hits.mean() if exact else (hits.sum() + 1) / (len(draws) + 1)) for hits in as_extreme
    )
    return worse, better, either


def _mean_difference(tasks: Sequence[Swaps], swapped: Array) -> Array:
    return np.mean([t.differences(swapped) for t in tasks], axis=0)  # type: ignore[no-any-return]


def _every(groups: int) -> Iterator[Array]:
    numbers = np.arange(2**groups)[:, None]
    yield (numbers >> np.arange(groups) & 1).astype(np.float64)


def _random(groups: int, permutations: int, seed: int) -> Iterator[Array]:
    rng = np.random.default_rng(seed)
    step = max(1, _CHUNK_CELLS // groups)
    for start in range(0, permutations, step):
        yield rng.integers(0, 2, size=(min(step, permutations - start), groups), dtype=np.uint8).astype(np.float64)
