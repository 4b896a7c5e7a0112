"""Bytes of a file to records: encodings, line ends, and the shapes in which people save JSON and CSV.

A record that cannot be read is a record with a problem; it never hides the ones behind it. Does not know columns.
"""

from __future__ import annotations

import codecs
import csv
import io
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tasks.errors import DataError

#: A guessed encoding is believed when no more than this share of its non-ASCII characters fails to decode.
_MAX_BAD_SHARE = 0.02
_NOT_TEXT = re.compile("[\ud800-\udfff]")
_LINE_END = re.compile(r"\r\n|\n|\r")
_BLANK = re.compile(r"[ \t\r\n\ufeff]*")
_SEPARATOR = re.compile(r"[ \t\r\n,]*")
_BOMS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)


@dataclass(frozen=True)
class Record:
    """One record: its value, or the ``problem`` (a kind, with ``detail`` on the position) that it has.

    ``line`` is the 1-based line on which it starts, ``number`` its 1-based place among the file's records.
    """

    line: int
    number: int
    value: Any = None
    problem: str = ""
    detail: str = ""


def records(path: Path) -> Iterator[Record]:
    """The records of a JSON, JSONL, concatenated JSON or CSV file; the content decides, not the suffix.

    Raises:
        DataError: the file cannot be read, or is in no known encoding.
    """
    text = decode(path)
    start = text[_end(_BLANK, text, 0) :][:1]
    if path.suffix.lower() in (".csv", ".tsv") and start not in ("{", "["):
        found = _csv(text, "\t" if path.suffix.lower() == ".tsv" else ",")
    elif start == "[":
        found = _concatenated(text, text.index("[") + 1, closing="]")
    elif start != "{" or _is_lines(text):
        found = _lines(text)
    else:
        found = _concatenated(text, 0)
    for number, (line, value, problem, detail) in enumerate(found, start=1):
        yield Record(line, number, value, problem, detail)


