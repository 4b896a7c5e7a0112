"""One renderer for training, evaluation and serving: a dialogue becomes token ids and a mask of learned tokens.

A family lays a dialogue out as pieces; this module owns what all layouts share: lengths, cutting, decoding. Text of a
message never becomes a control token, whatever it contains (tasks.models.spelling).
"""

from __future__ import annotations

import json
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tasks.conversation import Message
from tasks.models import spelling
from tasks.models.spelling import Piece

__all__ = ["Layout", "Piece", "Rendered", "Renderer", "encode_text", "stop_ids"]

#: layout(tokenizer, messages, generate) -> pieces; ``generate`` ends with the assistant's header.
Layout = Callable[[Any, Sequence[Message], bool], Iterator[Piece]]


@dataclass(frozen=True)
class Rendered:
    """Token ids of a dialogue and, for each, whether it is a training target. Both of length s (sequence).

    Attributes:
        cut: the last reply was cut at its end: its end token is missing.
    """

    ids: list[int]
    learn: list[bool]
    cut: bool = False


def encode_text(tokenizer: Any, text: str) -> list[int]:
    """Ids of user-supplied text that stands alone: control tokens typed by a person stay text."""
    return spelling.of(tokenizer).text(text)


def stop_ids(tokenizer: Any, names: Iterable[str | None] = ()) -> list[int]:
    """Ids that end a reply: the tokenizer's end of sequence, those of its folder's generation_config.json, and names.

    Args:
        names: further tokens; those that are no control tokens of this tokenizer are left out.
    """
    control = spelling.of(tokenizer).control
    ids = {getattr(tokenizer, "eos_token_id", None)} | {
        tokenizer.convert_tokens_to_ids(name) for name in names if name in control
    }
    path = Path(getattr(tokenizer, "name_or_path", "") or "/") / "generation_config.json"
    if path.is_file():
        listed = json.loads(path.read_text(encoding="utf-8")).get("eos_token_id")
        ids |= set(listed) if isinstance(listed, list) else {listed}
    return sorted(i for i in ids if i is not None)


class Renderer:
    """Renders dialogues for one tokenizer in one family's layout.

    Attributes:
        stop_ids: the tokens that end a reply.
        ends: the tokens of which one is learned at the end of each learned turn.
        learns_history: earlier replies of a dialogue can be learned; else the last one only.
    """

    def __init__(
        self,
        tokenizer: Any,
        layout: Layout,
        stop_ids: Sequence[int],
        *,
        ends: Iterable[int] | None = None,
        lead: str = "\n",
        trail: str = "",
        learns_history: bool = True,
    ) -> None:
        """Make a renderer.

        Args:
            ends: None: the stop ids.
            lead: what the layout writes in front of a reply's text, as a part of the reply; trail: behind it.
        """
        self.tokenizer = tokenizer
        self._layout = layout
        self._lead, self._trail = lead, trail
        self.stop_ids = tuple(stop_ids)
        self.ends = frozenset(self.stop_ids if ends is None else ends)
        self.learns_history = learns_history

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
        ids = [i for piece, _ in self._layout(self.tokenizer, messages, True) for i in piece]
        if max_tokens is None or len(ids) <= max_tokens:
            return ids
        return self.prompt_ids(self.fit_prompt(messages, max_tokens))

    def fit_prompt(self, messages: Sequence[Message], max_tokens: int) -> list[Message]:
        """Shorten a prompt to at most ``max_tokens``: the oldest exchanges go first, then the longest message's middle.

        The beginning and the end of a message are kept because task instructions stand there. Where even empty
        messages are too long, as with a limit of a few tokens, the prompt stays over its limit.
        """
        oldest = next((i for i, m in enumerate(messages) if m.role != "system"), len(messages))
        starts = [oldest, *(i for i in range(oldest + 1, len(messages)) if messages[i].role == "user")]

        def since(start: int) -> list[Message]:
            return [*messages[:oldest], *messages[start:]]

        # by halves: a chat of hundreds of turns would else be rendered hundreds of times
        first = bisect_left(
            starts, True, hi=len(starts) - 1, key=lambda i: len(self.prompt_ids(since(i))) <= max_tokens
        )
        kept = since(starts[first])
        while (excess := (size := len(self.prompt_ids(kept))) - max_tokens) > 0:
            longest = max(range(len(kept)), key=lambda i: len(kept[i].content), default=None)
            if longest is None or not kept[longest].content:
                break
            text = kept[longest].content
            # a share of the characters for each token too many: never more than needed on average, so look again
            keep = len(text) - min(len(text), max(1, excess * len(text) // size))
            head = (keep + 1) // 2
            kept[longest] = replace(kept[longest], content=text[:head] + text[len(text) - (keep - head) :])
        return kept

    def decode(self, ids: Sequence[int]) -> str:
        """The text of a generated reply: without control tokens and without what the layout writes around it."""
        text: str = self.tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return text.removeprefix(self._lead).removesuffix(self._trail)
