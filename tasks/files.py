"""Durable files: hashes, whole-file replacement, folder syncs. Standard library only, for workers too."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path

_CHUNK_BYTES = 1 << 20


def sha256_file(path: Path) -> str:
    """sha256 (hex) of a file's bytes."""
    result = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            result.update(chunk)
    return result.hexdigest()


def write_atomic(path: Path, text: str) -> None:
    """Replace a text file as a whole: a reader sees the old content or the new, also after a power cut."""
    write_atomic_bytes(path, [text.encode("utf-8")])


def write_atomic_bytes(path: Path, parts: Iterable[bytes | memoryview]) -> None:
    """Replace a file by ``parts``, written end to end, as :func:`write_atomic` does."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            for part in parts:
                file.write(part)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError:  # a full disk, for one: what was written of it must not stay
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def sync_files(folder: Path) -> None:
    """Make the content of every file below ``folder`` durable."""
    for file in folder.rglob("*"):
        if file.is_file():
            # a copy of a read-only file is read-only; only Windows asks for the right to write
            with file.open("rb+" if os.name == "nt" else "rb") as stream:
                os.fsync(stream.fileno())


def sync_folder(folder: Path) -> None:
    """Make a folder's entries durable; a no-op where folders cannot be opened (Windows)."""
    if os.name == "nt":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
