"""Intervals of scores and of their paired differences, by resampling groups of rows (documents, dialogues).

Rows of one group rise and fall together, so a group is drawn whole. Groups are resampled within each task, and the
headline is the mean of the tasks' primary values in every resample: a group that occurs in several tasks is drawn for
each by itself. Two systems sampled with the same seed over the same rows see the same resamples, so their difference
is a paired comparison. Intervals are 95 % BCa; what share of them holds the truth is measured in simulation.py. Does
not know text, nor what a difference allows to conclude (significance.py).

Source: Efron and Tibshirani, An Introduction to the Bootstrap (1993), chapters 14 (BCa) and 8 (several samples).
n: rows, g: groups, k: statistics, r: resamples.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_array

from tasks.evaluation.metric import Array, RowScores

_CONFIDENCE = 0.95
_CHUNK_CELLS = 1 << 22  # weights or left-out sums held at a time: 32 MiB of float64
_NORMAL = NormalDist()


@dataclass(frozen=True)
class Interval:
    """A value and its 95 % interval."""

    value: float
    low: float
    high: float

    @property
    def half_width(self) -> float:
        return (self.high - self.low) / 2

    def to_json(self) -> dict[str, float]:
        return {"value": self.value, "low": self.low, "high": self.high}


@dataclass(frozen=True)
class Sampled:
    """A value with its resampled twins.

    Attributes:
        value: over all rows.
        draws: [r] the value in each resample.
        influence: [g] how much each group moves the value (jackknife); all that BCa needs to know about skewness.
    """

    value: float
    draws: Array
    influence: Array

    def __sub__(self, other: Sampled) -> Sampled:
        """The paired difference; both must be sampled over the same rows with the same seed."""
        return Sampled(self.value - other.value, self.draws - other.draws, self.influence - other.influence)

    def interval(self) -> Interval:
        """The 95 % BCa interval; a value that no group can move has no width, which proves nothing about other rows."""
        spread = float((self.influence**2).sum())
        if spread < 1e-24 or np.ptp(self.draws) < 1e-12:
            return Interval(self.value, self.value, self.value)
        acceleration = float((self.influence**3).sum()) / (6 * spread**1.5)
        r = len(self.draws)
        below = (np.sum(self.draws < self.value - 1e-12) + np.sum(self.draws <= self.value + 1e-12)) / (2 * r)
        bias = _NORMAL.inv_cdf(float(np.clip(below, 1 / (r + 1), r / (r + 1))))
        tail = (1 - _CONFIDENCE) / 2
        low, high = np.quantile(self.draws, [_bca_level(p, bias, acceleration) for p in (tail, 1 - tail)])
        return Interval(self.value, float(low), float(high))


def _bca_level(p: float, bias: float, acceleration: float) -> float:
    shifted = bias + _NORMAL.inv_cdf(p)
    # Beyond 1/a the correction has a pole; so skewed a sample has no better end than its extreme resample.
    stretch = max(1 - acceleration * shifted, 1e-6)
    return _NORMAL.cdf(bias + shifted / stretch)


def mean(parts: Sequence[Sampled]) -> Sampled:
    """The unweighted mean of values over different rows (tasks)."""
    share = 1 / len(parts)
    return Sampled(
        value=share * sum(p.value for p in parts),
        draws=share * np.sum([p.draws for p in parts], axis=0),
        influence=np.concatenate([share * p.influence for p in parts]),
    )


def mean_of_same_rows(parts: Sequence[Sampled]) -> Sampled:
    """The unweighted mean of values over the same rows (training seeds), sampled with the same seed."""
    return Sampled(
        value=sum(p.value for p in parts) / len(parts),
        draws=np.mean([p.draws for p in parts], axis=0),
        influence=np.mean([p.influence for p in parts], axis=0),
    )


def sample(
    scores: RowScores, *, task: str, resamples: int, seed: int, groups: npt.NDArray[np.intp] | None = None
) -> dict[str, Sampled]:
    """Resample one task's groups; every value of its metric, sampled together.

    Args:
        groups: [n] the number of each row's group, from 0 without gaps; None: every row by itself.
    """
    statistics = scores.statistics if groups is None else by_group(scores.statistics, groups)
    rng = np.random.default_rng([seed, zlib.crc32(task.encode("utf-8"))])
    draws = _stacked(scores.values(w @ statistics) for w in _weights(rng, statistics.shape[0], resamples))
    left_out = _stacked(scores.values(sums) for sums in _left_out(statistics))
    return {name: Sampled(value, draws[name], _influence(left_out[name])) for name, value in scores.point().items()}


def by_group(statistics: Any, groups: npt.NDArray[np.intp]) -> Any:
    """[g, k] sums of the rows [n, k] of each group, dense or sparse as ``statistics`` are."""
    n, count = len(groups), int(groups.max()) + 1
    if n == count and (groups == np.arange(n)).all():
        return statistics
    return csr_array((np.ones(n), (groups, np.arange(n))), shape=(count, n)) @ statistics


def _weights(rng: np.random.Generator, n: int, resamples: int) -> Iterator[Array]:
    """How often each group is drawn, [part of r, n] at a time."""
    step = max(1, _CHUNK_CELLS // n)
    for start in range(0, resamples, step):
        drawn = rng.integers(0, n, size=(min(step, resamples - start), n))
        # counted draw by draw: one count over all of them walks through memory at random, ten times slower
        yield np.array([np.bincount(one, minlength=n) for one in drawn], dtype=np.float64)


def _left_out(statistics: Any) -> Iterator[Array]:
    """Sums without one group, [part of g, k] at a time."""
    n, k = statistics.shape
    total = np.asarray(statistics.sum(axis=0), dtype=np.float64).reshape(1, k)
    step = max(1, _CHUNK_CELLS // k)
    for start in range(0, n, step):
        part = statistics[start : start + step]
        yield total - (part if isinstance(part, np.ndarray) else part.toarray())


def _influence(left_out: npt.NDArray[np.float64]) -> Array:
    n = len(left_out)
    return (left_out.mean() - left_out) * ((n - 1) / n)  # type: ignore[no-any-return]


def _stacked(parts: Iterator[Mapping[str, Array]]) -> dict[str, Array]:
    every = list(parts)
    return {name: np.concatenate([part[name] for part in every]) for name in every[0]}
