"""Replies that a model took from its training set whole.

A reply is copied when it equals a training reply, width folded and white space removed, and none of the row's own
references. Replies under 8 such characters are never counted: people say 好的 or 谢谢 again and again, and a model
that does so has memorised nothing. For free text only: the labels of a classification are repeated by design.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from tasks.conversation import Row
from tasks.evaluation.metrics.generation import references
from tasks.evaluation.overlap.folding import fold
from tasks.evaluation.predictions import Prediction

SHORTEST = 8  # characters


def mark(predictions: Iterable[Prediction], training: Iterable[Row]) -> list[Prediction]:
    """The predictions with ``copied`` set, True or False. ``training`` is read once."""
    known = {text for row in training if len(text := fold(row.reference)) >= SHORTEST}
    return [replace(p, copied=_copied(p, known)) for p in predictions]


def _copied(row: Prediction, known: set[str]) -> bool:
    reply = fold(row.prediction)
    return reply in known and all(reply != fold(text) for text in references(row))


def share(predictions: Sequence[Prediction]) -> float | None:
    """The copied share of the predictions that were looked at; None without one."""
    looked = [p.copied for p in predictions if p.copied is not None]
    return sum(looked) / len(looked) if looked else None
