"""Applies SentencePiece's compiled Unicode rules with the normalisers that the tokenizers library has.

SentencePiece replaces the longest known sequence at each place (for its NFKC rules, a sequence by its NFKC form). The
library's ``Precompiled`` looks at a whole grapheme instead and drops what follows the shortest known sequence in it.
So the rules are applied character by character here, between separators, and sequences are then composed by NFC; where
NFC would also reorder or compose what SentencePiece leaves alone, a blocker stands in between.

Source: sentencepiece's normalizer.cc and its nmt_nfkc rules; Unicode Standard Annex 15 (composition, reordering).
"""

from __future__ import annotations

import functools
import sys
import unicodedata
from collections import defaultdict
from collections.abc import Iterable
from typing import Any

# Noncharacters: no text has them, no rule maps them, and they neither compose nor reorder.
_SEPARATOR, _BLOCKER = "\ufdd0", "\ufdd1"
_VOICING = "\uff9e\uff9f"  # halfwidth katakana's marks: no combining characters, but they become some
#: Rules whose sequences are replaced by compositions, as assumed above ("_cf" folds case, too).
RULES = ("nmt_nfkc", "nfkc", "nmt_nfkc_cf", "nfkc_cf")


def compiled_rules(charsmap: bytes) -> list[Any]:
    """Normalisers that together do what the compiled rule does."""
    from tokenizers import Regex, normalizers

    return [
        normalizers.Replace(Regex(_blocked()), _BLOCKER),
        # \r\n is one grapheme, and each of the two becomes a space
        normalizers.Replace(Regex(rf"(?<=[\s\S])(?=[\p{{M}}\p{{Cf}}\p{{Sk}}{_VOICING}])|(?<=\r)(?=\n)"), _SEPARATOR),
        normalizers.Precompiled(charsmap),
        normalizers.Replace(_SEPARATOR, ""),
        normalizers.NFC(),
        normalizers.Replace(_BLOCKER, ""),
    ]


@functools.cache
def _blocked() -> str:
    """A pattern of the places where NFC composes or swaps characters that SentencePiece leaves alone."""
    composing = set("\u0340\u0341")  # these two stand for composing marks
    compounds: list[str] = []
    classes: dict[int, list[str]] = defaultdict(list)
    classes[8] += _VOICING
    for character in map(chr, range(sys.maxunicode + 1)):
        if kind := unicodedata.combining(character):
            classes[kind].append(character)
        decomposed = unicodedata.normalize("NFKD", character) if unicodedata.decomposition(character) else character
        if len(decomposed) > 1:
            compounds.append(character)
            composing.update(unicodedata.normalize("NFD", character)[1:])
    compounds += map(chr, range(0xAC00, 0xD7A4))  # Hangul syllables decompose by rule
    marks = [mark for members in classes.values() for mark in members]
    places = [
        f"(?=[{ranges(set(marks) - composing - set(_VOICING))}])",  # a mark that no composed character has
        f"(?<=[{ranges(compounds)}])(?=[{ranges(marks)}\\x{{11a8}}-\\x{{11c2}}])",  # only single characters compose
    ]
    for kind, members in classes.items():  # marks out of their canonical order
        lower = [mark for other, marks_below in classes.items() if other < kind for mark in marks_below]
        if lower:
            places.append(f"(?<=[{ranges(members)}])(?=[{ranges(lower)}])")
    # an insertion before the first character would break the library's offsets
    return f"(?<=[\\s\\S])(?:{'|'.join(places)})"


def ranges(characters: Iterable[str]) -> str:
    """The inside of a character class."""
    runs: list[list[int]] = []
    for code in sorted(map(ord, characters)):
        if runs and runs[-1][1] == code - 1:
            runs[-1][1] = code
        else:
            runs.append([code, code])
    return "".join(f"\\x{{{first:x}}}-\\x{{{last:x}}}" for first, last in runs)
