"""Starts a worker process, follows its progress, and ends all of its process group.

The orchestrator's side of tasks.worker. Knows nothing of what a worker computes. Several processes on one machine or
more are started by torchrun.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import shlex
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from tasks import allocator
from tasks.errors import BY_NAME, ConfigError, StageError, Stopped
from tasks.files import write_atomic
from tasks.lifeline import LIFELINE, RUN_ID, grace_s, kill_marked, marked
from tasks.progress import Progress

log = logging.getLogger(__name__)

_POLL_S = 0.1
#: A line of a worker's log by this project's own modules (see tasks.worker.main): its level and its text.
_OWN_LINE = re.compile(r"[\d-]+ [\d:,]+ (INFO|WARNING|ERROR) (?:tasks\.[\w.]+|__main__): (.*)")


@dataclass(frozen=True)
class Machines:
    """Several machines that work on one job; this one is the first of them.

    Attributes:
        address: name or address of this machine as the others reach it.
        port: free on this machine.
    """

    count: int
    address: str
    port: int


def run_worker(
    module: str,
    folder: Path,
    job: Mapping[str, Any],
    *,
    label: str,
    processes: int = 1,
    device: str = "cpu",
    machines: Machines | None = None,
    on_progress: Callable[[dict[str, Any]], None] | None = None,
) -> dict[str, Any]:
    """Run ``python -m module folder`` (under torchrun for several processes) and return its result.json.

    Args:
        folder: gets job.json and worker.log; the worker writes below it.
        label: names the work in the progress bar.
        processes: on each machine.
        machines: where there are several; the folder must be the same on all. The log tells what to run on the others.
        device: "cpu" hides every GPU from the worker.
        on_progress: called with each progress record.

    Raises:
        WeitiaoError: the kind that the worker's error.json names, or StageError with the log's last line.
    """
    for stale in ("result.json", "error.json", "progress.jsonl"):
        (folder / stale).unlink(missing_ok=True)
    run_id = uuid.uuid4().hex
    write_atomic(folder / "job.json", json.dumps(job, ensure_ascii=False, indent=1, allow_nan=False))
    settings = _settings(device, processes, machines)
    for number in range(1, machines.count if machines else 1):
        line = _elsewhere(command(module, folder.resolve(), processes, machines, number), settings)
        log.info("%s waits for machine %d; run there:\n%s", label, number, line)
    log_path = folder / "worker.log"
    with (
        log_path.open("ab") as output,
        log_path.open(encoding="utf-8", errors="replace") as said,
        Progress(label) as bar,
    ):
        said.seek(0, os.SEEK_END)
        process = subprocess.Popen(
            command(module, folder, processes, machines),
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, **settings, LIFELINE: "1", RUN_ID: run_id},
            start_new_session=True,
        )
        try:
            code = _follow(process, folder / "progress.jsonl", bar, on_progress, _Relay(label, said))
        except BaseException:
            # KeyboardInterrupt, or an orchestrator's own cancellation: never leave a trainer behind
            end_group(process, run_id)
            raise
        finally:
            kill_marked(run_id)  # what a killed torchrun left behind
            if process.stdin:
                process.stdin.close()
    if code == 0 and (folder / "result.json").is_file():
        return dict(json.loads((folder / "result.json").read_text(encoding="utf-8")))
    raise _failure(folder, label, code)


def command(module: str, folder: Path, processes: int, machines: Machines | None = None, number: int = 0) -> list[str]:
    """The command line that a person can type to run the same job again; ``number`` is the machine's, from 0."""
    if machines is None and processes == 1:
        return [sys.executable, "-m", module, str(folder)]
    where = (
        ["--standalone"]
        if machines is None
        else [
            f"--nnodes={machines.count}",
            f"--node-rank={number}",
            f"--master-addr={machines.address}",
            f"--master-port={machines.port}",
        ]
    )
    run = [sys.executable, "-m", "torch.distributed.run", *where, f"--nproc-per-node={processes}"]
    return [*run, "-m", module, str(folder)]


def end_group(process: subprocess.Popen[bytes], run_id: str = "") -> None:
    """SIGTERM, a grace period, then SIGKILL to every descendant, also those in sessions of their own.

    Under torchrun the signal goes to torchrun alone, which hands it on to its processes.
    """
    import psutil

    try:
        family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
    except psutil.NoSuchProcess:
        family = []
    if family:
        process.send_signal(signal.SIGTERM)
    deadline = time.monotonic() + grace_s()
    while (any(_lives(member) for member in family) or marked(run_id)) and time.monotonic() < deadline:
        process.poll()  # else an ended child would stay a zombie
        time.sleep(_POLL_S)
    for member in family:
        try:
            member.kill()
        except psutil.NoSuchProcess:
            continue
    kill_marked(run_id)
    with contextlib.suppress(subprocess.TimeoutExpired):  # stuck in the kernel; what was raised before counts
        process.wait(timeout=5)


