"""A few rows of each split as a person reads them: preview.md. The one page of a data set that shows its texts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from tasks.conversation import Message, Row
from tasks.data.reporting.markdown import block, plain

_SHOWN_CHARACTERS = 600
#: Turns shown of a dialogue's beginning and of its end, where the reply to learn is.
_FIRST_TURNS, _LAST_TURNS = 6, 4


def preview(rows: Mapping[str, Sequence[Row]], per_split: int = 3) -> str:
    """preview.md: up to ``per_split`` dialogues of each split, the tasks taking turns."""
    return "\n".join(_lines(rows, per_split)) + "\n"


def _lines(rows: Mapping[str, Sequence[Row]], per_split: int) -> Iterator[str]:
    yield "# Preview"
    yield ""
    yield (
        "Some rows as they will be used. The training learns the turns marked *learned*; a longer text is cut "
        f"after {_SHOWN_CHARACTERS} characters here, and here only."
    )
    for split, all_rows in rows.items():
        yield from ["", f"## {plain(split)}"]
        shown = _some(all_rows, per_split)
        if not shown:
            yield from ["", "No rows."]
        for number, row in enumerate(shown, start=1):
            yield from _dialogue(row, f"{plain(split)} {number}")


def _some(rows: Sequence[Row], count: int) -> list[Row]:
    """The first rows of each task by turns, so that a data set of many tasks shows more than its first."""
    of_task: dict[str, int] = {}
    turns = []
    for place, row in enumerate(rows):
        turn = of_task[row.task] = of_task.get(row.task, -1) + 1
        if turn < count:
            turns.append((turn, place))
    return [rows[place] for _, place in sorted(turns)[:count]]


def _dialogue(row: Row, title: str) -> Iterator[str]:
    turns = len(row.messages)
    yield from ["", f"### {title}: {plain(row.id)}", ""]
    yield f"Task {plain(row.task)}, scored as {plain(row.metric)}, {turns} turn{'' if turns == 1 else 's'}."
    hidden = turns - _FIRST_TURNS - _LAST_TURNS
    for place, message in enumerate(row.messages):
        if hidden > 0 and place == _FIRST_TURNS:
            yield from ["", f"… {hidden:,} turn{'' if hidden == 1 else 's'} not shown …"]
        if hidden <= 0 or place < _FIRST_TURNS or place >= turns - _LAST_TURNS:
            yield from _turn(message)


def _turn(message: Message) -> Iterator[str]:
    name = f"**{message.role}**"
    if message.metadata:
        name += f" → {plain(message.metadata)}"
    if message.learned:
        name += " · *learned*"
    elif message.role == "assistant":
        name += " · not learned"
    length = len(message.content)
    if length > _SHOWN_CHARACTERS:
        name += f" · the first {_SHOWN_CHARACTERS} of {length:,} characters"
    yield from ["", name, ""]
    yield from block(message.content[:_SHOWN_CHARACTERS]) if message.content else ["(empty)"]
