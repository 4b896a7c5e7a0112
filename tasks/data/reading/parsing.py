"""One JSON text to a value that can be trained on, or the problem that it has. Fast where nothing is odd."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any, NoReturn

import orjson

#: Deeper values cannot be written back or sent to another process: the interpreter's stack ends near 1,000.
_MAX_DEPTH = 200
#: From here on orjson makes floats of whole numbers.
_BIG = float(1 << 63)
_NOT_TEXT = re.compile("[\ud800-\udfff]")
_JSON_NAMES = {list: "array", str: "string", int: "number", float: "number", bool: "boolean", type(None): "null"}


@dataclass(slots=True)  # not frozen: a million are made, and freezing doubles what that takes
class Record:
    """One record: its value, or the ``problem`` (a kind, with ``detail`` on the position) that it has.

    ``line`` is the 1-based line on which it starts, ``number`` its 1-based place among the file's records.
    """

    line: int
    number: int
    value: Any = None
    problem: str = ""
    detail: str = ""


def value_of(raw: bytes | str) -> tuple[Any, str, str]:
    """(value, problem, detail) of one JSON text.

    The fast parser keeps the last of two equal keys. It was given none exactly when the text has two quotes for each
    key and each string that came out, those within strings apart.
    """
    try:
        value = orjson.loads(raw)
    except orjson.JSONDecodeError:
        return _strict(raw)
    if type(value) is not dict:
        return _strict(raw)
    quotes = raw.count(b'"' if isinstance(raw, bytes) else '"')  # type: ignore[arg-type]
    expected = _quotes(value, 1)
    if quotes == expected or quotes - _escaped(raw) == expected:
        return value, "", ""
    return _strict(raw)


def _quotes(value: Any, depth: int) -> int:
    """How many quotes a value is written with; below zero where only the strict parser can tell."""
    if depth > _MAX_DEPTH:
        return -(1 << 60)
    if type(value) is dict:
        count, items = 2 * len(value), value.values()
    else:
        count, items = 0, value
    for item in items:
        kind = type(item)
        if kind is str:
            count += 2
        elif kind is dict or kind is list:
            count += _quotes(item, depth + 1)
        elif kind is float and not -_BIG < item < _BIG:
            return -(1 << 60)
    return count


def _escaped(raw: bytes | str) -> int:
    """How many quotes have a backslash before them; -1 if such a backslash may be escaped itself."""
    text = raw if isinstance(raw, bytes) else raw.encode("utf-8", "surrogatepass")
    return -1 if b'\\\\"' in text else text.count(b'\\"')


def _strict(raw: bytes | str) -> tuple[Any, str, str]:
    text = raw.decode("utf-8", "surrogateescape") if isinstance(raw, bytes) else raw
    text = text.strip(" \t\ufeff")
    try:
        value = _DECODER.decode(text)
    except (ValueError, RecursionError) as error:
        return None, *problem_of(error)
    problem, detail = _check(value, text)
    return (None if problem else value), problem, detail


def problem_of(error: ValueError | RecursionError, column: int | None = None) -> tuple[str, str]:
    """(problem, detail) of what a JSON parser raised; never the content."""
    if isinstance(error, RecursionError):
        return "broken JSON", "nested too deeply"
    if isinstance(error, _DuplicateKey):
        return "duplicate key", str(error)
    if isinstance(error, json.JSONDecodeError):
        return "broken JSON", f"{error.msg.rstrip(':')}, column {error.colno if column is None else column}"
    return "broken JSON", str(error)[:80]


def _check(value: Any, text: str) -> tuple[str, str]:
    """("", "") for an object that can be written back as UTF-8."""
    if not isinstance(value, dict):
        return "not an object", f"a JSON {_JSON_NAMES[type(value)]}"
    if _depth(value) > _MAX_DEPTH:
        return "broken JSON", "nested too deeply"
    if _NOT_TEXT.search(text):
        return "broken characters", "bytes that are not in the file's encoding"
    if "\\u" in text and _NOT_TEXT.search(json.dumps(value, ensure_ascii=False)):
        return "broken characters", "half of a surrogate pair"
    return "", ""


def _depth(value: Any) -> int:
    """Levels of objects and arrays; counting ends just above the limit."""
    depth, level = 0, [value]
    while level and depth <= _MAX_DEPTH:
        depth += 1
        inner = [item for holder in level for item in (holder.values() if isinstance(holder, dict) else holder)]
        level = [item for item in inner if isinstance(item, dict | list)]
    return depth


class _DuplicateKey(ValueError):
    """A key occurs twice in one object."""


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in value if keys.count(key) > 1)
        raise _DuplicateKey(f"{twice[:40]!r} occurs {keys.count(twice)} times")
    return value


def _float(text: str) -> float:
    value = float(text)
    if value in (float("inf"), float("-inf")):
        raise ValueError("a number beyond the range of floats")
    return value


def _int(text: str) -> int:
    try:
        return int(text)
    except ValueError as error:
        raise ValueError(f"a number of {len(text)} digits") from error


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")


_DECODER = json.JSONDecoder(object_pairs_hook=_object, parse_float=_float, parse_int=_int, parse_constant=_refuse)
