"""Batches of input records to Arrow batches of clean rows with their keys: the costly part, done in any process.

A batch in, a batch out, no state between: what several processes make is what one makes. Does not know other rows
(see ``splitting``, ``duplicates``) or files on disk.
"""

from __future__ import annotations

import gc
import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pyarrow as pa

from tasks.conversation import ROLES, Message, Row
from tasks.data import hashing, reading
from tasks.data.cleaning import Cleaner
from tasks.data.personal_data.redaction import Redactor
from tasks.data.source import DataFile, Draft, Entry, Skipped, SourceConfig, Unusable, load

_MESSAGE = pa.struct(
    [("role", pa.string()), ("content", pa.string()), ("learn", pa.bool_()), ("metadata", pa.string())]
)
#: What a source gives of a row; ``fields`` is JSON text, empty for none.
ROW_SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("task", pa.string()),
        ("metric", pa.string()),
        ("messages", pa.list_(_MESSAGE)),
        ("fields", pa.string()),
        ("file", pa.string()),
        ("line", pa.int32()),
    ]
)
#: What is kept of a row while the data set is made: 64-bit hashes, lengths in characters, source records.
KEYS = {
    "records": pa.int32(),
    "exact": pa.uint64(),
    "prompt": pa.uint64(),
    "group": pa.uint64(),
    "reply": pa.uint64(),
    "prompt_characters": pa.int32(),
    "reply_characters": pa.int32(),
}
SPOOL_SCHEMA = pa.schema([*ROW_SCHEMA, ("notes", pa.string()), *KEYS.items()])
#: The columns of a data set's Parquet files. ``group`` is a hash: rows with the same one stay in one split.
DATASET_SCHEMA = pa.schema([*ROW_SCHEMA, ("group", KEYS["group"])])


@dataclass(frozen=True)
class Batch:
    """Records of one file: not parsed (a chunk), or made into entries already."""

    file_number: int
    file: DataFile
    shown: str
    part: int
    records: reading.Chunk | list[Entry]


@dataclass(frozen=True)
class Rejected:
    """A record that makes no row; ``step`` is where it ended: parsed, converted or clean."""

    line: int
    id: str
    step: str
    reason: str
    detail: str = ""
    task: str = ""
    records: int = 1


@dataclass
class Prepared:
    """What became of a batch: rows (SPOOL_SCHEMA), records without one, and personal data replaced by kind."""

    file_number: int
    rows: pa.RecordBatch
    rejected: list[Rejected]
    hits: Counter[str] = field(default_factory=Counter)
    redacted_rows: int = 0


@dataclass(frozen=True)
class Setup:
    """What every process needs, by part of a mixture; one part for a plain source.

    Attributes:
        configs: the parts' configurations.
        key: of the pseudonyms; None where no part redacts.
        names: of all people that the input's metadata tells of.
    """

    configs: tuple[SourceConfig, ...]
    key: bytes | None = None
    names: tuple[str, ...] = ()


class Processor:
    """Turns batches into prepared ones."""

    def __init__(self, setup: Setup) -> None:
        self._modules = [load(config.source) for config in setup.configs]
        self._configs = setup.configs
        self._cleaners = [Cleaner(config) for config in setup.configs]
        self._redactors = [redactor(config, setup.key, setup.names) for config in setup.configs]

    def __call__(self, batch: Batch) -> Prepared:
        # a batch makes some ten thousand objects and no cycles among them: looking for cycles takes a tenth of the time
        collects = gc.isenabled()
        gc.disable()
        try:
            return self._prepared(batch)
        finally:
            if collects:
                gc.enable()

    def _prepared(self, batch: Batch) -> Prepared:
        rejected: list[Rejected] = []
        hits: Counter[str] = Counter()
        redacted = 0
        kept: list[tuple[Entry, Draft]] = []
        compared: list[Draft] = []
        cleaner, redact = self._cleaners[batch.part], self._redactors[batch.part]
        for entry, step in self._entries(batch):
            if entry.draft is None:
                rejected.append(_rejected(entry, step, entry.reason, entry.detail, entry.task, redact))
                continue
            try:
                draft = cleaner.clean(entry.draft)
            except Unusable as error:
                rejected.append(_rejected(entry, "clean", error.reason, error.detail, error.task, redact))
                continue
            compared.append(draft)
            if redact is not None:
                draft, found = redacted_draft(draft, redact)
                hits += found
                redacted += bool(found)
            kept.append((entry, draft))
        return Prepared(batch.file_number, table(kept, batch.shown, compared), rejected, hits, redacted)

    def _entries(self, batch: Batch) -> list[tuple[Entry, str]]:
        """The entries, each with the step at which it ended if it has no draft."""
        if isinstance(batch.records, list):
            entries = [(entry, "converted") for entry in batch.records]
        else:
            entries = self._converted(batch, batch.records)
        if len(self._configs) > 1:
            for entry, _ in entries:
                if entry.draft is not None and entry.draft.group:  # parts number their documents each from one
                    entry.draft.group = f"{batch.part}:{entry.draft.group}"
        if batch.shown == batch.file.name:
            return entries
        return [(_renamed(entry, batch.file.name, batch.shown), step) for entry, step in entries]

    def _converted(self, batch: Batch, chunk: reading.Chunk) -> list[tuple[Entry, str]]:
        entries = []
        convert, config = self._modules[batch.part].convert, self._configs[batch.part]
        group_by = config.group_by.split("+") if config.group_by else []
        for record in reading.parse(chunk):
            row_id = f"{batch.file.name}#{record.number}"
            if record.problem:
                entry = Entry(record.line, row_id, reason=record.problem, detail=record.detail)
                entries.append((entry, "parsed"))
                continue
            try:
                draft = convert(record.value, row_id, config)
                if group_by and not draft.group:
                    draft = replace(draft, group=group_of(record.value, group_by))
                entries.append((Entry(record.line, row_id, draft), ""))
            except Unusable as error:
                entry = Entry(record.line, row_id, reason=error.reason, detail=error.detail, task=error.task)
                entries.append((entry, "converted"))
        return entries


