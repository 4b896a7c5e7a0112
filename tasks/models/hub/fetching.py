"""Downloads large files whose size and sha256 are known, and goes on where an earlier process stopped.

huggingface_hub keeps nothing of a file when its process ends (https://github.com/huggingface/huggingface_hub/issues/4196),
so a broken 10 GB shard would start again from zero. Here the bytes stay in ``PARTIAL``; a Range request asks for the
rest. Bytes of two downloads can never mix unseen, since the whole must have the stated sha256.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path

import httpx
from filelock import FileLock, Timeout

from tasks.progress import Progress

#: Files at a time.
WORKERS = 4
#: Tries in a row that bring not one byte, before a download gives up.
TRIES = 5
_CHUNK_BYTES = 1 << 20
_MIB = 1 << 20
_BUSY = (408, 429, 500, 502, 503, 504)


class Damaged(Exception):
    """The file that came has another sha256 than the hub states, also when fetched from its start."""


class _Interrupted(Exception):
    """The connection ended too early, or the server is busy: worth another try."""


class _Given(Exception):
    """Another file's failure, or the user, ended the download."""


@dataclass(frozen=True)
class Remote:
    """A file to download: ``partial`` and ``target`` must lie on one disk.

    Attributes:
        name: for people.
        lock: file that keeps two processes from writing the same partial file.
    """

    name: str
    url: str
    size: int
    sha256: str
    target: Path
    partial: Path
    lock: Path


class _Partial:
    """The bytes of one file so far, and their running hash."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("ab+")
        self.size = 0
        self._digest = hashlib.sha256()
        self._file.seek(0)
        while block := self._file.read(_CHUNK_BYTES):
            self._digest.update(block)
            self.size += len(block)

    def write(self, chunk: bytes) -> None:
        self._file.write(chunk)
        self._digest.update(chunk)
        self.size += len(chunk)

    def restart(self) -> None:
        self._file.truncate(0)
        self.size, self._digest = 0, hashlib.sha256()

    def sha256(self) -> str:
        return self._digest.hexdigest()

    def close(self) -> None:
        self._file.close()


class _Downloads:
    """What the threads of one download share."""

    def __init__(self, client: httpx.Client) -> None:
        self.client = client
        self.stop = threading.Event()
        self.sizes: dict[str, int] = {}

    def check(self) -> None:
        if self.stop.is_set():
            raise _Given


def fetch(files: Sequence[Remote], *, headers: Mapping[str, str]) -> None:
    """Download what is not there yet, several at a time, with one bar for all (plain lines in a log).

    Raises:
        httpx.HTTPError: the server refused, or could not be reached or heard to the end.
        Damaged: a file does not have the stated sha256.
        OSError: the disk is full or not writable.
    """
    timeout = httpx.Timeout(30.0, connect=15.0)
    # compressed answers could not be resumed by their offset
    asked = {**headers, "accept-encoding": "identity"}
    total, started = sum(f.size for f in files), time.monotonic()
    with httpx.Client(headers=asked, timeout=timeout, follow_redirects=True) as client, Progress("download") as bar:
        downloads = _Downloads(client)
        with ThreadPoolExecutor(WORKERS, thread_name_prefix="download") as pool:
            try:
                waiting = {pool.submit(_fetch_one, file, downloads) for file in files}
                already: int | None = None
                while waiting:
                    done, waiting = wait(waiting, timeout=0.5, return_when=FIRST_EXCEPTION)
                    for future in done:
                        future.result()
                    here = sum(downloads.sizes.values())
                    already = here if already is None else already
                    rate = (here - already) / _MIB / max(time.monotonic() - started, 1e-3)
                    bar.update({"done": -(-here // _MIB), "total": -(-total // _MIB), "MiB/s": rate})
            except BaseException:
                downloads.stop.set()
                raise


def _fetch_one(file: Remote, downloads: _Downloads) -> None:
    file.lock.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(file.lock)
    while True:
        downloads.check()
        try:
            lock.acquire(timeout=1.0)
            break
        except Timeout:
            continue
    try:
        if not file.target.exists():  # else another process was faster
            _complete(file, downloads)
        downloads.sizes[file.name] = file.size
    finally:
        lock.release()


def _complete(file: Remote, downloads: _Downloads) -> None:
    """Bring the partial file to its end, check it, and give it its name."""
    for last in (False, True):
        partial = _Partial(file.partial)
        try:
            _receive(file, partial, downloads)
        finally:
            partial.close()
        if partial.sha256() == file.sha256:
            file.target.parent.mkdir(parents=True, exist_ok=True)
            file.partial.replace(file.target)
            return
        # what an earlier process or another program left may be wrong: once more, from the start
        file.partial.unlink()
        if last:
            raise Damaged(f"{file.name}: sha256 {partial.sha256()[:12]}… came, the hub states {file.sha256[:12]}…")


def _receive(file: Remote, partial: _Partial, downloads: _Downloads) -> None:
    failures, most = 0, partial.size
    while partial.size != file.size:
        try:
            _stream(file, partial, downloads)
        except (httpx.TransportError, _Interrupted) as error:
            failures = 1 if partial.size > most else failures + 1
            most = max(most, partial.size)
            if failures >= TRIES:
                if isinstance(error, _Interrupted):
                    raise httpx.ReadError(str(error)) from error
                raise
            downloads.stop.wait(0.25 * 2**failures)
            downloads.check()


def _stream(file: Remote, partial: _Partial, downloads: _Downloads) -> None:
    """One request for what is missing, written as it comes."""
    if partial.size > file.size:
        partial.restart()
    ranged = {"range": f"bytes={partial.size}-"} if partial.size else {}
    with downloads.client.stream("GET", file.url, headers=ranged) as response:
        if response.status_code in _BUSY:
            raise _Interrupted(f"{file.name}: the hub answers {response.status_code}")
        response.raise_for_status()
        if partial.size and not response.headers.get("content-range", "").startswith(f"bytes {partial.size}-"):
            partial.restart()  # the server sends the whole file again
        # as they come: what a fixed size holds back would be lost with the connection
        for chunk in response.iter_bytes():
            downloads.check()
            partial.write(chunk)
            downloads.sizes[file.name] = partial.size
            if partial.size > file.size:
                raise Damaged(f"{file.name}: more than the {file.size} bytes that the hub states came")
    if partial.size < file.size:
        raise _Interrupted(f"{file.name}: the connection ended at byte {partial.size} of {file.size}")
