"""Writes rows as files that other tools read, one JSON object a line.

What a form cannot hold is left out as a whole row and counted with its reason: a dialogue is never written changed.
What every form but PromptCBLUE's leaves behind are the fields that only scoring needs (choices, references, ids).

Source: THUDM/ChatGLM3 finetune_demo; OpenAI's fine-tuning format; hiyouga/LLaMA-Factory data/README (sharegpt and
alpaca); michael-wzhu/PromptCBLUE.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from tasks.conversation import Message, Row
from tasks.data import dialogue
from tasks.data.source import ExportFormat

FORMATS: tuple[ExportFormat, ...] = get_args(ExportFormat)
#: Of the files, whatever the form.
SUFFIX = ".jsonl"

LEARNING = "says which turns are learned"
SYSTEM = "system message"
TOOLS = "tools"
SEVERAL_TURNS = "several turns"
SEVERAL_SYSTEMS = "more than one system message"
EMPTY_SYSTEM = "empty system message"
NOT_ALTERNATING = "turns that do not alternate"
EMPTY = "empty prompt or reply"
UNREADABLE_CALL = "tool call that is not name and arguments"
CALL_WITHOUT_RESULT = "tool calls without one result each"
METADATA = "metadata of a message"


@dataclass(frozen=True)
class Exported:
    """How many rows were written, and how many were not, by what the form cannot hold."""

    rows: int
    skipped: dict[str, int]


class _Unfit(Exception):
    """A row that the form cannot hold; the text says what."""


def write(path: Path, rows: Iterable[Row], format: ExportFormat) -> Exported:
    """Write the rows that the form can hold to a new file (UTF-8, LF), as a stream."""
    written, skipped = 0, Counter[str]()
    with path.open("w", encoding="utf-8", newline="\n") as file:
        for row in rows:
            try:
                value = _WRITERS[format](row)
            except _Unfit as error:
                skipped[str(error)] += 1
                continue
            file.write(json.dumps(value, ensure_ascii=False) + "\n")
            written += 1
    return Exported(written, dict(sorted(skipped.items())))


def _chatglm3(row: Row) -> dict[str, Any]:
    tools, messages = _without_tools(row.messages)
    turns: list[dict[str, Any]] = []
    for i, message in enumerate(messages):
        call = _chatglm3_call(messages[i - 1], message) if message.role == "observation" and i else None
        if call is not None:
            turns[-1] = call
            continue
        turn: dict[str, Any] = {"role": message.role, "content": message.content}
        if message.metadata:
            turn["metadata"] = message.metadata
        if message.learn is not None:
            turn["loss"] = message.learn
        turns.append(turn)
    return {**({} if tools is None else {"tools": tools}), "conversations": turns}


def _chatglm3_call(call: Message, result: Message) -> dict[str, Any] | None:
    """The turn of role tool that a call and its observation are, or None where it cannot hold them."""
    arguments = dialogue.tool_arguments(call.content) if call.role == "assistant" and call.metadata else None
    if arguments is None or result.learn is not None or result.metadata:
        return None
    turn = {"role": "tool", "name": call.metadata, "parameters": arguments, "observation": result.content}
    return turn if call.learn is None else {**turn, "loss": call.learn}


def _messages(row: Row) -> dict[str, Any]:
    tools, messages = _without_tools(row.messages)
    turns: list[dict[str, Any]] = []
    open_calls: list[str] = []
    count = 0
    for message in messages:
        _check_metadata(message)
        if message.role == "observation":
            if not open_calls:
                raise _Unfit(CALL_WITHOUT_RESULT)
            _weight(message)
            turns.append({"role": "tool", "tool_call_id": open_calls.pop(0), "content": message.content})
        elif message.metadata:
            count += 1
            function = {"name": message.metadata, "arguments": json.dumps(_arguments(message), ensure_ascii=False)}
            call: dict[str, Any] = {"id": f"call_{count}", "type": "function", "function": function}
            open_calls.append(call["id"])
            before = turns[-1] if turns else {}
            if "tool_calls" in before and before.get("weight") == _weight(message).get("weight"):
                before["tool_calls"].append(call)
            else:
                _all_answered(open_calls[:-1])
                turns.append({"role": "assistant", "content": None, "tool_calls": [call], **_weight(message)})
        else:
            _all_answered(open_calls)
            turns.append({"role": message.role, "content": message.content, **_weight(message)})
    _all_answered(open_calls)
    return {"messages": turns, **({} if tools is None else {"tools": dialogue.wrapped_tools(tools)})}


def _all_answered(open_calls: Sequence[str]) -> None:
    if open_calls:
        raise _Unfit(CALL_WITHOUT_RESULT)


def _weight(message: Message) -> dict[str, int]:
    """The service weighs the assistant's messages only."""
    if message.role == "assistant":
        return {} if message.learn is None else {"weight": int(message.learn)}
    if message.learned:
        raise _Unfit(LEARNING)
    return {}


