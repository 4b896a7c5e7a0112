"""ROUGE of free text and of reports by section, as the official scorer computes it.

Text is cut into words by the rules of BERT's basic tokenizer and compared by those of rouge-chinese: ROUGE-1 and -2
on *sets* of n-grams, ROUGE-L on the longest common subsequence, F = 2pr / (p + r + 1e-8), so that a perfect match
is 0.999999995. An empty text counts as 无 。. A report's sections are texts of their own: those that gold has,
averaged over all sections of all reports.

Source: michael-wzhu/PromptCBLUE, evaluators.py; google-research/bert, tokenization.py; rouge-chinese 1.0.3.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence

import numpy as np

from tasks.evaluation.metric import Array, RowScores, ratio
from tasks.evaluation.overlap import rouge

_EMPTY = ["无", "。"]
_EPSILON = 1e-8
_ZERO = (0.0, 0.0, 0.0)
_CJK = (
    (0x3400, 0x4DBF),
    (0x4E00, 0x9FFF),
    (0xF900, 0xFAFF),
    (0x20000, 0x2A6DF),
    (0x2A700, 0x2B73F),
    (0x2B740, 0x2B81F),
    (0x2B820, 0x2CEAF),
    (0x2F800, 0x2FA1F),
)


class _Cleaned(dict[int, str]):
    """By code point: nothing for control characters, a space for white space, CJK characters set apart."""

    def __missing__(self, point: int) -> str:
        char = chr(point)
        category = unicodedata.category(char)
        if char in "\t\n\r" or category == "Zs":
            self[point] = " "
        elif point in (0, 0xFFFD) or category.startswith("C"):
            self[point] = ""
        else:
            self[point] = f" {char} " if any(first <= point <= last for first, last in _CJK) else char
        return self[point]


class _Split(dict[int, str]):
    """By code point, of decomposed text: nothing for accents, punctuation set apart."""

    def __missing__(self, point: int) -> str:
        char = chr(point)
        category = unicodedata.category(char)
        if category == "Mn":
            self[point] = ""
        else:
            symbol = 33 <= point <= 126 and not char.isalnum()
            self[point] = f" {char} " if symbol or category.startswith("P") else char
        return self[point]


_CLEANED, _SPLIT = _Cleaned(), _Split()


def words(text: str) -> list[str]:
    """The words of BERT's basic tokenizer: lower case, no accents, each CJK character and punctuation mark alone."""
    lowered = unicodedata.normalize("NFC", text.translate(_CLEANED)).lower()
    return unicodedata.normalize("NFD", lowered).translate(_SPLIT).split()


def _rouge(gold: str, predicted: str) -> tuple[float, float, float]:
    """ROUGE-1, -2 and -L F1 of two texts, each below 1."""
    g, p = words(gold) or _EMPTY, words(predicted) or _EMPTY
    one, two, longest = (_f1(*counted) for counted in rouge.counts(p, g))
    return one, two, longest


def _f1(common: int, predicted: int, gold: int) -> float:
    if not predicted or not gold:  # one word has no pair of words
        return 0.0
    precision, recall = common / predicted, common / gold
    return 2 * precision * recall / (precision + recall + _EPSILON)


def score(gold: Sequence[str], predicted: Sequence[str]) -> RowScores:
    """Score texts, position by position."""
    return score_reports([{"": text} for text in gold], [{"": text} for text in predicted])


def score_reports(gold: Sequence[Mapping[str, str]], predicted: Sequence[Mapping[str, str]]) -> RowScores:
    """Score reports, position by position; a missing section is empty, one that gold lacks is ignored."""
    statistics = np.array([_sections(g, p) for g, p in zip(gold, predicted, strict=True)], dtype=np.float64)
    return RowScores(
        primary="rouge_l",
        statistics=statistics,
        values=_values,
        rows=ratio(statistics[:, 2], statistics[:, 3]),
        percent=rouge.NAMES,
    )


def _sections(gold: Mapping[str, str], predicted: Mapping[str, str]) -> list[float]:
    """[sums of ROUGE-1, -2 and -L over gold's sections, how many those are]."""
    scores = [_rouge(text.strip(), predicted.get(section, "").strip()) for section, text in gold.items()]
    return [*(sum(column) for column in zip(_ZERO, *scores, strict=True)), len(scores)]


def _values(sums: Array) -> Mapping[str, Array]:
    means = ratio(sums[..., :3], sums[..., 3:4])
    return {name: means[..., i] for i, name in enumerate(rouge.NAMES)}
