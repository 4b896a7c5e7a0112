"""Spans that the exercises copy, look up and extract: random characters, invented words, real text.

Owns how a span is drawn; what is asked about it belongs to the exercise modules.
"""

import random
import re
from collections import Counter
from collections.abc import Sequence
from typing import TypeVar

from tasks.models.embedded.exercise_tables import (
    ENTITY_LISTS,
    ENTITY_SUFFIXES,
    FILLERS,
    GIVEN,
    STEMS,
    SURNAMES,
)

Choice = TypeVar("Choice")

# Characters that the exercises use as separators: an item of a list must not contain them.
SEPARATORS = re.compile(r"[\s，、；：。！？“”（）()\[\]{}|_/=→,;:#*\-\"'<>]")
CHINESE = re.compile(r"[一-鿿]")


class Spans:
    """A seeded source of spans.

    `characters` is the whole alphabet, `text` the real text to cut from, `long` the share of long fillers.
    """

    def __init__(self, rng: random.Random, characters: str, text: str, long: float = 0.1) -> None:
        self.rng = rng
        self.long = long
        self.text = text
        self.characters = [c for c in characters if not SEPARATORS.match(c)]
        self.chinese = [c for c in self.characters if CHINESE.match(c)]
        frequent = [c for c, _ in Counter(text).most_common(1500) if CHINESE.match(c)]
        self.common = frequent[:900] or self.chinese[:900]

    def pick(self, choices: Sequence[Choice]) -> Choice:
        """One of the choices."""
        return choices[int(self.rng.random() * len(choices))]

    def length(self, low: int, high: int) -> int:
        """A length, short ones more often."""
        return low + int((high - low + 1) * self.rng.random() ** 1.6)

    def item(self, low: int = 1, high: int = 8) -> str:
        """A span without separators, so that it can stand in a list."""
        roll = self.rng.random()
        size = self.length(low, high)
        if roll < 0.22:
            return "".join(self.pick(self.chinese) for _ in range(size))
        if roll < 0.27:
            return "".join(self.pick(self.characters) for _ in range(size))
        if roll < 0.50:
            return "".join(self.pick(self.common) for _ in range(size))
        if roll < 0.62 and low <= 6 <= high + 3:
            return self.entity(self.pick(list(ENTITY_SUFFIXES)))
        if roll < 0.67:
            return self.code()
        piece = SEPARATORS.sub("", self.raw(size, size))
        return piece if len(piece) >= low else "".join(self.pick(self.common) for _ in range(size))

    def word(self, low: int = 2, high: int = 4) -> str:
        """An invented word of common characters."""
        return "".join(self.pick(self.common) for _ in range(self.length(low, high)))

    def items(self, count: int, low: int = 1, high: int = 8) -> list[str]:
        """Different items, none part of another."""
        found: list[str] = []
        while len(found) < count:
            item = self.item(low, high)
            if item and not any(item in other or other in item for other in found):
                found.append(item)
            elif len(item) <= 1:
                low = min(low + 1, 3)
                high = max(high, low)
        return found

    def raw(self, low: int, high: int) -> str:
        """A piece of the real text as it stands, without line breaks."""
        if not self.text:
            return "".join(self.pick(self.common) for _ in range(self.length(low, high)))
        size = self.length(low, high)
        start = int(self.rng.random() * max(1, len(self.text) - size))
        return self.text[start : start + size].replace("\n", "")

    def sentence(self, low: int = 4, high: int = 20) -> str:
        """A clause of the real text."""
        for _ in range(4):
            window = self.raw(60, 60)
            clauses = [c for c in re.split(r"[，。！？；\s]", window)[1:-1] if low <= len(c) <= high]
            if clauses:
                return self.pick(clauses)
        return self.word(low, high)

    def filler(self) -> str:
        """A clause that says nothing about what is asked; now and then a long one."""
        roll = self.rng.random()
        if roll < self.long:
            return self.raw(20, 90) or self.pick(FILLERS)
        return self.pick(FILLERS) if roll < 0.5 + self.long / 2 else self.sentence()

    def code(self) -> str:
        """Letters and digits, as in model numbers and measurements."""
        letters = "".join(self.pick("ABCDEFGHKLMNPQRSTXYZabcdeimnt") for _ in range(self.rng.randint(0, 3)))
        digits = "".join(self.pick("0123456789") for _ in range(self.rng.randint(1, 4)))
        return self.pick((letters + digits, digits + self.pick(("mg", "ml", "cm", "℃", "%", "kg", "元", "年", "次"))))

    def entity(self, kind: str) -> str:
        """An invented entity whose form shows its type (see ENTITY_SUFFIXES, ENTITY_LISTS)."""
        if kind == "人名":
            return self.pick(SURNAMES) + "".join(self.pick(GIVEN) for _ in range(self.rng.randint(1, 2)))
        if kind in ENTITY_LISTS and self.rng.random() < 0.8:
            return self.pick(ENTITY_LISTS[kind])
        suffix = self.pick(ENTITY_SUFFIXES[kind])
        roll = self.rng.random()
        if roll < 0.45:
            stem = self.pick(STEMS[kind]) if kind in STEMS else self.word(1, 3)
        elif roll < 0.85:
            stem = self.word(1, 3)
        else:
            stem = "".join(self.pick(self.chinese) for _ in range(self.rng.randint(1, 3)))
        return stem + suffix
