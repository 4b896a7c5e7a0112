"""Measures scoring with intervals, on made-up rows of real shapes, through ``scoring.sampled`` as evaluations use it.

Scoring turns text into statistics, once a row; intervals resample the statistics. Both are shown, since a longer text
costs only the first and more resamples only the second.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from random import Random
from typing import Any

from tasks.evaluation import comparison, scoring
from tasks.evaluation.predictions import Prediction

#: What the rows of each metric are.
METRICS = {
    "triples": "1-6 triples a reference (3.5 on average), three in four predicted rightly",
    "classification": "44 labels, three in four right",
    "generation": "replies and references of 20-100 characters that share three clauses in four",
}
_LETTERS = [chr(code) for code in range(0x4E00, 0x4E00 + 2000)]
_LABELS = 44
_RELATIONS = 44  # as in CMeIE


def measure(rows: int, resamples: int, metrics: Sequence[str] = tuple(METRICS), seed: int = 7) -> list[dict[str, Any]]:
    """One result a metric; seconds are wall-clock time in this one process."""
    return [_measure(metric, rows, resamples, seed) for metric in metrics]


def table(results: Sequence[Mapping[str, Any]]) -> str:
    """The results as Markdown."""
    lines = ["| metric | rows | resamples | s | of it intervals, s | rows/s |", "|---|---:|---:|---:|---:|---:|"]
    for r in results:
        counts = (r["metric"], f"{r['rows']:,}", f"{r['resamples']:,}")
        times = (f"{r['seconds']:.1f}", f"{r['interval_seconds']:.1f}", f"{r['rows_per_second']:,}")
        lines.append(f"| {' | '.join((*counts, *times))} |")
    return "\n".join([*lines, "", *(f"{r['metric']}: {METRICS[r['metric']]}" for r in results)])


def _measure(metric: str, rows: int, resamples: int, seed: int) -> dict[str, Any]:
    scoring.sampled(generate(metric, 10, seed), resamples=100, seed=0)  # imports, and jieba's dictionary
    predictions = generate(metric, rows, seed)
    start = time.perf_counter()
    system = scoring.sampled(predictions, resamples=resamples, seed=0)
    scored = time.perf_counter()
    comparison.sample(system.tasks[metric].scores, task=metric, resamples=resamples, seed=0)
    intervals = time.perf_counter() - scored
    return {
        "metric": metric,
        "rows": rows,
        "resamples": resamples,
        "seconds": round(scored - start, 2),
        "interval_seconds": round(intervals, 2),
        "rows_per_second": round(rows / (scored - start)),
        "score": system.headline.interval().to_json(),
    }


def generate(metric: str, rows: int, seed: int) -> list[Prediction]:
    """Rows of one metric."""
    rng = Random(seed)
    make = _MAKERS[metric]
    pairs = (make(rng) for _ in range(rows))
    return [Prediction(f"{i:07d}", metric, metric, "", gold, text) for i, (gold, text) in enumerate(pairs)]


def _triples(rng: Random) -> tuple[str, str]:
    gold = [f"{_word(rng, 4)}_关系{rng.randrange(_RELATIONS)}_{_word(rng, 5)}" for _ in range(rng.randint(1, 6))]
    return "\n".join(gold), "\n".join(line if rng.random() < 0.75 else line + _word(rng, 1) for line in gold)


def _classification(rng: Random) -> tuple[str, str]:
    label, other = rng.randrange(_LABELS), rng.randrange(_LABELS)
    return f"类别{label}", f"类别{label if rng.random() < 0.75 else other}"


def _generation(rng: Random) -> tuple[str, str]:
    clauses = [_word(rng, 10) for _ in range(rng.randint(2, 10))]
    return "，".join(clauses), "，".join(c if rng.random() < 0.75 else _word(rng, 10) for c in clauses)


def _word(rng: Random, length: int) -> str:
    return "".join(rng.choices(_LETTERS, k=length))


_MAKERS: dict[str, Callable[[Random], tuple[str, str]]] = {
    "triples": _triples,
    "classification": _classification,
    "generation": _generation,
}
