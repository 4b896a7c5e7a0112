"""Checks that hold for every dialogue, whatever form it was saved in, and what is mended in it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tasks.conversation import Message, Row
from tasks.data.source import SourceConfig, Unusable

TRIMMED = "turns behind the last reply left out"


def row(
    messages: Sequence[Message],
    row_id: str,
    config: SourceConfig,
    *,
    task: str,
    metric: str,
    fields: dict[str, Any],
) -> tuple[Row, str]:
    """The row of a dialogue, which ends with its last reply; and a note where turns were cut behind it.

    Raises:
        Unusable: there is no prompt, no reply or nothing to learn.
    """
    last = max((i for i, message in enumerate(messages) if message.role == "assistant"), default=-1)
    if last < 0:
        raise Unusable("no reply", task=task)
    kept = tuple(messages[: last + 1])
    if all(message.role in ("system", "assistant") for message in kept):
        raise Unusable("no prompt", task=task)
    if not kept[-1].content.strip():
        raise Unusable("empty reply", task=task)
    if not any(message.learned for message in kept):
        raise Unusable("nothing to learn", detail="every reply has loss false", task=task)
    if config.system_prompt is not None and kept[0].role != "system":
        kept = (Message("system", config.system_prompt), *kept)
    return Row(row_id, kept, task, metric, fields), TRIMMED if last + 1 < len(messages) else ""


def turns(record: dict[str, Any], column: str, task: str) -> list[dict[str, Any]]:
    """The list of turns in a record.

    Raises:
        Unusable: it is missing, empty or not a list of objects.
    """
    value = record.get(column)
    if not isinstance(value, list):
        raise Unusable(f"no list {column!r}", detail=f"the record has {', '.join(list(record)[:8])}", task=task)
    if not value:
        raise Unusable("empty dialogue", task=task)
    if not all(isinstance(turn, dict) for turn in value):
        raise Unusable("a turn is not an object", task=task)
    return value


def tool_call(arguments: dict[str, Any]) -> str:
    """A tool call as ChatGLM3 writes it; the tool's name is the message's metadata. Values become texts.

    Source: THUDM/ChatGLM3, the documented tool format.
    """
    listed = ", ".join(f"{name}={str(value)!r}" for name, value in arguments.items())
    return f"```python\ntool_call({listed})\n```"
