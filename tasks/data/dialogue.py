"""What the dialogue formats share: lists of turns, which replies are learned, calls of tools and their offer.

The order of roles and empty texts are ``cleaning``'s matter. Does not know any format's keys.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Mapping
from typing import Any

from tasks.conversation import Message
from tasks.data.columns import have
from tasks.data.source import Claim, Unusable

#: In front of the list of tools, in a system message of its own. Source: THUDM/ChatGLM3 finetune_demo.
TOOLS_PROMPT = "Answer the following questions as best as you can. You have access to the following tools:\n"

_OPENING, _CLOSING = "```python\ntool_call(", ")\n```"


def turns(record: Mapping[str, Any], column: str, task: str) -> list[dict[str, Any]]:
    """The list of turns in a record.

    Raises:
        Unusable: it is missing, empty or not a list of objects.
    """
    value = record.get(column)
    if not isinstance(value, list):
        raise Unusable(f"no list {column!r}", detail=have(record), task=task)
    if not value:
        raise Unusable("empty dialogue", task=task)
    if not all(isinstance(turn, dict) for turn in value):
        raise Unusable("a turn is not an object", task=task)
    return value


def claim(record: Mapping[str, Any], column: str, keys: tuple[str, str], strength: int) -> Claim | None:
    """A claim on records whose ``column`` lists objects of which the first has ``keys``."""
    listed = record.get(column)
    first = listed[0] if isinstance(listed, list) and listed else None
    if not isinstance(first, dict) or not all(key in first for key in keys):
        return None
    return Claim(strength, f"{column} of {keys[0]} and {keys[1]}")


def content(value: Any, task: str) -> str:
    """The text of a turn.

    Raises:
        Unusable: it is something else.
    """
    if not isinstance(value, str):
        raise Unusable("a content is not a text", task=task)
    return value


def learning(turn: Mapping[str, Any], task: str) -> bool | None:
    """Whether a turn is learned, by ``loss`` (ChatGLM3) or ``weight`` (OpenAI); None where neither says.

    Raises:
        Unusable: neither true/1 nor false/0.
    """
    value = turn.get("loss") if turn.get("loss") is not None else turn.get("weight")
    if value is None:
        return None
    if not isinstance(value, int | float) or value not in (0, 1):
        raise Unusable("loss or weight is neither 0 nor 1", task=task)
    return bool(value)


def tool_call(arguments: Mapping[str, Any]) -> str:
    """A tool call as ChatGLM3 writes it; the tool's name is the message's metadata. Values become texts.

    Source: THUDM/ChatGLM3, the documented tool format.
    """
    listed = ", ".join(f"{name}={str(value)!r}" for name, value in arguments.items())
    return f"{_OPENING}{listed}{_CLOSING}"


def tool_arguments(text: str) -> dict[str, str] | None:
    """The arguments that :func:`tool_call` wrote, or None for any other text. Nothing is evaluated but literals."""
    if not (text.startswith(_OPENING) and text.endswith(_CLOSING)):
        return None
    try:
        call = ast.parse(f"f({text[len(_OPENING) : -len(_CLOSING)]})", mode="eval").body
        words = call.keywords if isinstance(call, ast.Call) else []
        arguments = {word.arg: ast.literal_eval(word.value) for word in words if word.arg is not None}
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
    # a name that Python normalises, a value that is not a text, a second call: only what gives the same text counts
    return arguments if tool_call(arguments) == text else None


def named_call(value: Any, learn: bool | None, task: str) -> Message:
    """The assistant's call of {"name", "arguments"}, the arguments an object or its JSON text.

    Raises:
        Unusable: no such object.
    """
    try:
        name, arguments = value["name"], value.get("arguments") or {}
        arguments = json.loads(arguments) if isinstance(arguments, str) else arguments
        if isinstance(name, str) and name and isinstance(arguments, dict):
            return Message("assistant", tool_call(arguments), learn, name)
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError):
        pass
    raise Unusable("a tool call without name and JSON arguments", task=task)


def tools_message(tools: Any) -> Message:
    """The system message that offers tools."""
    return Message("system", TOOLS_PROMPT + json.dumps(tools, indent=4, ensure_ascii=False))


def offered_tools(message: Message) -> Any:
    """The tools that :func:`tools_message` wrote into a message, or None for any other."""
    if message.role != "system" or not message.content.startswith(TOOLS_PROMPT):
        return None
    try:
        tools = json.loads(message.content[len(TOOLS_PROMPT) :], parse_constant=_refuse)
    except (ValueError, RecursionError):
        return None
    return tools if tools_message(tools) == message else None


def flat_tools(tools: Any) -> Any:
    """Tools in ChatGLM3's form, {"name", ...}, of those in OpenAI's, {"type": "function", "function": {...}}."""
    if not isinstance(tools, list):
        return tools
    return [tool["function"] if _is_wrapped(tool) else tool for tool in tools]


def wrapped_tools(tools: list[Any]) -> list[Any]:
    """Tools in OpenAI's form; what is not a flat description of a tool stays as it is."""
    named = [isinstance(tool, dict) and "name" in tool for tool in tools]
    return [{"type": "function", "function": t} if is_flat else t for t, is_flat in zip(tools, named, strict=True)]


def _is_wrapped(tool: Any) -> bool:
    return isinstance(tool, dict) and set(tool) == {"type", "function"} and isinstance(tool["function"], dict)


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is not JSON")
