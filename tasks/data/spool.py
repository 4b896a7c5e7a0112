"""The rows of a data set while it is made: in one Arrow file on disk, their keys as arrays in memory.

A row costs about 70 bytes of memory, whatever its texts; a million rows take 70 MB.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import pyarrow as pa

from tasks.data import answers
from tasks.data.hashing import Array
from tasks.data.processing import KEYS, SPOOL_SCHEMA
from tasks.data.source import SPLITS, Split


@dataclass
class Keys:
    """What is known of every row: one array an attribute, in the order of the input.

    Attributes:
        records, exact, prompt, group, reply, prompt_characters, reply_characters: see ``processing.KEYS``.
        line: on which the record starts; file: index of the input file; part: of a mixture's part.
        task: index into ``tasks``; free_text: its replies may have several references.
        split: index into SPLITS, changed by ``splitting``.
        reason: 0 for a row that is kept, else an index into ``reasons``.
    """

    records: Array
    exact: Array
    prompt: Array
    group: Array
    reply: Array
    prompt_characters: Array
    reply_characters: Array
    line: Array
    file: Array
    part: Array
    task: Array
    free_text: Array
    split: Array
    reason: Array
    tasks: list[str] = field(default_factory=list)
    reasons: list[str] = field(default_factory=lambda: [""])

    def __len__(self) -> int:
        return len(self.reason)

    @property
    def alive(self) -> Array:
        """Mask of the rows that are kept."""
        return np.asarray(self.reason == 0)

    def of(self, split: Split) -> Array:
        """Mask of the kept rows of a split."""
        return np.asarray(self.alive & (self.split == SPLITS.index(split)))

    def drop(self, rows: Array, reason: str) -> None:
        """Drop rows (a mask or indices) for a reason."""
        if reason not in self.reasons:
            self.reasons.append(reason)
        self.reason[rows] = self.reasons.index(reason)


class Spool:
    """The Arrow file; written once in order, then read by batch. ``keys`` are there once it is written."""

    keys: Keys

    def __init__(self, path: Path) -> None:
        self.path = path
        self._starts: list[int] = [0]
        self._columns: dict[str, list[Array]] = {}
        self._tasks: list[str] = []

    def __enter__(self) -> Spool:
        self._writer = pa.ipc.new_file(self.path, SPOOL_SCHEMA)
        self.add(_empty(), 0, 0, "train")  # so that every array is there, with its type
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._writer.close()
        if kind is None:
            columns: dict[str, Any] = {name: np.concatenate(parts) for name, parts in self._columns.items()}
            self.keys = Keys(**columns, tasks=self._tasks)
            self._columns = {}

    def add(self, batch: pa.RecordBatch, file: int, part: int, split: Split) -> None:
        rows = batch.num_rows
        if rows:
            self._writer.write_batch(batch)
            self._starts.append(self._starts[-1] + rows)
        values: dict[str, Array] = {name: batch.column(name).to_numpy() for name in (*KEYS, "line")}
        values["file"] = np.full(rows, file, np.int32)
        values["part"] = np.full(rows, part, np.int16)
        values["task"] = self._coded(batch.column("task"))
        values["free_text"] = answers.are_free_text(batch)
        values["split"] = np.full(rows, SPLITS.index(split), np.int8)
        values["reason"] = np.zeros(rows, np.int8)
        for name, value in values.items():
            # a copy, or the whole batch would stay in memory with it
            self._columns.setdefault(name, []).append(np.array(value))

    def _coded(self, column: pa.Array) -> Array:
        encoded = column.dictionary_encode()
        names = encoded.dictionary.to_pylist()
        self._tasks += [name for name in names if name not in self._tasks]
        places = np.array([self._tasks.index(name) for name in names], np.int16)
        return np.asarray(places[encoded.indices.to_numpy()])

    @property
    def starts(self) -> Sequence[int]:
        """The index of each batch's first row; the number of all rows at the end."""
        return self._starts

    def batches(self) -> Iterator[tuple[slice, pa.RecordBatch]]:
        """Every batch with the place of its rows among all rows; one in memory at a time."""
        with pa.OSFile(str(self.path)) as file, pa.ipc.open_file(file) as reader:
            for i in range(reader.num_record_batches):
                yield slice(self._starts[i], self._starts[i + 1]), reader.get_batch(i)


def _empty() -> pa.RecordBatch:
    return pa.RecordBatch.from_pylist([], schema=SPOOL_SCHEMA)


def dialogue_texts(batch: pa.RecordBatch) -> tuple[list[str], list[str]]:
    """The texts of a batch's rows: all turns but the system's in one, and the last reply."""
    messages = batch.column("messages")
    offsets = messages.offsets.to_pylist()
    roles = messages.values.field("role").to_pylist()
    contents = messages.values.field("content").to_pylist()
    whole = [
        "".join(contents[i] for i in range(start, end) if roles[i] != "system") for start, end in pairwise(offsets)
    ]
    return whole, [contents[end - 1] for end in offsets[1:]]
