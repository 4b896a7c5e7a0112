"""Replies of a conversation against the real ones: the generation metric's numbers, and how varied and long they are.

``distinct_1`` and ``distinct_2``: distinct word n-grams over all n-grams of all replies (0-1; low means that the
model repeats itself). They are properties of the whole set, so they are facts without an interval.
``length_ratio``: characters of the replies over characters of the references (1 is as long as the real ones).
A real reply is one of many good ones: a low ROUGE here is normal, and only differences between systems say much.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from tasks.evaluation import rouge
from tasks.evaluation.metric import Array, RowScores, ratio
from tasks.evaluation.metrics import generation
from tasks.evaluation.predictions import Prediction


def score(rows: Sequence[Prediction]) -> RowScores:
    base = generation.score(rows)
    lengths = np.array([[len(r.prediction), len(r.reference)] for r in rows], dtype=np.float64)
    replies = [rouge.words(r.prediction) for r in rows]
    return RowScores(
        primary=base.primary,
        statistics=np.hstack([base.statistics, lengths]),
        values=lambda sums: _values(base, sums),
        rows=base.rows,
        facts={**base.facts, "distinct_1": distinct(replies, 1), "distinct_2": distinct(replies, 2)},
        percent=base.percent,
    )


def _values(base: RowScores, sums: Array) -> Mapping[str, Array]:
    return {**base.values(sums[..., :-2]), "length_ratio": ratio(sums[..., -2], sums[..., -1])}


def distinct(replies: Sequence[Sequence[str]], n: int) -> float:
    """Distinct n-grams over all n-grams; 0 without any. Source: Li et al. 2016, A Diversity-Promoting Objective."""
    grams = [gram for reply in replies for gram in zip(*(reply[i:] for i in range(n)), strict=False)]
    return len(set(grams)) / len(grams) if grams else 0.0
