"""Exact-match scores of triples, one ``head_relation_tail`` a line.

``f1`` is micro F1 over the sets of triples of each row: hits, predictions and references are counted over all
rows. A line counts when it has exactly three parts; other lines are malformed: they are counted, and neither
help nor cost. White space around a line is not part of it; a triple that is repeated within an answer counts once.
Rows without any triple on either side add nothing to micro counts.

``f1_normalised`` compares after folding width (NFKC), removing white space, and reading the two characters
backslash-n as a line break.

``seed_f1`` is the number in the tables of liucongg/ChatGLM-Finetuning (predict_*.py): per-row F1 over sets, the
prediction filtered for exactly two underscores, the reference not filtered (an empty reference is the set holding
the empty text, so it can never be matched), nothing stripped. Here its divisor is the number of rows;
``seed_f1_over_50`` divides by the constant 50 as upstream does, and equals ``seed_f1`` on 50 rows only.
"""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tasks.evaluation.metric import Array, RowScores, precision_recall_f1, ratio, set_f1
from tasks.evaluation.predictions import Prediction

Triple = tuple[str, str, str]

_UPSTREAM_ROWS = 50


@dataclass(frozen=True)
class Parsed:
    """An answer's triples, and how many of its lines were malformed or repeated."""

    triples: set[Triple]
    malformed: int
    duplicates: int


def parse(text: str, *, normalise: bool = False) -> Parsed:
    """Read an answer: lines with exactly three parts are triples, blank lines are nothing."""
    if normalise:
        text = "".join(
            c for c in unicodedata.normalize("NFKC", text.replace("\\n", "\n")) if c == "\n" or not c.isspace()
        )
    lines = [line.strip() for line in text.split("\n")]
    pieces = [tuple(line.split("_")) for line in lines if line]
    found = [(p[0], p[1], p[2]) for p in pieces if len(p) == 3]
    triples = set(found)
    return Parsed(triples, malformed=len(pieces) - len(found), duplicates=len(found) - len(triples))


def seed_row_f1(prediction: str, reference: str) -> float:
    """One row of the upstream score; see the module's docstring."""
    predicted = {piece for piece in prediction.split("\n") if piece.count("_") == 2}
    gold = set(reference.split("\n"))
    hits = len(predicted & gold)
    return 2 * hits / (len(predicted) + len(gold)) if hits else 0.0


def score(rows: Sequence[Prediction]) -> RowScores:
    strict = [(parse(r.prediction), parse(r.reference)) for r in rows]
    folded = [(parse(r.prediction, normalise=True), parse(r.reference, normalise=True)) for r in rows]
    statistics = np.array(
        [
            [*_counts(a.triples, b.triples), *_counts(c.triples, d.triples), seed_row_f1(r.prediction, r.reference), 1]
            for r, (a, b), (c, d) in zip(rows, strict, folded, strict=True)
        ],
        dtype=np.float64,
    )
    return RowScores(
        primary="f1",
        statistics=statistics,
        values=_values,
        rows=np.array([set_f1(a.triples, b.triples) for a, b in strict]),
        facts=_facts(rows, strict),
    )


def _counts(predicted: set[Triple], gold: set[Triple]) -> tuple[int, int, int]:
    return len(predicted & gold), len(predicted), len(gold)


def _values(sums: Array) -> Mapping[str, Array]:
    precision, recall, f1 = precision_recall_f1(sums[..., 0], sums[..., 1], sums[..., 2])
    return {
        "precision": precision,
        "recall": recall,
        "f1": f1,
        "f1_normalised": precision_recall_f1(sums[..., 3], sums[..., 4], sums[..., 5])[2],
        "seed_f1": ratio(sums[..., 6], sums[..., 7]),
        "seed_f1_over_50": sums[..., 6] / _UPSTREAM_ROWS,
    }


def _facts(rows: Sequence[Prediction], parsed: list[tuple[Parsed, Parsed]]) -> dict[str, Any]:
    return {
        "malformed_lines": sum(a.malformed for a, _ in parsed),
        "duplicate_triples": sum(a.duplicates for a, _ in parsed),
        "empty_predictions": sum(not r.prediction.strip() for r in rows),
        "reference_malformed_lines": sum(b.malformed for _, b in parsed),
        "reference_duplicate_triples": sum(b.duplicates for _, b in parsed),
        "empty_references": sum(not b.triples for _, b in parsed),
        "seed_f1_divisor": len(rows),
        "relations": _relations(parsed),
    }


def _relations(parsed: list[tuple[Parsed, Parsed]]) -> dict[str, dict[str, float]]:
    """Counts and F1 per relation of the references; relations that only a prediction holds are left out."""
    gold: Counter[str] = Counter(t[1] for _, b in parsed for t in b.triples)
    predicted: Counter[str] = Counter(t[1] for a, _ in parsed for t in a.triples)
    hits: Counter[str] = Counter(t[1] for a, b in parsed for t in a.triples & b.triples)
    return {
        name: {
            "gold": count,
            "predicted": predicted[name],
            "hits": hits[name],
            "f1": 2 * hits[name] / (predicted[name] + count),
        }
        for name, count in gold.most_common()
    }
