"""The worker's side of a stage: reads ``job.json``, reports progress, leaves ``result.json`` or ``error.json``.

A worker is a process of its own (``python -m tasks.<domain>.worker <folder>``), also under torchrun; a person can run
the same command by hand. Needs the standard library only. The orchestrator's side is tasks.launch.

Exit codes: 0 done, 2 the user's input, 75 stopped with its state saved, 1 anything else.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tasks.errors import StageError, Stopped, WeitiaoError
from tasks.files import write_atomic

#: Set by tasks.launch: the worker's standard input is a pipe that closes when its parent dies.
LIFELINE = "WEITIAO_LIFELINE"


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
    signal.signal(signal.SIGTERM, job.stop)
    signal.signal(signal.SIGINT, job.stop)
    if os.environ.get(LIFELINE) == "1":
        threading.Thread(target=_watch_parent, args=(job,), daemon=True).start()
    try:
        with _Exclusive(job):
            result = dict(run(job))
            if job.leader:
                write_atomic(job.folder / "result.json", json.dumps(result, ensure_ascii=False, indent=1))
    except Exception as error:
        # one rank's report is enough, but any rank may be the one that failed: the last to fail writes it
        code = error.exit_code if isinstance(error, WeitiaoError) else 1
        name = type(error).__name__ if isinstance(error, WeitiaoError) else "StageError"
        message = str(error) if isinstance(error, WeitiaoError) else f"{type(error).__name__}: {error}"
        if not isinstance(error, WeitiaoError):
            traceback.print_exc()
        if job.leader or not isinstance(error, Stopped):
            write_atomic(job.folder / "error.json", json.dumps({"kind": name, "message": message}, ensure_ascii=False))
        sys.stderr.flush()
        # os._exit: after a failure inside a collective, library threads may hang a normal exit
        os._exit(code)


def peak_resident_bytes() -> int:
    """Most memory that this process held so far."""
    if sys.platform == "win32":
        import psutil

        return int(psutil.Process().memory_info().peak_wset)
    import resource

    return int(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss) * (1 if sys.platform == "darwin" else 1024)


def _module() -> str:
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    return spec.name if spec else "tasks.<domain>.worker"


def _watch_parent(job: Job) -> None:
    """Stop when the parent's end of the pipe closes: a worker must not outlive the flow that waits for it."""
    # not through sys.stdin: a thread inside its buffer when the interpreter ends is a fatal error
    while os.read(0, 4096):
        pass
    logging.getLogger(__name__).warning("the parent process is gone: saving the state and stopping")
    job.stop()


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
        deadline = time.monotonic() + float(os.environ.get("WEITIAO_LOCK_WAIT_S", "60"))
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