def _renamed(entry: Entry, name: str, shown: str) -> Entry:
    """The entry with the shown name of its file in its ids."""
    draft = entry.draft
    if draft is not None:
        draft = replace(draft, row=replace(draft.row, id=shown + draft.row.id.removeprefix(name)))
    return replace(entry, id=shown + entry.id.removeprefix(name), draft=draft)


def _rejected(entry: Entry, step: str, reason: str, detail: str, task: str, redact: Redactor | None) -> Rejected:
    if redact is not None:  # names of columns and of tasks are the user's text, too
        detail, task = (redact.redact([text])[0][0] for text in (detail, task))
    return Rejected(entry.line, entry.id, step, reason, detail, task, entry.records)


def group_of(record: dict[str, Any], columns: Sequence[str]) -> str:
    """The values of the columns that keep rows together.

    Raises:
        Unusable: a column is missing.
    """
    missing = [column for column in columns if column not in record]
    if missing:
        raise Unusable("no such columns", detail=f"data.group_by names {', '.join(missing)}")
    return json.dumps([record[column] for column in columns], ensure_ascii=False, sort_keys=True)


def redactor(config: SourceConfig, key: bytes | None, names: Sequence[str]) -> Redactor | None:
    """The redactor of a configuration; None where it redacts nothing."""
    if not config.redact:
        return None
    assert key is not None
    return Redactor(key, config.redact_kinds, [*config.redact_names, *names], config.redact_allow)


def shown_name(file: DataFile | Skipped, redact: Redactor | None) -> str:
    """The file's name as it is written in ids and reports: folders named after people get pseudonyms."""
    if redact is None:
        return file.name
    pieces = _NAME_END.split(file.name)
    return "".join(redact.redact([piece])[0][0] if piece else "" for piece in pieces)


#: What programs put behind a contact's name, which would make one word of a Latin name and it.
_NAME_END = re.compile(r"((?:_(?:utf-?8|train|dev|test|\d+))+(?=\.|/|$))", re.IGNORECASE)


def redacted_draft(draft: Draft, redact: Redactor) -> tuple[Draft, Counter[str]]:
    """The draft without personal data, in its messages and in its fields; and how many places were replaced by kind."""
    row = draft.row
    contents = [message.content for message in row.messages]
    texts, hits = redact.redact(contents)
    messages = tuple(
        message
        if text == message.content and not message.metadata
        else replace(message, content=text, metadata=redact.redact([message.metadata])[0][0])
        for message, text in zip(row.messages, texts, strict=True)
    )
    if hits or row.fields or any(message.metadata for message in messages):
        # a number that a message's words gave away stands alone in a field
        known = {
            contents[hit.message][hit.start : hit.end]: redact.placeholder(hit.kind, hit.value)
            for hit in (redact.find(contents) if row.fields and hits else ())
            if hit.end - hit.start >= _SHORTEST_VALUE
        }
        fields = _redacted_value(row.fields, redact, known)
        draft = replace(draft, row=replace(row, messages=messages, fields=fields))
    return draft, hits


