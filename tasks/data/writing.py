"""Writes what a data set keeps: its rows as Parquet by split, and a line for every record that was dropped."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tasks.data import answers
from tasks.data.hashing import Array
from tasks.data.processing import DATASET_SCHEMA, Rejected
from tasks.data.source import SPLITS
from tasks.data.spool import Keys, Spool, dialogue_texts

_GROUP_ROWS = 16_384
#: A label of a classification task that is longer than this is no label.
_LABEL_CHARACTERS = 40
#: References of a row; a prompt that many rows share would otherwise give each of them all replies.
_MOST_REFERENCES = 32


class Quarantine:
    """``quarantine.jsonl``: file, line, id, split and reason of every dropped record; never its content."""

    def __init__(self, file: TextIO) -> None:
        self._file = file

    def rejected(self, name: str, split: str, found: Iterable[Rejected]) -> None:
        """Records that made no row."""
        for one in found:
            self._line(
                file=name,
                line=one.line,
                id=one.id,
                split=split,
                reason=one.reason,
                detail=one.detail,
                records=one.records,
            )

    def dropped(self, batch: pa.RecordBatch, keys: Keys, place: slice) -> None:
        """The rows of a batch that were dropped after all."""
        for i in np.flatnonzero(keys.reason[place]).tolist():
            row = place.start + i
            self._line(
                file=batch.column("file")[i].as_py(),
                line=int(keys.line[row]),
                id=batch.column("id")[i].as_py(),
                split=SPLITS[keys.split[row]],
                reason=keys.reasons[keys.reason[row]],
                records=int(keys.records[row]),
            )

    def _line(self, *, records: int, **values: Any) -> None:
        shown = {name: value for name, value in values.items() if value != ""}
        extra = {"records": records} if records != 1 else {}
        self._file.write(json.dumps({**shown, **extra}, ensure_ascii=False) + "\n")


@dataclass
class Written:
    """What was seen while the rows were written.

    Attributes:
        labels: labels of the training rows by classification task.
        notes: what was mended in rows that are kept.
        unseen: test rows by whether they say that their entities do not occur in train.
    """

    labels: defaultdict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    notes: Counter[str] = field(default_factory=Counter)
    unseen: Counter[bool] = field(default_factory=Counter)


def write(spool: Spool, folder: Path, quarantine: Quarantine) -> Written:
    """Write ``<split>.parquet`` with the kept rows, and the dropped ones to the quarantine."""
    keys, written = spool.keys, Written()
    references = _references(spool)
    with ExitStack() as stack:
        writers = [stack.enter_context(_Split(folder / f"{split}.parquet")) for split in SPLITS]
        for place, batch in spool.batches():
            quarantine.dropped(batch, keys, place)
            alive = keys.alive[place]
            written.notes.update(note for text in _texts(batch, "notes", alive) for note in text.split("\n") if note)
            for split, writer in enumerate(writers):
                mask = alive & (keys.split[place] == split)
                if not mask.any():
                    continue
                rows = batch.filter(pa.array(mask))
                if SPLITS[split] == "train":
                    _count_labels(rows, written)
                elif references:
                    rows = _with_references(rows, keys.prompt[place][mask], split, references)
                if SPLITS[split] == "test":
                    _count_unseen(rows, written)
                writer.add(rows.select(DATASET_SCHEMA.names))
    return written


class _Split:
    """A Parquet file whose row groups are larger than the batches it is given."""

    def __init__(self, path: Path) -> None:
        self._writer = pq.ParquetWriter(path, DATASET_SCHEMA, compression="zstd")
        self._batches: list[pa.RecordBatch] = []

    def add(self, batch: pa.RecordBatch) -> None:
        self._batches.append(batch)
        if sum(b.num_rows for b in self._batches) >= _GROUP_ROWS:
            self._flush()

    def _flush(self) -> None:
        if self._batches:
            self._writer.write_table(pa.Table.from_batches(self._batches))
            self._batches = []

    def __enter__(self) -> _Split:
        return self

    def __exit__(self, *_: object) -> None:
        self._flush()
        self._writer.close()


def _texts(batch: pa.RecordBatch, column: str, mask: Array) -> list[str]:
    texts: list[str] = batch.column(column).filter(pa.array(mask)).to_pylist()
    return texts


def _count_labels(rows: pa.RecordBatch, written: Written) -> None:
    is_label = answers.are_labels(rows)
    if not is_label.any():
        return
    labelled = rows.filter(pa.array(is_label))
    _, replies = dialogue_texts(labelled)
    for task, reply in zip(labelled.column("task").to_pylist(), replies, strict=True):
        if len(reply) <= _LABEL_CHARACTERS:
            written.labels[task][reply] += 1


def _count_unseen(rows: pa.RecordBatch, written: Written) -> None:
    for text in rows.column("fields").to_pylist():
        if "unseen_entities" in text:
            written.unseen.update(mark for mark in [json.loads(text).get("unseen_entities")] if isinstance(mark, bool))


_References = Mapping[tuple[int, int], list[str]]


def _references(spool: Spool) -> _References:
    """(split, prompt) -> all replies to it, for prompts of free text that validation or test has several rows of."""
    keys = spool.keys
    found: dict[tuple[int, int], list[str]] = {}
    for split in (SPLITS.index("validation"), SPLITS.index("test")):
        mask = keys.alive & keys.free_text & (keys.split == split)
        prompts, counts = np.unique(keys.prompt[mask], return_counts=True)
        found |= {(split, prompt): [] for prompt in prompts[counts > 1].tolist()}
    if not found:
        return found
    wanted = np.isin(keys.prompt, np.array([prompt for _, prompt in found], np.uint64)) & keys.alive & keys.free_text
    for place, batch in spool.batches():
        rows = np.flatnonzero(wanted[place])
        if not len(rows):
            continue
        chosen = batch.take(pa.array(rows))
        _, replies = dialogue_texts(chosen)
        for i, reply, fields in zip(rows.tolist(), replies, chosen.column("fields").to_pylist(), strict=True):
            key = (int(keys.split[place.start + i]), int(keys.prompt[place.start + i]))
            if key in found and len(found[key]) < 4 * _MOST_REFERENCES:
                found[key] += [reply, *(json.loads(fields).get("references", []) if fields else [])]
    return {key: every for key, replies in found.items() if len(every := list(dict.fromkeys(replies))) > 1}


def _with_references(rows: pa.RecordBatch, prompts: Array, split: int, references: _References) -> pa.RecordBatch:
    fields = [
        json.dumps({**(json.loads(text) if text else {}), "references": _own_first(reply, every)}, ensure_ascii=False)
        if free and (every := references.get((split, prompt)))
        else text
        for text, reply, prompt, free in zip(
            rows.column("fields").to_pylist(),
            dialogue_texts(rows)[1],
            prompts.tolist(),
            answers.are_free_text(rows).tolist(),
            strict=True,
        )
    ]
    return rows.set_column(rows.schema.get_field_index("fields"), "fields", pa.array(fields, pa.string()))


def _own_first(reply: str, every: Sequence[str]) -> list[str]:
    """At most _MOST_REFERENCES replies, the row's own among them, in the order of the data set where all fit."""
    if len(every) <= _MOST_REFERENCES and reply in every:
        return list(every)
    return [reply, *(other for other in every if other != reply)][:_MOST_REFERENCES]


def kept_rows(folder: Path) -> Iterator[tuple[str, int]]:
    """(split, rows) of the files that were written, as they stand on disk."""
    for split in SPLITS:
        yield split, pq.ParquetFile(folder / f"{split}.parquet").metadata.num_rows
