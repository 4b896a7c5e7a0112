"""A worker ends when it is asked to, or when its parent is gone: at once if it can, by force after a grace period.

Every process of a run carries the run's id in its environment, so that those that torchrun put into sessions of their
own are found again (Linux; elsewhere a process is found by its parents only). Standard library only, for workers.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

log = logging.getLogger(__name__)

#: Set by tasks.launch: the worker's standard input is a pipe that closes when its parent dies.
LIFELINE = "WEITIAO_LIFELINE"
#: The id of a launch, in the environment of each of its processes.
RUN_ID = "WEITIAO_RUN_ID"
#: Seconds that a worker may take to save its state after SIGTERM; set it below the time that a scheduler allows.
GRACE = "WEITIAO_GRACE_S"


def grace_s() -> float:
    """Prefect allows 30 s in all before it kills, hence 20."""
    return float(os.environ.get(GRACE, "20"))


def watch(stop: Callable[[], None]) -> None:
    """Call ``stop`` on SIGTERM, SIGINT, and when the parent's end of the pipe closes; then end by force if need be.

    The main thread may hang in a collective, where Python runs no signal handler; so the signal's number is read from
    a pipe by a thread of its own, which also ends the process and its relatives when the grace period is over.
    """
    stopper = _Stopper(stop)
    signal.signal(signal.SIGTERM, stopper.on_signal)
    signal.signal(signal.SIGINT, stopper.on_signal)
    if os.name != "nt":
        reads, writes = os.pipe()
        os.set_blocking(writes, False)
        signal.set_wakeup_fd(writes, warn_on_full_buffer=False)
        threading.Thread(target=_watch_signals, args=(reads, stopper), daemon=True).start()
    if os.environ.get(LIFELINE) == "1":
        threading.Thread(target=_watch_parent, args=(stopper,), daemon=True).start()


def marked(run_id: str) -> list[int]:
    """Other living processes of this user whose environment names this run; none outside Linux."""
    entry = f"{RUN_ID}={run_id}".encode()
    found = []
    for place in Path("/proc").glob("[0-9]*") if run_id else ():
        try:
            mine = entry in (place / "environ").read_bytes().split(b"\0")
        except OSError:  # ended meanwhile, or another user's
            continue
        if mine and int(place.name) != os.getpid():
            found.append(int(place.name))
    return found


def kill_marked(run_id: str) -> None:
    """SIGKILL to every other process of a run."""
    for pid in marked(run_id):
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue


class _Stopper:
    """Asks once, and sets the time after which force is used."""

    def __init__(self, stop: Callable[[], None]) -> None:
        self._stop = stop
        self._lock = threading.Lock()
        self._asked = False

    def on_signal(self, *_: Any) -> None:
        self.ask()

    def ask(self) -> None:
        self._stop()
        # a signal may arrive while this very thread holds the lock
        if self._asked or not self._lock.acquire(blocking=False):
            return
        self._asked = True
        self._lock.release()
        threading.Thread(target=_end_after, args=(grace_s(),), daemon=True).start()


def _watch_signals(reads: int, stopper: _Stopper) -> None:
    wanted = {int(signal.SIGTERM), int(signal.SIGINT)}
    while numbers := os.read(reads, 64):
        if wanted & set(numbers):
            stopper.ask()


def _watch_parent(stopper: _Stopper) -> None:
    # not through sys.stdin: a thread inside its buffer when the interpreter ends is a fatal error
    while os.read(0, 4096):
        pass
    log.warning("the parent process is gone: saving the state and stopping")
    stopper.ask()


def _end_after(seconds: float) -> None:
    time.sleep(seconds)
    log.error("the state was not saved within %g s (%s): ending by force", seconds, GRACE)
    kill_marked(os.environ.get(RUN_ID, ""))
    os.kill(os.getpid(), getattr(signal, "SIGKILL", signal.SIGTERM))
