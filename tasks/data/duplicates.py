"""Near duplicates among rows: MinHash over character 5-grams, then the exact similarity of every candidate pair.

Two rows are near duplicates when the Jaccard similarity of their 5-grams, of the whole dialogue and of its last reply
alone, reaches a threshold. What task data has in every row (the instruction, the list of options) says nothing about
a row, so 5-grams that are common among the data set's distinct rows are left out; a row of which little is left then,
and with it a family of a dozen or more near variants of one text, is compared exactly only. Signatures are computed by
processes that read the spool themselves; band hashes lie on disk and are sorted one band at a time, so that time grows
as n log n and memory with the candidate pairs, 16 bytes each.

Source: A. Broder, "On the resemblance and containment of documents" (1997); banding as in Leskovec, Rajaraman,
Ullman, "Mining of Massive Datasets", chapter 3.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from tasks.data import hashing
from tasks.data.hashing import Array, without_spaces
from tasks.data.spool import Spool, dialogue_texts
from tasks.parallel import in_order

_GRAM = 5
_PERMUTATIONS = 72
#: Rows with fewer 5-grams of their own are compared exactly only: too little is left to tell them apart by.
_MIN_GRAMS = 8
#: 5-grams in more than this share of a sample of rows are common (and in at least _COMMON_ROWS of them).
_COMMON_SHARE = 0.002
_COMMON_ROWS = 12
_SAMPLE_ROWS = 20_000
_TABLE_BITS = 22
_PAIRS_AT_ONCE = 4_000
#: A row is compared with the first of its bucket and with so many before it; buckets are small but for rare families.
_WINDOW = 16
_MIX = np.uint64(0x9E3779B97F4A7C15)


@dataclass(frozen=True)
class Bands:
    """``count`` bands of ``rows`` permutations each: a pair is a candidate when one band agrees."""

    count: int
    rows: int

    @staticmethod
    def of(threshold: float) -> Bands:
        """The most selective bands that find a pair at the threshold with at least 99 % probability."""
        for rows in range(_PERMUTATIONS, 0, -1):
            count = _PERMUTATIONS // rows
            if 1 - (1 - threshold**rows) ** count >= 0.99:
                return Bands(count, rows)
        return Bands(_PERMUTATIONS, 1)


@dataclass(frozen=True)
class SignatureSetup:
    """What a process needs to compute signatures."""

    spool: str
    common: Array
    bands: Bands


class Signer:
    """The band hashes of a spool's batch by its number: uint64 [rows, bands]; 0 where a row has too few 5-grams."""

    def __init__(self, setup: SignatureSetup) -> None:
        self._setup = setup
        self._file = pa.OSFile(setup.spool)
        self._reader = pa.ipc.open_file(self._file)

    def __call__(self, number: int) -> Array:
        whole, _ = dialogue_texts(self._reader.get_batch(number))
        grams, starts = gram_hashes(whole)
        return band_hashes(*_specific(grams, starts, self._setup.common), self._setup.bands)


def near_pairs(spool: Spool, threshold: float, folder: Path, processes: int) -> Array:
    """Pairs of rows (int64 [pairs, 2], first < second, sorted) that are near duplicates.

    Args:
        folder: where band hashes are kept meanwhile.
    """
    rows = spool.starts[-1]
    if not rows:
        return np.zeros((0, 2), np.int64)
    bands, common = Bands.of(threshold), _common(spool)
    path = folder / "bands.u64"
    with path.open("wb") as file:
        setup = SignatureSetup(str(spool.path), common, bands)
        for block in in_order(Signer, setup, range(len(spool.starts) - 1), processes):
            file.write(block.tobytes())
    hashes = np.memmap(path, np.uint64, "r", shape=(rows, bands.count))
    split = spool.keys.split.astype(np.uint64)
    candidates = _candidates(hashes, _first_ones(hashing.mix(spool.keys.exact + hashing.mix(split + np.uint64(1)))))
    del hashes
    path.unlink()
    return _verified(spool, candidates, threshold, common)


