"""Batches over several processes: order, errors, and no process left behind."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tasks.errors import DataError, WeitiaoError
from tasks.parallel import in_order

WORKERS = Path(__file__).parents[2] / "workers"


@pytest.fixture
def worker(monkeypatch: pytest.MonkeyPatch) -> Callable[[Any], Any]:
    monkeypatch.setenv("PYTHONPATH", str(WORKERS))
    monkeypatch.syspath_prepend(str(WORKERS))
    from batch_worker import Worker

    return Worker


def children() -> list[psutil.Process]:
    return [p for p in psutil.Process().children(recursive=True) if "tasks.parallel" in p.cmdline()]


@pytest.mark.parametrize("processes", [1, 3])
def test_results_come_in_order_whatever_the_processes(worker: Any, processes: int) -> None:
    results = list(in_order(worker, 7, range(50), processes))
    assert [value for value, _ in results] == [7 * i for i in range(50)]
    assert len({pid for _, pid in results}) == processes
    assert children() == []


def test_batches_are_taken_as_they_are_needed(worker: Any) -> None:
    taken: list[int] = []

    def batches() -> Iterator[int]:
        for i in range(100):
            taken.append(i)
            yield i

    stream = in_order(worker, 1, batches(), 2)
    assert next(stream)[0] == 0
    assert len(taken) <= 5
    stream.close()
    assert children() == []


@pytest.mark.parametrize("processes", [1, 2])
def test_an_error_of_the_work_is_the_parents_error(worker: Any, processes: int) -> None:
    with pytest.raises(DataError, match=r"^rows\.json:3: no$"):
        list(in_order(worker, 1, [1, 2, "refuse", *range(20)], processes))
    assert children() == []


def test_a_process_that_dies_is_an_error_and_not_a_wait(worker: Any, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(WeitiaoError, match=r"a worker process ended \(code -9\)"):
        list(in_order(worker, 1, [1, 2, "die", *range(20)], 2))
    assert children() == []


def test_processes_end_when_their_parent_is_killed() -> None:
    program = (
        "import os, signal\n"
        "from batch_worker import Worker\n"
        "from tasks.parallel import in_order\n"
        "pids = {pid for _, (_, pid) in zip(range(6), in_order(Worker, 1, range(99), 2))}\n"
        "print(*pids, flush=True)\n"
        "stream = in_order(Worker, 1, range(99), 2)\n"
        "print(*{next(stream)[1] for _ in range(8)}, flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(WORKERS)}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == -9
    for pid in map(int, done.stdout.split()):
        try:
            psutil.Process(pid).wait(timeout=60)
        except psutil.NoSuchProcess:
            continue
