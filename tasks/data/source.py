"""What a data source is: its configuration, the entries that it yields, and the Protocol that its module follows.

Owns the account of one input record (:class:`Entry`). Does not know formats (see ``sources/``), encodings
(``reading``), splits (``splitting``) or where anything is written (``stage``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, cast

from tasks import plugins
from tasks.conversation import Message, Row
from tasks.data import reading
from tasks.schema import Field, How, Section

PACKAGE = "tasks.data.sources"
Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = ("train", "validation", "test")


class MaxRows(Section):
    """Caps on the rows of each split; the rows over a cap are accounted for as dropped."""

    train: int | None = Field(None, ge=1, doc="Most rows to train on; null keeps all.")
    validation: int | None = Field(None, ge=1, doc="Most rows to validate on; null keeps all.")
    test: int | None = Field(None, ge=1, doc="Most rows to test on; null keeps all.")


class SourceConfig(Section):
    """Which files to read, which of their columns to use and how to divide their rows."""

    source: str = Field(doc="Name of the source module that reads the files.")
    path: Path | None = How(
        None,
        doc="A data file, or a folder with train, dev and test files in any of the usual names; "
        "null and no train/validation/test: the source's shipped sample.",
    )
    train: Path | None = How(None, doc="The training file (or folder of files); overrides what path has.")
    validation: Path | None = How(None, doc="The validation file (or folder); overrides what path has.")
    test: Path | None = How(None, doc="The test file (or folder); overrides what path has.")
    prompt_column: str = Field(
        "auto",
        doc="Column of the prompt, or several joined by '+'; auto picks among the known pairs of columns.",
    )
    response_column: str = Field("auto", doc="Column of the reply; auto picks among the known pairs of columns.")
    system_prompt: str | None = Field(
        None, doc="System message put in front of each dialogue that has none; null adds none."
    )
    max_rows: MaxRows = Field(
        MaxRows(),
        doc="Caps per split; a seeded sample that keeps the share of each task, none below one row.",
    )
    validation_share: float = Field(
        0.1, ge=0, lt=1, doc="Share of the training prompts (0-1) held out where there is no validation file."
    )
    test_share: float = Field(
        0.1, ge=0, lt=1, doc="Share of the training prompts (0-1) held out where there is no test file."
    )
    split_seed: int = Field(17, ge=0, doc="Seed of the split and of the samples that max_rows takes.")
    max_dropped_share: float = Field(
        0.5,
        ge=0,
        le=1,
        doc="Largest share of rows (0-1) that may be dropped, caps apart, before it is an error.",
    )
    strict: bool = Field(False, doc="Stop with an error at the first unusable row instead of accounting for it.")


@dataclass(frozen=True)
class DataFile:
    """One input file; ``name`` is its POSIX path relative to what the user named, and all that is ever written."""

    path: Path
    name: str
    split: Split


@dataclass(frozen=True)
class Skipped:
    """A file that lies in the folder and is not read."""

    name: str
    reason: str


@dataclass(frozen=True)
class Found:
    """The files of a configuration."""

    files: tuple[DataFile, ...]
    skipped: tuple[Skipped, ...] = ()


@dataclass
class Entry:
    """What became of one input record: it has a row, or the reason why it was dropped.

    Attributes:
        file: name of its file; line: 1-based line on which the record starts.
        split: the file's split, later the one that the row was moved to.
        id: the record's id, file and ordinal.
        reason: few distinct texts, counted in the report; detail: position or column, never content.
        note: something that was mended in the row, counted in the report.
    """

    file: str
    line: int
    split: Split
    id: str
    task: str = ""
    row: Row | None = None
    reason: str = ""
    detail: str = ""
    note: str = ""

    def drop(self, reason: str) -> None:
        """Give the row up for ``reason``."""
        self.row, self.reason = None, reason


class Unusable(Exception):
    """A record that cannot become a row; plain texts without the record's content."""

    def __init__(self, reason: str, *, detail: str = "", task: str = "") -> None:
        super().__init__(reason)
        self.reason, self.detail, self.task = reason, detail, task


class Source(Protocol):
    """What a module of ``tasks.data.sources`` offers. It may also have ``find(config) -> Found``."""

    Config: type[SourceConfig]

    def read(self, file: DataFile, config: Any) -> Iterator[Entry]:
        """One entry for each record of the file, in the file's order."""
        ...


def load(name: str) -> Source:
    """The source module of that name.

    Raises:
        ConfigError: there is none.
    """
    return cast(Source, plugins.load(PACKAGE, name, key="data.source"))


def entries(file: DataFile, convert: Callable[[Any, str], tuple[Row, str]]) -> Iterator[Entry]:
    """The entries of a file whose records become one row each.

    Args:
        convert: makes (row, note) of a record's value and id, or raises Unusable.
    """
    for record in reading.records(file.path):
        entry = Entry(file.name, record.line, file.split, id=f"{file.name}#{record.number}")
        if record.problem:
            entry.reason, entry.detail = record.problem, record.detail
        else:
            try:
                entry.row, entry.note = convert(record.value, entry.id)
                entry.task = entry.row.task
            except Unusable as error:
                entry.reason, entry.detail, entry.task = error.reason, error.detail, error.task
        yield entry


def single_turn(prompt: str, reply: str, system_prompt: str | None) -> tuple[Message, ...]:
    """A dialogue of one question and its answer."""
    turn = (Message("user", prompt), Message("assistant", reply))
    return turn if system_prompt is None else (Message("system", system_prompt), *turn)
