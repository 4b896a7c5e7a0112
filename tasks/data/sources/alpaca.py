"""Alpaca's rows: {"instruction", "input", "output"}, with ``system`` and ``history`` ([[question, answer], ...]).

The prompt is the instruction, then the input on a new line (right behind it where the instruction ends with a
colon). A list of outputs gives the first that is not empty to learn, and all of them as ``references``.

Source: tatsu-lab/stanford_alpaca; hiyouga/LLaMA-Factory, data/README (alpaca format).
"""

from __future__ import annotations

from typing import Any, Literal

from tasks.conversation import Message, Row
from tasks.data import columns
from tasks.data.source import Claim, Draft, SourceConfig, Unusable
from tasks.schema import Field

_NAMES = ("instruction", "input", "output")


class Config(SourceConfig):
    """Instructions and their answers; in validation and test the last answer is predicted."""

    source: Literal["alpaca"] = "alpaca"
    task: str = Field("alpaca", min_length=1, doc="Name of the task in reports.")
    metric: Literal["generation", "chat"] = Field("generation", doc="Metric module that scores the replies.")


def convert(record: dict[str, Any], row_id: str, config: Config) -> Draft:
    """``system``, the turns of ``history``, then the prompt and its reply."""
    try:
        prompt, replies = columns.pair(record, config)
        system = columns.text(record, "system") if "system" in record else ""
        earlier = history(record)
    except Unusable as error:
        raise Unusable(error.reason, detail=error.detail, task=config.task) from error
    reply, fields = columns.answers(replies)
    messages = [Message("system", system)] if system else []
    messages += [*earlier, Message("user", prompt), Message("assistant", reply)]
    return Draft(Row(row_id, tuple(messages), config.task, config.metric, fields))


def recognise(record: dict[str, Any]) -> Claim | None:
    """instruction and output, mostly with input."""
    if isinstance(record.get("instruction"), str) and isinstance(record.get("output"), str | list):
        return Claim(6, f"{', '.join(name for name in _NAMES if name in record)}")
    return None


def history(record: dict[str, Any]) -> list[Message]:
    """The earlier questions and answers of a record.

    Raises:
        Unusable: not a list of pairs of texts.
    """
    messages: list[Message] = []
    listed = record.get("history") or []
    if not isinstance(listed, list):
        raise Unusable("history is not a list of question and answer")
    for turn in listed:
        if not (isinstance(turn, list) and len(turn) == 2 and all(isinstance(text, str) for text in turn)):
            raise Unusable("history is not a list of question and answer", detail=f"turn {len(messages) // 2 + 1}")
        messages += [Message("user", turn[0]), Message("assistant", turn[1])]
    return messages
