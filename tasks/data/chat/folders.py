"""The folders in which people keep exported chats: what lies below them, and whose chat a file is by its name.

Never enters this project's own output, follows no link. Does not know formats.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from tasks.data import files
from tasks.data.files import RECORD
from tasks.data.source import Skipped

#: File and folder names that are no contact's; redacting them as names would blank these words everywhere.
_GENERIC = frozenset(
    {
        "train",
        "training",
        "dev",
        "val",
        "valid",
        "validation",
        "test",
        "data",
        "dataset",
        "datasets",
        "sample",
        "samples",
    }
    | {"msg", "msgs", "message", "messages", "chat", "chats", "chatlog", "log", "logs", "history", "chat_messages"}
    | {"export", "exports", "output", "csv", "json", "wechat", "weixin", "weclone", "memotrace", "chat_export"}
    | {"聊天记录", "消息", "微信", "数据", "导出"}
)
#: What programs put behind the contact: _utf8 and _train (MemoTrace), _0_5000 (PyWxDump's pages).
_ENDING = re.compile(r"(?:_(?:utf8|utf-8|train|dev|test|\d+))+$", re.I)
_WITH_ID = re.compile(r"(.+?)\s*[(（]([^()（）]+)[)）]")


def walk(folder: Path, skipped: list[Skipped]) -> Iterator[Path]:
    """The files below ``folder`` in the order of their names; what is not entered is added to ``skipped``."""

    def name(path: Path) -> str:
        return path.relative_to(folder).as_posix()

    def unreadable(error: OSError) -> None:
        skipped.append(Skipped(name(Path(error.filename)), f"a folder that cannot be read ({error.strerror})"))

    for parent, folders, names in os.walk(folder, onerror=unreadable):
        here = Path(parent)
        if RECORD in names:
            skipped.append(Skipped(name(here), "an artifact of this project"))
            folders.clear()
            continue
        for inner in sorted(folders):
            if (here / inner).is_symlink():  # it may lead back to a folder above
                skipped.append(Skipped(name(here / inner), "a link to a folder, not followed"))
            elif inner.endswith(".partial"):
                skipped.append(Skipped(name(here / inner), "an unfinished artifact of this project"))
        folders[:] = sorted(f for f in folders if not f.endswith(".partial") and not (here / f).is_symlink())
        for file in sorted(names):
            path = here / file
            if path.is_file():
                yield path
            else:
                skipped.append(Skipped(name(path), "a broken link"))


def inputs(root: Path, skipped: list[Skipped]) -> Iterator[tuple[Path, str, str]]:
    """(path, name, member) of every file below a folder, or in a zip archive; archives in a folder are looked into."""
    for path in walk(root, skipped) if root.is_dir() else (root,):
        name = path.relative_to(root).as_posix() if root.is_dir() else path.name
        if path.suffix.lower() != ".zip":
            yield path, name, ""
            continue
        inside, left_out = files.members(path, name)
        skipped += left_out
        for shown, member in inside:
            yield path, shown, member


def is_plain_file(path: Path | None) -> bool:
    """Whether the user named one file, not a folder or an archive of files."""
    return path is not None and files.is_of(stat.S_ISREG, path) and path.suffix.lower() != ".zip"


def suffix(name: str) -> str:
    """The suffix of a file's name, below .gz."""
    return PurePosixPath(name.lower().removesuffix(".gz")).suffix


def contact(name: str) -> str:
    """Whose chat a file holds: its stem without what programs put behind it, or its folder where that says more."""
    path = PurePosixPath(name)
    stem = path.name
    while PurePosixPath(stem).suffix.lower() in (".gz", *files.SUFFIXES):
        stem = PurePosixPath(stem).stem
    told = [text for text in (_ENDING.sub("", stem), path.parent.name) if is_name(text) or (text and len(text) == 1)]
    return next((text for text in told if not text.startswith("wxid_")), told[0] if told else "")


def people(name: str) -> tuple[str, ...]:
    """The names, for redaction, that a file's name gives away; of ``小红(wxid_1)`` both, the better known first."""
    found = contact(name)
    with_id = _WITH_ID.fullmatch(found)
    return tuple(filter(is_name, with_id.groups() if with_id else (found,)))


def is_name(text: str) -> bool:
    """Whether redacting this text does no harm: not 我, no single character, no number, no word of programs."""
    return len(text) > 1 and not text.isdigit() and text.lower() not in _GENERIC
