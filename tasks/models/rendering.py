"""One renderer for training, evaluation and serving: a dialogue becomes token ids and a mask of learned tokens.

A family lays a dialogue out as pieces; this module owns what all layouts share: lengths, cutting, decoding. Text of a
message never becomes a control token, whatever it contains: it is encoded with ``split_special_tokens``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from tasks.conversation import Message

#: A run of token ids and whether the model learns to produce them.
Piece = tuple[list[int], bool]
#: layout(tokenizer, messages, generate) -> pieces; ``generate`` ends with the assistant's header.
Layout = Callable[[Any, Sequence[Message], bool], Iterator[Piece]]


@dataclass(frozen=True)
class Rendered:
    """Token ids of a dialogue and, for each, whether it is a training target. Both of length s (sequence)."""

    ids: list[int]
    learn: list[bool]


def encode_text(tokenizer: Any, text: str) -> list[int]:
    """Ids of user-supplied text: control tokens typed by a person stay text."""
    return list(tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True)) if text else []


class Renderer:
    """Renders dialogues for one tokenizer in one family's layout.

    Attributes:
        stop_ids: the tokens that end a reply.
    """

    def __init__(self, tokenizer: Any, layout: Layout, stop_ids: Sequence[int]) -> None:
        self.tokenizer = tokenizer
        self._layout = layout
        self.stop_ids = tuple(stop_ids)

    def dialogue(self, messages: Sequence[Message]) -> Rendered:
        """The whole dialogue, for training."""
        ids: list[int] = []
        learn: list[bool] = []
        for piece, learned in self._layout(self.tokenizer, messages, False):
            ids += piece
            learn += [learned] * len(piece)
        return Rendered(ids, learn)

    def prompt_ids(self, messages: Sequence[Message], max_tokens: int | None = None) -> list[int]:
        """The dialogue up to and including the assistant's header, cut to ``max_tokens`` as training cuts it."""
        if max_tokens is not None:
            messages = self.fit_prompt(messages, max_tokens)
        return [i for piece, _ in self._layout(self.tokenizer, messages, True) for i in piece]

    def fit_prompt(self, messages: Sequence[Message], max_tokens: int) -> list[Message]:
        """Shorten a prompt to at most ``max_tokens``: the oldest exchanges go first, then the longest message's middle.

        The beginning and the end of a message are kept because task instructions stand there.
        """
        kept = list(messages)
        while (excess := len(self.prompt_ids(kept)) - max_tokens) > 0:
            oldest = next((i for i, m in enumerate(kept) if m.role != "system"), len(kept))
            later_user = next((i for i in range(oldest + 1, len(kept)) if kept[i].role == "user"), None)
            if later_user is not None:
                del kept[oldest:later_user]
                continue
            longest = max(range(len(kept)), key=lambda i: len(kept[i].content))
            text = kept[longest].content
            if not text:
                break
            # a token is at most a few characters and may be a part of one: cut the excess in characters, look again
            keep = max(0, len(text) - max(1, excess))
            head = (keep + 1) // 2
            kept[longest] = replace(kept[longest], content=text[:head] + text[len(text) - (keep - head) :])
        return kept

    def decode(self, ids: Sequence[int]) -> str:
        """The text of a generated reply: control tokens left out, the layout's leading newline removed."""
        text: str = self.tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return text.removeprefix("\n")
