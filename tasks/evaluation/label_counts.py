"""Accuracy and F1 of answers that are one label, and a confusion table of them.

The classes are the labels that gold or the answers hold, so an answer outside the vocabulary is a class of its own with
F1 0 and lowers the macro mean. Does not know how an answer is read, nor which value stands for a task.

Source: scikit-learn's classification_report(zero_division=0) semantics.
n: rows, w: labels of gold, l: labels of gold or the answers.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from scipy.sparse import csr_array

from tasks.evaluation.metric import Array, RowScores, ratio

#: In a confusion table: every label that is not among those shown.
OTHER = "(other)"
_SHOWN_LABELS = 50


def score(gold: Sequence[str], answers: Sequence[str], *, primary: str, names: Sequence[str]) -> RowScores:
    """Score answers, position by position, at least one.

    Args:
        names: which of :func:`averages` are the values, ``primary`` among them.
    """
    labels = Counter(gold)
    return RowScores(
        primary=primary,
        statistics=statistics(gold, answers),
        values=partial(_values, len(labels), tuple(names)),
        rows=np.array([g == a for g, a in zip(gold, answers, strict=True)], dtype=np.float64),
        facts={
            "labels": dict(labels.most_common()),
            "answers_outside_the_labels": sum(answer not in labels for answer in answers),
            "confusion": confusion(gold, answers),
        },
    )


def _values(wanted: int, names: Sequence[str], sums: Array) -> Mapping[str, Array]:
    every = averages(sums, wanted)
    return {name: every[name] for name in names}


def statistics(gold: Sequence[str], answers: Sequence[str]) -> Any:
    """[n, 2w + l]: gold and hits per label of gold, answers per label, those of gold first.

    At most three entries a row, so sparse: a model that answers free text makes as many labels as rows. A label that
    gold lacks can have no hit and needs one column.
    """
    wanted = sorted(set(gold))
    labels = [*wanted, *sorted(set(answers) - set(gold))]
    index = {label: i for i, label in enumerate(labels)}
    g, a = (np.array([index[label] for label in side], dtype=np.int64) for side in (gold, answers))
    n, w = len(g), len(wanted)
    every, hit = np.arange(n), np.flatnonzero(g == a)
    where = (np.concatenate([every, hit, every]), np.concatenate([g, w + g[hit], 2 * w + a]))
    return csr_array((np.ones(len(where[0])), where), shape=(n, 2 * w + len(labels)))


def averages(sums: Array, wanted: int) -> dict[str, Array]:
    """Every average of sums of statistics with ``wanted`` labels of gold; labels whose sums are 0 do not count."""
    gold, hits, answered = sums[..., :wanted], sums[..., wanted : 2 * wanted], sums[..., 2 * wanted :]
    met, strange = answered[..., :wanted], answered[..., wanted:]
    classes = (gold + met > 0).sum(axis=-1) + (strange > 0).sum(axis=-1)
    rows = gold.sum(axis=-1)
    accuracy = ratio(hits.sum(axis=-1), rows)
    by_label = {"precision": ratio(hits, met), "recall": ratio(hits, gold), "f1": ratio(2 * hits, met + gold)}
    return {
        "accuracy": accuracy,
        # Every row has one label and one answer, so micro precision, recall and F1 all equal the accuracy.
        "micro_f1": accuracy,
        **{f"macro_{name}": ratio(value.sum(axis=-1), classes) for name, value in by_label.items()},
        **{f"weighted_{name}": ratio((value * gold).sum(axis=-1), rows) for name, value in by_label.items()},
    }


def confusion(gold: Sequence[str], answers: Sequence[str]) -> dict[str, dict[str, int]]:
    """{label of gold: {answer: rows}}, the most frequent first.

    Of the 50 labels that occur most in gold, then in the answers; the others stand in it together as ``OTHER``.
    """
    wanted, given = Counter(gold), Counter(answers)
    ranked = sorted({*wanted, *given}, key=lambda label: (-wanted[label], -given[label], label))
    shown = set(ranked[:_SHOWN_LABELS])
    cells = Counter(
        (g if g in shown else OTHER, a if a in shown else OTHER) for g, a in zip(gold, answers, strict=True)
    )
    table: dict[str, dict[str, int]] = {}
    for (g, a), count in sorted(
        cells.items(), key=lambda cell: (-wanted[cell[0][0]], cell[0][0], -cell[1], cell[0][1])
    ):
        table.setdefault(g, {})[a] = count
    return table
