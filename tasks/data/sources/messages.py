"""OpenAI's and ZhipuAI's fine-tuning files: {"messages": [{"role", "content"}]}, with ``tools`` and tool calls.

``weight`` 0 or 1 (OpenAI) or a boolean ``loss`` says whether a reply is learned.

Source: the formats as the two services document them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, Literal

from tasks.conversation import Message, Role, Row
from tasks.data import dialogue
from tasks.data.source import DataFile, Entry, SourceConfig, Unusable, entries
from tasks.data.sources.conversations import tools_message
from tasks.schema import Field

_ROLES: dict[str, Role] = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "assistant": "assistant",
    "tool": "observation",
    "function": "observation",
    "observation": "observation",
}


class Config(SourceConfig):
    """Dialogues of one or several turns; in validation and test the last reply is predicted."""

    source: Literal["messages"] = "messages"
    task: str = Field("messages", min_length=1, doc="Name of the task in reports.")
    metric: Literal["generation", "chat"] = Field("generation", doc="Metric module that scores the replies.")


def read(file: DataFile, config: Config) -> Iterator[Entry]:
    """One entry a dialogue."""
    return entries(file, lambda record, row_id: _row(record, row_id, config))


def _row(record: dict[str, Any], row_id: str, config: Config) -> tuple[Row, str]:
    listed = dialogue.turns(record, "messages", config.task)
    messages = [message for turn in listed for message in _messages(turn, config.task)]
    if record.get("tools"):
        messages.insert(0, tools_message(record["tools"]))
    return dialogue.row(messages, row_id, config, task=config.task, metric=config.metric, fields={})


def _messages(turn: dict[str, Any], task: str) -> list[Message]:
    role = _ROLES.get(turn["role"]) if isinstance(turn.get("role"), str) else None
    if role is None:
        raise Unusable("unknown role", detail=f"allowed: {', '.join(_ROLES)}", task=task)
    learn = turn.get("loss", turn.get("weight"))
    if learn is not None and learn not in (0, 1):
        raise Unusable("weight is neither 0 nor 1", task=task)
    learn = None if learn is None else bool(learn)
    calls = [_call(call, learn, task) for call in turn.get("tool_calls") or []]
    content = turn.get("content")
    if isinstance(content, list):
        content = _joined(content)
    if content is None and calls:
        return calls
    if not isinstance(content, str):
        raise Unusable("a content is not a text", task=task)
    return [*([Message(role, content, learn)] if content or not calls else []), *calls]


def _joined(parts: list[Any]) -> str | None:
    """The text of a content given in parts; None where a part is something else, a picture for instance."""
    texts = [part.get("text") if isinstance(part, dict) else None for part in parts]
    return "".join(map(str, texts)) if all(isinstance(text, str) for text in texts) else None


def _call(call: Any, learn: bool | None, task: str) -> Message:
    try:
        function = call["function"]
        arguments = json.loads(function.get("arguments") or "{}")
        return Message("assistant", dialogue.tool_call(dict(arguments)), learn, str(function["name"]))
    except (KeyError, TypeError, ValueError, AttributeError):
        raise Unusable("a tool call without function name and JSON arguments", task=task) from None
