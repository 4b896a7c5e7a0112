"""The content-addressed artifact store: fingerprints, atomic publish, locks, reuse.

An artifact is a folder ``<root>/<stage>/<name>-<fingerprint12>/`` with a record ``artifact.json`` that is written
last. Work happens in the same folder's ``.partial`` twin under a lock; the rename is the commit. A folder without
a record is not an artifact. This is the one reuse mechanism of the project: orchestrators cache nothing.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from filelock import FileLock, Timeout

from tasks.artifacts import Artifact
from tasks.errors import CorruptArtifact
from tasks.files import sha256_file, sync_files, sync_folder, write_atomic

log = logging.getLogger(__name__)
A = TypeVar("A", bound=Artifact)

RECORD = "artifact.json"
SCHEMA = 1


def canonical(value: Any) -> str:
    """The one JSON text of a value: sorted keys, no spaces; a value without one is an error, never ``str()``."""
    return json.dumps(value, sort_keys=True, ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def digest(value: Any) -> str:
    """sha256 (hex) of a value's canonical JSON."""
    return hashlib.sha256(canonical(value).encode("utf-8")).hexdigest()


def list_files(folder: Path) -> list[dict[str, Any]]:
    """Relative POSIX path, size and sha256 of every file below ``folder``, the record itself left out."""
    return [
        {"path": p.relative_to(folder).as_posix(), "bytes": p.stat().st_size, "sha256": sha256_file(p)}
        for p in sorted(folder.rglob("*"))
        if p.is_file() and p.relative_to(folder).as_posix() != RECORD
    ]


