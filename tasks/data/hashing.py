"""Folds and hashes many texts at once: what is compared of texts, as arrays of code points.

Folding is NFKC, and case folding where near duplicates are looked for. Nearly all Chinese text holds full-width
punctuation, which NFKC changes, so that unicodedata takes 7 us a hundred characters; a table over the characters that
fold one to one takes a tenth. Texts with any other character (combining marks, ligatures) go through unicodedata.
"""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]
_MIX = np.uint64(0x9E3779B97F4A7C15)
#: Blocks whose characters never combine with their neighbours: Latin, Greek, Cyrillic, punctuation, symbols, kana,
#: Bopomofo, CJK, full-width forms. A character there is simple if NFKC makes one character of it, in these blocks too.
_BLOCKS = (
    (0x0000, 0x0300),
    (0x0370, 0x0483),
    (0x2000, 0x2070),
    (0x2070, 0x20D0),
    (0x2100, 0x2800),
    (0x3000, 0x302A),
    (0x3030, 0x3099),
    (0x309B, 0x3130),
    (0x3190, 0x3400),
    (0x3400, 0x4DC0),
    (0x4E00, 0xA000),
    (0xFF00, 0xFFF0),
)
_COMPLEX = np.uint32(0xFFFFFFFF)
#: Characters hashed at once; the table of powers for them takes 32 MB.
_SLICE = 1 << 20


@lru_cache(maxsize=2)
def _fold_table(case: bool) -> Array:
    """uint32 [65537]: the folded character, or _COMPLEX; the last entry stands for all characters beyond."""
    table = np.full(0x10001, _COMPLEX, np.uint32)
    inside = np.zeros(0x10001, bool)
    for start, end in _BLOCKS:
        inside[start:end] = True
    for code in np.flatnonzero(inside).tolist():
        folded = fold(chr(code), case)
        if len(folded) == 1 and ord(folded) < 0x10000 and inside[ord(folded)] and not unicodedata.combining(folded):
            table[code] = ord(folded)
    return table


@lru_cache(maxsize=1)
def _space_table() -> Array:
    return np.array([chr(code).isspace() for code in range(0x10000)] + [False])


def fold(text: str, case: bool) -> str:
    """One text folded."""
    text = unicodedata.normalize("NFKC", text)
    return unicodedata.normalize("NFKC", text.casefold()) if case else text


def folded(texts: Sequence[str], *, case: bool = False) -> tuple[Array, Array]:
    """The folded texts as code points.

    Returns:
        uint32 [characters] of all texts, and int64 [texts + 1], where each text starts.
    """
    codes, starts = _codes(texts)
    table = _fold_table(case)
    result = table[np.minimum(codes, 0x10000)]
    odd = np.flatnonzero(result == _COMPLEX)
    if not len(odd):
        return result, starts
    changed = set((np.searchsorted(starts, odd, side="right") - 1).tolist())
    return _codes([fold(text, case) if i in changed else fold_simple(text, case) for i, text in enumerate(texts)])


def fold_simple(text: str, case: bool) -> str:
    """:func:`fold` of a text of simple characters, by the same table."""
    codes, _ = _codes([text])
    return str(_fold_table(case)[codes].tobytes().decode("utf-32-le"))


def _codes(texts: Sequence[str]) -> tuple[Array, Array]:
    starts = starts_of([len(text) for text in texts])
    return np.frombuffer("".join(texts).encode("utf-32-le", "surrogatepass"), np.uint32), starts


def starts_of(lengths: Sequence[int]) -> Array:
    """Where segments of these lengths start, and at last where the last one ends: int64 [segments + 1]."""
    starts = np.zeros(len(lengths) + 1, np.int64)
    np.cumsum(lengths, out=starts[1:])
    return starts


def without_spaces(codes: Array, starts: Array) -> tuple[Array, Array]:
    """The same texts without white space."""
    keep = ~_space_table()[np.minimum(codes, 0x10000)]
    if keep.all():
        return codes, starts
    kept = np.concatenate([[0], np.cumsum(keep)])
    return codes[keep], kept[starts]


def text_hashes(codes: Array, starts: Array) -> Array:
    """A hash of each text given as code points (see :func:`folded`): uint64 [texts]."""
    return _polynomials(_character_keys(codes), starts)


def sequence_hashes(values: Array, starts: Array) -> Array:
    """A hash of each segment of ``values`` (any unsigned integers) that depends on their order: uint64 [segments].

    64 bits: among a million texts two differing ones share a hash with odds of about 1 in 10^7.
    """
    return _polynomials(mix(values.astype(np.uint64) + np.uint64(1)), starts)


def _polynomials(keys: Array, starts: Array) -> Array:
    """The sum of every key times a power of its place in its segment, modulo 2^64; one pass over all segments.

    The powers run on over all segments and are divided out at each one's start. Keys are random numbers, so that only
    sequences made for it (Thue-Morse strings of a thousand characters) collide.
    """
    if len(keys) > _SLICE and len(starts) > 2:
        middle = len(starts) // 2
        cut = int(starts[middle])
        halves = (keys[:cut], starts[: middle + 1]), (keys[cut:], starts[middle:] - cut)
        return np.concatenate([_polynomials(*half) for half in halves])
    bits = max(1, len(keys).bit_length())
    # the table of a single text of millions of characters is not kept
    powers, inverses = _powers(bits) if len(keys) <= _SLICE else _powers.__wrapped__(bits)
    sums = np.zeros(len(keys) + 1, np.uint64)
    np.cumsum(keys * powers[: len(keys)], out=sums[1:])
    lengths = np.diff(starts).astype(np.uint64)
    return mix((sums[starts[1:]] - sums[starts[:-1]]) * inverses[starts[:-1]] + lengths * _MIX)


@lru_cache(maxsize=4)
def _powers(bits: int) -> tuple[Array, Array]:
    """The first 2**bits + 1 powers of an odd number, and of its inverse modulo 2^64."""
    base = int(_MIX)
    result = []
    for factor in (base, pow(base, -1, 1 << 64)):
        factors = np.full((1 << bits) + 1, factor, np.uint64)
        factors[0] = 1
        result.append(np.cumprod(factors))
    return result[0], result[1]


def _character_keys(codes: Array) -> Array:
    keys = _key_table()[np.minimum(codes, 0x10000)]
    beyond = np.flatnonzero(codes >= 0x10000)
    if len(beyond):
        keys[beyond] = mix(codes[beyond].astype(np.uint64) + np.uint64(1))
    return keys


@lru_cache(maxsize=1)
def _key_table() -> Array:
    return mix(np.arange(1, 0x10002, dtype=np.uint64))


def mix(values: Array) -> Array:
    """Every bit of the result depends on every bit of the value.

    Source: SplitMix64, G. Steele, D. Lea, C. Flood, "Fast splittable pseudorandom number generators" (2014).
    """
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.asarray(values ^ (values >> np.uint64(31)))


def hash64(text: str) -> int:
    """A 64-bit hash of one text as it stands."""
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")
