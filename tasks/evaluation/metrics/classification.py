"""Accuracy and F1 of answers that are one label.

The classes are the labels that occur in references or predictions, so an answer outside the vocabulary is a class
of its own with F1 0 and lowers the macro mean. Answers are stripped and compared as text.

``primary`` follows the official PromptCBLUE scorer: macro F1 for CHIP-CTC, KUAKE-QIC and IMCS-V2-DAC, the
support-weighted F1 for CHIP-STS, KUAKE-IR, KUAKE-QTR and KUAKE-QQR; macro for every other task. That scorer also
reads an empty answer as the first label of the task's list, and CHIP-STS answers 相同/不同 as 是的/不是; both are
done for those tasks only, so that figures compare with published ones, and empty answers are counted in the facts.

Source: scikit-learn's classification_report(zero_division=0) semantics, which the official scorer calls.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
from scipy.sparse import csr_array

from tasks.evaluation.metric import Array, RowScores, ratio
from tasks.evaluation.predictions import Prediction

#: What the official scorer reads an empty answer as.
_EMPTY_MEANS = {
    "CHIP-CTC": "非上述类型",
    "IMCS-V2-DAC": "非上述类型",
    "KUAKE-QIC": "非上述类型",
    "CHIP-STS": "是的",
    "KUAKE-IR": "相关",
    "KUAKE-QTR": "完全不匹配或者没有参考价值",
    "KUAKE-QQR": "完全一致",
}
_WEIGHTED = {"CHIP-STS", "KUAKE-IR", "KUAKE-QTR", "KUAKE-QQR"}
_STS_WORDS = {"相同": "是的", "不同": "不是"}


def score(rows: Sequence[Prediction]) -> RowScores:
    gold = [_label(r.reference, r.task) for r in rows]
    predicted = [_label(r.prediction, r.task) for r in rows]
    labels = sorted({*gold, *predicted})
    index = {label: i for i, label in enumerate(labels)}
    right = np.array([g == p for g, p in zip(gold, predicted, strict=True)], dtype=np.float64)
    g, p = (np.array([index[label] for label in side]) for side in (gold, predicted))
    n, classes = len(rows), len(labels)
    # Columns: hits per class, predictions per class, references per class. Three entries a row, so sparse: a model
    # that answers free text makes as many classes as rows.
    every = np.arange(n)
    statistics = csr_array(
        (
            np.concatenate([right, np.ones(n), np.ones(n)]),
            (np.tile(every, 3), np.concatenate([g, classes + p, 2 * classes + g])),
        ),
        shape=(n, 3 * classes),
    )
    known = set(gold)
    return RowScores(
        primary="weighted_f1" if rows[0].task in _WEIGHTED else "macro_f1",
        statistics=statistics,
        values=_values,
        rows=right,
        facts={
            "labels": dict(Counter(gold).most_common()),
            "answers_outside_the_labels": sum(label not in known for label in predicted),
            "empty_predictions": sum(not r.prediction.strip() for r in rows),
        },
    )


def _label(text: str, task: str) -> str:
    label = text.strip() or _EMPTY_MEANS.get(task, "")
    return _STS_WORDS.get(label, label) if task == "CHIP-STS" else label


def _values(sums: Array) -> Mapping[str, Array]:
    hits, predicted, gold = np.split(sums, 3, axis=-1)
    f1 = ratio(2 * hits, predicted + gold)
    classes = ((predicted + gold) > 0).sum(axis=-1)
    rows = gold.sum(axis=-1)
    return {
        "accuracy": ratio(hits.sum(axis=-1), rows),
        "macro_f1": ratio(f1.sum(axis=-1), classes),
        "weighted_f1": ratio((f1 * gold).sum(axis=-1), rows),
        # Every row has one label and one answer, so micro precision, recall and F1 all equal the accuracy.
        "micro_f1": ratio(hits.sum(axis=-1), rows),
    }
