"""The worker's side of a stage: reads ``job.json``, reports progress, leaves ``result.json`` or ``error.json``.

A worker is a process of its own (``python -m tasks.<domain>.worker <folder>``), also under torchrun; a person can run
the same command by hand. Needs the standard library only. The orchestrator's side is tasks.launch.

Exit codes: 0 done, 2 the user's input, 75 stopped with its state saved, 76 out of memory, 77 diverged, 1 anything else.
"""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import os
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from tasks import gpu_locks, lifeline
from tasks.errors import OutOfMemory, ResourceError, StageError, Stopped, WeitiaoError
from tasks.files import write_atomic
from tasks.lifeline import LIFELINE

__all__ = ["LIFELINE", "Job", "main", "peak_memory_bytes", "peak_resident_bytes", "restart_peak_memory"]

#: The disk is full, over its quota, read-only or broken.
_DISK = {errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC), errno.EROFS, errno.EIO}


class Job:
    """One piece of work in one folder.

    Attributes:
        folder: holds job.json; everything that the worker writes goes below it.
        values: the content of job.json.
        stopping: a signal asked the worker to save its state and raise Stopped.
        leader: this process writes files and progress (rank 0 of a distributed run).
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.values: dict[str, Any] = json.loads((folder / "job.json").read_text(encoding="utf-8"))
        self.stopping = False
        self.leader = int(os.environ.get("RANK", "0")) == 0
        self._last_progress = 0.0

    def progress(self, done: int, total: int, **numbers: float) -> None:
        """Append one line to progress.jsonl, for the progress bar and the tracker (at most about five a second)."""
        now = time.monotonic()
        if not self.leader or (now - self._last_progress < 0.2 and done < total):
            return
        self._last_progress = now
        line = json.dumps({"done": done, "total": total, "time": time.time(), **numbers})
        with (self.folder / "progress.jsonl").open("a", encoding="utf-8") as file:
            file.write(line + "\n")

    def stop(self, *_: Any) -> None:
        self.stopping = True


def main(run: Callable[[Job], Mapping[str, Any]]) -> None:
    """Run one job from the command line and exit with its code."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    if len(sys.argv) != 2 or not (Path(sys.argv[1]) / "job.json").is_file():
        raise SystemExit(f"usage: python -m {_module()} FOLDER   (a folder that holds job.json)")
    job = Job(Path(sys.argv[1]))
    lifeline.watch(job.stop)
    if job.leader and os.environ.get(LIFELINE) != "1":  # run by hand: nobody cleared what an earlier run left
        (job.folder / "error.json").unlink(missing_ok=True)
    try:
        with _Exclusive(job), _gpus(job):
            result = dict(run(job))
            if job.leader:
                write_atomic(job.folder / "result.json", json.dumps(result, ensure_ascii=False, indent=1))
    except Exception as error:
        known = error if isinstance(error, WeitiaoError) else _translated(error)
        if known is not error:
            traceback.print_exc()
        _report(job, known)
        sys.stderr.flush()
        # os._exit: after a failure inside a collective, library threads may hang a normal exit
        os._exit(known.worker_exit_code or known.exit_code)


def _translated(error: Exception) -> WeitiaoError:
    """One of our kinds for any other exception: of memory by torch's class or words, of the disk by number."""
    message = f"{type(error).__name__}: {error}"
    if isinstance(error, OSError) and error.errno in _DISK:
        where = error.filename or "the disk"
        return ResourceError(f"{where}: {error.strerror}; mend it and run the same command again")
    return OutOfMemory(message) if out_of_memory(error) else StageError(message)


def out_of_memory(error: BaseException) -> bool:
    """Whether memory, of a GPU or of the machine, was not enough; known by name and words, without torch."""
    names = {kind.__name__ for kind in type(error).__mro__}
    if names & {"MemoryError", "OutOfMemoryError", "OutOfMemory"}:
        return True
    words = ("out of memory", "can't allocate memory", "not enough memory", "std::bad_alloc", "STATUS_ALLOC_FAILED")
    return isinstance(error, RuntimeError) and any(word in str(error) for word in words)


def _report(job: Job, error: WeitiaoError) -> None:
    """Leave error.json. The first process that fails has the reason: the others only lose their connection to it."""
    path = job.folder / "error.json"
    if path.exists() or (isinstance(error, Stopped) and not job.leader):
        return
    write_atomic(path, json.dumps({"kind": type(error).__name__, "message": str(error)}, ensure_ascii=False))


def _gpus(job: Job) -> AbstractContextManager[None]:
    """Locks of this machine's GPUs, for jobs that name how many ``gpus`` they take here."""
    count = int(job.values.get("gpus", 0))
    if not count or os.environ.get("LOCAL_RANK", "0") != "0":
        return contextlib.nullcontext()
    return gpu_locks.held(gpu_locks.visible(count), str(job.folder))


def peak_memory_bytes() -> int:
    """Most memory that this process used since :func:`restart_peak_memory`, or since it started.

    Of the GPUs (allocated; the sum of their peaks) where it used any, else resident.
    """
    import torch

    if torch.cuda.is_initialized():
        return sum(int(torch.cuda.max_memory_allocated(gpu)) for gpu in range(torch.cuda.device_count()))
    return peak_resident_bytes()


def restart_peak_memory() -> None:
    """Count the peak from here on; a resident peak can be restarted on Linux only."""
    import torch

    if torch.cuda.is_initialized():  # else there is no count yet
        for gpu in range(torch.cuda.device_count()):
            torch.cuda.reset_peak_memory_stats(gpu)
    with contextlib.suppress(OSError):  # not Linux, or a container that does not allow it
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def peak_resident_bytes() -> int:
    """Most memory that this process held."""
    if sys.platform == "win32":
        import psutil

        return int(psutil.Process().memory_info().peak_wset)
    with contextlib.suppress(OSError, StopIteration):
        # not getrusage's number: that starts at what the process was forked from
        status = Path("/proc/self/status").read_text(encoding="utf-8")
        return 1024 * int(next(line for line in status.splitlines() if line.startswith("VmHWM:")).split()[1])
    import resource

    return int(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss) * (1 if sys.platform == "darwin" else 1024)


def _module() -> str:
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    return spec.name if spec else "tasks.<domain>.worker"


class _Exclusive:
    """Refuses a second worker in the same folder; the kernel frees the lock when the process dies."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._file: Any = None

    def __enter__(self) -> None:
        if not self._job.leader or os.name == "nt":
            return
        import fcntl

        self._file = (self._job.folder / "worker.lock").open("a+", encoding="utf-8")
        # a worker whose parent was killed needs a moment to save and leave
        deadline = time.monotonic() + float(os.environ.get(gpu_locks.WAIT, "60"))
        while True:
            try:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError:
                if time.monotonic() > deadline:
                    self._file.seek(0)
                    raise StageError(f"{self._job.folder}: worker {self._file.read()} still works there") from None
                time.sleep(0.5)
        self._file.truncate(0)
        self._file.write(str(os.getpid()))
        self._file.flush()

    def __exit__(self, *_: Any) -> None:
        if self._file is not None:
            self._file.close()
