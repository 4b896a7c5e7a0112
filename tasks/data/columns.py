"""Which columns of a record hold the prompt and the reply. Does not know tasks or files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from tasks.data.source import SourceConfig, Unusable

#: Pairs that data sets use, the first that a record has is taken. A prompt may join several columns with '+'.
KNOWN_PAIRS = (
    ("instruction+input", "output"),
    ("input", "target"),
    ("content", "summary"),
    ("prompt", "response"),
    ("text", "answer"),
    ("input", "output"),
    ("instruction", "output"),
    ("question", "answer"),
    ("query", "response"),
    ("ask", "answer"),
    ("q", "a"),
)


def pair(record: Mapping[str, Any], config: SourceConfig) -> tuple[str, list[str]]:
    """The prompt and the replies (several where the column holds a list) of a record.

    Raises:
        Unusable: a column is missing or holds no text.
    """
    names = _names(tuple(record), config.prompt_column, config.response_column)
    if names is None:
        wanted = f"data.prompt_column={config.prompt_column}, data.response_column={config.response_column}"
        raise Unusable("no such columns", detail=f"{wanted}; {have(record)}")
    prompt_columns, response_column = names
    prompt = text(record, prompt_columns[0])
    for column in prompt_columns[1:]:
        prompt = join(prompt, text(record, column))
    replies = record.get(response_column)
    if isinstance(replies, list) and all(isinstance(reply, str) for reply in replies):
        return prompt, list(replies) or [""]
    return prompt, [text(record, response_column)]


def known_pair(record: Mapping[str, Any]) -> tuple[str, str] | None:
    """The known pair of columns that a record has, both of them holding texts (the reply perhaps several)."""
    for prompt, response in KNOWN_PAIRS:
        if response in record and all(isinstance(record.get(column), str) for column in prompt.split("+")):
            return (prompt, response) if isinstance(record[response], str | list) else None
    return None


def answers(replies: Sequence[str]) -> tuple[str, dict[str, Any]]:
    """The reply to learn, which is the first that is not empty, and the fields of a row: all of several replies."""
    if len(replies) == 1:
        return replies[0], {}
    filled = [reply for reply in replies if reply.strip()]
    if not filled:
        return replies[0] if replies else "", {}
    return filled[0], {"references": filled} if len(filled) > 1 else {}


def text(record: Mapping[str, Any], column: str) -> str:
    """The text in a column; null is the empty text.

    Raises:
        Unusable: the column is missing or holds something else.
    """
    if column not in record:
        raise Unusable("no such columns", detail=f"no column {column!r}; {have(record)}")
    value = record[column]
    if value is None:
        return ""
    if not isinstance(value, str):
        raise Unusable("not a text", detail=f"column {column!r}")
    return value


def have(record: Mapping[str, Any]) -> str:
    """The columns of a record, in words; cut, because a key may be as long as its writer likes."""
    return f"the record has {', '.join(str(key)[:40] for key in list(record)[:8])}"


def join(first: str, second: str) -> str:
    """An instruction that ends with a colon runs straight into its text; otherwise a new line parts them."""
    if not first or not second or first.endswith(("：", ":", "\n")):
        return first + second
    return f"{first}\n{second}"


@lru_cache(maxsize=64)
def _names(columns: tuple[str, ...], prompt_column: str, response_column: str) -> tuple[list[str], str] | None:
    """The columns of the prompt and the column of the reply, among those that a record has; None if it has them not."""
    for prompt, response in KNOWN_PAIRS:
        wanted = (prompt if prompt_column == "auto" else prompt_column).split("+")
        reply = response if response_column == "auto" else response_column
        if reply in columns and all(column in columns for column in wanted):
            return wanted, reply
    return None
