"""Dialogues as numbered rounds of a query and a reply: what ChatGLM-6B and ChatGLM2 know instead of roles.

Their format has no place for a system message or a tool's result: a system message stands before the query that
follows it, a tool's result is a query.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tasks.conversation import Message
from tasks.models.templates import full_text


@dataclass(frozen=True)
class Round:
    """A query and the reply to it; None where it is still to be given."""

    query: str
    reply: Message | None

    @property
    def answer(self) -> str:
        return "" if self.reply is None else full_text(self.reply)


def rounds(messages: Sequence[Message]) -> list[Round]:
    """The rounds of a dialogue. Messages in a row that are not replies are one query, an empty line between them."""
    found: list[Round] = []
    waiting: list[str] = []
    for message in messages:
        if message.role == "assistant":
            found.append(Round("\n\n".join(waiting), message))
            waiting = []
        else:
            waiting.append(full_text(message))
    if waiting:
        found.append(Round("\n\n".join(waiting), None))
    return found
