"""How likely a system finds the real replies; no generation, no tokenised text.

``token_probability``: exp(-mean negative log likelihood of a reply's token), the geometric mean of the
probabilities; 0-1, higher is better, and so the primary value. ``perplexity`` is its inverse.
``bits_per_character``: bits that the system needs for a reply, over the reply's characters. Perplexities of models
with different tokenisers do not compare, bits per character do. Both count the reply's end token.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from tasks.errors import DataError
from tasks.evaluation.metric import Array, Options, RowScores, ratio
from tasks.evaluation.predictions import Prediction


def score(rows: Sequence[Prediction], options: Options) -> RowScores:
    """Score the rows' likelihoods.

    Raises:
        DataError: a row has none.
    """
    statistics = np.array([[*likelihood(r), len(r.reference)] for r in rows], dtype=np.float64)
    nll, tokens, characters = statistics.T
    return RowScores(
        primary="token_probability",
        statistics=statistics,
        values=_values,
        rows=np.exp(-nll / tokens),
        facts={"tokens": int(tokens.sum()), "characters": int(characters.sum())},
    )


def likelihood(row: Prediction) -> tuple[float, int]:
    """-log p (nats) of the row's reference, and its tokens.

    Raises:
        DataError: the row has no likelihood.
    """
    if row.nll is None or row.nll_tokens < 1:
        raise DataError(
            f"row {row.id} of {row.task}: nll is {row.nll} over nll_tokens = {row.nll_tokens}; perplexity "
            "needs the likelihood that a model gives each reference: evaluate a model, or score by another metric"
        )
    return row.nll, row.nll_tokens


def perplexity(nll: Array, tokens: Array) -> Array:
    """exp(nll / tokens) of sums over rows; 1 over no token."""
    return np.exp(ratio(nll, tokens))


def _values(sums: Array) -> Mapping[str, Array]:
    nll, tokens, characters = sums[..., 0], sums[..., 1], sums[..., 2]
    return {
        "token_probability": np.exp(-ratio(nll, tokens)),
        "perplexity": perplexity(nll, tokens),
        "bits_per_character": ratio(nll / math.log(2), characters),
    }
