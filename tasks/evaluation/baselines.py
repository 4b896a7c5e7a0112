"""Answers that need no model: what a trained one must beat to have learned the task."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence

from tasks.conversation import Row
from tasks.evaluation.predictions import Prediction, answer


def majority(training: Iterable[Row], rows: Sequence[Row]) -> list[Prediction]:
    """The most frequent training reply of the row's task (the first in text order among equals), else nothing."""
    replies: dict[str, Counter[str]] = defaultdict(Counter)
    for row in training:
        replies[row.task][row.reference] += 1
    common = {task: min(counts, key=lambda text: (-counts[text], text)) for task, counts in replies.items()}
    return [answer(row, common.get(row.task, "")) for row in rows]


def copy(rows: Sequence[Row]) -> list[Prediction]:
    """The last user text, returned as it is."""
    answers = [answer(row, "") for row in rows]
    return [answer(row, a.prompt) for row, a in zip(rows, answers, strict=True)]
