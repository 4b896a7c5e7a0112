"""How likely a system finds the real replies; no generation, no tokenised text.

``token_probability``: exp(-mean negative log likelihood of a reply's token), the geometric mean of the
probabilities; 0-1, higher is better, and so the primary value. ``perplexity`` is its inverse.
``bits_per_character``: bits that the system needs for a reply, over the reply's characters. Perplexities of models
with different tokenisers do not compare, bits per character do. Both count the reply's end token.

Rows without a likelihood (a prompt that cannot be cut to its limit, an overflow in float16) are left out of the values
and counted in the facts; their own score is 0, so that they are among the worst rows. A row counts at most 100 nats a
token, which keeps every value and its interval finite (the exponent of 1,000 is no number any more; a guess among
150,000 tokens costs 12): rows beyond are counted in the facts.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from tasks.errors import DataError
from tasks.evaluation.metric import Array, Options, RowScores, ratio
from tasks.evaluation.predictions import Prediction

#: Nats a token that a row counts at most.
MOST_NATS = 100.0


def score(rows: Sequence[Prediction], options: Options) -> RowScores:
    """Score the rows' likelihoods.

    Raises:
        DataError: no row has one, or one is negative.
    """
    known = [likelihood(r) for r in rows]
    counted = [len(r.reference) if tokens else 0 for r, (_, tokens) in zip(rows, known, strict=True)]
    statistics = np.column_stack([np.array(known, dtype=np.float64), counted])
    nll, tokens, characters = statistics.T
    if not tokens.any():
        raise DataError(
            f"no row of {rows[0].task} has a likelihood; row {rows[0].id}: nll is {rows[0].nll} over nll_tokens = "
            f"{rows[0].nll_tokens}; perplexity needs the likelihood that a model gives each reference: evaluate a "
            "model, or score by another metric"
        )
    return RowScores(
        primary="token_probability",
        statistics=statistics,
        values=_values,
        rows=np.where(tokens > 0, np.exp(-ratio(nll, tokens)), 0.0),
        facts={
            "tokens": int(tokens.sum()),
            "characters": int(characters.sum()),
            "rows_without_likelihood": int((tokens == 0).sum()),
            "rows_at_the_nll_limit": int(((tokens > 0) & (nll >= MOST_NATS * tokens)).sum()),
        },
    )


def likelihood(row: Prediction) -> tuple[float, int]:
    """-log p (nats) of the row's reference, and its tokens; of no token where the row has no finite likelihood.

    Raises:
        DataError: it is negative, as of a probability above 1.
    """
    if row.nll is None or not math.isfinite(row.nll) or row.nll_tokens < 1:
        return 0.0, 0
    if row.nll < 0:
        raise DataError(f"row {row.id} of {row.task}: nll={row.nll}: must be 0 or more: minus the log of a probability")
    return min(row.nll, MOST_NATS * row.nll_tokens), row.nll_tokens


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
