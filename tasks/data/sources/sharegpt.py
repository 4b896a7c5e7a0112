"""ShareGPT's dialogues: {"conversations": [{"from", "value"}], "system", "tools"}, as LLaMA-Factory and others read.

A turn of ``function_call`` is the assistant's call, its value the JSON of {"name", "arguments"} or a list of them;
``observation`` is what the tool returned. ``tools`` is a list or its JSON text.

Source: hiyouga/LLaMA-Factory, data/README (sharegpt format); lm-sys/FastChat.
"""

from __future__ import annotations

import json
from typing import Any, Literal

from tasks.conversation import Message, Role, Row
from tasks.data import columns, dialogue
from tasks.data.source import Claim, Draft, SourceConfig, Unusable
from tasks.schema import Field

_CALL = "function_call"
_ALIASES: dict[Role, str] = {
    "system": "system",
    "user": "human user",
    "assistant": "gpt assistant chatgpt bot model",
    "observation": "observation tool function_response",
}
_ROLES: dict[str, Role] = {alias: role for role, aliases in _ALIASES.items() for alias in aliases.split()}


class Config(SourceConfig):
    """Dialogues of one or several turns; in validation and test the last reply is predicted."""

    source: Literal["sharegpt"] = "sharegpt"
    task: str = Field("sharegpt", min_length=1, doc="Name of the task in reports.")
    metric: Literal["generation", "chat"] = Field("generation", doc="Metric module that scores the replies.")


def convert(record: dict[str, Any], row_id: str, config: Config) -> Draft:
    """The turns of ``conversations``, behind the offer of ``tools`` and the row's ``system``."""
    listed = dialogue.turns(record, "conversations", config.task)
    messages = [message for turn in listed for message in _messages(turn, config.task)]
    if record.get("system"):
        messages.insert(0, Message("system", columns.text(record, "system")))
    if tools := _tools(record, config.task):
        messages.insert(0, dialogue.tools_message(tools))
    return Draft(Row(row_id, tuple(messages), config.task, config.metric))


def recognise(record: dict[str, Any]) -> Claim | None:
    """conversations of from and value."""
    return dialogue.claim(record, "conversations", ("from", "value"), 7)


def _tools(record: dict[str, Any], task: str) -> Any:
    tools = record.get("tools")
    if not isinstance(tools, str) or not tools.strip():
        return None if isinstance(tools, str) else tools
    try:
        return json.loads(tools)
    except (ValueError, RecursionError):
        raise Unusable("tools is not JSON", task=task) from None


def _messages(turn: dict[str, Any], task: str) -> list[Message]:
    speaker, value, learn = turn.get("from"), turn.get("value"), dialogue.learning(turn, task)
    if speaker == _CALL:
        return _calls(value, learn, task)
    role = _ROLES.get(speaker.lower()) if isinstance(speaker, str) else None
    if role is None:
        raise Unusable("unknown role", detail=f"allowed: {', '.join([*_ROLES, _CALL])}", task=task)
    return [Message(role, dialogue.content(value, task), learn)]


def _calls(value: Any, learn: bool | None, task: str) -> list[Message]:
    try:
        parsed = json.loads(value) if isinstance(value, str) else value
    except (ValueError, RecursionError):
        parsed = None
    return [dialogue.named_call(call, learn, task) for call in (parsed if isinstance(parsed, list) else [parsed])]
