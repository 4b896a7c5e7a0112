"""AdvertiseGen: attributes of a garment to an advertisement, {"content", "summary"} or {"prompt", "response"}.

Rows of validation and test that share a content get all its summaries as ``references``.

Source: the data set's own files and their copies in public repositories.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

from tasks.conversation import Row
from tasks.data import columns
from tasks.data.source import DataFile, Entry, SourceConfig, Unusable, entries, single_turn


class Config(SourceConfig):
    """Attribute lists and their advertisement texts."""

    source: Literal["advertisegen"] = "advertisegen"


def read(file: DataFile, config: Config) -> Iterator[Entry]:
    """One entry a record."""
    return entries(file, lambda record, row_id: (_row(record, row_id, config), ""))


def _row(record: dict[str, Any], row_id: str, config: Config) -> Row:
    content, summaries = columns.pair(record, config)
    if not content.strip():
        raise Unusable("empty prompt", task="advertisegen")
    summaries = [summary for summary in summaries if summary.strip()]
    if not summaries:
        raise Unusable("empty reply", task="advertisegen")
    fields = {"references": summaries} if len(summaries) > 1 else {}
    messages = single_turn(content, summaries[0], config.system_prompt)
    return Row(row_id, messages, "advertisegen", "generation", fields)
