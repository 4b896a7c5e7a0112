"""MemoTrace's chat exports: a folder of ``<contact>/<contact>_train.json`` and ``_dev.json`` in ChatGLM3's form.

``*_train.json`` and ``train.json`` go to train, ``*_dev.json`` and ``dev.json`` to validation; any other JSON file is
named in the report and skipped. Artifacts of this project below the folder are never read.

Source: LC044/WeChatMsg exporter_json.py, and the merge script that users run over its output.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from tasks.conversation import Row
from tasks.data import dialogue, files
from tasks.data.source import SPLITS, DataFile, Entry, Found, Skipped, SourceConfig, Split, entries
from tasks.data.sources.conversations import messages_of
from tasks.errors import DataError
from tasks.schema import Field

_NAMES: tuple[tuple[str, Split], ...] = (("train.json", "train"), ("dev.json", "validation"))


class Config(SourceConfig):
    """Exported chats of any number of contacts; in validation and test the last reply is predicted."""

    source: Literal["chat_export"] = "chat_export"
    test_share: float = Field(
        0.2, ge=0, lt=1, doc="Share of the training prompts (0-1) held out for testing; exports have no test file."
    )


def find(config: Config) -> Found:
    """The exports below ``data.path``, in the order of their names.

    Raises:
        DataError: no such folder, or no export in it.
    """
    if (config.path is not None and config.path.expanduser().is_file()) or any(
        getattr(config, split) is not None for split in SPLITS
    ):
        return files.find(config)
    folder = files.existing(config.path or files.SAMPLES / config.source, "data.path")
    found: list[DataFile] = []
    skipped: list[Skipped] = []
    for path in _walk(folder, skipped):
        name = path.relative_to(folder).as_posix()
        split = split_of(path.name)
        if split is not None:
            found.append(DataFile(path, name, split))
        elif path.suffix.lower() == ".json":
            skipped.append(Skipped(name, "not an export: its name is neither *_train.json nor *_dev.json"))
    if not found:
        raise DataError(f"data.path={folder}: no *_train.json or *_dev.json below this folder")
    return Found(tuple(found), tuple(skipped))


def split_of(name: str) -> Split | None:
    """The split that an export's file name means; ``retrain.json`` means none."""
    for ending, split in _NAMES:
        if name == ending or name.endswith("_" + ending):
            return split
    return None


def _walk(folder: Path, skipped: list[Skipped]) -> Iterator[Path]:
    for parent, folders, names in os.walk(folder):
        folders.sort()
        if files.RECORD in names:
            skipped.append(Skipped(Path(parent).relative_to(folder).as_posix(), "an artifact of this project"))
            folders.clear()
            continue
        for name in sorted(names):
            yield Path(parent, name)


def read(file: DataFile, config: Config) -> Iterator[Entry]:
    """One entry a dialogue."""
    return entries(file, lambda record, row_id: _row(record, row_id, config))


def _row(record: dict[str, Any], row_id: str, config: Config) -> tuple[Row, str]:
    listed = dialogue.turns(record, "conversations", "chat")
    messages = [message for turn in listed for message in messages_of(turn, "chat")]
    return dialogue.row(messages, row_id, config, task="chat", metric="chat", fields={})
