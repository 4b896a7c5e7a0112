"""What holds for every dialogue, whatever form it came in: mends what can be mended, refuses the rest with a reason.

Pure functions of one draft. Does not know formats, personal data or other rows.
"""

from __future__ import annotations

import html
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from tasks.conversation import Message
from tasks.data.dialogue import TOOLS_PROMPT
from tasks.data.source import Draft, SourceConfig, Unusable

TRIMMED = "turns behind the last reply left out"
LEADING_REPLY = "reply before the first question left out"
JOINED = "turns of one speaker joined"
SYSTEM_JOINED = "system messages joined"
CONTROL_REMOVED = "control characters removed"
LINE_ENDS = "line ends made LF"
DECODED = "HTML entities decoded"
STRIPPED = "edge spaces removed"
CONTROL_TOKEN = "text that looks like a control token, kept as text"

_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ufeff]")
_TOKEN = re.compile(
    r"<[|｜]\w+[|｜]>|\[/?(?:gMASK|sMASK|MASK|INST)\]|</?s>|<</?SYS>>"
    r"|<(?:bos|eos|pad|unk|sop|eop|eod|start_of_turn|end_of_turn)>"
)
#: Finds the few texts that hold anything of interest to the two patterns above.
_SUSPECT = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ufeff]|<[|｜/<a-z]|\\[[gs/MI]")


@dataclass(frozen=True)
class Cleaner:
    """Cleans drafts by one configuration."""

    config: SourceConfig

    def clean(self, draft: Draft) -> Draft:
        """The draft with clean texts, its roles in order, ending with a reply.

        Raises:
            Unusable: it has no prompt, no reply, nothing to learn, or roles that cannot be put in order.
        """
        row = draft.row
        if self._is_clean(row.messages):
            return draft
        notes = list(draft.notes)
        try:
            messages = self._texts(row.messages, notes)
            messages = _ordered(messages, notes)
            _check(messages, draft.empty_reply)
        except Unusable as error:
            raise Unusable(error.reason, detail=error.detail, task=row.task) from error
        if self.config.system_prompt is not None and messages[0].role != "system":
            messages = (Message("system", self.config.system_prompt), *messages)
        if messages is row.messages and len(notes) == len(draft.notes):
            return draft
        return replace(draft, row=replace(row, messages=messages), notes=tuple(dict.fromkeys(notes)))

    def _is_clean(self, messages: tuple[Message, ...]) -> bool:
        """A quick look that most rows pass: one question, one reply, nothing in them to mend."""
        if len(messages) != 2 or self._asks_more:
            return False
        question, reply = messages
        asked, answered = question.content, reply.content
        return (
            question.role == "user"
            and reply.role == "assistant"
            and reply.learn is not False
            and _is_plain(asked)
            and _is_plain(answered)
            and not asked.isspace()
            and not answered.isspace()
        )

    @cached_property
    def _asks_more(self) -> bool:
        """Whether the configuration asks for something of every row."""
        config = self.config
        return config.system_prompt is not None or config.html_entities == "decode" or config.edge_spaces == "strip"

    def _texts(self, messages: tuple[Message, ...], notes: list[str]) -> tuple[Message, ...]:
        cleaned = [self.text(message.content, notes) for message in messages]
        if all(new is message.content for new, message in zip(cleaned, messages, strict=True)):
            return messages
        return tuple(
            message if new is message.content else replace(message, content=new)
            for new, message in zip(cleaned, messages, strict=True)
        )

    def text(self, text: str, notes: list[str]) -> str:
        """A clean text; what was done to it is added to ``notes``. The same object when nothing was."""
        if self.config.html_entities == "decode" and "&" in text:
            text = _noted(text, html.unescape(text), DECODED, notes)
        if not _is_plain(text) and _SUSPECT.search(text):
            if self.config.control_characters == "remove":
                if "\r" in text:
                    text = _noted(text, text.replace("\r\n", "\n").replace("\r", "\n"), LINE_ENDS, notes)
                text = _noted(text, _CONTROL.sub("", text), CONTROL_REMOVED, notes)
            if _TOKEN.search(text):
                notes.append(CONTROL_TOKEN)
        if self.config.edge_spaces == "strip":
            text = _noted(text, text.strip(), STRIPPED, notes)
        return text


def _is_plain(text: str) -> bool:
    """One line without brackets, as most texts are: holds neither control characters nor what looks like a token."""
    return text.isprintable() and bool(text) and "<" not in text and "[" not in text


def _noted(old: str, new: str, note: str, notes: list[str]) -> str:
    if new == old:
        return old
    notes.append(note)
    return new


def _ordered(messages: tuple[Message, ...], notes: list[str]) -> tuple[Message, ...]:
    """System messages at the head, then questions and replies in turn, a reply at the end."""
    roles = [message.role for message in messages]
    if roles == ["user", "assistant"] or roles == ["system", "user", "assistant"]:
        return messages
    if "assistant" not in roles:
        raise Unusable("no reply")
    last = len(roles) - 1 - roles[::-1].index("assistant")
    if last + 1 < len(roles):
        notes.append(TRIMMED)
    head = next((i for i, role in enumerate(roles) if role != "system"), last)
    body = list(messages[head : last + 1])
    if any(message.role == "system" for message in body):
        raise Unusable("system message inside the dialogue", detail="only the first message may be the system's")
    while body and body[0].role == "assistant":
        body.pop(0)
        if LEADING_REPLY not in notes:
            notes.append(LEADING_REPLY)
    if not body:
        raise Unusable("no prompt")
    ordered = (*_system(messages[:head], notes), *_alternating(body, notes))
    return messages if ordered == messages else ordered


def _system(messages: Sequence[Message], notes: list[str]) -> list[Message]:
    """One system message, and before it the one that lists tools, as ChatGLM3 has it."""
    tools = [m for m in messages[:1] if m.content.startswith(TOOLS_PROMPT)]
    rest = messages[len(tools) :]
    if len(rest) > 1:
        notes.append(SYSTEM_JOINED)
        rest = [Message("system", "\n".join(m.content for m in rest))]
    return [*tools, *rest]


def _alternating(body: Sequence[Message], notes: list[str]) -> list[Message]:
    """Turns of one speaker in a row become one; calls of tools and what they return stay as they are."""
    result: list[Message] = []
    for message in body:
        before = result[-1] if result else None
        if message.role == "observation" and (before is None or before.role not in ("assistant", "observation")):
            raise Unusable("a tool's result without a call")
        if before is None or not _same_turn(before, message):
            result.append(message)
        else:
            notes.append(JOINED)
            result[-1] = replace(before, content=f"{before.content}\n{message.content}")
    return result


def _same_turn(before: Message, message: Message) -> bool:
    return (
        message.role == before.role != "observation"
        and not message.metadata
        and not before.metadata
        and message.learn == before.learn
    )


def _check(messages: Sequence[Message], empty_reply: bool) -> None:
    learned = False
    for message in messages:
        if message.role == "user":
            if not message.content.strip():
                raise Unusable("empty prompt")
        elif message.role == "assistant":
            learned = learned or message.learned
            if not (message.content.strip() or message.metadata or (empty_reply and message is messages[-1])):
                raise Unusable("empty reply")
    if not learned:
        raise Unusable("nothing to learn", detail="every reply has loss false")
