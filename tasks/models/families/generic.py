"""Whatever transformers loads natively: the tokenizer's own chat template, or a plain layout where it has none.

The template is rendered once with placeholders for the messages' texts; what stands between them is the template's
own and may hold control tokens, the texts may not. Assumed: the template writes each text as it is, once and in order.
A system message that the template refuses is put in front of the first user message.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from typing import Any

from tasks.conversation import Message
from tasks.errors import ModelError
from tasks.models.rendering import Piece, Renderer, encode_text

_MARK = "\u2063{}\u2063"  # an invisible separator around the message's number: no template contains it
_MARKS = re.compile("\u2063(\\d+)\u2063")


LORA_TARGETS = ("all-linear",)
LAYERS = ""  # found by its length: see tasks.methods.freeze
REFUSED: dict[str, str] = {}


def recognises(config: dict[str, Any], special_tokens: Collection[str]) -> bool:
    return True


def renderer(tokenizer: Any, template: str | None = None) -> Renderer:
    ids = {tokenizer.eos_token_id, _id(tokenizer, _turn_end(tokenizer))} - {None}
    return Renderer(tokenizer, layout, sorted(ids))


def layout(tokenizer: Any, messages: Sequence[Message], generate: bool) -> Iterator[Piece]:
    if not getattr(tokenizer, "chat_template", None):
        yield from _plain(tokenizer, messages, generate)
        return
    # A prompt is what stands before a reply in training, whatever the template would add for generation instead.
    messages, text = _templated(tokenizer, [*messages, Message("assistant", "")] if generate else messages)
    pieces = _MARKS.split(text)  # literal, number, literal, number, ..., literal
    if generate:
        del pieces[-2:]
    end = _turn_end(tokenizer)
    learned_before = False
    for index, piece in enumerate(pieces):
        if index % 2:
            message = messages[int(piece)]
            yield encode_text(tokenizer, message.content), message.learned
            learned_before = message.learned
            continue
        head, tail = "", piece
        if learned_before and end and end in piece:  # the stop token after a reply is learned with it
            cut = piece.index(end) + len(end)
            head, tail = piece[:cut], piece[cut:]
        for literal, learned in ((head, True), (tail, False)):
            if literal:
                yield list(tokenizer.encode(literal, add_special_tokens=False)), learned


def _id(tokenizer: Any, token: str | None) -> int | None:
    return None if token is None else int(tokenizer.convert_tokens_to_ids(token))


def _turn_end(tokenizer: Any) -> str | None:
    """The control token with which the template ends a reply; the end-of-sequence token where it writes none."""
    if getattr(tokenizer, "chat_template", None):
        _, text = _templated(tokenizer, [Message("user", ""), Message("assistant", "")])
        after = _MARKS.split(text)[-1]
        found = [(after.index(token), token) for token in tokenizer.all_special_tokens if token in after]
        if found:
            return str(min(found)[1])
    return None if tokenizer.eos_token is None else str(tokenizer.eos_token)


def _templated(tokenizer: Any, messages: Sequence[Message]) -> tuple[Sequence[Message], str]:
    """The messages as the template takes them, and its text with a mark for each."""

    def render(turns: Sequence[Message]) -> str:
        marked = [{"role": m.role, "content": _MARK.format(i)} for i, m in enumerate(turns)]
        return str(tokenizer.apply_chat_template(marked, tokenize=False))

    try:
        text = render(messages)
    except Exception as error:
        if not messages or messages[0].role != "system" or len(messages) < 2:
            raise ModelError(f"{tokenizer.name_or_path}: its chat template refuses a dialogue: {error}") from error
        first = replace(messages[1], content=f"{messages[0].content}\n\n{messages[1].content}")
        messages = [first, *messages[2:]]
        text = render(messages)
    found = [int(n) for n in _MARKS.findall(text)]
    if found != list(range(len(messages))):
        raise ModelError(
            f"{tokenizer.name_or_path}: its chat template drops or reorders messages ({found} of {len(messages)}); "
            "a family module is needed for it"
        )
    return messages, text


def _plain(tokenizer: Any, messages: Sequence[Message], generate: bool) -> Iterator[Piece]:
    """A base model without a template: texts one a line, a reply ended by the end-of-sequence token."""
    if tokenizer.bos_token_id is not None:
        yield [tokenizer.bos_token_id], False
    for message in messages:
        ids = encode_text(tokenizer, message.content)
        if message.role == "assistant":
            yield [*ids, tokenizer.eos_token_id], message.learned
        else:
            yield ids + encode_text(tokenizer, "\n"), message.learned