def decode(path: Path) -> str:
    """The text of a file in UTF-8, UTF-16 or GB18030, BOM removed.

    Single bytes that do not decode stay as lone surrogates, so that only their record is lost.

    Raises:
        DataError: the file cannot be read, or fits none of these encodings.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error
    for bom, encoding in _BOMS:
        if data.startswith(bom):
            return data[len(bom) :].decode(encoding, errors="surrogateescape" if encoding == "utf-8" else "replace")
    if wide := _utf16_without_bom(data):
        return data.decode(wide, errors="replace")
    shares = {}
    for encoding in ("utf-8", "gb18030"):
        text = data.decode(encoding, errors="surrogateescape")
        bad = len(_NOT_TEXT.findall(text))
        if not bad:
            return text
        shares[encoding] = bad / sum(not c.isascii() for c in text)
    best = min(shares, key=lambda name: shares[name])
    if shares[best] > _MAX_BAD_SHARE or b"\0" in data:
        raise DataError(
            f"{path}: unknown encoding: neither UTF-8, UTF-16 nor GB18030 (GBK); save it as UTF-8 and try again"
        )
    return data.decode(best, errors="surrogateescape")


def _utf16_without_bom(data: bytes) -> str:
    """JSON and CSV hold ASCII punctuation, so UTF-16 text has many zero bytes, all on one side."""
    head = data[:4096]
    even, odd = head[0::2].count(0), head[1::2].count(0)
    if max(even, odd) * 20 < len(head) or len(data) % 2:
        return ""
    return "utf-16-be" if even > odd * 4 else "utf-16-le" if odd > even * 4 else ""


_Raw = tuple[int, Any, str, str]


def _is_lines(text: str) -> bool:
    """Whether some line at column 0 is a whole object; broken lines around it do not matter."""
    return any(
        line.startswith("{") and line.rstrip().endswith("}") and not _parse(line)[1] for line in _split_lines(text)
    )


def _split_lines(text: str) -> Iterator[str]:
    """Lines at LF, CRLF or CR only: U+2028 and the like belong to the text, unlike in str.splitlines."""
    start = 0
    for end in _LINE_END.finditer(text):
        yield text[start : end.start()]
        start = end.end()
    yield text[start:]


def _lines(text: str) -> Iterator[_Raw]:
    for number, line in enumerate(_split_lines(text), start=1):
        if line.strip(" \t\ufeff"):
            yield number, *_parse(line.strip(" \t\ufeff"))


def _parse(text: str) -> tuple[Any, str, str]:
    """(value, problem, detail) of one JSON text."""
    try:
        value = _DECODER.decode(text)
    except (ValueError, RecursionError) as error:
        return None, *_problem(error)
    return value, *_check(value, text)


def _concatenated(text: str, position: int, closing: str = "") -> Iterator[_Raw]:
    """Objects one after another, commas between them allowed; after a broken one, reading goes on at the next
    line that starts an object at the same depth of indentation."""
    line, counted = 1, 0
    while True:
        position = _end(_SEPARATOR if closing else _BLANK, text, position)
        line, counted = line + len(_LINE_END.findall(text, counted, position)), position
        if position == len(text):
            if closing:
                yield line, None, "broken JSON", "the array has no end"
            return
        if closing and text[position] == closing:
            rest = _end(_BLANK, text, position + 1)
            if rest < len(text):
                yield line, None, "broken JSON", "text behind the array's end"
            return
        try:
            value, end = _DECODER.raw_decode(text, position)
            yield line, value, *_check(value, text[position:end])
            position = end
        except (ValueError, RecursionError) as error:
            indent = re.search(r"[ \t]*\Z", text[max(0, position - 200) : position])
            following = re.compile(r"[\r\n]" + (indent[0] if indent else "") + r"(?=\{)").search(text, position + 1)
            problem, detail = _problem(error)
            if following is None:
                yield line, None, problem, f"{detail}; nothing behind it could be read"
                return
            yield line, None, problem, detail
            position = following.end()


def _problem(error: ValueError | RecursionError) -> tuple[str, str]:
    if isinstance(error, RecursionError):
        return "broken JSON", "nested too deeply"
    if isinstance(error, json.JSONDecodeError):
        return "broken JSON", f"{error.msg.rstrip(':')}, column {error.colno}"
    return "broken JSON", str(error)[:80]


def _check(value: Any, text: str) -> tuple[str, str]:
    """("", "") for an object that can be written back as UTF-8."""
    if not isinstance(value, dict):
        return "not an object", f"a JSON {_JSON_NAMES[type(value)]}"
    if _NOT_TEXT.search(text):
        return "broken characters", "bytes that are not in the file's encoding"
    if "\\u" in text and _NOT_TEXT.search(json.dumps(value, ensure_ascii=False)):
        return "broken characters", "half of a surrogate pair"
    return "", ""


_JSON_NAMES = {
    list: "array",
    str: "string",
    int: "number",
    float: "number",
    bool: "boolean",
    type(None): "null",
}


def _csv(text: str, delimiter: str) -> Iterator[_Raw]:
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    header: list[str] = []
    while True:
        line = reader.line_num + 1
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield line, None, "broken CSV", str(error)
            continue
        if not cells:
            continue
        if not header:
            header = [cell.strip() for cell in cells]
        elif len(cells) != len(header):
            yield line, None, "broken CSV", f"{len(cells)} cells under {len(header)} column names"
        elif _NOT_TEXT.search("".join(cells)):
            yield line, None, "broken characters", "bytes that are not in the file's encoding"
        else:
            yield line, dict(zip(header, cells, strict=True)), "", ""


def _end(pattern: re.Pattern[str], text: str, position: int) -> int:
    found = pattern.match(text, position)
    return found.end() if found else position


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is not JSON")


_DECODER = json.JSONDecoder(parse_constant=_refuse)
