"""Accuracy and F1 of answers that are one label.

Answers are stripped and compared as text; one outside the vocabulary is a class of its own (see
tasks.evaluation.label_counts). ``macro_f1`` is the primary value: a model that always gives the most frequent label
does badly there. The facts hold a confusion table.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from tasks.evaluation import label_counts
from tasks.evaluation.metric import Options, RowScores
from tasks.evaluation.predictions import Prediction

_VALUES = ("accuracy", "macro_f1", "weighted_f1", "micro_f1")


def score(rows: Sequence[Prediction], options: Options) -> RowScores:
    gold = [r.reference.strip() for r in rows]
    answers = [r.prediction.strip() for r in rows]
    base = label_counts.score(gold, answers, primary="macro_f1", names=_VALUES)
    return replace(base, facts={**base.facts, "empty_predictions": sum(not answer for answer in answers)})
