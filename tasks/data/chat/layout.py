"""The columns of raw message logs: which programs write which, and what one record says.

Owns the known headers and how times and senders are written; does not know dialogues or files.

Source: the headers that LC044/WeChatMsg (MemoTrace) and xaoyaoo/PyWxDump wrote over the years, as WeClone reads them.
What the columns hold differs by version where a comment below says so; no public sample export was found to test on.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone
from typing import Any, Literal

from tasks.data.source import Unusable
from tasks.errors import DataError
from tasks.schema import Field, Section

Preset = Literal["auto", "memotrace", "weclone", "custom"]


class Columns(Section):
    """Names of a log's columns; null: it has none. time, text and is_sender or sender are needed."""

    time: str | None = Field(None, doc="When: Unix seconds or milliseconds, or a date with time.")
    text: str | None = Field(None, doc="The message.")
    is_sender: str | None = Field(None, doc="1 or true: the owner of the log sent it; 0 or false: somebody else.")
    sender: str | None = Field(
        None, doc="Who sent it; without is_sender, data.owner_name in this column marks the owner's messages."
    )
    type: str | None = Field(None, doc="Kind of message; null: all are texts.")
    talker: str | None = Field(None, doc="With whom: messages of one value are one chat; null: a file is one chat.")
    room: str | None = Field(None, doc="The group's name, empty outside of groups.")
    name: str | None = Field(None, doc="The contact's name, for the system message and for redaction.")


@dataclass(frozen=True)
class Layout:
    """A known header.

    Attributes:
        who: columns that name the chat in some versions and the sender in others; the log itself shows which.
        text: columns of the message, the first that a record has counts.
    """

    preset: str
    time: str
    text: tuple[str, ...]
    is_sender: str = ""
    sender: str = ""
    type: str = ""
    talker: str = ""
    room: str = ""
    who: tuple[str, ...] = ()
    name: str = ""

    def needed(self) -> list[str]:
        """The columns without which the layout does not apply; of several for the text, the first."""
        return [column for column in (self.time, self.text[0], self.is_sender or self.sender) if column]

    def fits(self, record: Mapping[str, Any]) -> bool:
        return (
            self.time in record
            and any(column in record for column in self.text)
            and (self.is_sender or self.sender) in record
            and (not self.type or self.type in record)
        )


LAYOUTS = (
    # Remark and NickName: the chat's in messages.csv (all chats), the sender's in <contact>_utf8.csv. TalkerId numbers
    # the chats of one database, and several databases may be merged into one file. Early versions lack the last three.
    Layout(
        "memotrace",
        time="CreateTime",
        text=("StrContent",),
        is_sender="IsSender",
        sender="Sender",
        type="Type",
        talker="TalkerId",
        who=("Remark", "NickName"),
    ),
    # MemoTrace from 2024 on: no column for the direction, so that data.owner_name must name the owner
    Layout("memotrace", time="时间", text=("内容",), sender="发送人", type="类型", who=("备注", "昵称")),
    # talker is the sender (wxid, or the owner's wxid or 我), room_name the chat. content: PyWxDump until 2024, JSON
    Layout(
        "weclone",
        time="CreateTime",
        text=("msg", "content"),
        is_sender="is_sender",
        type="type_name",
        room="room_name",
        who=("talker",),
    ),
)


@dataclass(frozen=True)
class Parsed:
    """What one record says. ``sent`` is None where only the sender's name could tell."""

    time: float
    text: str
    sent: bool | None
    sender: str
    type: str
    talker: str
    room: str
    who: tuple[str, ...]
    name: str


def layout_of(record: Mapping[str, Any], preset: Preset, columns: Columns, name: str) -> Layout:
    """The layout of a log by its first record.

    Raises:
        DataError: none fits; says what was found, what was expected and how to map it.
    """
    if preset == "custom" or (preset == "auto" and columns != Columns()):
        layout = _custom(columns)
        missing = [column for column in columns.model_dump().values() if column is not None and column not in record]
        if not missing:
            return layout
        raise DataError(
            f"{name}: data.columns names {', '.join(missing)}, which the file does not have; it has {_header(record)}"
        )
    known = [layout for layout in LAYOUTS if preset in ("auto", layout.preset)]
    for layout in known:
        if layout.fits(record):
            return layout
    expected = "; or ".join(f"{', '.join(layout.needed())} ({layout.preset})" for layout in known)
    raise DataError(
        f"{name}: unknown columns {_header(record)}; expected {expected}; map them with data.preset=custom "
        "'data.columns={time: ..., text: ..., is_sender: ...}'"
    )


