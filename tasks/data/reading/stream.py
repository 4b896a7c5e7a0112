"""Files to records: finds the encoding and the shape in which people save JSON and CSV, and the records' bounds.

A file is read in blocks, so its size does not matter. :func:`chunks` is cheap and made for one process, :func:`parse`
is the costly part, for several. A record that cannot be read is a record with a problem; it never hides the ones
behind it. Does not know columns.
"""

from __future__ import annotations

import codecs
import io
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import PurePosixPath

from tasks.data.reading import charsets, csv_stream, json_stream
from tasks.data.reading.archives import Blocks
from tasks.data.reading.charsets import Charset
from tasks.data.reading.parsing import Record, value_of
from tasks.data.source import DataFile

__all__ = ["Chunk", "Record", "chunks", "encoding", "parse", "records"]

#: Bytes from which the shape is told.
HEAD = 4 << 20
#: A chunk ends with the record that makes it longer than this, in characters or bytes.
CHUNK_LENGTH = 4 << 20
#: Bytes of one line; a longer one is a problem instead of memory without end.
LONGEST_LINE = 16 << 20
_LINE_END = re.compile(r"\r\n|\n|\r")
_BLANK = " \t\r\n\ufeff"
_BOM = codecs.BOM_UTF8
_TOO_LONG = bytes(16)  # this very object stands for a line that was too long


@dataclass(frozen=True)
class _Block:
    """A text with a record on every line."""

    text: bytes
    count: int


#: A text that is not parsed yet, or several; a parsed row, or a problem and its detail.
_Item = bytes | str | _Block | dict[str, str] | tuple[str, str]


@dataclass(frozen=True)
class Chunk:
    """Consecutive records of one file, most of them not parsed yet.

    Attributes:
        number: 1-based place of the first record in the file.
        count: how many records.
        lines: the line of each; of the first alone where they are one text.
        items: the JSON text of each, or the record where reading had to parse it already; or one text with a record on
            every line, which whoever parses it splits.
    """

    number: int
    count: int
    lines: list[int]
    items: list[bytes | str | Record] | bytes


def chunks(file: DataFile, size: int = 2000) -> Iterator[Chunk]:
    """The records of a JSON, JSONL, concatenated JSON or CSV file; the content decides, not the suffix.

    Raises:
        DataError: the file cannot be read, is in no known encoding, or has a broken CSV header.
    """
    blocks = Blocks(file)
    last: Chunk | None = None
    for chunk in _gathered(_items(file, blocks), size):
        # only when the next one comes: the last record of a damaged file is looked at again
        if last is not None:
            yield last
        last = chunk
    if blocks.damage:
        last = _with_damage(last or Chunk(1, 0, [], []), *blocks.damage)
    if last is not None:
        yield last


def _gathered(items: Iterator[tuple[int, _Item]], size: int) -> Iterator[Chunk]:
    number, length = 1, 0
    lines: list[int] = []
    kept: list[bytes | str | Record] = []
    for line, item in items:
        if kept and (len(kept) >= size or length > CHUNK_LENGTH or isinstance(item, _Block)):
            yield Chunk(number, len(kept), lines, kept)
            number, length, lines, kept = number + len(kept), 0, [], []
        if isinstance(item, _Block):
            yield Chunk(number, item.count, [line], item.text)
            number += item.count
            continue
        lines.append(line)
        if isinstance(item, bytes | str):
            kept.append(item)
            length += len(item)
        elif isinstance(item, dict):
            kept.append(Record(line, number + len(kept), item))
            length += sum(map(len, item.values()))
        else:
            kept.append(Record(line, number + len(kept), None, *item))
    if kept:
        yield Chunk(number, len(kept), lines, kept)


def parse(chunk: Chunk) -> list[Record]:
    """The records of a chunk."""
    records = []
    for number, (line, item) in enumerate(zip(*_split(chunk), strict=True), start=chunk.number):
        if type(item) is Record:
            records.append(item)
        else:
            value, problem, detail = value_of(item)  # type: ignore[arg-type]
            records.append(Record(line, number, value, problem, detail))
    return records


def _split(chunk: Chunk) -> tuple[Sequence[int], Sequence[bytes | str | Record]]:
    """The lines and the items of a chunk's records."""
    if not isinstance(chunk.items, bytes):
        return chunk.lines, chunk.items
    return range(chunk.lines[0], chunk.lines[0] + chunk.count), chunk.items.split(b"\n")


def records(file: DataFile) -> Iterator[Record]:
    """The records of a file, in one process.

    Raises:
        DataError: see :func:`chunks`.
    """
    for chunk in chunks(file):
        yield from parse(chunk)


def encoding(file: DataFile) -> str:
    """The name of the file's encoding.

    Raises:
        DataError: the file cannot be read, or is in no known encoding.
    """
    return charsets.detect(file).name


def _with_damage(chunk: Chunk, problem: str, detail: str) -> Chunk:
    """The damage in the place of the last record, which it cut off, or behind it if it is a whole JSON object."""
    known_lines, known_items = _split(chunk)
    lines, items = list(known_lines), list(known_items)
    line = lines[-1] if lines else 1
    if items and (isinstance(items[-1], Record) or value_of(items[-1])[1]):
        lines.pop()
        items.pop()
    record = Record(line, chunk.number + len(items), None, problem, detail)
    return Chunk(chunk.number, len(items) + 1, [*lines, line], [*items, record])


