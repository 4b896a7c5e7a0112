"""What replies share with their references, as one row of statistics each: ROUGE, BLEU's and chrF's counts.

Owns the work over many rows: several processes for large sets, and a memory of pairs of texts, because the rows of
two systems are scored again together when they are compared. ROUGE is the best over a row's references, BLEU clips
against all of them, chrF takes the best.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from tasks import parallel
from tasks.evaluation.metric import Array
from tasks.evaluation.overlap import ngrams, rouge
from tasks.evaluation.overlap.ngrams import Unit

#: A reply and its references, at least one (it may be empty).
Pair = tuple[str, tuple[str, ...]]

#: Where the three parts are in a row of statistics.
ROUGE = slice(0, len(rouge.NAMES))
BLEU = slice(ROUGE.stop, ROUGE.stop + ngrams.BLEU_COLUMNS)
CHRF = slice(BLEU.stop, BLEU.stop + ngrams.CHRF_COLUMNS)

_BATCH = 500  # pairs: half a second's work
_WORTH_PROCESSES = 4000  # pairs: starting one costs the time of about 1,500 (its imports and jieba's dictionary)
_REMEMBERED = 1 << 18  # pairs: under 200 MB
_memory: dict[tuple[Unit, Pair], Array] = {}


def statistics(pairs: Sequence[Pair], unit: Unit) -> Array:
    """[n, 31]: the columns ``ROUGE``, ``BLEU`` and ``CHRF`` of every pair, in the order given."""
    unknown = list(dict.fromkeys(pair for pair in pairs if (unit, pair) not in _memory))
    fresh = dict(zip(unknown, _computed(unknown, unit), strict=True))
    rows = [fresh[pair] if pair in fresh else _memory[unit, pair] for pair in pairs]
    _remember(fresh, unit)
    return np.array(rows)


def _remember(fresh: dict[Pair, Array], unit: Unit) -> None:
    if len(_memory) + len(fresh) > _REMEMBERED:
        _memory.clear()
    if len(fresh) <= _REMEMBERED:
        _memory.update(((unit, pair), row) for pair, row in fresh.items())


def _computed(pairs: Sequence[Pair], unit: Unit) -> Iterator[Array]:
    processes = parallel.default_processes() if len(pairs) >= _WORTH_PROCESSES else 1
    batches = (pairs[start : start + _BATCH] for start in range(0, len(pairs), _BATCH))
    for rows in parallel.in_order(_scorer, unit, batches, processes):
        yield from rows


def _scorer(unit: Unit) -> Callable[[Sequence[Pair]], Array]:
    return lambda pairs: np.array([_row(prediction, references, unit) for prediction, references in pairs])


def _row(prediction: str, references: Sequence[str], unit: Unit) -> list[float]:
    reply = rouge.units(prediction, unit)
    every = [rouge.rouge(reply, rouge.units(text, unit)) for text in references]
    best = [max(values) for values in zip(*every, strict=True)]
    return [*best, *ngrams.bleu_counts(prediction, references, unit), *ngrams.chrf_counts(prediction, references)]