#: Characters of a value that is looked for in a row's fields once a message has told what it is.
_SHORTEST_VALUE = 4


def _redacted_value(value: Any, redact: Redactor, known: Mapping[str, str]) -> Any:
    if isinstance(value, str):
        for text, placeholder in known.items():
            value = value.replace(text, placeholder)
        return redact.redact([value])[0][0]
    if isinstance(value, int) and not isinstance(value, bool) and str(value) in known:
        return known[str(value)]
    if isinstance(value, list):
        return [_redacted_value(item, redact, known) for item in value]
    if isinstance(value, dict):
        return {key: _redacted_value(item, redact, known) for key, item in value.items()}
    return value


def table(kept: Sequence[tuple[Entry, Draft]], file: str, compared: Sequence[Draft]) -> pa.RecordBatch:
    """The rows of one file as an Arrow batch (SPOOL_SCHEMA).

    Args:
        compared: the same drafts before redaction, which the keys are made of: another key of the pseudonyms must not
            move rows from one split to another.
    """
    drafts = [draft for _, draft in kept]
    keys = _keys(compared) if drafts else dict.fromkeys(KEYS, np.zeros(0))
    keys["records"] = np.array([entry.records for entry, _ in kept])
    columns = [
        *row_columns([draft.row for draft in drafts]),
        pa.array([file] * len(kept), pa.string()),
        pa.array([entry.line for entry, _ in kept], pa.int32()),
        pa.array(["\n".join(draft.notes) if draft.notes else "" for draft in drafts], pa.string()),
        *(pa.array(keys[name].astype(kind.to_pandas_dtype())) for name, kind in KEYS.items()),
    ]
    return pa.RecordBatch.from_arrays(columns, schema=SPOOL_SCHEMA)


def row_columns(rows: Sequence[Row]) -> list[pa.Array]:
    """The first columns of ROW_SCHEMA: id, task, metric, messages, fields."""
    offsets = [0]
    flat: list[Message] = []
    for row in rows:
        flat.extend(row.messages)
        offsets.append(len(flat))
    messages = pa.StructArray.from_arrays(
        [
            pa.array([message.role for message in flat], pa.string()),
            pa.array([message.content for message in flat], pa.string()),
            pa.array([message.learn for message in flat], pa.bool_()),
            pa.array([message.metadata for message in flat], pa.string()),
        ],
        fields=list(_MESSAGE),
    )
    return [
        pa.array([row.id for row in rows], pa.string()),
        pa.array([row.task for row in rows], pa.string()),
        pa.array([row.metric for row in rows], pa.string()),
        pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), messages),
        pa.array([json.dumps(row.fields, ensure_ascii=False) if row.fields else "" for row in rows], pa.string()),
    ]


def _keys(drafts: Sequence[Draft]) -> dict[str, hashing.Array]:
    """The columns of KEYS that follow from the texts."""
    messages = [message for draft in drafts for message in draft.row.messages]
    starts = hashing.starts_of([len(draft.row.messages) for draft in drafts])
    last = starts[1:] - 1
    codes, edges = hashing.folded([_compared(message) for message in messages])
    kinds = np.array([_KINDS[message.role, message.learn] for message in messages], np.uint64)
    spelled = hashing.text_hashes(codes, edges)
    bare_codes, bare_edges = hashing.without_spaces(codes, edges)
    bare = spelled if bare_codes is codes else hashing.text_hashes(bare_codes, bare_edges)
    prompt = hashing.sequence_hashes(np.delete(bare + kinds // 3, last), starts - np.arange(len(starts)))
    tasks = {task: hashing.hash64(task) for task in {draft.row.task for draft in drafts}}
    group = prompt.copy()
    for i, draft in enumerate(drafts):
        if draft.group:
            group[i] = hashing.hash64(draft.group)
    lengths = hashing.starts_of([len(message.content) for message in messages])
    return {
        "exact": hashing.sequence_hashes(spelled + kinds, starts)
        + np.array([tasks[draft.row.task] for draft in drafts], np.uint64),
        "prompt": prompt,
        "group": group,
        "reply": bare[last],
        "prompt_characters": (lengths[last] - lengths[starts[:-1]]).astype(np.int32),
        "reply_characters": (lengths[last + 1] - lengths[last]).astype(np.int32),
    }


#: A number for a message's role (the number by 3) and for whether it is learned.
_KINDS = {(role, learn): 3 * i + k for i, role in enumerate(ROLES) for k, learn in enumerate((None, False, True))}


def _compared(message: Message) -> str:
    return f"{message.metadata}\n{message.content}" if message.metadata else message.content
