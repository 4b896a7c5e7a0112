"""What a metric module gives: one ``score`` function over the rows of one task.

Every metric here is a function of *sums over rows* (true positives, n-gram matches, row scores ...). A metric
returns those per-row statistics and the function from their sums to values, so that point values, bootstrap
resamples and leave-one-out values all come from the same code, thousands at a time, without scoring text again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

from tasks.evaluation.predictions import Prediction

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Options:
    """What a person may choose about how replies are scored.

    Attributes:
        text_unit: what ROUGE and BLEU of free text count: jieba's words, or single characters.
    """

    text_unit: Literal["words", "characters"] = "words"


@dataclass(frozen=True)
class RowScores:
    """One task's rows, scored. n: rows, k: statistics.

    Attributes:
        primary: name of the value that stands for the task in the mean score; it lies in 0-1.
        statistics: [n, k], dense or scipy-sparse.
        values: from sums of statistics [..., k] to named values, each [...]; all are on the scale 0-1 unless the
            metric says otherwise (a length ratio).
        rows: [n] each row's own score in 0-1, for finding the worst rows; its mean need not be the primary.
        facts: counts and tables to report that have no interval.
        percent: names of values that tables show times 100, as their literature does.
    """

    primary: str
    statistics: Any
    values: Callable[[Array], Mapping[str, Array]]
    rows: Array
    facts: Mapping[str, Any] = field(default_factory=dict)
    percent: tuple[str, ...] = ()

    def point(self) -> dict[str, float]:
        """The values over all rows, each once."""
        sums = np.asarray(self.statistics.sum(axis=0), dtype=np.float64).reshape(-1)
        return {name: float(value) for name, value in self.values(sums).items()}


class Metric(Protocol):
    """A module of ``tasks.evaluation.metrics``."""

    def score(self, rows: Sequence[Prediction], options: Options) -> RowScores:
        """Score the rows of one task, at least one, in the order given."""
        ...


def ratio(numerator: Array, denominator: Array) -> Array:
    """``numerator / denominator``, 0 where the denominator is 0."""
    shape = np.broadcast_shapes(np.shape(numerator), np.shape(denominator))
    return np.divide(numerator, denominator, out=np.zeros(shape), where=np.asarray(denominator) != 0)


def precision_recall_f1(hits: Array, predicted: Array, gold: Array) -> tuple[Array, Array, Array]:
    """Precision, recall and F1 from counts; each 0 where it is undefined, so all are 0 without a hit."""
    return ratio(hits, predicted), ratio(hits, gold), ratio(2 * hits, predicted + gold)


def set_f1(predicted: set[Any], gold: set[Any]) -> float:
    """F1 of one row's sets; two empty sets agree: 1."""
    if not predicted and not gold:
        return 1.0
    return 2 * len(predicted & gold) / (len(predicted) + len(gold))