class Store:
    """All artifacts below one folder."""

    def __init__(self, root: Path) -> None:
        self.root = root.resolve()
        self._digests = self.root / ".digests.json"

    # --- external inputs -------------------------------------------------------------------------------------

    def file_digest(self, path: Path) -> str:
        """sha256 of an external file, remembered by path, size, inode and modification time."""
        return self.file_digests([path])[0]

    def file_digests(self, paths: list[Path]) -> list[str]:
        """sha256 of external files in the order given; only new or changed ones are read."""
        known: dict[str, list[Any]] = {}
        if self._digests.is_file():
            try:
                known = json.loads(self._digests.read_text(encoding="utf-8"))
            except ValueError:
                log.warning("%s is not JSON: hashes are computed anew", self._digests)
        result, changed = [], False
        for path in paths:
            stat = path.stat()
            key, mark = str(path.resolve()), [stat.st_size, stat.st_ino, stat.st_mtime_ns]
            entry = known.get(key)
            if entry is None or entry[:3] != mark:
                entry = [*mark, sha256_file(path)]
                known[key], changed = entry, True
            result.append(entry[3])
        if changed:
            self.root.mkdir(parents=True, exist_ok=True)
            write_atomic(self._digests, json.dumps(known, indent=1))
        return result

    # --- artifacts -------------------------------------------------------------------------------------------

    def find(
        self, kind: type[A], *, name: str, revision: int, config: Mapping[str, Any], inputs: Mapping[str, str]
    ) -> A | None:
        """The artifact with this identity where it was published; the arguments are those of :meth:`publish`."""
        final, fingerprint, _ = self._place(kind, name, revision, config, inputs)
        return self._reuse(kind, final, fingerprint)

    def publish(
        self,
        kind: type[A],
        *,
        name: str,
        revision: int,
        config: Mapping[str, Any],
        inputs: Mapping[str, str],
        work: Callable[[Path], Mapping[str, Any]],
        execution: Mapping[str, Any] | None = None,
        resumable: bool = False,
        quiet: bool = False,
    ) -> A:
        """Return the artifact with this identity: reused if its files are there, else made by ``work``.

        Args:
            kind: the record's class; its ``stage`` names the folder.
            name: for people; part of the folder's name, not of the identity.
            revision: bumped when the stage's code changes what it makes.
            config: the stage's own identity fields (see tasks.schema.identity).
            inputs: fingerprints of what the stage reads, by role.
            work: fills the folder that it is given and returns the record's facts. For ``resumable`` work the
                folder holds what an interrupted attempt left; else it is empty.
            execution: how it runs; kept in the record, never part of the identity.
            quiet: a by-product of a stage, which says itself what it does; logged at DEBUG only.
        """
        level = logging.DEBUG if quiet else logging.INFO
        final, fingerprint, identity = self._place(kind, name, revision, config, inputs)
        final.parent.mkdir(parents=True, exist_ok=True)
        with self.lock(f"{kind.stage}-{fingerprint[:12]}"):
            found = self._reuse(kind, final, fingerprint)
            if found is not None:
                log.log(level, "%s: reused %s", kind.stage, self._shown(final))
                return found
            partial = final.with_name(final.name + ".partial")
            if partial.exists() and not resumable:
                shutil.rmtree(partial)
            resumes = partial.exists()
            partial.mkdir(exist_ok=True)
            why = "resumes an interrupted attempt" if resumes else self._why(kind.stage, final, identity)
            log.log(level, "%s: starts (%s)", kind.stage, why)
            started = time.monotonic()
            facts = dict(work(partial))
            seconds = round(time.monotonic() - started, 3)
            record = {
                "schema": SCHEMA,
                "name": name,
                "fingerprint": fingerprint,
                "identity": identity,
                "facts": facts,
                "execution": {**(execution or {}), "seconds": seconds, "finished_at": time.time()},
                "files": list_files(partial),
            }
            sync_files(partial)
            artifact = kind(path=final, fingerprint=fingerprint, seconds=seconds, **facts)
            write_atomic(partial / RECORD, json.dumps(record, ensure_ascii=False, indent=1, allow_nan=False))
            partial.replace(final)
            sync_folder(final.parent)
        log.log(level, "%s: done in %.1f s -> %s", kind.stage, seconds, self._shown(final))
        return artifact

    def load(self, kind: type[A], folder: Path, *, hashes: bool = False) -> A:
        """Read an artifact back, its files checked: sizes always, sha256 on demand.

        Raises:
            CorruptArtifact: no record, or a file is missing or differs from it.
        """
        try:
            record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise CorruptArtifact(f"{folder}: no readable {RECORD}: not an artifact ({error})") from error
        for file in record["files"]:
            path = folder / file["path"]
            if not path.is_file() or path.stat().st_size != file["bytes"]:
                raise CorruptArtifact(f"{path}: missing, or not the {file['bytes']} bytes that {RECORD} lists")
            if hashes and sha256_file(path) != file["sha256"]:
                raise CorruptArtifact(f"{path}: its sha256 is not the one that {RECORD} lists")
        return kind(path=folder, fingerprint=record["fingerprint"], reused=True, **record["facts"])

    def artifacts(self, stage: str) -> list[Path]:
        """The folders of a stage's artifacts, newest first."""
        records = (self.root / stage).glob(f"*/{RECORD}")
        folders = [r.parent for r in records if not re.search(r"\.(partial|corrupt-\d+)$", r.parent.name)]
        return sorted(folders, key=lambda f: (f / RECORD).stat().st_mtime, reverse=True)

    @contextmanager
    def lock(self, name: str) -> Iterator[None]:
        """Hold an exclusive lock that the kernel frees when the process dies; says so while it waits."""
        folder = self.root / ".locks"
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / f"{name}.lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            log.warning("another process works on %s (lock %s): waiting for it", name, lock.lock_file)
            lock.acquire()
        try:
            yield
        finally:
            lock.release()

    def _place(
        self, kind: type[A], name: str, revision: int, config: Mapping[str, Any], inputs: Mapping[str, str]
    ) -> tuple[Path, str, dict[str, Any]]:
        """An artifact's folder, its fingerprint, and the identity that this is the digest of."""
        identity = {"stage": kind.stage, "revision": revision, "config": dict(config), "inputs": dict(inputs)}
        fingerprint = digest(identity)
        return self.root / kind.stage / f"{name}-{fingerprint[:12]}", fingerprint, identity

    def _reuse(self, kind: type[A], final: Path, fingerprint: str) -> A | None:
        if not (final / RECORD).is_file():
            if final.exists():
                self._quarantine(final, "it has no record")
            return None
        try:
            found = self.load(kind, final)
        except CorruptArtifact as error:
            self._quarantine(final, str(error))
            return None
        return found if found.fingerprint == fingerprint else None

    def _quarantine(self, folder: Path, why: str) -> None:
        aside = folder.with_name(f"{folder.name}.corrupt-{time.time_ns()}")
        folder.replace(aside)
        log.warning("%s is not used: %s; kept as %s", self._shown(folder), why, aside.name)

    def _why(self, stage: str, final: Path, identity: Mapping[str, Any]) -> str:
        earlier = self.artifacts(stage)
        same_name = [f for f in earlier if f.name.rsplit("-", 1)[0] == final.name.rsplit("-", 1)[0]] or earlier
        if not same_name:
            return "first of its kind"
        try:
            old = json.loads((same_name[0] / RECORD).read_text(encoding="utf-8"))["identity"]
        except (OSError, ValueError, KeyError):
            return f"the record of {same_name[0].name} cannot be read"
        lines = [f"{key} {a} -> {b}" for key, a, b in _differences(old, identity)]
        more = f" and {len(lines) - 3} more" if len(lines) > 3 else ""
        return f"against {same_name[0].name}: {'; '.join(lines[:3])}{more}"

    def _shown(self, path: Path) -> str:
        try:
            return os.path.relpath(path)
        except ValueError:  # another drive on Windows
            return str(path)


def _differences(old: Any, new: Any, key: str = "") -> Iterator[tuple[str, str, str]]:
    """Leaves that differ between two JSON values, as (dotted key, old, new), values shortened."""
    if isinstance(old, dict) and isinstance(new, dict):
        for name in sorted({*old, *new}):
            yield from _differences(old.get(name), new.get(name), f"{key}.{name}" if key else name)
    elif old != new:
        yield key, _short(old), _short(new)


def _short(value: Any) -> str:
    text = canonical(value)
    return text if len(text) <= 40 else text[:15] + "…"
