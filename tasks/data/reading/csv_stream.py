"""Rows of CSV text, read line by line. A quote that is never closed costs its own line, not those behind it."""

from __future__ import annotations

import csv
import io
import re
from collections import deque
from collections.abc import Iterator

from tasks.errors import DataError

#: Characters of one cell; the csv module's own limit of 131,072 is less than some documents have.
LONGEST_CELL = 4 << 20
#: Characters of one line; what is behind them is not read.
LONGEST_LINE = 16 << 20
_NOT_TEXT = re.compile("[\ud800-\udfff]")


def rows(blocks: Iterator[str], delimiter: str, name: str) -> Iterator[tuple[int, dict[str, str] | tuple[str, str]]]:
    """(line, row or problem) of each row under the header.

    Raises:
        DataError: the header cannot be read, or names a column twice.
    """
    csv.field_size_limit(LONGEST_CELL)
    lines = _Lines(blocks)
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    header: list[str] = []
    while True:
        line = lines.start_record()
        problem = ""
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            cells, problem = [], str(error)
        if not header:
            if cells or problem:
                header = _header(cells, problem, f"{name}:{line}")
            continue
        if problem or (cells and len(cells) != len(header)):
            if _swallowed(lines.taken, len(header), delimiter):
                lines.give_back()
                problem = "a quote that is not closed"
            yield line, ("broken CSV", problem or f"{len(cells)} cells under {len(header)} column names")
        elif cells and _NOT_TEXT.search("".join(cells)):
            yield line, ("broken characters", "bytes that are not in the file's encoding")
        elif cells:
            yield line, dict(zip(header, cells, strict=True))


def _header(cells: list[str], problem: str, where: str) -> list[str]:
    names = [cell.strip() for cell in cells]
    if not problem and _NOT_TEXT.search("".join(names)):
        problem = "bytes that are not in the file's encoding"
    if problem:
        raise DataError(f"{where}: the line of column names is broken ({problem})")
    twice = sorted({name for name in names if name and names.count(name) > 1})
    if twice:
        raise DataError(f"{where}: column names occur more than once: {', '.join(twice)[:200]}; rename them")
    return names


def _swallowed(lines: list[str], width: int, delimiter: str) -> bool:
    """Whether the lines behind the first of a broken row are rows of their own (most have the right cells), so that
    an unclosed quote has swallowed them; else they are the continuation of one row."""
    behind = [line for line in lines[1:] if line.strip()]
    return width > 1 and 2 * sum(_is_row(line, width, delimiter) for line in behind) > len(behind)


def _is_row(line: str, width: int, delimiter: str) -> bool:
    if '"' not in line:
        return line.count(delimiter) + 1 == width
    try:
        cells = next(csv.reader([line], delimiter=delimiter, strict=True))
    except csv.Error:
        return False
    return len(cells) == width and not any('"' in cell for cell in cells)


class _Lines:
    """Lines with their ends (LF, CRLF, CR); those of the present record can be given back."""

    def __init__(self, blocks: Iterator[str]) -> None:
        self._lines = _split(blocks)
        self._given_back: deque[str] = deque()
        self._read = 0
        self.taken: list[str] = []

    def start_record(self) -> int:
        """The number of the line on which the next record starts."""
        self.taken = []
        return self._read + 1

    def give_back(self) -> None:
        """All lines of the present record but the first will be read again."""
        self._read -= len(self.taken) - 1
        self._given_back.extendleft(reversed(self.taken[1:]))

    def __iter__(self) -> _Lines:
        return self

    def __next__(self) -> str:
        line = self._given_back.popleft() if self._given_back else next(self._lines)
        self._read += 1
        self.taken.append(line)
        return line


def _split(blocks: Iterator[str]) -> Iterator[str]:
    held: list[str] = []  # the parts of a line whose end has not come
    length = 0
    carriage_return = ""  # at a block's end, where it may be the first half of a CRLF
    for block in blocks:
        block = carriage_return + block
        carriage_return = "\r" if block.endswith("\r") else ""
        for line in io.StringIO(block[:-1] if carriage_return else block, newline=""):
            if length < LONGEST_LINE or line[-1] in "\r\n":
                held.append(line)
                length += len(line)
            if line[-1] in "\r\n":
                yield "".join(held)
                held, length = [], 0
    if held or carriage_return:
        yield "".join([*held, carriage_return])
