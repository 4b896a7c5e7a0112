"""Intervals and paired differences of scores, by resampling rows.

Rows are resampled within each task, and the headline is the mean of the tasks' primary values in every resample.
Two systems sampled with the same seed over the same rows see the same resamples, so their difference is a paired
comparison. Intervals are 95 % BCa. Owns the words for what a difference allows to conclude; does not know text.

Source: Efron and Tibshirani, An Introduction to the Bootstrap (1993), chapters 14 (BCa) and 8 (several samples).
n: rows, k: statistics, r: resamples.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

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
        influence: [n] how much each row moves the value (jackknife); all that BCa needs to know about skewness.
    """

    value: float
    draws: Array
    influence: Array

    def __sub__(self, other: Sampled) -> Sampled:
        """The paired difference; both must be sampled over the same rows with the same seed."""
        return Sampled(self.value - other.value, self.draws - other.draws, self.influence - other.influence)

    def interval(self) -> Interval:
        """The 95 % BCa interval; a value that no row can move has no width."""
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


def sample(scores: RowScores, *, task: str, resamples: int, seed: int) -> dict[str, Sampled]:
    """Resample one task's rows; every value of its metric, sampled together."""
    n = scores.statistics.shape[0]
    rng = np.random.default_rng([seed, zlib.crc32(task.encode("utf-8"))])
    draws = _stacked(scores.values(w @ scores.statistics) for w in _weights(rng, n, resamples))
    left_out = _stacked(scores.values(sums) for sums in _left_out(scores))
    return {name: Sampled(value, draws[name], _influence(left_out[name])) for name, value in scores.point().items()}


def _weights(rng: np.random.Generator, n: int, resamples: int) -> Iterator[Array]:
    """How often each row is drawn, [part of r, n] at a time."""
    step = max(1, _CHUNK_CELLS // n)
    for start in range(0, resamples, step):
        rows = min(step, resamples - start)
        drawn = rng.integers(0, n, size=(rows, n)) + n * np.arange(rows)[:, None]
        yield np.bincount(drawn.reshape(-1), minlength=rows * n).reshape(rows, n).astype(np.float64)


def _left_out(scores: RowScores) -> Iterator[Array]:
    """Sums without one row, [part of n, k] at a time."""
    n, k = scores.statistics.shape
    total = np.asarray(scores.statistics.sum(axis=0), dtype=np.float64).reshape(1, k)
    step = max(1, _CHUNK_CELLS // k)
    for start in range(0, n, step):
        part = scores.statistics[start : start + step]
        yield total - (part if isinstance(part, np.ndarray) else part.toarray())


def _influence(left_out: npt.NDArray[np.float64]) -> Array:
    n = len(left_out)
    return (left_out.mean() - left_out) * ((n - 1) / n)  # type: ignore[no-any-return]


def _stacked(parts: Iterator[Mapping[str, Array]]) -> dict[str, Array]:
    every = list(parts)
    return {name: np.concatenate([part[name] for part in every]) for name in every[0]}


def verdict(difference: Interval) -> str:
    """One of "better" and "worse" where the paired interval leaves out 0, else "not separable"."""
    if difference.low > 0:
        return "better"
    return "worse" if difference.high < 0 else "not separable"


def conclusion(difference: Interval, *, rows: int, this: str, other: str) -> str:
    """What the difference of two systems allows to say, in one sentence."""
    shown = f"{difference.value:+.3f} [{difference.low:+.3f}, {difference.high:+.3f}]"
    if difference.value == difference.low == difference.high == 0:
        return f"{this} and {other} score the same on every one of {rows} rows."
    match verdict(difference):
        case "not separable":
            return (
                f"n={rows} cannot separate {this} from {other}: {shown} (paired, 95 %) holds 0; "
                f"the smallest difference that so many rows can show is about {difference.half_width:.3f}."
            )
        case word:
            return f"{this} is {word} than {other} beyond noise: {shown} (paired, 95 %, n={rows})."
