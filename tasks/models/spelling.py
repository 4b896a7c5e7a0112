"""Text to token ids for one tokenizer: what a person typed stays text, and joined texts are spelled as one text.

Text between two control tokens is tokenised as a whole, so that the ids are those of the whole text. Two borders are
always between tokens: where a reply begins (what stands before it is the prompt that a server sends) and where learned
tokens begin or end.

SentencePiece tokenizers put a space ("dummy prefix") in front of a text: they do so here where they would in the whole
text, at its beginning and, if it is their way, after a control token; never where one text was cut into two stretches.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import pairwise
from typing import Any

from tasks.errors import DataError

#: A run of token ids and whether the model learns to produce them.
Piece = tuple[list[int], bool]

_PREFIX = "\u2581"  # how SentencePiece writes a space
#: Tried in turn as what stands before a text that must not get the dummy prefix: seldom part of a longer token.
_ANCHORS = ("\u2063", "\n", "\ue000", "。", ":", "1")
_LOOKS_SPECIAL = re.compile(r"<[|｜][^<>]+[|｜]>")
_CACHED_CHARACTERS, _CACHED, _CACHED_LONG = 64, 4096, 32


@dataclass(frozen=True)
class Span:
    """A part of a dialogue's text.

    Attributes:
        own: it is the layout's own and may hold control tokens; text of a message may not.
        learned: its tokens are targets.
        starts_reply: a token begins here, whatever stands before.
    """

    text: str
    own: bool = False
    learned: bool = False
    starts_reply: bool = False


@lru_cache(maxsize=4)
def of(tokenizer: Any) -> Speller:
    """The speller of a tokenizer, made once."""
    return Speller(tokenizer)


class Speller:
    """Encodes for one tokenizer."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self._backend = getattr(tokenizer, "backend_tokenizer", None)
        if self._backend is not None:  # a tokenizer's file may ask for either
            self._backend.no_truncation()
            self._backend.no_padding()
        self._short: dict[tuple[str, bool], list[int]] = {}
        self._long: dict[tuple[str, bool], list[int]] = {}

    @cached_property
    def control(self) -> dict[str, Any]:
        """The control tokens by their text: added tokens that the tokenizer calls special, or that look as if.

        DeepSeek's tokenizers, for one, have ``<｜User｜>`` as an added token that is not special.
        """
        added = getattr(self.tokenizer, "added_tokens_decoder", {}).values()
        named = [str(token) for token in getattr(self.tokenizer, "all_special_tokens", ())]
        special = {token.content: token for token in added if token.special or _LOOKS_SPECIAL.fullmatch(token.content)}
        return {**dict.fromkeys(named), **special}

    @cached_property
    def control_pattern(self) -> re.Pattern[str]:
        longest_first = sorted(filter(None, self.control), key=len, reverse=True)
        return re.compile("|".join(map(re.escape, longest_first)) or "(?!)")

    @cached_property
    def _forbidden(self) -> frozenset[int]:
        """Ids that no text may give; the unknown token is text."""
        ids = {self.id(token) for token in self.control}
        return frozenset(ids - {getattr(self.tokenizer, "unk_token_id", None)})

    def id(self, token: str) -> int:
        return int(self.tokenizer.convert_tokens_to_ids(token))

    def text(self, text: str) -> list[int]:
        """Ids of a text that stands alone."""
        return self._remembered(text, True) if text else []

    @property
    def opening(self) -> list[int]:
        """The control tokens that the tokenizer puts in front of a text by itself."""
        return self._around[0]

    @property
    def closing(self) -> list[int]:
        """Those that it puts behind a text, the end of sequence left out."""
        return [i for i in self._around[1] if i != self.tokenizer.eos_token_id]

    @cached_property
    def _around(self) -> tuple[list[int], list[int]]:
        bare, whole = self.text("a"), list(self.tokenizer.encode("a"))
        start = next((i for i in range(len(whole)) if whole[i : i + len(bare)] == bare), 0)
        return whole[:start], whole[start + len(bare) :]

    def pieces(self, spans: Iterable[Span]) -> Iterator[Piece]:
        """The ids of spans that make up one text."""
        text, learned, alone = "", False, True  # a stretch, and whether it stands as if alone
        strips = False  # the control token before takes the white space after it
        for span in spans:
            if text and (span.starts_reply or span.learned != learned):
                yield self._stretch(text, alone), learned
                text, alone, strips = "", False, False
            learned = span.learned
            for part, is_control in self._parts(span):
                if not is_control:
                    text += part.lstrip() if strips and not text else part
                    continue
                token = self.control[part]
                text = text.rstrip() if getattr(token, "lstrip", False) else text
                if text:
                    yield self._stretch(text, alone), learned
                yield [self.id(part)], learned
                text, alone, strips = "", self._alone_after_control, bool(getattr(token, "rstrip", False))
        if text:
            yield self._stretch(text, alone), learned

    def _parts(self, span: Span) -> Iterator[tuple[str, bool]]:
        """The control tokens of a layout's own text, and what stands between them."""
        start = 0
        for match in self.control_pattern.finditer(span.text) if span.own else ():
            if match.start() > start:
                yield span.text[start : match.start()], False
            yield match[0], True
            start = match.end()
        if start < len(span.text):
            yield span.text[start:], False

    def _stretch(self, text: str, alone: bool) -> list[int]:
        return self._remembered(text, alone or not self._has_prefix)

    def _remembered(self, text: str, alone: bool) -> list[int]:
        """Ids of a text, remembered: short ones, a layout's words among them; and the last long ones.

        A row that is cut to its limits is rendered several times, each time with most of its texts as they were.
        """
        short = len(text) <= _CACHED_CHARACTERS
        known, most = (self._short, _CACHED) if short else (self._long, _CACHED_LONG)
        found = known.get((text, alone))
        if found is None:
            if len(known) >= most:
                known.clear()
            found = known[text, alone] = self._encode(text) if alone else self._without_prefix(text)
        return list(found)

    def _encode(self, text: str) -> list[int]:
        ids = self._raw(text)
        if self._forbidden.isdisjoint(ids):
            return ids
        # a vocabulary that spells a control token as an ordinary piece: cut the word in two
        cuts = [0, *(match.start() + 1 for match in self.control_pattern.finditer(text)), len(text)]
        parts = [text[a:b] for a, b in pairwise(cuts)]
        ids = [i for n, part in enumerate(parts) for i in (self._raw(part) if n == 0 else self._without_prefix(part))]
        if not self._forbidden.isdisjoint(ids):
            raise DataError(f"the model's tokenizer makes a control token of the text {text[:80]!r}")
        return ids

    def _raw(self, text: str) -> list[int]:
        backend = self._backend
        if backend is None:
            return list(self.tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True))
        # transformers' own encode does the same in five times the time; it resets the switch when it is used
        if not backend.encode_special_tokens:
            backend.encode_special_tokens = True
        # the fast form gives the same ids without their places in the text: two thirds of the time
        return list(backend.encode_batch_fast([text], add_special_tokens=False)[0].ids)

    def _without_prefix(self, text: str) -> list[int]:
        """Ids of a text in the middle of another: spelled behind an anchor, which is taken off."""
        if not text or not self._has_prefix:
            return self._encode(text) if text else []
        for anchor in _ANCHORS:
            before, ids = self._raw(anchor), self._raw(anchor + text)
            if len(before) > 1 and ids[: len(before)] == before and self._forbidden.isdisjoint(ids):
                return ids[len(before) :]
        return self._encode(text)

    @cached_property
    def _has_prefix(self) -> bool:
        return self._begins_with_prefix(self._raw("a"))

    @cached_property
    def _alone_after_control(self) -> bool:
        """Whether a text after a control token is spelled as one that stands alone."""
        if not self._has_prefix:
            return True
        token = next(iter(self.control), None)
        if token is None:
            return False
        ids = list(self.tokenizer.encode(token + "a", add_special_tokens=False, split_special_tokens=False))
        return self._begins_with_prefix(ids[1:])

    def _begins_with_prefix(self, ids: list[int]) -> bool:
        names = getattr(self.tokenizer, "convert_ids_to_tokens", None)
        return names is not None and str(names(ids[0])).startswith(_PREFIX)
