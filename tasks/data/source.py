"""What a data source is: its configuration, what it makes of a record, and the Protocol that its module follows.

Owns the account of input records (:class:`Entry`). Does not know formats (see ``sources/``), encodings
(``reading``), splits (``splitting``) or where anything is written (``stage``).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, cast

from tasks import plugins
from tasks.conversation import Message, Row
from tasks.schema import Field, How, Section

PACKAGE = "tasks.data.sources"
Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = ("train", "validation", "test")
ExportFormat = Literal["chatglm3", "messages", "sharegpt", "alpaca", "promptcblue"]


class MaxRows(Section):
    """Caps on the rows of each split; the rows over a cap are accounted for as dropped."""

    train: int | None = Field(None, ge=1, doc="Most rows to train on; null keeps all.")
    validation: int | None = Field(None, ge=1, doc="Most rows to validate on; null keeps all.")
    test: int | None = Field(None, ge=1, doc="Most rows to test on; null keeps all.")


class SourceConfig(Section):
    """Which files to read, which of their columns to use, what to mend and protect, how to divide the rows."""

    source: str = Field(doc="Name of the source module that reads the files; auto looks at them.")
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
    group_by: str | None = Field(
        None,
        doc="Columns, joined by '+', whose equal values stay in one split (a document's id); "
        "null: rows with the same prompt stay together.",
    )
    system_prompt: str | None = Field(
        None, doc="System message put in front of each dialogue that has none; null adds none."
    )
    max_rows: MaxRows = Field(
        MaxRows(),
        doc="Caps per split; a seeded sample that keeps the share of each task, none below one row.",
    )
    validation_share: float = Field(
        0.1, ge=0, lt=1, doc="Share of the training groups (0-1) held out where there is no validation file."
    )
    test_share: float = Field(
        0.1, ge=0, lt=1, doc="Share of the training groups (0-1) held out where there is no test file."
    )
    split_seed: int = Field(17, ge=0, doc="Seed of the split and of the samples that max_rows takes.")
    control_characters: Literal["remove", "keep"] = Field(
        "remove",
        doc="Invisible control characters (U+0000-001F but tab and line feed, U+FEFF); CR and CRLF become LF.",
    )
    html_entities: Literal["keep", "decode"] = Field("keep", doc="&gt; and the like; decode turns them into text.")
    edge_spaces: Literal["keep", "strip"] = Field("keep", doc="White space at both ends of every message.")
    near_duplicates: float | None = Field(
        0.9,
        gt=0.5,
        le=1,
        doc="Jaccard similarity of character 5-grams (0.5-1) from which two dialogues are the same; null: exact only.",
    )
    redact: bool = Field(False, doc="Replace personal data by pseudonyms, the same person by the same one.")
    redact_kinds: list[str] | None = Field(None, doc="Kinds of personal data to replace; null: all kinds.")
    redact_names: list[str] = Field([], doc="Further names of people to replace.")
    redact_allow: list[str] = Field([], doc="Texts that stay as they are (a hotline's number, a name).")
    min_keep_ratio: float = Field(
        0.5, ge=0, le=1, doc="Smallest share of the records read (0-1) to be kept, caps apart; fewer is an error."
    )
    strict: bool = Field(False, doc="Stop with an error at the first unusable record instead of accounting for it.")
    export_format: ExportFormat | None = Field(
        None, doc="Also write the splits as files of this form, for other tools; null writes none."
    )
    processes: int | None = How(None, ge=1, doc="Processes that convert the records; null: one a core, at most 8.")


_ODD = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


def printable(name: str) -> str:
    """A file's name as it is written: line ends and bytes that are not UTF-8, which a disk may have, as escapes."""
    return _ODD.sub(lambda odd: ascii(odd[0])[1:-1], name)


@dataclass(frozen=True)
class DataFile:
    """One input file, or one member of a zip archive.

    Attributes:
        name: POSIX path relative to what the user named (``a.zip/b.json`` for a member); all that is ever written.
        member: name of the member within the archive at ``path``; empty for a plain (or gzip) file.
        names: names of the people whose chats it holds, for redaction.
    """

    path: Path
    name: str
    split: Split
    member: str = ""
    names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "name", printable(self.name))


@dataclass(frozen=True)
class Skipped:
    """A file that lies in the folder and is not read."""

    name: str
    reason: str

    def __post_init__(self) -> None:
        object.__setattr__(self, "name", printable(self.name))


@dataclass(frozen=True)
class Found:
    """The files of a configuration."""

    files: tuple[DataFile, ...]
    skipped: tuple[Skipped, ...] = ()


@dataclass(slots=True)  # not frozen: a million are made, and freezing doubles what that takes
class Draft:
    """A row as a source makes it, before cleaning, redaction and all that concerns several rows.

    Attributes:
        notes: what was mended, each a short fixed text counted in the report.
        group: drafts of one group stay in one split; empty: those with the same prompt.
        names: people's names that belong to this row, for redaction.
        empty_reply: an empty reply is legal.
    """

    row: Row
    notes: tuple[str, ...] = ()
    group: str = ""
    names: tuple[str, ...] = ()
    empty_reply: bool = False


@dataclass(slots=True)
class Entry:
    """What became of input records: a draft, or the reason why there is none.

    Attributes:
        line: 1-based line on which the (first) record starts.
        id: unique within the data set: ``<file name>#<ordinal>``.
        reason: one of few texts, counted in the report; detail: position or column, never content.
        task: of a record that has no draft, where it is known.
        records: how many source records this accounts for: all messages of a dialogue cut from a log, else 1.
    """

    line: int
    id: str
    draft: Draft | None = None
    reason: str = ""
    detail: str = ""
    task: str = ""
    records: int = 1


class Unusable(Exception):
    """A record that cannot become a row; plain texts without the record's content."""

    def __init__(self, reason: str, *, detail: str = "", task: str = "") -> None:
        super().__init__(reason)
        self.reason, self.detail, self.task = reason, detail, task


@dataclass(frozen=True)
class Claim:
    """A source takes a record for its own: how sure it is (1-9) and what shows it."""

    strength: int
    why: str


class Source(Protocol):
    """What a module of ``tasks.data.sources`` offers.

    Either ``convert``, where a record makes a row by itself, or ``read(file, config) -> Iterator[Entry]``, where it
    takes the whole file (messages of a log make dialogues). It may also have ``find(config) -> Found`` for folders
    laid out in a way of its own, ``recognise(record) -> Claim | None`` to be found by ``source=auto``, and
    ``inputs(config) -> Sequence[Path]`` where files beside the data decide the rows.
    """

    Config: type[SourceConfig]

    def convert(self, record: dict[str, Any], row_id: str, config: Any) -> Draft:
        """The draft of a record; raises Unusable. Pure: it runs in several processes."""
        ...


def load(name: str) -> Source:
    """The source module of that name.

    Raises:
        ConfigError: there is none.
    """
    return cast(Source, plugins.load(PACKAGE, name, key="data.source"))


def single_turn(prompt: str, reply: str) -> tuple[Message, ...]:
    """A dialogue of one question and its answer."""
    return Message("user", prompt), Message("assistant", reply)
