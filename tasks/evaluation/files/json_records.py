"""The objects of a JSONL file or of a JSON array, each with the line it starts on, so that errors can name it.

UTF-8 with or without a byte order mark; LF, CRLF or CR line ends. Does not know what the objects mean.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from tasks.errors import DataError

_FORMS = "read are JSONL (an object a line), a JSON array of objects, and the official {task: [{sample_id, answer}]}"
_BLANK = re.compile(r"[ \t\n]*")
_SHOWN_CHARACTERS = 60
_ANSWER = {"sample_id", "answer"}


@dataclass(frozen=True)
class Records:
    """A file's objects, and the line that each starts on."""

    path: Path
    rows: list[dict[str, Any]]
    lines: list[int]

    def where(self, index: int) -> str:
        return f"{self.path}:{self.lines[index]}"


def read(path: Path) -> Records:
    """Read the rows of a file.

    Raises:
        DataError: no such file, not UTF-8, no rows, broken JSON, or something that is no object.
    """
    text = _utf8(path)
    found = list(_elements(path, text) if text.lstrip().startswith(b"[") else _lines(path, text))
    if not found:
        raise DataError(f"{path}: holds no rows; {_FORMS}")
    for line, row in found:
        if not isinstance(row, dict):
            raise DataError(f"{path}:{line}: {shown(row)} is no row; every row must be a JSON object")
    return Records(path, [row for _, row in found], [line for line, _ in found])


def is_structured(path: Path) -> bool:
    """Whether a file is the official scorer's ``{task: [{"sample_id", "answer"}]}``.

    A row of another program may hold lists of objects too (the messages of a dialogue): every object must have both.

    Raises:
        DataError: no such file, or not UTF-8.
    """
    text = _utf8(path).lstrip()
    if not text.startswith(b"{"):
        return False
    for part in (text.splitlines()[0], text):  # an object in one line, or over several
        with suppress(json.JSONDecodeError):
            value = _parsed(part)
            return isinstance(value, dict) and bool(value) and all(map(_are_answers, value.values()))
    return False


def shown(value: Any) -> str:
    """A value as an error shows it: JSON, cut where it is long."""
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _SHOWN_CHARACTERS else text[:_SHOWN_CHARACTERS] + "…"


def _are_answers(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(one, dict) and one.keys() >= _ANSWER for one in value)


def _utf8(path: Path) -> bytes:
    """The file's text without its byte order mark."""
    if not path.is_file():
        raise DataError(f"{path}: {'is a folder; name a file in it' if path.is_dir() else 'no such file'}")
    data = path.read_bytes()
    try:
        data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = len((data[: error.start] + b".").splitlines())
        raise DataError(
            f"{path}:{line}: not UTF-8 (byte 0x{data[error.start]:02X}); save the file as UTF-8, for GBK with "
            f"iconv -f GB18030 -t UTF-8 {path.name} > NEW"
        ) from error
    return data.removeprefix(b"\xef\xbb\xbf")


def _parsed(text: bytes) -> Any:
    """The JSON value. Python's reader comes second: it takes what Python writes and orjson refuses (NaN, for one)."""
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        try:
            return json.loads(text)
        except RecursionError as error:
            raise json.JSONDecodeError("Nested too deeply", "", 0) from error


def _lines(path: Path, text: bytes) -> Iterator[tuple[int, Any]]:
    """(line, value) of JSONL. Bytes are split at LF, CRLF and CR only, none of which may stand within a JSON text."""
    for number, line in enumerate(text.splitlines(), start=1):
        if line.strip():
            try:
                yield number, _parsed(line)
            except json.JSONDecodeError as error:
                problem = f"{error.msg} at character {error.pos + 1} of {shown(line.decode('utf-8'))}"
                raise DataError(f"{path}:{number}: broken JSON: {problem}; {_FORMS}") from error


def _elements(path: Path, data: bytes) -> Iterator[tuple[int, Any]]:
    """(line, value) of a JSON array's elements."""
    text = data.decode("utf-8").replace("\r\n", "\n").replace("\r", "\n")
    decoder = json.JSONDecoder()
    line, counted, place = 1, 0, _after_blank(text, text.index("[") + 1)
    try:
        while text[place : place + 1] != "]":
            line, counted = line + text.count("\n", counted, place), place
            value, place = decoder.raw_decode(text, place)
            yield line, value
            place = _after_blank(text, place)
            if text[place : place + 1] == ",":
                place = _after_blank(text, place + 1)
            elif text[place : place + 1] != "]":
                raise json.JSONDecodeError("Expecting ',' or ']'", text, place)
        if (end := _after_blank(text, place + 1)) < len(text):
            raise json.JSONDecodeError("Text behind the array", text, end)
    except json.JSONDecodeError as error:
        raise DataError(f"{path}:{error.lineno}: broken JSON: {error.msg}; {_FORMS}") from error
    except RecursionError as error:
        raise DataError(f"{path}:{line}: broken JSON: Nested too deeply; {_FORMS}") from error


def _after_blank(text: str, place: int) -> int:
    match = _BLANK.match(text, place)
    assert match is not None
    return match.end()
