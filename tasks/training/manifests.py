"""Folders that are whole or not there: written aside, synced, listed in a manifest, and put in place by one rename.

``MANIFEST.json`` holds every file's size and sha256 beside the facts that the writer adds. What a kill leaves behind is
a hidden ``.step-N.ATTEMPT.tmp``; what is found damaged becomes ``corrupt-step-N-TIME`` with a REASON.txt. Does not know
what the files mean: that is tasks.training.checkpointing. Standard library only.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import shutil
import time
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from tasks.files import sha256_file, sync_folder, write_atomic

log = logging.getLogger(__name__)

MANIFEST = "MANIFEST.json"
#: Of the manifest and of what stands beside it; a folder of another version is not used.
SCHEMA = 1


class Damaged(ValueError):
    """A folder that is not what its manifest says; the message names the file and what is wrong with it."""


def step_folder(root: Path, kind: str, step: int) -> Path:
    """Where a step's weights (kind "checkpoints") or the rest of its state (kind "state") lie."""
    return root / kind / f"step-{step:06d}"


def step_numbers(folder: Path) -> list[int]:
    """Steps of the committed folders below ``folder``, ascending."""
    names = (re.fullmatch(r"step-(\d+)", path.name) for path in folder.glob("step-*"))
    return sorted(int(name[1]) for name in names if name)


def sync_tree(folder: Path) -> None:
    """Make every file and folder at and below ``folder`` durable."""
    for path in [*folder.rglob("*"), folder]:
        try:
            if path.is_dir():
                sync_folder(path)
            else:
                # a copy of a read-only file is read-only; only Windows asks for the right to write
                with path.open("rb+" if os.name == "nt" else "rb") as stream:
                    os.fsync(stream.fileno())
        except FileNotFoundError:  # another process's own temporary file: it syncs what it made of it
            continue


def seal(temporary: Path, target: Path, facts: Mapping[str, Any]) -> str:
    """List the synced files of ``temporary`` in its manifest and put it in ``target``'s place; the manifest's sha256.

    The digests are of the files as they are read back, so what the manifest lists is what a reader gets.
    """
    files = {
        file.relative_to(temporary).as_posix(): {"bytes": file.stat().st_size, "sha256": sha256_file(file)}
        for file in sorted(temporary.rglob("*"))
        if file.is_file() and file.name != MANIFEST
    }
    write_atomic(temporary / MANIFEST, json.dumps({"schema": SCHEMA, **facts, "files": files}, indent=1))
    if target.exists():  # never a point that a run could resume from: those are not computed again
        discard(target)
    temporary.replace(target)
    sync_folder(target.parent)
    return sha256_file(target / MANIFEST)


def check(folder: Path, *, digests: bool = True) -> dict[str, Any]:
    """The folder's manifest, if every file is the one that it lists.

    Args:
        digests: read all files; else compare their sizes only.

    Raises:
        Damaged: a file is missing, cut, changed, another step's, or of another version.
    """
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        version, step, files = manifest["schema"], manifest["step"], manifest["files"]
        entries = {str(name): (int(file["bytes"]), str(file["sha256"])) for name, file in files.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise Damaged(f"{MANIFEST} cannot be read: {type(error).__name__}: {error}") from None
    if version != SCHEMA:
        raise Damaged(f"{MANIFEST}: schema {version!r}, this version of the program reads {SCHEMA}")
    if folder.name != f"step-{step:06d}":
        raise Damaged(f"{MANIFEST}: belongs to step {step}")
    for name, (size, digest) in entries.items():
        path = folder / name
        if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
            raise Damaged(f"{MANIFEST}: {name} lies outside the folder")
        try:
            found = path.stat().st_size
            if found != size:
                raise Damaged(f"{name}: {found} bytes, written were {size}")
            if digests and sha256_file(path) != digest:
                raise Damaged(f"{name}: its content is not what was written")
        except OSError as error:
            raise Damaged(f"{name}: {error.strerror or error}") from None
    return dict(manifest)


def set_aside(folder: Path, reason: str, *, prefix: str = "corrupt") -> None:
    """Take a folder out of use, with its reason in the log and beside its files; nothing where there is none."""
    if not folder.exists():
        return
    aside = folder.with_name(f"{prefix}-{folder.name}-{time.time_ns()}")
    folder.replace(aside)
    log.warning("%s is not used (%s); set aside as %s", folder, reason, aside.name)
    (aside / "REASON.txt").write_text(reason + "\n", encoding="utf-8")


def discard(folder: Path) -> None:
    """Delete a folder; a kill midway leaves a hidden name, never half of the folder under its own."""
    if folder.exists():
        hidden = folder.with_name(f".{folder.name}.{time.time_ns()}.tmp")
        folder.replace(hidden)
        shutil.rmtree(hidden, ignore_errors=True)


def remove_half_written(home: Path) -> None:
    """Delete what killed attempts left unfinished below ``home``."""
    for folder in home.glob(".step-*.tmp"):
        log.info("%s: removed, its attempt ended before it was complete", folder)
        shutil.rmtree(folder, ignore_errors=True)


def total_bytes(folder: Path) -> int:
    """Bytes of all files below ``folder``; 0 where there is none."""
    total = 0
    for place, _, names in os.walk(folder):  # unlike rglob it does not mind that another process deletes them
        for name in names:
            with contextlib.suppress(OSError):
                total += (Path(place) / name).stat().st_size
    return total
