"""Accuracy and F1 of answers that are one label.

The classes are the labels that occur in references or predictions, so an answer outside the vocabulary is a class
of its own with F1 0 and lowers the macro mean. Answers are stripped and compared as text. ``macro_f1`` is the
primary value: a model that always gives the most frequent label does badly there.

The facts hold a confusion matrix of the 50 labels that occur most in the references, then in the answers; the
others stand in it together as ``(other)``.

Source: scikit-learn's classification_report(zero_division=0) semantics.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from scipy.sparse import csr_array

from tasks.evaluation.metric import Array, Options, RowScores, ratio
from tasks.evaluation.predictions import Prediction

_SHOWN_LABELS = 50
OTHER = "(other)"


def score(rows: Sequence[Prediction], options: Options) -> RowScores:
    gold = [r.reference.strip() for r in rows]
    predicted = [r.prediction.strip() for r in rows]
    labels = Counter(gold)
    known = sorted(labels)
    return RowScores(
        primary="macro_f1",
        statistics=_statistics(gold, predicted, known),
        values=partial(_values, len(known)),
        rows=np.array([g == p for g, p in zip(gold, predicted, strict=True)], dtype=np.float64),
        facts={
            "labels": dict(labels.most_common()),
            "answers_outside_the_labels": sum(p not in labels for p in predicted),
            "empty_predictions": sum(not p for p in predicted),
            "confusion": _confusion(gold, predicted),
        },
    )


def _statistics(gold: Sequence[str], predicted: Sequence[str], known: Sequence[str]) -> Any:
    """Columns: per known label references, hits and predictions, then predictions per label outside.

    At most three entries a row, so sparse: a model that answers free text makes as many classes as rows.
    """
    labels = [*known, *sorted({*predicted} - {*known})]
    index = {label: i for i, label in enumerate(labels)}
    right = [i for i, (g, p) in enumerate(zip(gold, predicted, strict=True)) if g == p]
    n, k = len(gold), len(known)
    every = np.arange(n)
    columns = [
        [index[g] for g in gold],
        [k + index[gold[i]] for i in right],
        [2 * k + index[p] for p in predicted],
    ]
    where = (np.concatenate([every, np.array(right, dtype=np.int64), every]), np.concatenate(columns).astype(np.int64))
    return csr_array((np.ones(len(where[0])), where), shape=(n, 2 * k + len(labels)))


def _values(known: int, sums: Array) -> Mapping[str, Array]:
    gold, hits, predicted = sums[..., :known], sums[..., known : 2 * known], sums[..., 2 * known :]
    f1 = ratio(2 * hits, predicted[..., :known] + gold)
    classes = (gold + predicted[..., :known] > 0).sum(axis=-1) + (predicted[..., known:] > 0).sum(axis=-1)
    rows = gold.sum(axis=-1)
    accuracy = ratio(hits.sum(axis=-1), rows)
    return {
        "accuracy": accuracy,
        "macro_f1": ratio(f1.sum(axis=-1), classes),
        "weighted_f1": ratio((f1 * gold).sum(axis=-1), rows),
        # Every row has one label and one answer, so micro precision, recall and F1 all equal the accuracy.
        "micro_f1": accuracy,
    }


def _confusion(gold: Sequence[str], predicted: Sequence[str]) -> dict[str, dict[str, int]]:
    """{reference: {answer: rows}}, the most frequent first."""
    wanted, given = Counter(gold), Counter(predicted)
    ranked = sorted({*wanted, *given}, key=lambda label: (-wanted[label], -given[label], label))
    shown = set(ranked[:_SHOWN_LABELS])
    cells = Counter(
        (g if g in shown else OTHER, p if p in shown else OTHER) for g, p in zip(gold, predicted, strict=True)
    )
    table: dict[str, dict[str, int]] = {}
    for (g, p), count in sorted(
        cells.items(), key=lambda cell: (-wanted[cell[0][0]], cell[0][0], -cell[1], cell[0][1])
    ):
        table.setdefault(g, {})[p] = count
    return table
