"""MemoTrace's chat exports: a folder of ``<contact>/<contact>_train.json`` and ``_dev.json`` in ChatGLM3's form.

``*_train.json`` and ``train.json`` go to train, ``*_dev.json`` and ``dev.json`` to validation; any other JSON file is
named in the report and skipped. Artifacts of this project below the folder are never read.

Source: LC044/WeChatMsg exporter_json.py, and the merge script that users run over its output.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal
from zipfile import ZipFile

from tasks.conversation import Row
from tasks.data import dialogue, files
from tasks.data.chat import folders
from tasks.data.reading.archives import Blocks
from tasks.data.source import SPLITS, Claim, DataFile, Draft, Found, Skipped, SourceConfig, Split
from tasks.data.sources.conversations import messages_of
from tasks.errors import DataError
from tasks.schema import Field

TASK = "chat"
#: Every record may tell its owner's name, to be redacted in all of them.
NAMES_IN_RECORDS = True
EMPTY = "an empty export: MemoTrace writes [] for a chat that was never answered, and for dev below five dialogues"
SAME = "the same bytes as an export before it, which is read"
TWICE = "read, but this contact has an export in another folder too: what both hold is counted as duplicate"
_NAMES: tuple[tuple[str, Split], ...] = (("train.json", "train"), ("dev.json", "validation"))
#: The system message that the exporter writes, with the name of the chats' owner.
_SYSTEM = re.compile(r"你是(.{1,40}?)，一个聪明、热情、善良的人")
#: Longest file that may be an empty array with blanks around it, in bytes.
_EMPTY_BYTES = 64


class Config(SourceConfig):
    """Exported chats of any number of contacts; in validation and test the last reply is predicted."""

    source: Literal["chat_export"] = "chat_export"
    group_by: Literal["contact"] | None = Field(
        None, doc="contact: all dialogues with one contact stay in one split; null: rows with the same prompt do."
    )
    test_share: float = Field(
        0.2, ge=0, lt=1, doc="Share of the training groups (0-1) held out for testing; exports have no test file."
    )
    redact: bool = Field(True, doc="Replace personal data by pseudonyms, the same person by the same one.")
    min_keep_ratio: float = Field(
        0.1, ge=0, le=1, doc="Smallest share of the records read (0-1) to be kept, caps apart; fewer is an error."
    )


def find(config: Config) -> Found:
    """The exports below ``data.path``, in the order of their names.

    Raises:
        DataError: no such folder, or no export with a dialogue in it.
    """
    if folders.is_plain_file(config.path) or any(getattr(config, split) is not None for split in SPLITS):
        found = files.find(config)
        return Found(tuple(_named(file) for file in found.files), found.skipped)
    folder = files.existing(config.path or files.SAMPLES / config.source, "data.path")
    skipped: list[Skipped] = []
    exports = list(_exports(folder, skipped))
    kept = list(_distinct(exports, skipped))
    if not kept:
        why = (
            f"all {len(exports)} exports below this folder are empty ([]): MemoTrace exports only chats in which you "
            "answered, never groups; data.source=chat_messages reads its CSV"
            if exports
            else "no *_train.json or *_dev.json below this folder"
        )
        raise DataError(f"data.path={folder}: {why}")
    skipped += _twice(kept)
    # a contact whose export is left out may be spoken of in others, and is named among the skipped files
    names = dict.fromkeys(name for file in (kept[0], *exports) for name in file.names)
    return Found((replace(kept[0], names=tuple(names)), *kept[1:]), tuple(skipped))


def split_of(name: str) -> Split | None:
    """The split that an export's file name means; ``retrain.json`` means none."""
    name = name.lower()
    for ending, split in _NAMES:
        if name == ending or name.endswith("_" + ending):
            return split
    return None


def convert(record: dict[str, Any], row_id: str, config: Config) -> Draft:
    """The dialogue of a record, with its owner's name for redaction."""
    listed = dialogue.turns(record, "conversations", TASK)
    messages = tuple(message for turn in listed for message in messages_of(turn, TASK))
    group = folders.contact(row_id.rpartition("#")[0]) or row_id.rpartition("#")[0] if config.group_by else ""
    return Draft(Row(row_id, messages, TASK, "chat"), group=group, names=_owner(record))


def recognise(record: dict[str, Any]) -> Claim | None:
    """Dialogues behind the exporter's own system message."""
    return Claim(8, "dialogues behind MemoTrace's system message") if _owner(record) else None


def _owner(record: dict[str, Any]) -> tuple[str, ...]:
    turns = record.get("conversations")
    first = turns[0] if isinstance(turns, list) and turns else None
    if not isinstance(first, dict) or first.get("role") != "system" or not isinstance(first.get("content"), str):
        return ()
    found = _SYSTEM.match(first["content"])
    return (found[1],) if found else ()


def _named(file: DataFile) -> DataFile:
    return replace(file, names=folders.people(file.name))


def _exports(folder: Path, skipped: list[Skipped]) -> Iterator[DataFile]:
    """Files whose names are an export's; other JSON files are added to ``skipped``."""
    for path, name, member in folders.inputs(folder, skipped):
        split = split_of(name.rpartition("/")[2].removesuffix(".gz"))
        if split is not None:
            yield _named(DataFile(path, name, split, member))
        elif folders.suffix(name) in (".json", ".jsonl"):
            skipped.append(Skipped(name, "not an export: its name is neither *_train.json nor *_dev.json"))


def _distinct(exports: list[DataFile], skipped: list[Skipped]) -> Iterator[DataFile]:
    """The exports that hold something that none before them holds as a whole; the others go to ``skipped``."""
    sizes = [_size(file) for file in exports]
    shared = {size for size, count in Counter(sizes).items() if count > 1}  # only then can two have the same bytes
    seen: dict[tuple[int, bytes], str] = {}
    for file, size in zip(exports, sizes, strict=True):
        if size <= _EMPTY_BYTES and _is_empty(file):
            skipped.append(Skipped(file.name, EMPTY))
            continue
        if size in shared:
            first = seen.setdefault((size, _digest(file)), file.name)
            if first != file.name:
                skipped.append(Skipped(file.name, SAME))
                continue
        yield file


def _twice(exports: list[DataFile]) -> Iterator[Skipped]:
    """A line for every export of a contact of whom an earlier folder has one."""
    homes: dict[str, str] = {}
    for file in exports:
        contact, home = folders.contact(file.name), file.name.rpartition("/")[0]
        if contact and homes.setdefault(contact, home) != home:
            yield Skipped(file.name, TWICE)


def _size(file: DataFile) -> int:
    if not file.member:
        return file.path.stat().st_size
    with ZipFile(file.path) as archive:
        return archive.getinfo(file.member).file_size


def _is_empty(file: DataFile) -> bool:
    return b"".join(Blocks(file)).removeprefix(b"\xef\xbb\xbf").split() in ([b"[]"], [b"[", b"]"])


def _digest(file: DataFile) -> bytes:
    digest = hashlib.sha256()
    for block in Blocks(file):
        digest.update(block)
    return digest.digest()
