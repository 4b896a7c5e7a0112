"""Exact-match scores of triples, one ``head_relation_tail`` a line.

``f1`` is micro F1 over the sets of triples of each row: hits, predictions and references are counted over all
rows. A line counts when it has exactly three parts; other lines are malformed: they are counted, and neither
help nor cost. White space around a line is not part of it; a triple that is repeated within an answer counts once.
Rows without any triple on either side add nothing to micro counts.

``precision_normalised``, ``recall_normalised`` and ``f1_normalised`` compare after folding width (NFKC), removing
white space, and reading the two characters backslash-n as a line break.

``f1[RELATION]`` is ``f1`` over the triples of that relation, for the 50 relations that are most frequent in the
references; 0 where a resample holds none of it. The table ``relations`` of the facts holds all of them.

``seed_f1`` is the number in the tables of liucongg/ChatGLM-Finetuning (predict_*.py): per-row F1 over sets, the
prediction filtered for exactly two underscores, the reference not filtered (an empty reference is the set holding
the empty text, so it can never be matched), nothing stripped. Here its divisor is the number of rows;
``seed_f1_over_50`` divides by the constant 50 as upstream does, and equals ``seed_f1`` on 50 rows only.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from tasks.evaluation.metric import Array, Options, RowScores, precision_recall_f1, ratio, set_f1
from tasks.evaluation.overlap.folding import fold
from tasks.evaluation.predictions import Prediction
from tasks.evaluation.triple_errors import KINDS, Triple, errors

_UPSTREAM_ROWS = 50
_MOST_RELATIONS = 50
_TOTALS = 8  # columns before those of the relations


@dataclass(frozen=True)
class Parsed:
    """An answer's triples, and how many of its lines were malformed or repeated."""

    triples: set[Triple]
    malformed: int
    duplicates: int


def parse(text: str, *, normalise: bool = False) -> Parsed:
    """Read an answer: lines with exactly three parts are triples, blank lines are nothing."""
    if normalise:
        text = "\n".join(fold(line) for line in text.replace("\\n", "\n").split("\n"))
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


#: A row's parsed prediction and reference.
Pairs = list[tuple[Parsed, Parsed]]


def score(rows: Sequence[Prediction], options: Options) -> RowScores:
    strict = [(parse(r.prediction), parse(r.reference)) for r in rows]
    folded = [(parse(r.prediction, normalise=True), parse(r.reference, normalise=True)) for r in rows]
    table = _relations(strict, folded)
    shown = tuple(table)[:_MOST_RELATIONS]
    return RowScores(
        primary="f1",
        statistics=np.hstack([_totals(rows, strict, folded), _by_relation(strict, shown)]),
        values=partial(_values, shown),
        rows=np.array([set_f1(a.triples, b.triples) for a, b in strict]),
        facts={**_facts(rows, strict), "errors": _errors(strict), "relations": table},
    )


def _totals(rows: Sequence[Prediction], strict: Pairs, folded: Pairs) -> Array:
    return np.array(
        [
            [*_counts(a.triples, b.triples), *_counts(c.triples, d.triples), seed_row_f1(r.prediction, r.reference), 1]
            for r, (a, b), (c, d) in zip(rows, strict, folded, strict=True)
        ],
        dtype=np.float64,
    )


def _counts(predicted: set[Triple], gold: set[Triple]) -> tuple[int, int, int]:
    return len(predicted & gold), len(predicted), len(gold)


def _by_relation(strict: Pairs, relations: Sequence[str]) -> Array:
    """[n, 3 · relations]: hits, predictions and references of each relation."""
    index = {name: i for i, name in enumerate(relations)}
    counts = np.zeros((len(strict), len(relations), 3))
    for row, (a, b) in enumerate(strict):
        for kind, triples in enumerate((a.triples & b.triples, a.triples, b.triples)):
            for _, relation, _ in triples:
                if relation in index:
                    counts[row, index[relation], kind] += 1
    return counts.reshape(len(strict), -1)


def _values(relations: Sequence[str], sums: Array) -> Mapping[str, Array]:
    precision, recall, f1 = precision_recall_f1(sums[..., 0], sums[..., 1], sums[..., 2])
    loose_precision, loose_recall, loose_f1 = precision_recall_f1(sums[..., 3], sums[..., 4], sums[..., 5])
    own = [sums[..., _TOTALS + 3 * i : _TOTALS + 3 * i + 3] for i in range(len(relations))]
    return {
        "precision": precision,
        "recall": recall,
        "f1": f1,
        "precision_normalised": loose_precision,
        "recall_normalised": loose_recall,
        "f1_normalised": loose_f1,
        "seed_f1": ratio(sums[..., 6], sums[..., 7]),
        "seed_f1_over_50": sums[..., 6] / _UPSTREAM_ROWS,
        **{
            f"f1[{name}]": precision_recall_f1(part[..., 0], part[..., 1], part[..., 2])[2]
            for name, part in zip(relations, own, strict=True)
        },
    }


def _facts(rows: Sequence[Prediction], strict: Pairs) -> dict[str, Any]:
    return {
        "malformed_lines": sum(a.malformed for a, _ in strict),
        "duplicate_triples": sum(a.duplicates for a, _ in strict),
        "empty_predictions": sum(not r.prediction.strip() for r in rows),
        "reference_malformed_lines": sum(b.malformed for _, b in strict),
        "reference_duplicate_triples": sum(b.duplicates for _, b in strict),
        "empty_references": sum(not b.triples for _, b in strict),
        "seed_f1_divisor": len(rows),
    }


def _errors(strict: Pairs) -> dict[str, int]:
    every: Counter[str] = Counter()
    for a, b in strict:
        every.update(errors(a.triples, b.triples))
    return {kind: every[kind] for kind in KINDS}


def _relations(strict: Pairs, folded: Pairs) -> dict[str, dict[str, float]]:
    """Counts and F1 per relation of the references, most frequent first; what only a prediction holds is left out."""
    hits, predicted, gold = _relation_counts(strict)
    loose = _relation_counts(folded)
    return {
        name: {
            "gold": gold[name],
            "predicted": predicted[name],
            "hits": hits[name],
            "f1": _f1(hits[name], predicted[name], gold[name]),
            "f1_normalised": _f1(*(counts[fold(name)] for counts in loose)),
        }
        for name in sorted(gold, key=lambda name: (-gold[name], name))
    }


def _relation_counts(pairs: Pairs) -> tuple[Counter[str], Counter[str], Counter[str]]:
    """Hits, predictions and references of each relation over all rows."""
    return (
        Counter(t[1] for a, b in pairs for t in a.triples & b.triples),
        Counter(t[1] for a, _ in pairs for t in a.triples),
        Counter(t[1] for _, b in pairs for t in b.triples),
    )


def _f1(hits: int, predicted: int, gold: int) -> float:
    return 2 * hits / max(1, predicted + gold)  # folding may turn a full-width ＿ into a separator: nothing is left
