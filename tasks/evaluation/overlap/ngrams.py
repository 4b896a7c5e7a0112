"""Corpus BLEU-4 and chrF from counts that add up over rows; both equal sacrebleu's corpus scores.

BLEU's counts are sacrebleu's own. chrF's are counted here, because sacrebleu gives a row's chrF but not the counts
that sum to a corpus's; the tests hold them against its ``corpus_score``. Scores are in 0-1.

Source: Papineni et al. 2002 (BLEU), Popović 2015 (chrF), and the signatures that the functions below return.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from tasks.evaluation.metric import Array, ratio
from tasks.evaluation.overlap import rouge

BLEU_ORDERS = 4
BLEU_COLUMNS = 2 * BLEU_ORDERS + 2
CHRF_ORDERS = 6
CHRF_COLUMNS = 3 * CHRF_ORDERS
_RECALL_WEIGHT = 4.0  # beta = 2, squared

Unit = Literal["words", "characters"]


def signatures(unit: Unit) -> dict[str, str]:
    """What to quote beside the numbers, in sacrebleu's form."""
    import sacrebleu

    tokens = "zh" if unit == "characters" else "none (jieba words)"
    return {
        "bleu": f"nrefs:var|case:mixed|eff:no|tok:{tokens}|smooth:exp|version:{sacrebleu.__version__}",
        "chrf": f"nrefs:var|case:mixed|eff:yes|nc:{CHRF_ORDERS}|nw:0|space:no|version:{sacrebleu.__version__}",
    }


def bleu_counts(prediction: str, references: Sequence[str], unit: Unit) -> list[float]:
    """[matches of 1..4-grams, totals of 1..4-grams, prediction length, closest reference length]."""
    if unit == "words":
        prediction, *references = (" ".join(rouge.words(text)) for text in (prediction, *references))
    result = _bleu(unit).sentence_score(prediction, references)
    return [*result.counts, *result.totals, result.sys_len, result.ref_len]


@functools.cache
def _bleu(unit: Unit) -> Any:
    from sacrebleu.metrics import BLEU

    # effective_order does not touch the counts; without it every call warns
    return BLEU(tokenize="zh" if unit == "characters" else "none", effective_order=True)


def corpus_bleu(counts: Array) -> Array:
    """BLEU in 0-1 from summed counts [..., 10] as ``bleu_counts`` orders them.

    A precision without a match is smoothed to 1/(2^k · total) for the k-th such order; 0 where an order has no
    n-gram at all or nothing matches. Source: sacrebleu's ``exp`` smoothing.
    """
    matches, totals = counts[..., :BLEU_ORDERS], counts[..., BLEU_ORDERS : 2 * BLEU_ORDERS]
    predicted, wanted = counts[..., -2], counts[..., -1]
    missed = np.cumsum(matches == 0, axis=-1)
    smoothed = np.where(matches > 0, matches, 0.5**missed)
    usable = (totals > 0).all(axis=-1) & (matches > 0).any(axis=-1)
    logs = np.log(np.where(totals > 0, smoothed / np.maximum(totals, 1), 1.0)).mean(axis=-1)
    brevity = np.minimum(0.0, 1.0 - ratio(wanted, predicted))
    return np.where(usable, np.exp(logs + brevity), 0.0)


def chrf_counts(prediction: str, references: Sequence[str]) -> list[float]:
    """[predicted, wanted, matched] n-grams of 1..6 characters, against the reference of the highest chrF."""
    reply = "".join(prediction.split())
    every = [_chrf_row(reply, "".join(text.split())) for text in references]
    return every[0] if len(every) == 1 else max(every, key=lambda counts: float(corpus_chrf(np.array(counts))))


def _chrf_row(reply: str, reference: str) -> list[float]:
    counts: list[float] = []
    matched = 1
    for n in range(1, CHRF_ORDERS + 1):
        predicted, wanted = (max(0, len(text) - n + 1) for text in (reply, reference))
        matched = _matches(reply, reference, n) if matched else 0  # no common n-gram: no longer one either
        counts += [predicted if wanted else 0, wanted, matched]  # sacrebleu's rule: unjudged where nothing is wanted
    return counts


def _matches(a: str, b: str, n: int) -> int:
    """n-grams that both texts hold, each as often as the one that holds it less often."""
    first, second = (Counter([text[i : i + n] for i in range(len(text) - n + 1)]) for text in (a, b))
    return sum(min(count, second[gram]) for gram, count in first.items() if gram in second)


def corpus_chrf(counts: Array) -> Array:
    """chrF in 0-1 from summed counts [..., 18] as ``chrf_counts`` orders them.

    Precision and recall are means over the orders that both sides have; F weighs recall twice (beta 2).
    """
    by_order = counts.reshape(*counts.shape[:-1], CHRF_ORDERS, 3)
    predicted, wanted, matched = by_order[..., 0], by_order[..., 1], by_order[..., 2]
    orders = (predicted > 0).sum(axis=-1)  # counted only where something is wanted
    precision = ratio(ratio(matched, predicted).sum(axis=-1), orders)
    recall = ratio(ratio(matched, wanted).sum(axis=-1), orders)
    return ratio((1 + _RECALL_WEIGHT) * precision * recall, _RECALL_WEIGHT * precision + recall)