def gram_hashes(texts: Sequence[str]) -> tuple[Array, Array]:
    """The hashes of all 5-grams of each text, case and compatibility forms folded, white space left out.

    Returns:
        uint64 [grams] of all texts, and int64 [texts + 1], where each text's grams start.
    """
    folded, first = without_spaces(*hashing.folded(texts, case=True))
    codes, lengths = folded.astype(np.uint64), np.diff(first)
    counts = np.maximum(lengths - _GRAM + 1, 0)
    starts = np.concatenate([[0], np.cumsum(counts)])
    if not starts[-1]:
        return np.zeros(0, np.uint64), starts
    rolled = np.zeros(max(0, len(codes) - _GRAM + 1), np.uint64)
    for place in range(_GRAM):
        rolled = rolled * np.uint64(1_099_511_628_211) + codes[place : len(codes) - _GRAM + 1 + place]
    within = np.arange(starts[-1]) - np.repeat(starts[:-1], counts)
    grams = rolled[np.repeat(first[:-1], counts) + within]
    return hashing.mix(grams), starts


def band_hashes(grams: Array, starts: Array, bands: Bands) -> Array:
    """MinHash signatures folded into one hash a band: uint64 [texts, bands]; zeros for texts with too few grams."""
    counts = np.diff(starts)
    rows = np.flatnonzero(counts >= _MIN_GRAMS)
    result = np.zeros((len(counts), bands.count), np.uint64)
    if not len(rows):
        return result
    keep = np.repeat(counts >= _MIN_GRAMS, counts)
    grams = grams[keep]
    edges = np.concatenate([[0], np.cumsum(counts[rows])])[:-1]
    multipliers = _multipliers(bands.count * bands.rows)
    for band in range(bands.count):
        folded = np.zeros(len(rows), np.uint64)
        for k in range(band * bands.rows, (band + 1) * bands.rows):
            permuted = grams * multipliers[k]
            permuted ^= permuted >> np.uint64(31)
            folded = (folded ^ np.minimum.reduceat(permuted, edges)) * _MIX
        result[rows, band] = folded | np.uint64(1)
    return result


def _multipliers(count: int) -> Array:
    return np.random.default_rng(5489).integers(1, 2**63, count, np.uint64) * np.uint64(2) + np.uint64(1)


def _specific(grams: Array, starts: Array, common: Array) -> tuple[Array, Array]:
    """The grams that are not common."""
    keep = ~common[grams >> np.uint64(64 - _TABLE_BITS)]
    kept = np.concatenate([[0], np.cumsum(keep)])
    return grams[keep], kept[starts]