def _lives(process: Any) -> bool:
    import psutil

    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def _settings(device: str, processes: int, machines: Machines | None) -> dict[str, str]:
    """Environment variables that a worker needs besides those that are there; a user's own go before them."""
    fixed = {"PYTHONUNBUFFERED": "1", "TOKENIZERS_PARALLELISM": "false"}
    usual = {"HF_HUB_OFFLINE": "1"}  # a worker is given folders; no library of its may ask a hub for more
    if device == "cpu":
        fixed["CUDA_VISIBLE_DEVICES"] = ""
        # threads that spin while they wait starve each other on a shared machine: 7 times slower replies were seen
        usual["OMP_WAIT_POLICY"] = "PASSIVE"
        usual |= allocator.variables()
    else:
        if "PYTORCH_CUDA_ALLOC_CONF" not in os.environ:  # the name before torch 2.9, still read
            usual["PYTORCH_ALLOC_CONF"] = "expandable_segments:True"
        usual["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"
        usual["CUDA_DEVICE_ORDER"] = "PCI_BUS_ID"  # GPU 0 is the one that nvidia-smi calls 0
    if processes > 1:
        usual["OMP_NUM_THREADS"] = str(max(1, _cpus() // processes))
        # torchrun waits 30 s for its processes after SIGTERM; they end themselves sooner
        usual["TORCH_ELASTIC_SHUTDOWN_TIMEOUT"] = str(int(grace_s()) + 5)
    if machines is None and sys.platform == "linux":
        # processes of one machine: a host name that resolves to nowhere stops gloo and NCCL otherwise
        usual |= {"GLOO_SOCKET_IFNAME": "lo", "NCCL_SOCKET_IFNAME": "lo"}
    root = str(Path(__file__).resolve().parent.parent)
    fixed["PYTHONPATH"] = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
    return fixed | {name: value for name, value in usual.items() if name not in os.environ}


def _cpus() -> int:
    """CPUs that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _elsewhere(run: list[str], settings: Mapping[str, str]) -> str:
    """A command line for another machine with the same folders, with its environment."""
    return shlex.join(["env", *(f"{name}={value}" for name, value in sorted(settings.items())), *run])


def _follow(
    process: subprocess.Popen[bytes],
    progress: Path,
    bar: Progress,
    on_progress: Callable[[dict[str, Any]], None] | None,
    relay: _Relay,
) -> int:
    """Wait for the process while its progress records and log lines are handed on; returns the exit code."""
    records: IO[str] | None = None
    finished = False
    while not finished:
        finished = process.poll() is not None
        if records is None and progress.is_file():
            records = progress.open(encoding="utf-8")
        relay.pass_on()
        for line in _new_lines(records) if records else ():
            record = json.loads(line)
            bar.update(record)
            if on_progress:
                on_progress(record)
        if not finished:
            time.sleep(_POLL_S)
    if records:
        records.close()
    return int(process.returncode)


class _Relay:
    """Passes on what this project's own modules log in a worker; its file holds what libraries say too."""

    def __init__(self, label: str, file: IO[str]) -> None:
        self._label, self._file = label, file
        self._passed: set[str] = set()  # the processes of a run say the same

    def pass_on(self) -> None:
        for line in _new_lines(self._file):
            found = _OWN_LINE.match(line)
            if found and found[2] not in self._passed:
                self._passed.add(found[2])
                log.log(logging.getLevelNamesMapping()[found[1]], "%s: %s", self._label, found[2])


def _new_lines(file: IO[str]) -> Iterator[str]:
    while True:
        position = file.tell()
        line = file.readline()
        if not line.endswith("\n"):  # not written as a whole yet
            file.seek(position)
            return
        yield line


def _failure(folder: Path, label: str, code: int) -> Exception:
    error = folder / "error.json"
    log_path = folder / "worker.log"
    if error.is_file():
        value = json.loads(error.read_text(encoding="utf-8"))
        kind = BY_NAME.get(value["kind"], StageError)
        message = str(value["message"])
        if kind is ConfigError or kind.exit_code in (2, Stopped.exit_code):
            return kind(message)
        return kind(f"{message} (log: {log_path})")
    ended = f"killed by signal {-code}" if code < 0 else f"exit code {code}"
    lines = log_path.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    last = lines[-1][:300] if lines else "no output"
    return StageError(f"{label}: the worker ended ({ended}): {last} (log: {log_path})")