def _custom(columns: Columns) -> Layout:
    if columns.time is None or columns.text is None or (columns.is_sender or columns.sender) is None:
        raise DataError(
            "data.columns: time, text and is_sender (or sender, with data.owner_name) must each name a column"
        )
    return Layout(
        "custom",
        time=columns.time,
        text=(columns.text,),
        is_sender=columns.is_sender or "",
        sender=columns.sender or "",
        type=columns.type or "",
        talker=columns.talker or "",
        room=columns.room or "",
        name=columns.name or "",
    )


def _header(record: Mapping[str, Any]) -> str:
    """The names of the columns; what is too long for one is content of a file without a header."""
    names = [name if len(name) <= 20 else "..." for name in list(record)[:12]]
    return ", ".join(names) + (", ..." if len(record) > 12 else "")


def parsed(record: Mapping[str, Any], layout: Layout) -> Parsed:
    """A record's message.

    Raises:
        Unusable: a column is missing, the time or the direction cannot be understood.
    """
    if not layout.fits(record):
        missing = [column for column in (*layout.needed(), layout.type) if column and column not in record]
        raise Unusable("no such columns", detail=f"the record lacks {', '.join(missing)}")

    def cell(column: str) -> str:
        return _text(record.get(column), column) if column else ""

    column = next(column for column in layout.text if column in record)
    sent = None
    if layout.is_sender:
        sent = _DIRECTIONS.get(cell(layout.is_sender).strip().lower())
        if sent is None:
            raise Unusable("unclear sender", detail=f"column {layout.is_sender!r} is neither 0 nor 1")
    return Parsed(
        time=seconds(record.get(layout.time), layout.time),
        text=_unpacked(cell(column)) if column == "content" and layout.preset == "weclone" else cell(column),
        sent=sent,
        sender=cell(layout.sender).strip(),
        type=cell(layout.type).strip(),
        talker=cell(layout.talker).strip(),
        room=cell(layout.room).strip(),
        who=tuple(cell(column).strip() for column in layout.who),
        name=cell(layout.name).strip(),
    )


_DIRECTIONS = {"1": True, "true": True, "0": False, "false": False, "1.0": True, "0.0": False}


def _text(value: Any, column: str) -> str:
    if isinstance(value, str):
        return value
    if value is None:
        return ""
    if isinstance(value, int | float):
        return str(value)
    raise Unusable("not a text", detail=f"column {column!r}")


def _unpacked(text: str) -> str:
    """The text of a cell that holds {"src", "msg"} as JSON."""
    if not text.startswith("{"):
        return text
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return text
    return value["msg"] if isinstance(value, dict) and isinstance(value.get("msg"), str) else text


_NUMBER = re.compile(r"\d{1,20}(?:\.\d{1,9})?")
_DATE = re.compile(
    r"(\d{4})[-/.年](\d{1,2})[-/.月](\d{1,2})日?[T ]\s*(\d{1,2}):(\d{2})(?::(\d{2}))?(?:[.,](\d{1,6})\d*)?\s*"
    r"(Z|[+-]\d{2}:?\d{2})?"
)
#: Unix times from here on count milliseconds (then micro-, then nanoseconds): as seconds it would be the year 5138.
_SECONDS_END = 1e11


def seconds(value: Any, column: str = "time") -> float:
    """A time in seconds. Dates without a zone count as UTC: only differences within one log matter.

    Raises:
        Unusable: no number of seconds or milliseconds since 1970, and no date with hours and minutes.
    """
    text = str(value).strip() if isinstance(value, str | int | float) and not isinstance(value, bool) else ""
    if _NUMBER.fullmatch(text):
        number = float(text)
        while number >= _SECONDS_END:
            number /= 1000
        return number
    if found := _DATE.fullmatch(text):
        year, month, day, hour, minute, second, fraction, zone = found.groups()
        try:
            moment = datetime(
                int(year), int(month), int(day), int(hour), int(minute), int(second or 0), tzinfo=_zone(zone)
            )
            return moment.timestamp() + (int(fraction.ljust(6, "0")) / 1e6 if fraction else 0)
        except (ValueError, OverflowError):
            pass
    raise Unusable("time not understood", detail=f"column {column!r}")


def _zone(text: str | None) -> timezone:
    if not text or text == "Z":
        return UTC
    sign = -1 if text[0] == "-" else 1
    return timezone(sign * timedelta(hours=int(text[1:3]), minutes=int(text[-2:])))
