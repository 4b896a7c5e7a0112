"""F1 and accuracy of answers that are one label.

The classes are the labels that gold or the answers hold, as no list of labels is given to the official report: an
answer outside the vocabulary is a class of its own with F1 0 and lowers the macro mean. An empty answer counts as
the first label of the task's official list.

Source: scikit-learn's classification_report(zero_division=0), which michael-wzhu/PromptCBLUE's evaluators.py calls.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy.sparse import csr_array

from tasks.evaluation.metric import Array, RowScores, ratio
from tasks.evaluation.promptcblue.suite import LabelRules


def score(gold: Sequence[str], predicted: Sequence[str], rules: LabelRules) -> RowScores:
    """Score label answers, position by position; no gold label is empty."""
    answers = [label or rules.empty_means for label in predicted]
    wanted = sorted(set(gold))
    labels = [*wanted, *sorted(set(answers) - set(gold))]
    index = {label: i for i, label in enumerate(labels)}
    right = np.array([g == a for g, a in zip(gold, answers, strict=True)], dtype=np.float64)
    g, a = (np.array([index[label] for label in side]) for side in (gold, answers))
    n, k = len(gold), len(wanted)
    # Columns: hits per wanted label, answers per label, gold per wanted label. Three entries a row, so sparse: a model
    # that answers free text makes as many labels as rows. A label that gold lacks can have no hit and needs one column.
    every = np.arange(n)
    hit = right > 0
    statistics = csr_array(
        (
            np.ones(int(hit.sum()) + 2 * n),
            (np.concatenate([every[hit], every, every]), np.concatenate([g[hit], k + a, k + len(labels) + g])),
        ),
        shape=(n, 2 * k + len(labels)),
    )
    return RowScores(
        primary=f"{rules.average}_f1",
        statistics=statistics,
        values=functools.partial(_values, wanted=k, average=rules.average),
        rows=right,
        facts=_facts(gold, answers, wanted),
    )


def _values(sums: Array, *, wanted: int, average: str) -> Mapping[str, Array]:
    hits, answered, gold = sums[..., :wanted], sums[..., wanted:-wanted], sums[..., -wanted:]
    met, strange = answered[..., :wanted], answered[..., wanted:]
    classes = ((met + gold) > 0).sum(axis=-1) + (strange > 0).sum(axis=-1)
    rows = gold.sum(axis=-1)
    by_class = {"precision": ratio(hits, met), "recall": ratio(hits, gold), "f1": ratio(2 * hits, met + gold)}
    macro = {name: ratio(value.sum(axis=-1), classes) for name, value in by_class.items()}
    weighted = {name: ratio((value * gold).sum(axis=-1), rows) for name, value in by_class.items()}
    own = macro if average == "macro" else weighted
    return {
        "accuracy": ratio(hits.sum(axis=-1), rows),
        "macro_f1": macro["f1"],
        "weighted_f1": weighted["f1"],
        f"{average}_precision": own["precision"],
        f"{average}_recall": own["recall"],
    }


def _facts(gold: Sequence[str], answers: Sequence[str], wanted: Sequence[str]) -> dict[str, Any]:
    known = set(wanted)
    pairs = Counter(zip(gold, answers, strict=True))
    confusion: dict[str, dict[str, int]] = {}
    for (label, answer), count in pairs.most_common():
        row = confusion.setdefault(label, {})
        name = answer if answer in known else OTHER
        row[name] = row.get(name, 0) + count
    return {
        "labels": dict(Counter(gold).most_common()),
        "confusion": confusion,
        "answers_outside_the_labels": sum(answer not in known for answer in answers),
    }


#: In a confusion table: every answer that is none of gold's labels.
OTHER = "(other)"
