"""The one in-memory form of a dialogue, and of a data row that holds one.

Owns what a message is and how rows are kept in files: Parquet in data sets, JSONL between an orchestrator and its
workers. Does not know templates or tokens.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

Role = Literal["system", "user", "assistant", "observation"]
ROLES: tuple[str, ...] = get_args(Role)
_COLUMNS = ("id", "task", "metric", "messages", "fields", "group")


@dataclass(frozen=True)
class Message:
    """One turn. ``learn`` is None for the role's default: assistant turns are learned, others are not.

    ``metadata`` is what ChatGLM3 writes behind the role token (a tool's name); empty for plain turns.
    """

    role: Role
    content: str
    learn: bool | None = None
    metadata: str = ""

    @property
    def learned(self) -> bool:
        return self.role == "assistant" if self.learn is None else self.learn


@dataclass(frozen=True)
class Row:
    """One row of a data set: a dialogue that ends with the reply to learn or to predict.

    Attributes:
        id: unique within its split; names the source file and line or the row's own id.
        messages: the dialogue; the last one is the assistant's reference reply.
        task: name of the task that the row belongs to ("CHIP-CTC", "triples", "chat"); decides tables.
        metric: name of the metric module that scores it ("classification", "triples", "generation", ...).
        fields: the row's own further fields, kept for scoring (answer_choices, sample_id, references).
        group: rows with the same one belong together (one document, one dialogue, one prompt): they stay in one split
            and are resampled as one; empty: the row by itself.
    """

    id: str
    messages: tuple[Message, ...]
    task: str
    metric: str
    fields: dict[str, Any] = field(default_factory=dict)
    group: str = ""

    @property
    def prompt(self) -> tuple[Message, ...]:
        """Everything before the last reply."""
        return self.messages[:-1]

    @property
    def reference(self) -> str:
        """The text of the last reply."""
        return self.messages[-1].content

    def to_json(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "task": self.task,
            "metric": self.metric,
            "messages": [_message_json(m) for m in self.messages],
            **({"fields": self.fields} if self.fields else {}),
            **({"group": self.group} if self.group else {}),
        }

    @staticmethod
    def from_json(value: dict[str, Any]) -> Row:
        return Row(
            id=value["id"],
            messages=tuple(Message(**m) for m in value["messages"]),
            task=value["task"],
            metric=value["metric"],
            fields=value.get("fields", {}),
            group=value.get("group", ""),
        )


def _message_json(message: Message) -> dict[str, Any]:
    value: dict[str, Any] = {"role": message.role, "content": message.content}
    if message.learn is not None:
        value["learn"] = message.learn
    if message.metadata:
        value["metadata"] = message.metadata
    return value


def write_rows(path: Path, rows: Iterable[Row]) -> int:
    """Write rows as JSONL (UTF-8, LF); returns how many."""
    count = 0
    with path.open("w", encoding="utf-8", newline="\n") as file:
        for row in rows:
            file.write(json.dumps(row.to_json(), ensure_ascii=False) + "\n")
            count += 1
    return count


def read_rows(path: Path) -> Iterator[Row]:
    """Read the rows of a data set's Parquet file, or of a JSONL file that :func:`write_rows` wrote, as a stream."""
    if path.suffix == ".parquet":
        yield from _parquet_rows(path)
        return
    with path.open(encoding="utf-8") as file:
        for line in file:
            yield Row.from_json(json.loads(line))


def _parquet_rows(path: Path) -> Iterator[Row]:
    import pyarrow.parquet

    with pyarrow.parquet.ParquetFile(path) as file:
        columns = [name for name in _COLUMNS if name in file.schema_arrow.names]
        for batch in file.iter_batches(batch_size=2000, columns=columns):
            yield from rows_of(batch)


def rows_of(batch: Any) -> Iterator[Row]:
    """The rows of an Arrow batch with a data set's columns (``tasks.data.processing``); fields and group may lack."""
    for value in batch.to_pylist():
        yield Row(
            id=value["id"],
            messages=tuple(Message(**message) for message in value["messages"]),
            task=value["task"],
            metric=value["metric"],
            fields=json.loads(value["fields"]) if value.get("fields") else {},
            group=f"{group:016x}" if (group := value.get("group")) is not None else "",
        )
