"""What a report tells of single answers: how they were generated, how long they are, which are the worst.

Rows of some metrics are not replied to: only the likelihood of their reference is asked. They count in nothing that is
said of replies.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from tasks.evaluation.predictions import NO_REPLY, Prediction
from tasks.evaluation.scoring import SystemScores

_MOST_POINTS = 2000


def replied(predictions: Sequence[Prediction]) -> list[Prediction]:
    """Those that hold a reply, be it an empty one."""
    return [p for p in predictions if p.metric not in NO_REPLY]


def generation(predictions: Sequence[Prediction]) -> dict[str, Any]:
    """How the rows were answered.

    ``replies`` are counted, and where there are any: shares of them, counts of their tokens, and times in s (a row's
    time is its share of its batch's). ``prompts_cut`` is a share of all rows. ``nll`` is there where the likelihood of
    reference replies was measured: nats a token, over so many rows.
    """
    replies = replied(predictions)
    return {
        "replies": len(replies),
        **(_replies(replies) if replies else {}),
        "prompts_cut": sum(p.prompt_cut for p in predictions) / len(predictions),
        **_likelihood(predictions),
    }


def _replies(replies: Sequence[Prediction]) -> dict[str, Any]:
    count, seconds = len(replies), [p.seconds for p in replies]
    tokens = sum(p.tokens for p in replies)
    p50, p95 = np.quantile(seconds, [0.5, 0.95])
    return {
        "stopped": sum(p.finish_reason == "stop" for p in replies) / count,
        "empty": sum(not p.prediction.strip() for p in replies) / count,
        "finish_reasons": dict(Counter(p.finish_reason for p in replies).most_common()),
        "tokens": tokens,
        "seconds": round(sum(seconds), 3),
        "seconds_p50": round(float(p50), 4),
        "seconds_p95": round(float(p95), 4),
        "tokens_per_second": round(tokens / sum(seconds), 1) if sum(seconds) else 0.0,
    }


def _likelihood(predictions: Sequence[Prediction]) -> dict[str, Any]:
    known = [(p.nll, p.nll_tokens) for p in predictions if p.nll is not None]
    tokens = sum(count for _, count in known)
    if not tokens:
        return {}
    return {"nll": {"per_token": sum(nll for nll, _ in known) / tokens, "rows": len(known)}}


def same_share(base: Sequence[Prediction], tuned: Sequence[Prediction]) -> float | None:
    """Share of the replies that both give alike; None where nothing was replied to."""
    before = {(p.task, p.id): p.prediction for p in base}
    same = [before[p.task, p.id] == p.prediction for p in replied(tuned)]
    return sum(same) / len(same) if same else None


def lengths(system: SystemScores, seed: int) -> dict[str, Any]:
    """Length (tokens) of at most 2,000 replies and score of their rows, drawn at random where there are more."""
    points = [
        (name, p.tokens, round(float(score), 4), p.finish_reason == "length")
        for name, task in system.tasks.items()
        for p, score in zip(task.predictions, task.scores.rows, strict=True)
        if task.metric not in NO_REPLY
    ]
    shown = random.Random(seed).sample(points, _MOST_POINTS) if len(points) > _MOST_POINTS else points
    columns = ("task", "tokens", "score", "cut")
    return {"rows": len(points), **{name: [point[i] for point in shown] for i, name in enumerate(columns)}}


def worst(base: SystemScores, tuned: SystemScores, count: int) -> list[dict[str, Any]]:
    """The tuned model's lowest rows; among equals the tasks take turns, so that one task does not fill the list."""
    ranked = []
    for name, task in tuned.tasks.items():
        before = base.tasks[name]
        rows = zip(task.scores.rows, before.scores.rows, task.predictions, before.predictions, strict=True)
        ordered = sorted(rows, key=lambda row: (row[0], row[0] - row[1], row[2].id))
        ranked += [(float(row[0]), turn, name, row) for turn, row in enumerate(ordered)]
    ranked.sort(key=lambda entry: entry[:3])
    return [
        _shown(name, float(after), float(before), ours, theirs)
        for _, _, name, (after, before, ours, theirs) in ranked[:count]
    ]


def _shown(task: str, after: float, before: float, tuned: Prediction, base: Prediction) -> dict[str, Any]:
    return {
        "id": tuned.id,
        "task": task,
        "score": after,
        "base_score": before,
        "prompt": tuned.prompt,
        "reference": tuned.reference,
        "prediction": tuned.prediction,
        "base_prediction": base.prediction,
        "replied": bool(replied([tuned])),
        "finish_reason": tuned.finish_reason,
        "tokens": tuned.tokens,
    }
