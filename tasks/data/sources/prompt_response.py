"""Any two columns as prompt and reply, of JSON or CSV: ``prompt_column`` (several joined by '+') and
``response_column``; auto takes the first known pair that a record has (``tasks.data.columns.KNOWN_PAIRS``).

``history`` ([[question, answer], ...]) comes before the prompt where a record has it. A list of replies gives the
first that is not empty to learn, and all of them as ``references``.

Source: ChatGLM2's and ChatGLM3's input-output form, and the many data sets of its kind.
"""

from __future__ import annotations

from typing import Any, Literal

from tasks.conversation import Row
from tasks.data import columns
from tasks.data.source import Claim, Draft, SourceConfig, Unusable, single_turn
from tasks.data.sources.alpaca import history
from tasks.schema import Field


class Config(SourceConfig):
    """Prompts and replies in columns of any name."""

    source: Literal["prompt_response"] = "prompt_response"
    task: str = Field("prompt_response", min_length=1, doc="Name of the task in reports.")
    metric: Literal["generation", "chat"] = Field("generation", doc="Metric module that scores the replies.")


def convert(record: dict[str, Any], row_id: str, config: Config) -> Draft:
    """The turns of ``history``, then the prompt and its reply."""
    try:
        prompt, replies = columns.pair(record, config)
        earlier = history(record)
    except Unusable as error:
        raise Unusable(error.reason, detail=error.detail, task=config.task) from error
    reply, fields = columns.answers(replies)
    messages = (*earlier, *single_turn(prompt, reply))
    return Draft(Row(row_id, messages, config.task, config.metric, fields))


def recognise(record: dict[str, Any]) -> Claim | None:
    """A known pair of columns."""
    found = columns.known_pair(record)
    return None if found is None else Claim(4, f"{found[0].replace('+', ', ')} and {found[1]}")
