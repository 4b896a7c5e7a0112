"""ChatGLM3's dialogues: {"conversations": [{"role", "content"}]}, with ``tools``, tool calls and ``loss`` per message.

A row of ``tools`` gets them in a system message of its own, before the dialogue's. A turn of role ``tool`` is the
assistant's call (learned) and the tool's observation (not learned).

Source: THUDM/ChatGLM3 finetune_demo, README and preprocess_utils.
"""

from __future__ import annotations

import json
from typing import Any, Literal

from tasks.conversation import ROLES, Message, Role, Row
from tasks.data import dialogue
from tasks.data.dialogue import TOOLS_PROMPT, tools_message
from tasks.data.source import Claim, Draft, SourceConfig, Unusable
from tasks.schema import Field

__all__ = ["TOOLS_PROMPT", "Config", "convert", "messages_of", "recognise", "tools_message"]


class Config(SourceConfig):
    """Dialogues of one or several turns; in validation and test the last reply is predicted."""

    source: Literal["conversations"] = "conversations"
    task: str = Field("conversations", min_length=1, doc="Name of the task in reports.")
    metric: Literal["generation", "chat"] = Field("generation", doc="Metric module that scores the replies.")


def convert(record: dict[str, Any], row_id: str, config: Config) -> Draft:
    """The messages of ``conversations``, behind the offer of ``tools``."""
    listed = dialogue.turns(record, "conversations", config.task)
    messages = [message for turn in listed for message in messages_of(turn, config.task)]
    if record.get("tools") is not None:
        messages.insert(0, tools_message(record["tools"]))
    return Draft(Row(row_id, tuple(messages), config.task, config.metric))


def recognise(record: dict[str, Any]) -> Claim | None:
    """conversations of role and content; less sure than the sources whose own form this is, chat exports' for one."""
    return dialogue.claim(record, "conversations", ("role", "content"), 7) or dialogue.claim(
        record, "conversations", ("role", "observation"), 7
    )


def messages_of(turn: dict[str, Any], task: str) -> list[Message]:
    """The messages of one turn: two for a tool call with its observation.

    Raises:
        Unusable: an unknown role, a content that is not text.
    """
    role, learn = turn.get("role"), dialogue.learning(turn, task)
    if role == "tool":
        name, parameters = turn.get("name"), turn.get("parameters") or {}
        if not isinstance(name, str) or not isinstance(parameters, dict):
            raise Unusable("a tool turn without name or parameters", task=task)
        seen = turn.get("observation")
        observation = seen if isinstance(seen, str) else json.dumps(seen, ensure_ascii=False)
        return [Message("assistant", dialogue.tool_call(parameters), learn, name), Message("observation", observation)]
    if role not in ROLES:
        raise Unusable("unknown role", detail=f"allowed: {', '.join(ROLES)}, tool", task=task)
    metadata = turn.get("metadata") or ""
    known: Role = role
    return [Message(known, dialogue.content(turn.get("content"), task), learn, dialogue.content(metadata, task))]
