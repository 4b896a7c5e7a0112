"""ROUGE, BLEU and chrF of free text against one or several references.

``rouge_1``, ``rouge_2``, ``rouge_l``: mean over rows of F1 on jieba's words, or on characters
(``Options.text_unit``); see tasks.evaluation.rouge.
``bleu_4``: corpus BLEU on the same words, or with sacrebleu's Chinese tokenisation where characters are counted
(single characters, Western words whole); sacrebleu's counts and default smoothing. It is therefore not the mean of
smoothed per-sentence BLEU that ChatGLM3's fine-tuning script logs. The facts hold its signature to quote: a BLEU on
words compares only with one of the same segmenter and dictionary.
``chrf``: corpus chrF of 1 to 6 characters, which depends on no segmenter.

Stored on the scale 0-1, shown times 100. An empty prediction scores 0. With several references
(``fields.references``) a row's ROUGE and chrF are the best over them, and BLEU clips against all of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from tasks.evaluation.metric import Array, Options, RowScores, ratio
from tasks.evaluation.overlap import ngrams, rouge
from tasks.evaluation.overlap import pairs as overlap
from tasks.evaluation.predictions import Prediction


def score(rows: Sequence[Prediction], options: Options) -> RowScores:
    statistics = overlap.statistics([(r.prediction, references(r)) for r in rows], options.text_unit)
    return RowScores(
        primary="rouge_l",
        statistics=np.hstack([statistics, np.ones((len(rows), 1))]),
        values=_values,
        rows=statistics[:, rouge.NAMES.index("rouge_l")],
        facts={
            "text_unit": options.text_unit,
            **ngrams.signatures(options.text_unit),
            "empty_predictions": sum(not r.prediction.strip() for r in rows),
        },
        percent=(*rouge.NAMES, "bleu_4", "chrf"),
    )


def references(row: Prediction) -> tuple[str, ...]:
    """The row's references that hold text; where none does, the empty text."""
    texts = row.fields.get("references") or [row.reference]
    return tuple(text for text in texts if text.strip()) or ("",)


def _values(sums: Array) -> Mapping[str, Array]:
    means = ratio(sums[..., overlap.ROUGE], sums[..., -1:])
    return {
        **{name: means[..., i] for i, name in enumerate(rouge.NAMES)},
        "bleu_4": ngrams.corpus_bleu(sums[..., overlap.BLEU]),
        "chrf": ngrams.corpus_chrf(sums[..., overlap.CHRF]),
    }