def _common(spool: Spool) -> Array:
    """bool [2**22]: marks the hashes of 5-grams that many rows have.

    A table of the upper bits costs 4 MB whatever the data; a few rare grams that share an entry with a common one are
    left out as well, the same in every row.
    """
    table = np.zeros(1 << _TABLE_BITS, np.int32)
    seen = 0
    # repeated rows would make a text of their own look like a form that all rows share
    distinct = np.flatnonzero(_first_ones(spool.keys.exact))
    chosen = distinct[:: max(1, len(distinct) // _SAMPLE_ROWS)]
    for place, batch in spool.batches():
        wanted = chosen[(chosen >= place.start) & (chosen < place.stop)] - place.start
        if not len(wanted):
            continue
        whole, _ = dialogue_texts(batch.take(pa.array(wanted)))
        grams, starts = gram_hashes(whole)
        rows = np.repeat(np.arange(len(whole), dtype=np.uint64), np.diff(starts))
        entries = grams >> np.uint64(64 - _TABLE_BITS)
        once = np.unique(entries | (rows << np.uint64(_TABLE_BITS))) & np.uint64((1 << _TABLE_BITS) - 1)
        table += np.bincount(once.astype(np.int64), minlength=1 << _TABLE_BITS).astype(np.int32)
        seen += len(whole)
    return np.asarray(table >= max(_COMMON_ROWS, _COMMON_SHARE * seen))


def _candidates(hashes: Array, distinct: Array) -> Array:
    """Pairs of rows that share a band: each row with the first of its bucket and with the _WINDOW rows before it.

    Args:
        distinct: mask of the rows to look at; exact repeats within a split are none.
    """
    pairs = np.zeros((0, 2), np.int64)
    for band in range(hashes.shape[1]):
        column = np.ascontiguousarray(hashes[:, band])
        rows = np.flatnonzero((column != 0) & distinct)
        rows = rows[np.argsort(column[rows], kind="stable")]
        values = column[rows]
        later = np.flatnonzero(values[1:] == values[:-1]) + 1
        if not len(later):
            continue
        is_first = np.ones(len(rows), bool)
        is_first[later] = False
        first = np.maximum.accumulate(np.where(is_first, np.arange(len(rows)), 0))
        found = [pairs, np.stack([rows[first[later]], rows[later]], 1)]
        for step in range(1, min(_WINDOW, len(rows) - 1) + 1):
            same = np.flatnonzero(values[step:] == values[:-step])
            if not len(same):
                break
            found.append(np.stack([rows[same], rows[same + step]], 1))
        pairs = np.unique(np.concatenate(found), axis=0)
    return pairs


def _first_ones(values: Array) -> Array:
    """Mask of the first of equal values."""
    mask = np.zeros(len(values), bool)
    mask[np.unique(values, return_index=True)[1]] = True
    return mask


def _verified(spool: Spool, pairs: Array, threshold: float, common: Array) -> Array:
    """The pairs whose dialogues, and whose replies, are similar enough."""
    good = []
    for start in range(0, len(pairs), _PAIRS_AT_ONCE):
        block = pairs[start : start + _PAIRS_AT_ONCE]
        sets = dict(_gram_sets(spool, np.unique(block), common))
        good.append(block[[_alike(sets[a], sets[b], threshold) for a, b in block.tolist()]])
    return np.concatenate(good) if good else pairs


_Grams = tuple[Array, Array, int]


def _gram_sets(spool: Spool, rows: Array, common: Array) -> Iterator[tuple[int, _Grams]]:
    """(row, (its specific grams, its reply's grams, its reply's hash)) of the rows, both sets sorted."""
    starts = np.array(spool.starts)
    numbers = np.searchsorted(starts, rows, side="right") - 1
    with pa.OSFile(str(spool.path)) as file, pa.ipc.open_file(file) as reader:
        for number in np.unique(numbers).tolist():
            wanted = rows[numbers == number]
            batch = reader.get_batch(number).take(pa.array(wanted - starts[number]))
            whole, replies = dialogue_texts(batch)
            grams, edges = _specific(*gram_hashes(whole), common)
            reply_grams, reply_edges = gram_hashes(replies)
            reply_hashes = hashing.text_hashes(*without_spaces(*hashing.folded(replies, case=True)))
            for i, row in enumerate(wanted.tolist()):
                yield (
                    row,
                    (
                        np.unique(grams[edges[i] : edges[i + 1]]),
                        np.unique(reply_grams[reply_edges[i] : reply_edges[i + 1]]),
                        int(reply_hashes[i]),
                    ),
                )


def _alike(one: _Grams, other: _Grams, threshold: float) -> bool:
    """Whether two rows are near duplicates; short replies (labels) must be equal."""
    same_reply = one[2] == other[2] or (
        min(len(one[1]), len(other[1])) >= _MIN_GRAMS and _jaccard(one[1], other[1]) >= threshold
    )
    return same_reply and _jaccard(one[0], other[0]) >= threshold


def _jaccard(one: Array, other: Array) -> float:
    """Jaccard similarity of two sorted sets."""
    shared = len(np.intersect1d(one, other, assume_unique=True))
    return shared / (len(one) + len(other) - shared)
