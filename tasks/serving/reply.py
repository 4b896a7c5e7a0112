"""Turns the tokens of a reply into text that is safe to send: whole characters, no part of a stop text.

Owns no model and no tokenizer: decoding is handed in.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

#: What a decoder writes for bytes that are no complete character (yet).
_INCOMPLETE = "\ufffd"


class ReplyText:
    """Collects one reply token by token.

    Attributes:
        stopped: a stop text was met; the reply is complete and ends before it.
        tokens: tokens seen.
    """

    def __init__(self, decode: Callable[[Sequence[int]], str], stop: Sequence[str] = ()) -> None:
        self._decode = decode
        self._stop = tuple(stop)
        self._ids: list[int] = []
        self._sent = ""
        self.stopped = False

    @property
    def tokens(self) -> int:
        return len(self._ids)

    def push(self, token: int) -> str:
        """Add a token; returns the text that became final through it, often none."""
        self._ids.append(token)
        # a run of byte tokens is decoded as a whole: while its last character is incomplete, even earlier
        # characters of the run may show as U+FFFD, so the text may shrink before it grows
        text = self._decode(self._ids).rstrip(_INCOMPLETE)
        cut = min((at for s in self._stop if (at := text.find(s)) >= 0), default=None)
        if cut is not None:
            self.stopped = True
            return self._advance(text[:cut])
        return self._advance(text[: len(text) - _held_back(text, self._stop)])

    def finish(self) -> str:
        """The text held back that the end of the reply makes final; a character left half is dropped."""
        return "" if self.stopped else self._advance(self._decode(self._ids).rstrip(_INCOMPLETE))

    def _advance(self, text: str) -> str:
        new = text[len(self._sent) :]
        self._sent += new
        return new


def _held_back(text: str, stop: Sequence[str]) -> int:
    """Characters at the end of ``text`` that may be the beginning of a stop text."""
    longest = 0
    for candidate in stop:
        for size in range(min(len(candidate) - 1, len(text)), longest, -1):
            if text.endswith(candidate[:size]):
                longest = size
                break
    return longest