def _items(file: DataFile, blocks: Blocks) -> Iterator[tuple[int, _Item]]:
    charset = charsets.detect(file)
    head, source = _peek(charsets.without_bom(blocks, charset))
    known = codecs.getincrementaldecoder(charset.name)("replace").decode(head)
    start, suffix = known.lstrip(_BLANK)[:1], _suffix(file)
    if start not in ("{", "[") and (suffix in (".csv", ".tsv") or (suffix == ".txt" and not _starts_with_json(known))):
        delimiter = "\t" if suffix == ".tsv" or (suffix == ".txt" and _has_tabs(known)) else ","
        name = f"{file.path}/{file.member}" if file.member else str(file.path)
        return csv_stream.rows(charsets.text(source, charset), delimiter, name)
    if start == "[" or (start == "{" and not _is_lines(known, len(head) < HEAD)):
        return json_stream.values(_with_lf(charsets.text(source, charset)), array=start == "[")
    return _lines(source if charset.name == "utf-8" else _as_utf8(source, charset))


def _peek(blocks: Iterator[bytes]) -> tuple[bytes, Iterator[bytes]]:
    """The first bytes (all, if they are fewer than HEAD), and all blocks."""
    held: list[bytes] = []
    length = 0
    for block in blocks:
        held.append(block)
        length += len(block)
        if length >= HEAD:
            break
    return b"".join(held), chain(held, blocks)


def _suffix(file: DataFile) -> str:
    """The suffix in lower case; that of gzip does not count."""
    suffixes = [suffix.lower() for suffix in PurePosixPath(file.member or file.path.name).suffixes]
    return next((suffix for suffix in reversed(suffixes) if suffix != ".gz"), "")


def _first_line(text: str) -> str:
    return _LINE_END.split(text.lstrip(_BLANK), maxsplit=1)[0]


def _starts_with_json(text: str) -> bool:
    try:
        json.loads(_first_line(text))
    except (ValueError, RecursionError):
        return False
    return True


def _has_tabs(text: str) -> bool:
    header = _first_line(text)
    return header.count("\t") > header.count(",")


def _is_lines(text: str, whole: bool) -> bool:
    """Whether some line at column 0 is a whole object; broken lines around it do not matter, nor do empty objects,
    which are one line in a pretty-printed file, too."""
    start = 0
    for end in _LINE_END.finditer(text):
        if _is_object(text[start : end.start()]):
            return True
        start = end.end()
    return whole and _is_object(text[start:])


def _is_object(line: str) -> bool:
    line = line.lstrip("\ufeff")
    if not line.startswith("{") or not line.rstrip().endswith("}"):
        return False
    try:
        return bool(json.loads(line))
    except (ValueError, RecursionError):
        return False


def _with_lf(text: Iterator[str]) -> Iterator[str]:
    """CRLF and CR become LF, also where a block ends between the two."""
    decoder = io.IncrementalNewlineDecoder(None, translate=True)
    for block in text:
        yield decoder.decode(block)
    yield decoder.decode("", final=True)


def _as_utf8(blocks: Iterator[bytes], charset: Charset) -> Iterator[bytes]:
    """What did not decode stays no UTF-8, so that the parser finds it."""
    return (part.encode("utf-8", "surrogatepass") for part in charsets.text(blocks, charset))


def _lines(blocks: Iterator[bytes]) -> Iterator[tuple[int, _Item]]:
    number = 1
    for batch in _line_batches(blocks):
        if isinstance(batch, _Block):
            yield number, batch
            number += batch.count
            continue
        for line in batch:
            text = line.strip(b" \t")
            if line is _TOO_LONG:
                yield number, ("broken JSON", f"a line longer than {LONGEST_LINE:,} bytes")
            elif len(text) >= 12 or text.replace(_BOM, b"").strip(b" \t"):
                yield number, text
            number += 1


def _line_batches(blocks: Iterator[bytes]) -> Iterator[list[bytes] | _Block]:
    """Lines without their ends, which are LF, CRLF or CR: U+2028 and the like belong to the text.

    Blocks whose lines all start with a brace and end with LF are left in one piece: splitting them is not this
    process's work.
    """
    held: list[bytes] = []  # the parts of a line whose end has not come
    length = 0
    carriage_return = b""  # at a block's end, where it may be the first half of a CRLF
    for block in blocks:
        block = carriage_return + block if carriage_return else block
        carriage_return = b"\r" if block.endswith(b"\r") else b""
        block = block[:-1] if carriage_return else block
        if length < len(block) and (whole := _whole_lines(b"".join([*held, block]))):
            yield whole
            held = [block[block.rindex(b"\n") + 1 :]]
            length = len(held[0])
            continue
        lines = block.splitlines()
        open_line = lines.pop() if block and not block.endswith((b"\n", b"\r")) else b""
        if lines:
            lines[0] = b"".join([*held, lines[0]]) if length <= LONGEST_LINE else _TOO_LONG
            held, length = [], 0
            yield lines
        if length <= LONGEST_LINE:
            held.append(open_line)
        length += len(open_line)
    if carriage_return or length:
        yield [b"".join(held) if length <= LONGEST_LINE else _TOO_LONG]


def _whole_lines(text: bytes) -> _Block | None:
    """The lines of a text up to its last LF, if every one starts with a brace and none has a CR."""
    end = text.rfind(b"\n")
    if end < 0 or not text.startswith(b"{") or b"\r" in text:
        return None
    count = text.count(b"\n", 0, end) + 1
    return _Block(text[:end], count) if text.count(b"\n{", 0, end) == count - 1 else None
