"""ROUGE and BLEU of free text against one or several references.

``rouge_1``, ``rouge_2``, ``rouge_l``: mean over rows of F1 on jieba words (tasks.evaluation.rouge).
``bleu_4``: corpus BLEU with sacrebleu's Chinese tokenisation (single characters, Western words whole) and its
default smoothing. Characters, because BLEU on segmented words moves with the segmenter's dictionary; and
sacrebleu's counts, because they can be quoted with a signature (``BLEU_SIGNATURE``). It is therefore not the mean
of smoothed per-sentence BLEU that ChatGLM3's fine-tuning script logs.

Stored on the scale 0-1, shown times 100. An empty prediction scores 0. With several references
(``fields.references``) a row's ROUGE is the best over them, and BLEU clips against all of them.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tasks.evaluation import rouge
from tasks.evaluation.metric import Array, RowScores, ratio
from tasks.evaluation.predictions import Prediction

BLEU_SIGNATURE = "nrefs:var|case:mixed|eff:no|tok:zh|smooth:exp"
_ORDERS = 4


def score(rows: Sequence[Prediction]) -> RowScores:
    scores = np.array([_rouge(r) for r in rows])
    counts = np.array([_bleu_counts(r) for r in rows], dtype=np.float64)
    return RowScores(
        primary="rouge_l",
        statistics=np.hstack([scores, np.ones((len(rows), 1)), counts]),
        values=_values,
        rows=scores[:, 2],
        facts={"bleu": BLEU_SIGNATURE, "empty_predictions": sum(not r.prediction.strip() for r in rows)},
        percent=(*rouge.NAMES, "bleu_4"),
    )


def references(row: Prediction) -> list[str]:
    """The row's references that hold text."""
    texts = row.fields.get("references") or [row.reference]
    return [text for text in texts if text.strip()]


def _rouge(row: Prediction) -> Array:
    prediction = rouge.words(row.prediction)
    every = [rouge.rouge(prediction, rouge.words(text)) for text in references(row)]
    return np.max(np.array([(0.0, 0.0, 0.0), *every]), axis=0)  # type: ignore[no-any-return]


def _bleu_counts(row: Prediction) -> list[float]:
    """[matches of 1..4-grams, totals of 1..4-grams, prediction length, closest reference length]."""
    texts = references(row)
    if not texts:
        return [0.0] * (2 * _ORDERS + 2)
    result = _bleu().sentence_score(row.prediction, texts)
    return [*result.counts, *result.totals, result.sys_len, result.ref_len]


@functools.cache
def _bleu() -> Any:
    from sacrebleu.metrics import BLEU

    return BLEU(tokenize="zh", effective_order=True)  # counts do not depend on it; without it every call warns


def _values(sums: Array) -> Mapping[str, Array]:
    means = ratio(sums[..., :3], sums[..., 3:4])
    named = {name: means[..., i] for i, name in enumerate(rouge.NAMES)}
    return {**named, "bleu_4": corpus_bleu(sums[..., 4:])}


def corpus_bleu(counts: Array) -> Array:
    """BLEU in 0-1 from summed counts [..., 10] as ``_bleu_counts`` orders them.

    A precision without a match is smoothed to 1/(2^k · total) for the k-th such order; 0 where an order has no
    n-gram at all or nothing matches. Source: sacrebleu's ``exp`` smoothing.
    """
    matches, totals = counts[..., :_ORDERS], counts[..., _ORDERS : 2 * _ORDERS]
    predicted, wanted = counts[..., -2], counts[..., -1]
    missed = np.cumsum(matches == 0, axis=-1)
    smoothed = np.where(matches > 0, matches, 0.5**missed)
    usable = (totals > 0).all(axis=-1) & (matches > 0).any(axis=-1)
    logs = np.log(np.where(totals > 0, smoothed / np.maximum(totals, 1), 1.0)).mean(axis=-1)
    brevity = np.minimum(0.0, 1.0 - ratio(wanted, predicted))
    return np.where(usable, np.exp(logs + brevity), 0.0)
