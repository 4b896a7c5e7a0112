"""Replies of a conversation against the real ones: the generation metric's numbers, and how the replies behave.

``length_ratio``: characters of the replies over characters of the references (1 is as long as the real ones).
``stop_rate``: share of replies that ended by themselves, before the limit; only where every row tells how it ended.
``copied``: share that is a training reply and not the reference (tasks.evaluation.copying); only where every row
was looked at.
``perplexity``: exp(mean negative log likelihood of a token of the real replies), lower is better; also by turn of
the dialogue, the fourth and later ones together. Over the rows that have a likelihood; the facts say how many lack it.
A resample without a row of some turn has the overall perplexity there: it knows no other.
``distinct_1`` and ``distinct_2``: distinct n-grams over all n-grams of all replies (0-1; low means that the model
repeats itself). They are properties of the whole set, so they are facts without an interval.

A real reply is one of many good ones: a low ROUGE here is normal, and only differences between systems say much.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

import numpy as np

from tasks.evaluation.metric import Array, Options, RowScores, ratio
from tasks.evaluation.metrics import generation
from tasks.evaluation.metrics.perplexity import likelihood, perplexity
from tasks.evaluation.overlap import rouge
from tasks.evaluation.predictions import Prediction

_LAST_TURN = 4


def score(rows: Sequence[Prediction], options: Options) -> RowScores:
    base = generation.score(rows, options)
    replies = [rouge.units(r.prediction, options.text_unit) for r in rows]
    columns = {
        "characters": [len(r.prediction) for r in rows],
        "wanted": [len(r.reference) for r in rows],
        "rows": [1 for _ in rows],
        **_stopped(rows),
        **_copied(rows),
        **_likelihoods(rows),
    }
    own = np.array(list(columns.values()), dtype=np.float64).T
    return RowScores(
        primary=base.primary,
        statistics=np.hstack([own, base.statistics]),
        values=partial(_values, base, tuple(columns)),
        rows=base.rows,
        facts={
            **base.facts,
            "distinct_1": distinct(replies, 1),
            "distinct_2": distinct(replies, 2),
            "rows_without_likelihood": sum(likelihood(r)[1] == 0 for r in rows),
        },
        percent=base.percent,
    )


def _stopped(rows: Sequence[Prediction]) -> dict[str, list[bool]]:
    return {"stop_rate": [r.finish_reason == "stop" for r in rows]} if all(r.finish_reason for r in rows) else {}


def _copied(rows: Sequence[Prediction]) -> dict[str, list[bool]]:
    copied = [r.copied for r in rows if r.copied is not None]
    return {"copied": copied} if len(copied) == len(rows) else {}


def _likelihoods(rows: Sequence[Prediction]) -> dict[str, list[float]]:
    """Columns ``nll`` and ``tokens``, and the same of each turn's rows alone (``nll[turn 1]``); none without a row."""
    every = [likelihood(r) for r in rows]
    turns = sorted({_turn(r) for r, (_, tokens) in zip(rows, every, strict=True) if tokens})
    columns: dict[str, list[float]] = {}
    for turn in ("", *turns) if turns else ():
        kept = [pair if not turn or _turn(r) == turn else (0.0, 0) for r, pair in zip(rows, every, strict=True)]
        columns[f"nll{turn}"], columns[f"tokens{turn}"] = [nll for nll, _ in kept], [tokens for _, tokens in kept]
    return columns


def _turn(row: Prediction) -> str:
    return f"[turn {row.turn}]" if row.turn < _LAST_TURN else f"[turn {_LAST_TURN}+]"


def _values(base: RowScores, columns: Sequence[str], sums: Array) -> Mapping[str, Array]:
    own = {name: sums[..., i] for i, name in enumerate(columns)}
    values = {
        **base.values(sums[..., len(columns) :]),
        "length_ratio": ratio(own["characters"], own["wanted"]),
    }
    values |= {name: ratio(own[name], own["rows"]) for name in ("stop_rate", "copied") if name in own}
    for name in (n for n in columns if n.startswith("nll")):
        turn = name.removeprefix("nll")
        none = own[f"tokens{turn}"] == 0
        nll, tokens = (np.where(none, own[kind], own[f"{kind}{turn}"]) for kind in ("nll", "tokens"))
        values[f"perplexity{turn}"] = perplexity(nll, tokens)
    return values


def distinct(replies: Sequence[Sequence[str]], n: int) -> float:
    """Distinct n-grams over all n-grams; 0 without any. Source: Li et al. 2016, A Diversity-Promoting Objective."""
    grams = [gram for reply in replies for gram in zip(*(reply[i:] for i in range(n)), strict=False)]
    return len(set(grams)) / len(grams) if grams else 0.0
