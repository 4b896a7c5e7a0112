"""What kind of mistake each wrong or missing triple of an answer is.

Of a row, the predicted triples that the reference lacks and the reference's that the answer lacks are paired, each
at most once, in two rounds:

1. the same head and tail under another relation: ``wrong_relation``;
2. the same relation, and heads as well as tails that overlap: ``wrong_span``. Two texts overlap when they are equal
   or the distinct characters that they share are at least half of those of the one that has fewer (so a text
   overlaps every text that contains it). The pair that shares most characters goes first, then text order.

What is left over is ``spurious`` (predicted) or ``missing`` (of the reference). So per row
``wrong_relation + wrong_span + spurious`` are the false positives, and with ``missing`` for ``spurious`` the false
negatives.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator

Triple = tuple[str, str, str]

KINDS = ("missing", "spurious", "wrong_relation", "wrong_span")


def errors(predicted: set[Triple], gold: set[Triple]) -> Counter[str]:
    """How many of each of ``KINDS`` one row has."""
    extra, lacking = predicted - gold, gold - predicted
    counts: Counter[str] = Counter()
    for kind, likeness in (("wrong_relation", _same_ends), ("wrong_span", _overlapping_ends)):
        for a, b in _pairs(extra, lacking, likeness):
            counts[kind] += 1
            extra.remove(a)
            lacking.remove(b)
    counts["spurious"], counts["missing"] = len(extra), len(lacking)
    return counts


def _pairs(
    extra: set[Triple], lacking: set[Triple], likeness: Callable[[Triple, Triple], int]
) -> Iterator[tuple[Triple, Triple]]:
    """Pairs that are alike at all, the most alike first, each triple in one of them."""
    alike = sorted((-like, a, b) for a in extra for b in lacking if (like := likeness(a, b)))
    used: set[tuple[bool, Triple]] = set()
    for _, a, b in alike:
        if (True, a) not in used and (False, b) not in used:
            used |= {(True, a), (False, b)}
            yield a, b


def _same_ends(a: Triple, b: Triple) -> int:
    return int((a[0], a[2]) == (b[0], b[2]))


def _overlapping_ends(a: Triple, b: Triple) -> int:
    if a[1] != b[1]:
        return 0
    heads, tails = _overlap(a[0], b[0]), _overlap(a[2], b[2])
    return 0 if heads is None or tails is None else 1 + heads + tails


def _overlap(a: str, b: str) -> int | None:
    """How many distinct characters overlapping texts share; None where they do not overlap."""
    if a == b:
        return len(set(a))
    shared = len(set(a) & set(b))
    return shared if shared and 2 * shared >= min(len(set(a)), len(set(b))) else None
