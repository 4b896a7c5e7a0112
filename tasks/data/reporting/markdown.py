"""Markdown that foreign texts cannot break: names in a line or a table cell, tables, and blocks of text."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence


def plain(text: str, longest: int = 100) -> str:
    """A name as one line that is shown as it is: what cannot be printed becomes a space, Markdown's signs are escaped.

    A text over ``longest`` characters loses its middle.
    """
    line = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    if len(line) > longest:
        half = longest // 2
        line = f"{line[:half]} … {line[-half:]}"
    # an underscore between letters starts no emphasis, and # only a line's beginning
    return re.sub(r"[\\`|*<>\[\]~$&]|^[#+-]|(?<![^\W_])_|_(?![^\W_])", r"\\\g<0>", line)


def table(rows: Sequence[Sequence[str]], left: Sequence[int] = (0,)) -> Iterator[str]:
    """A table of a header and its rows, cells as Markdown; columns not in ``left`` hold numbers, aligned right."""
    for index, row in enumerate(rows):
        yield "| " + " | ".join(row) + " |"
        if index == 0:
            yield "|" + "|".join("---" if column in left else "---:" for column in range(len(row))) + "|"


def block(text: str) -> list[str]:
    """A code block that the text cannot close; control characters but line feeds and tabs are made visible."""
    shown = "".join(_visible(c) for c in text)
    longest = max((len(run) for run in re.findall(r"`+", shown)), default=0)
    fence = "`" * max(3, longest + 1)
    return [fence + "text", shown, fence]


def _visible(character: str) -> str:
    if character in "\n\t" or character.isprintable():
        return character
    code = ord(character)
    return chr(0x2400 + code) if code < 0x20 else f"\\u{{{code:x}}}"
