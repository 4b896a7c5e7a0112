"""One training run a GPU: a file lock for each, which the kernel frees when the holder dies. For workers.

The locks are in the machine's temporary folder, so that runs of several users and folders see each other.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tasks.errors import ResourceError

#: Seconds that a second run waits for a GPU or a folder; a run that was ended needs a moment to save and leave.
WAIT = "WEITIAO_LOCK_WAIT_S"
#: "1": take no lock, several runs share a GPU.
SHARE = "WEITIAO_SHARE_GPU"


def visible(count: int) -> list[str]:
    """Names of the first ``count`` GPUs that this process sees: their UUIDs where nvidia-smi tells them."""
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    known = _uuids()
    tokens = [str(n) for n in range(max(count, len(known)))] if chosen is None else chosen.split(",")
    names = []
    for token in (t.strip() for t in tokens[:count]):
        place = int(token) if token.isdigit() else None
        names.append(known[place] if place is not None and place < len(known) else f"gpu-{token}")
    return names


def _uuids() -> list[str]:
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return []
    try:
        query = [tool, "--query-gpu=uuid", "--format=csv,noheader"]
        done = subprocess.run(query, capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError):
        return []
    return [line.strip() for line in done.stdout.splitlines() if line.strip()]


@contextlib.contextmanager
def held(names: Sequence[str], what: str, *, folder: Path | None = None) -> Iterator[None]:
    """Hold the locks of the named GPUs; ``what`` is told to whoever else wants one.

    Raises:
        ResourceError: another run holds one for longer than WEITIAO_LOCK_WAIT_S; names its process and machine.
    """
    if os.name == "nt" or os.environ.get(SHARE) == "1":
        yield
        return
    with contextlib.ExitStack() as stack:
        for name in sorted(names):  # always in the same order: two runs cannot each hold what the other wants
            stack.enter_context(_held(name, what, folder or Path(tempfile.gettempdir())))
        yield


@contextlib.contextmanager
def _held(name: str, what: str, folder: Path) -> Iterator[None]:
    import fcntl

    safe = "".join(c if c.isalnum() or c in "-_." else "_" for c in name)
    with _open(folder / f"weitiao-{safe}.lock") as file:
        deadline = time.monotonic() + float(os.environ.get(WAIT, "60"))
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError:
                if time.monotonic() > deadline:
                    file.seek(0)
                    raise ResourceError(
                        f"GPU {name}: {file.read().strip() or 'another run'} trains on it; wait for it, choose another "
                        f"GPU with CUDA_VISIBLE_DEVICES, or set {SHARE}=1 to run beside it"
                    ) from None
                time.sleep(0.2)
        file.seek(0)
        file.truncate()
        file.write(f"process {os.getpid()} on {socket.gethostname()} ({what})\n")
        file.flush()
        yield


def _open(path: Path) -> Any:
    # without O_CREAT first: Linux refuses it for another user's file in a sticky folder (fs.protected_regular)
    for flags in (os.O_RDWR, os.O_RDWR | os.O_CREAT):
        try:
            handle = os.open(path, flags, 0o666)
            break
        except FileNotFoundError:
            continue
    with contextlib.suppress(PermissionError):  # another user's file
        os.fchmod(handle, 0o666)
    return os.fdopen(handle, "r+", encoding="utf-8")
