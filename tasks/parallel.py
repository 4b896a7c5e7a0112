"""Several processes for a stream of batches, results in order.

The processes speak over pipes, so they end when the parent does, however it dies; and they import nothing but what
they work with (a pool of the standard library would import the whole command again in each). ``python -m
tasks.parallel`` is such a process.
"""

from __future__ import annotations

import os
import pickle
import queue
import subprocess
import sys
import threading
import traceback
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any, BinaryIO, TypeVar

from tasks.errors import WeitiaoError

T = TypeVar("T")
R = TypeVar("R")


def default_processes(most: int = 8) -> int:
    """One a core that this process may use, at most ``most``: what reads much soon waits for the disk."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(most, cores))


def in_order(
    kind: Callable[[Any], Callable[[T], R]], setup: Any, batches: Iterable[T], processes: int
) -> Generator[R, None, None]:
    """``kind(setup)(batch)`` of every batch, in the batches' order, at most two batches a process ahead.

    Raises:
        WeitiaoError: what the work raised; or a process died.
    """
    if processes == 1:
        yield from map(kind(setup), batches)
        return
    idle: queue.SimpleQueue[_Process] = queue.SimpleQueue()

    def work(batch: T) -> R:
        process = idle.get()
        try:
            result: R = process.call(batch)
            return result
        finally:
            idle.put(process)

    with ExitStack() as stack:
        threads = stack.enter_context(ThreadPoolExecutor(processes))
        for _ in range(processes):
            idle.put(stack.enter_context(_Process((kind, setup))))
        waiting: deque[Future[R]] = deque()
        # on an error the processes are ended first (ExitStack unwinds), which frees the threads that wait for them
        stack.callback(lambda: [future.cancel() for future in waiting])
        for batch in batches:
            waiting.append(threads.submit(work, batch))
            if len(waiting) >= 2 * processes:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


class _Process:
    """One worker process; a context manager that ends it."""

    def __init__(self, first: Any) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tasks.parallel"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,  # Ctrl-C is the parent's matter, which ends them
        )
        self._send(first)

    def call(self, value: Any) -> Any:
        self._send(value)
        assert self._process.stdout is not None
        try:
            error, result = pickle.load(self._process.stdout)
        except (EOFError, pickle.UnpicklingError) as problem:
            code = self._process.wait()
            raise WeitiaoError(f"a worker process ended (code {code}); its message is above") from problem
        if error is not None:
            raise error
        return result

    def _send(self, value: Any) -> None:
        assert self._process.stdin is not None
        try:
            pickle.dump(value, self._process.stdin, protocol=5)
            self._process.stdin.flush()
        except OSError:
            pass  # it has died: reading its answer tells so

    def __enter__(self) -> _Process:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()


def _serve(source: BinaryIO, target: BinaryIO) -> None:
    """Answer batches until the parent closes the pipe. Both ends are this program, so pickles are no foreign input."""
    waiting: queue.SimpleQueue[Any] = queue.SimpleQueue()
    threading.Thread(target=_receive, args=(source, waiting), daemon=True).start()
    kind, setup = waiting.get()
    work: Callable[[Any], Any] | None = None
    while True:
        batch = waiting.get()
        try:
            work = work or kind(setup)
            answer: tuple[WeitiaoError | None, Any] = (None, work(batch))
        except WeitiaoError as error:
            answer = (error, None)
        pickle.dump(answer, target, protocol=5)
        target.flush()


def _receive(source: BinaryIO, waiting: queue.SimpleQueue[Any]) -> None:
    """Read ahead in a thread: so the parent's end is noticed in the middle of work, and ends this process too."""
    while True:
        try:
            waiting.put(pickle.load(source))
        except (EOFError, pickle.UnpicklingError):
            os._exit(0)
        except BaseException:  # what it was to import cannot be imported
            traceback.print_exc()
            os._exit(1)


if __name__ == "__main__":
    try:
        _serve(sys.stdin.buffer, sys.stdout.buffer)
    except BaseException as error:
        if not isinstance(error, BrokenPipeError):  # that is the parent's end too
            traceback.print_exc()
        os._exit(1)  # a usual exit waits for the thread that reads
