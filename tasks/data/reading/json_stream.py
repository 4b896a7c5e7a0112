"""A JSON array, or JSON values one after another, cut into the texts of its values while it is read.

Does not check the values (see ``parsing``).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

from tasks.data.reading.parsing import problem_of

#: Characters of one value; a longer one is a problem instead of memory without end.
LONGEST = 16 << 20
_BLANK = re.compile(r"[ \t\r\n\ufeff]*")
_SEPARATOR = re.compile(r"[ \t\r\n,\ufeff]*")
#: An escape, a literal or a number that the end of the text cuts off is this long at most.
_CUT = 16
_INDENT = 200


class _TooLong(ValueError):
    pass


def values(blocks: Iterator[str], array: bool) -> Iterator[tuple[int, str | tuple[str, str]]]:
    """(line, text or problem) of each value; after a broken one, reading goes on at the next line that starts an
    object at the same depth of indentation.

    Args:
        blocks: text with LF line ends only, which is the same JSON: line ends within strings are escaped.
    """
    text = _Text(blocks)
    text.skip(_BLANK)
    if array:
        text.position += 1
    while True:
        text.skip(_SEPARATOR)
        line = text.line_number()
        if text.exhausted():
            if array:
                yield line, ("broken JSON", "the array has no end")
            return
        if array and text.text[text.position] == "]":
            text.position += 1
            text.skip(_BLANK)
            if text.exhausted():
                return
            if text.text[text.position] not in "[{":
                yield text.line_number(), ("broken JSON", "text behind the array's end")
                return
            array = text.text[text.position] == "["  # files that were put behind each other
            text.position += array
            continue
        try:
            yield line, text.value()
        except (ValueError, RecursionError) as error:
            problem, detail = problem_of(error, text.column(error))
            if not text.recover():
                yield line, (problem, f"{detail}; nothing behind it could be read")
                return
            yield line, (problem, detail)


class _Text:
    """A window of the text that moves on; ``position`` is where reading stands in it."""

    def __init__(self, blocks: Iterator[str]) -> None:
        self._blocks = blocks
        self._ended = False
        self._line, self._counted = 1, 0
        self._before = 0  # characters before the window on its first line
        self.text = ""
        self.position = 0

    def exhausted(self) -> bool:
        return self._ended and self.position >= len(self.text)

    def skip(self, pattern: re.Pattern[str]) -> None:
        """Move behind what the pattern matches, which may be nothing."""
        while True:
            found = pattern.match(self.text, self.position)
            assert found is not None
            self.position = found.end()
            if self._ended or self.position < len(self.text):
                return
            self._fill(1)

    def line_number(self) -> int:
        self._line += self.text.count("\n", self._counted, self.position)
        self._counted = self.position
        return self._line

    def column(self, error: Exception) -> int | None:
        if not isinstance(error, json.JSONDecodeError):
            return None
        start = self.text.rfind("\n", 0, error.pos)
        return error.pos - start if start >= 0 else self._before + error.pos + 1

    def value(self) -> str:
        """The text of the value that starts here.

        Raises:
            ValueError, RecursionError: it is broken, too long or too deep.
        """
        while True:
            try:
                _, end = _DECODER.raw_decode(self.text, self.position)
                # a number at the window's end may go on
                if end < len(self.text) or self._ended or self.text[self.position] in '{["':
                    break
            except json.JSONDecodeError as error:
                cut = error.msg.startswith("Unterminated string") or error.pos > len(self.text) - _CUT
                if self._ended or not cut:
                    raise
            held = len(self.text) - self.position
            if held > LONGEST:
                raise _TooLong(f"longer than {LONGEST:,} characters")
            # twice as much, so that a long value is parsed few times
            self._fill(min(max(held, 1), LONGEST + 1 - held))
        if end - self.position > LONGEST:
            raise _TooLong(f"longer than {LONGEST:,} characters")
        start, self.position = self.position, end
        return self.text[start:end]

    def recover(self) -> bool:
        """Move to the next line that starts an object at the present depth of indentation; False without one."""
        indent = re.search(r"[ \t]*\Z", self.text[max(0, self.position - _INDENT) : self.position])
        assert indent is not None
        line = re.compile("\n" + indent[0] + r"(?=\{)")
        while True:
            if found := line.search(self.text, self.position):
                self.position = found.end()
                return True
            if self._ended:
                return False
            self.position = max(self.position, len(self.text) - len(indent[0]) - 1)
            self._fill(1)

    def _fill(self, least: int) -> None:
        """Add so many characters or more, and drop those before the position but for what recover() looks at."""
        self.line_number()
        drop = max(0, self.position - _INDENT)
        end = self.text.rfind("\n", 0, drop)
        self._before = drop - end - 1 if end >= 0 else self._before + drop
        parts = [self.text[drop:]]
        while least > 0:
            block = next(self._blocks, None)
            if block is None:
                self._ended = True
                break
            least -= len(block)
            parts.append(block)
        self.text = "".join(parts)
        self.position -= drop
        self._counted -= drop


# only finds where a value ends; numbers stay text, whose length int() limits
_DECODER = json.JSONDecoder(parse_int=str, parse_float=str)
