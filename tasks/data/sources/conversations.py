"""ChatGLM3's dialogues: {"conversations": [{"role", "content"}]}, with ``tools``, tool calls and ``loss`` per message.

A row of ``tools`` gets them in a system message of its own, before the dialogue's. A turn of role ``tool`` is the
assistant's call (learned) and the tool's observation (not learned).

Source: THUDM/ChatGLM3 finetune_demo, README and preprocess_utils.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, Literal

from tasks.conversation import ROLES, Message, Role, Row
from tasks.data import dialogue
from tasks.data.source import DataFile, Entry, SourceConfig, Unusable, entries
from tasks.schema import Field

TOOLS_PROMPT = "Answer the following questions as best as you can. You have access to the following tools:\n"


class Config(SourceConfig):
    """Dialogues of one or several turns; in validation and test the last reply is predicted."""

    source: Literal["conversations"] = "conversations"
    task: str = Field("conversations", min_length=1, doc="Name of the task in reports.")
    metric: Literal["generation", "chat"] = Field("generation", doc="Metric module that scores the replies.")


def read(file: DataFile, config: Config) -> Iterator[Entry]:
    """One entry a dialogue."""
    return entries(file, lambda record, row_id: _row(record, row_id, config))


def _row(record: dict[str, Any], row_id: str, config: Config) -> tuple[Row, str]:
    listed = dialogue.turns(record, "conversations", config.task)
    messages = [message for turn in listed for message in messages_of(turn, config.task)]
    if record.get("tools") is not None:
        messages.insert(0, tools_message(record["tools"]))
    return dialogue.row(messages, row_id, config, task=config.task, metric=config.metric, fields={})


def tools_message(tools: Any) -> Message:
    """The system message that offers tools."""
    return Message("system", TOOLS_PROMPT + json.dumps(tools, indent=4, ensure_ascii=False))


def messages_of(turn: dict[str, Any], task: str) -> list[Message]:
    """The messages of one turn: two for a tool call with its observation.

    Raises:
        Unusable: an unknown role, a content that is not text.
    """
    role, loss = turn.get("role"), turn.get("loss")
    if loss is not None and not isinstance(loss, bool):
        raise Unusable("loss is not a boolean", task=task)
    if role == "tool":
        name, parameters = turn.get("name"), turn.get("parameters") or {}
        if not isinstance(name, str) or not isinstance(parameters, dict):
            raise Unusable("a tool turn without name or parameters", task=task)
        seen = turn.get("observation")
        observation = seen if isinstance(seen, str) else json.dumps(seen, ensure_ascii=False)
        return [
            Message("assistant", dialogue.tool_call(parameters), loss, name),
            Message("observation", observation),
        ]
    if role not in ROLES:
        raise Unusable("unknown role", detail=f"allowed: {', '.join(ROLES)}, tool", task=task)
    content, metadata = turn.get("content"), turn.get("metadata", "")
    if not isinstance(content, str) or not isinstance(metadata, str):
        raise Unusable("a content is not a text", task=task)
    known: Role = role
    return [Message(known, content, loss, metadata)]
