"""ROUGE of word sequences, as Chinese work reports it (the rules of the rouge-chinese package).

ROUGE-1 and -2 compare *sets* of n-grams (a repeated n-gram counts once), ROUGE-L is the longest common
subsequence; each is an F1. An empty side scores 0 instead of raising, and a perfect match is exactly 1 (the
package's 1e-8 in the denominator is left out). Also owns how a text is cut into words or characters.
"""

from __future__ import annotations

import functools
import logging
import sys
from collections.abc import Sequence
from typing import Any, Literal

NAMES = ("rouge_1", "rouge_2", "rouge_l")


def rouge(prediction: Sequence[str], reference: Sequence[str]) -> tuple[float, float, float]:
    """ROUGE-1, -2 and -L F1 of two word sequences, each 0-1."""
    one, two, longest = (_f1(*counted) for counted in counts(prediction, reference))
    return one, two, longest


def counts(prediction: Sequence[str], reference: Sequence[str]) -> list[tuple[int, int, int]]:
    """Of ROUGE-1, -2 and -L: what both sides have in common, what the prediction has, and what the reference has."""
    sets = [(_ngrams(prediction, n), _ngrams(reference, n)) for n in (1, 2)]
    longest = (longest_common_subsequence(prediction, reference), len(prediction), len(reference))
    return [*((len(a & b), len(a), len(b)) for a, b in sets), longest]


def _f1(common: int, predicted: int, wanted: int) -> float:
    if not predicted or not wanted:  # one word has no bigram: 0, as upstream
        return 0.0
    return 2 * common / (predicted + wanted)


def _ngrams(words: Sequence[str], n: int) -> set[Any]:
    return set(zip(*(words[i:] for i in range(n)), strict=False))


def longest_common_subsequence(a: Sequence[str], b: Sequence[str]) -> int:
    """Its length; one big-integer step per word of ``b``.

    Source: H. Hyyrö, Bit-parallel LCS-length computation revisited (2004).
    """
    where: dict[str, int] = {}
    for i, word in enumerate(a):
        where[word] = where.get(word, 0) | (1 << i)
    full = (1 << len(a)) - 1
    open_bits = full
    for word in b:
        matched = open_bits & where.get(word, 0)
        open_bits = ((open_bits + matched) | (open_bits - matched)) & full
    return len(a) - open_bits.bit_count()


def units(text: str, unit: Literal["words", "characters"]) -> tuple[str, ...]:
    """What is counted: jieba's words, or every character; white space is neither."""
    return words(text) if unit == "words" else tuple("".join(text.split()))


@functools.lru_cache(maxsize=1 << 15)  # several systems answer the same references: segmenting costs most of a score
def words(text: str) -> tuple[str, ...]:
    """jieba's words, white space left out."""
    # Interned, because the cache would else hold every occurrence of a word as an object of its own.
    return tuple(sys.intern(word) for word in _segmenter().cut(text) if word.strip())


@functools.cache
def _segmenter() -> Any:
    import jieba

    jieba.setLogLevel(logging.WARNING)
    segmenter = jieba.Tokenizer()
    # Read the dictionary itself (about 1 s): jieba's own way loads a marshal file from the shared temporary folder,
    # which any user of the machine may have put there.
    segmenter.FREQ, segmenter.total = segmenter.gen_pfdict(segmenter.get_dict_file())
    segmenter.initialized = True
    return segmenter
