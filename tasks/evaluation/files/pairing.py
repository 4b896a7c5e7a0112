"""Finds to every row of a predictions file its row in a file of references.

Rows pair by what names them: ``sample_id`` or ``id``, within a task where both files name tasks (PromptCBLUE's
sample_id is unique only there). Rows that share a name are told apart by their prompts; those that share the prompt
too pair in order where all their references are the same, which then decides nothing. Files without names pair line
by line, if they are equally long and no prompt differs. Nothing is ever paired by position against its name.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tasks.errors import DataError
from tasks.evaluation.files.json_records import Records, shown

Row = Mapping[str, Any]
Name = tuple[Hashable, ...]
_PROMPT = ("input", "text", "content", "query")
_DIALOGUE = ("messages", "conversations")


@dataclass(frozen=True)
class Pairs:
    """The pairs of two files.

    Attributes:
        rows: (row of the predictions, row of the references) by index, in the order of the references.
        by: what paired them, for people.
        unanswered: the references that have no prediction, by index.
    """

    rows: list[tuple[int, int]]
    by: str
    unanswered: list[int]


def pair(predicted: Records, references: Records, alike: Callable[[Row], Hashable]) -> Pairs:
    """Pair two files.

    Args:
        alike: of a row of the references, what it adds to the score; rows that share a name must be equal in it.

    Raises:
        DataError: a prediction has no reference, a name is not enough to tell rows apart, or rows without names differ
            in number or prompt.
    """
    for column in ("id", "sample_id"):
        if all(name_of(row, column) is not None for file in (predicted, references) for row in file.rows):
            break
    else:
        return _by_line(predicted, references)
    tasks = all(task_of(row) for file in (predicted, references) for row in file.rows)
    names = [[_name(row, column, tasks) for row in file.rows] for file in (predicted, references)]
    return _by_name(predicted, references, names, f"task and {column}" if tasks else column, alike)


def task_of(row: Row) -> str | None:
    """The task that a row names."""
    task = row.get("task_dataset", row.get("task"))
    return task if isinstance(task, str) and task else None


def name_of(row: Row, column: str) -> str | None:
    """A row's ``id`` or ``sample_id``; weitiao's own rows keep the latter among their fields."""
    fields = row.get("fields")
    value = row.get(column, fields.get(column) if isinstance(fields, Mapping) else None)
    usable = isinstance(value, (str, int)) and not isinstance(value, bool) and value != ""
    return str(value) if usable else None


def prompt_of(row: Row) -> str:
    """The text that a row asks with, for reading and for telling rows apart; empty where no column of it is known."""
    if isinstance(row.get("prompt"), str):
        return str(row["prompt"])
    if "instruction" in row:
        return _joined(row["instruction"]) + _joined(row.get("input"))
    texts = [row[name] for name in _PROMPT if isinstance(row.get(name), str)]
    return texts[0] if texts else _last_question(row)


def dialogue_of(row: Row) -> list[Any] | None:
    """The messages of a row that holds a dialogue."""
    return next((row[name] for name in _DIALOGUE if isinstance(row.get(name), list) and row[name]), None)


def _last_question(row: Row) -> str:
    asked = [m.get("content") for m in dialogue_of(row) or [] if isinstance(m, Mapping) and m.get("role") == "user"]
    return str(asked[-1]) if asked else ""


def _joined(value: Any) -> str:
    parts = value if isinstance(value, list) else [value]
    return "".join(part for part in parts if isinstance(part, str))


def _name(row: Row, column: str, tasks: bool) -> Name:
    return (task_of(row), name_of(row, column)) if tasks else (name_of(row, column),)


def _by_name(
    predicted: Records, references: Records, names: Sequence[list[Name]], by: str, alike: Callable[[Row], Hashable]
) -> Pairs:
    repeated = {name for own in names for name, count in Counter(own).items() if count > 1}
    groups: dict[Name, tuple[list[int], list[int]]] = defaultdict(lambda: ([], []))
    for side, file in enumerate((predicted, references)):
        for index, name in enumerate(names[side]):
            if name in repeated:
                name = (*name, prompt_of(file.rows[index]))
            groups[name][side].append(index)
    surplus = [index for ours, theirs in groups.values() for index in ours[len(theirs) :]]
    if surplus:
        raise DataError(_surplus(predicted, references, min(surplus), len(surplus), by, names[0][min(surplus)]))
    for ours, theirs in groups.values():
        if len(theirs) > 1 and len({alike(references.rows[index]) for index in theirs}) > 1:
            places = " and ".join(references.where(index) for index in theirs[:2])
            raise DataError(
                f"{places}: the same {by} and prompt ({_words(names[1][theirs[0]])}) with different references: "
                f"which one {predicted.where(ours[0]) if ours else 'a prediction'} answers cannot be told; rename one"
            )
    rows = sorted(
        ((our, their) for ours, theirs in groups.values() for our, their in zip(ours, theirs, strict=False)),
        key=lambda pair: pair[1],
    )
    unanswered = sorted(index for ours, theirs in groups.values() for index in theirs[len(ours) :])
    return Pairs(rows, by, unanswered)


def _surplus(predicted: Records, references: Records, index: int, count: int, by: str, name: Name) -> str:
    more = f"; {count} such rows of {len(predicted.rows)}" if count > 1 else ""
    return (
        f"{predicted.where(index)}: no reference left in {references.path} for {by} {_words(name)} (it is not there, "
        f"has another prompt, or was answered already){more}; give the references of these predictions"
    )


def _words(name: Name) -> str:
    return " ".join(str(part) for part in name)


def _by_line(predicted: Records, references: Records) -> Pairs:
    ours, theirs = len(predicted.rows), len(references.rows)
    if ours != theirs:
        raise DataError(
            f"{predicted.path} has {ours} rows and {references.path} has {theirs}: without an id or sample_id in every "
            "row of both, rows pair line by line and must be equally many"
        )
    for index, (one, other) in enumerate(zip(predicted.rows, references.rows, strict=True)):
        asked, wanted = prompt_of(one), prompt_of(other)
        if asked and wanted and asked != wanted:
            raise DataError(
                f"{predicted.where(index)}: asks {shown(asked)}, but {references.where(index)} asks {shown(wanted)}: "
                "without an id or sample_id in every row of both, rows pair line by line and must ask the same"
            )
    return Pairs([(index, index) for index in range(ours)], "line", [])