def _sharegpt(row: Row) -> dict[str, Any]:
    tools, system, body = _plain_learning(row)
    speakers = {"user": "human", "assistant": "gpt", "observation": "observation"}
    turns = []
    for i, message in enumerate(body):
        # readers take turns 1, 3, 5... for prompts and drop the row otherwise
        if (message.role == "assistant") != bool(i % 2):
            raise _Unfit(NOT_ALTERNATING)
        _check_metadata(message)
        if message.metadata:
            call = {"name": message.metadata, "arguments": _arguments(message)}
            turns.append({"from": "function_call", "value": json.dumps(call, ensure_ascii=False)})
        else:
            turns.append({"from": speakers[message.role], "value": message.content})
    value: dict[str, Any] = {"conversations": turns}
    if system:
        value["system"] = system
    if tools is not None:
        value["tools"] = json.dumps(tools, ensure_ascii=False)
    return value


def _alpaca(row: Row) -> dict[str, Any]:
    system, texts = _pairs(row)
    history = [list(pair) for pair in zip(texts[:-2:2], texts[1:-2:2], strict=True)]
    value: dict[str, Any] = {"instruction": texts[-2], "input": "", "output": texts[-1]}
    return {**value, **({"system": system} if system else {}), **({"history": history} if history else {})}


def _promptcblue(row: Row) -> dict[str, Any]:
    system, texts = _pairs(row)
    if system:
        raise _Unfit(SYSTEM)
    if len(texts) > 2:
        raise _Unfit(SEVERAL_TURNS)
    if not all(text.strip() for text in texts):
        # in this form an empty target is one to be predicted
        raise _Unfit(EMPTY)
    return {
        "input": texts[0],
        "target": texts[1],
        "answer_choices": row.fields.get("answer_choices"),
        "task_type": row.fields.get("task_type", row.metric),
        "task_dataset": row.task,
        "sample_id": row.fields.get("sample_id", row.id),
    }


_WRITERS: dict[ExportFormat, Callable[[Row], dict[str, Any]]] = {
    "chatglm3": _chatglm3,
    "messages": _messages,
    "sharegpt": _sharegpt,
    "alpaca": _alpaca,
    "promptcblue": _promptcblue,
}


def _without_tools(messages: tuple[Message, ...]) -> tuple[list[Any] | None, tuple[Message, ...]]:
    """The tools offered in the first message, None for none, and the messages without it."""
    tools = dialogue.offered_tools(messages[0])
    return (tools, messages[1:]) if isinstance(tools, list) and tools else (None, messages)


def _plain_learning(row: Row) -> tuple[list[Any] | None, str, tuple[Message, ...]]:
    """The tools, the system text and the turns of a row, for a form in which every reply is learned and no more."""
    tools, messages = _without_tools(row.messages)
    if any(message.learned != (message.role == "assistant") for message in messages):
        raise _Unfit(LEARNING)
    head = messages[0] if messages[0].role == "system" else None
    body = messages if head is None else messages[1:]
    if any(message.role == "system" for message in body):
        raise _Unfit(SEVERAL_SYSTEMS)
    if head is not None:
        _check_metadata(head)
        if not head.content:
            raise _Unfit(EMPTY_SYSTEM)
    return tools, "" if head is None else head.content, body


def _pairs(row: Row) -> tuple[str, list[str]]:
    """The system text, and the texts of questions and replies in turn, of a dialogue without tools."""
    tools, system, body = _plain_learning(row)
    if tools is not None or any(message.role == "observation" or message.metadata for message in body):
        raise _Unfit(TOOLS)
    if [message.role for message in body] != ["user", "assistant"] * (len(body) // 2):
        raise _Unfit(NOT_ALTERNATING)
    return system, [message.content for message in body]


def _check_metadata(message: Message) -> None:
    """Metadata is a tool's name; on other turns it is ChatGLM3's own."""
    if message.metadata and message.role != "assistant":
        raise _Unfit(METADATA)


def _arguments(message: Message) -> dict[str, str]:
    arguments = dialogue.tool_arguments(message.content)
    if arguments is None:
        raise _Unfit(UNREADABLE_CALL)
    return arguments
