"""AdvertiseGen: attributes of a garment to an advertisement, {"content", "summary"} or {"prompt", "response"}.

A list of summaries, in any split, gives the first to learn and all of them as ``references``.

Source: the data set's own files and their copies in public repositories.
"""

from __future__ import annotations

import re
from typing import Any, Literal

from tasks.conversation import Row
from tasks.data import columns
from tasks.data.source import Claim, Draft, SourceConfig, Unusable, single_turn

#: What every prompt of the data set looks like, whatever its columns are called.
_ATTRIBUTES = re.compile(r"[^#*\s]+#[^*]*(\*[^#*\s]+#[^*]*)*")


class Config(SourceConfig):
    """Attribute lists and their advertisement texts."""

    source: Literal["advertisegen"] = "advertisegen"


def convert(record: dict[str, Any], row_id: str, config: Config) -> Draft:
    """Attributes as the prompt, the first summary as the reply."""
    try:
        content, summaries = columns.pair(record, config)
    except Unusable as error:
        raise Unusable(error.reason, detail=error.detail, task="advertisegen") from error
    summary, fields = columns.answers(summaries)
    return Draft(Row(row_id, single_turn(content, summary), "advertisegen", "generation", fields))


def recognise(record: dict[str, Any]) -> Claim | None:
    """content and summary, or prompt and response where the prompt is a list of attributes."""
    if isinstance(record.get("content"), str) and isinstance(record.get("summary"), str | list):
        return Claim(8, "content and summary")
    prompt = record.get("prompt")
    if isinstance(prompt, str) and "response" in record and _ATTRIBUTES.fullmatch(prompt):
        return Claim(7, "prompt and response, the prompt a list of attributes")
    return None
