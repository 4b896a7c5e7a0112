"""Micro precision, recall and F1 of answers that list items.

An item is the tuple of its values, keys dropped, in the keys' sorted order; values are compared by their JSON, so
that lists within an item keep their order. Items that repeat within an answer count once. Everything is 0 without
a hit, also where neither side lists anything.

Source: michael-wzhu/PromptCBLUE, evaluators.py.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tasks.evaluation.metric import Array, RowScores, precision_recall_f1, set_f1

Item = tuple[str, ...]

_json = json.JSONEncoder(
    ensure_ascii=False
).encode  # json.dumps makes an encoder a call, which costs more than its work


def items(answer: Sequence[Mapping[str, Any]]) -> set[Item]:
    return {tuple(_json(entry[key]) for key in sorted(entry)) for entry in answer}


def score(gold: Sequence[Sequence[Mapping[str, Any]]], predicted: Sequence[Sequence[Mapping[str, Any]]]) -> RowScores:
    """Score list answers, position by position."""
    pairs = [(items(p), items(g)) for p, g in zip(predicted, gold, strict=True)]
    return RowScores(
        primary="f1",
        statistics=np.array([[len(p & g), len(p), len(g)] for p, g in pairs], dtype=np.float64),
        values=_values,
        rows=np.array([set_f1(p, g) for p, g in pairs]),
        facts={
            "answers_without_items": sum(not p for p, _ in pairs),
            "references_without_items": sum(not g for _, g in pairs),
        },
    )


def _values(sums: Array) -> Mapping[str, Array]:
    precision, recall, f1 = precision_recall_f1(sums[..., 0], sums[..., 1], sums[..., 2])
    return {"precision": precision, "recall": recall, "f1": f1}
