"""Which columns of a record hold the prompt and the reply. Does not know tasks or files."""

from __future__ import annotations

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
)


def pair(record: dict[str, Any], config: SourceConfig) -> tuple[str, list[str]]:
    """The prompt and the replies (several where the column holds a list) of a record.

    Raises:
        Unusable: a column is missing or holds no text.
    """
    prompt_column, response_column = _names(record, config)
    prompt = ""
    for column in prompt_column.split("+"):
        prompt = _join(prompt, _text(record, column))
    replies = record[response_column] if isinstance(record.get(response_column), list) else None
    if replies and all(isinstance(reply, str) for reply in replies):
        return prompt, list(replies)
    return prompt, [_text(record, response_column)]


def _names(record: dict[str, Any], config: SourceConfig) -> tuple[str, str]:
    for prompt, response in KNOWN_PAIRS:
        prompt = prompt if config.prompt_column == "auto" else config.prompt_column
        response = response if config.response_column == "auto" else config.response_column
        if response in record and all(column in record for column in prompt.split("+")):
            return prompt, response
    wanted = f"data.prompt_column={config.prompt_column}, data.response_column={config.response_column}"
    raise Unusable("no such columns", detail=f"{wanted}; the record has {', '.join(list(record)[:8])}")


def _text(record: dict[str, Any], column: str) -> str:
    value = record[column]
    if value is None:
        return ""
    if not isinstance(value, str):
        raise Unusable("not a text", detail=f"column {column!r}")
    return value


def _join(first: str, second: str) -> str:
    """An instruction that ends with a colon runs straight into its text; otherwise a new line parts them."""
    if not first or not second or first.endswith(("：", ":", "\n")):
        return first + second
    return f"{first}\n{second}"
