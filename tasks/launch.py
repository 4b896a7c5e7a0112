"""Starts a worker process, follows its progress, and ends all of its process group.

The orchestrator's side of tasks.worker. Knows nothing of what a worker computes.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from tasks.errors import BY_NAME, ConfigError, StageError, Stopped
from tasks.files import write_atomic
from tasks.progress import Progress
from tasks.worker import LIFELINE

log = logging.getLogger(__name__)

#: How long a worker may take to save its state after SIGTERM. Prefect allows 30 s in all before it kills.
GRACE_S = 20.0
_POLL_S = 0.1


def run_worker(
    module: str,
    folder: Path,
    job: Mapping[str, Any],
    *,
    label: str,
    processes: int = 1,
    device: str = "cpu",
    on_progress: Callable[[dict[str, Any]], None] | None = None,
) -> dict[str, Any]:
    """Run ``python -m module folder`` (under torchrun for several processes) and return its result.json.

    Args:
        folder: gets job.json and worker.log; the worker writes below it.
        label: names the work in the progress bar.
        device: "cpu" hides every GPU from the worker.
        on_progress: called with each progress record.

    Raises:
        WeitiaoError: the kind that the worker's error.json names, or StageError with the log's last line.
    """
    for stale in ("result.json", "error.json", "progress.jsonl"):
        (folder / stale).unlink(missing_ok=True)
    write_atomic(folder / "job.json", json.dumps(job, ensure_ascii=False, indent=1, allow_nan=False))
    log_path = folder / "worker.log"
    with log_path.open("ab") as output, Progress(label) as bar:
        process = subprocess.Popen(
            command(module, folder, processes),
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=_environment(device),
            start_new_session=True,
        )
        try:
            code = _follow(process, folder / "progress.jsonl", bar, on_progress)
        except BaseException:
            # KeyboardInterrupt, or an orchestrator's own cancellation: never leave a trainer behind
            end_group(process)
            raise
        finally:
            if process.stdin:
                process.stdin.close()
    if code == 0 and (folder / "result.json").is_file():
        return dict(json.loads((folder / "result.json").read_text(encoding="utf-8")))
    raise _failure(folder, label, code)


def command(module: str, folder: Path, processes: int) -> list[str]:
    """The command line that a person can type to run the same job again."""
    if processes == 1:
        return [sys.executable, "-m", module, str(folder)]
    run = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    return [*run, "-m", module, str(folder)]


def end_group(process: subprocess.Popen[bytes]) -> None:
    """SIGTERM, a grace period, then SIGKILL to every descendant, also those in sessions of their own."""
    import psutil

    try:
        family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
    except psutil.NoSuchProcess:
        return
    process.send_signal(signal.SIGTERM)
    _, alive = psutil.wait_procs(family, timeout=GRACE_S)
    for member in alive:
        try:
            member.kill()
        except psutil.NoSuchProcess:
            continue
    psutil.wait_procs(alive, timeout=5)


def _environment(device: str) -> dict[str, str]:
    variables = {**os.environ, LIFELINE: "1", "PYTHONUNBUFFERED": "1", "TOKENIZERS_PARALLELISM": "false"}
    variables.setdefault("HF_HUB_OFFLINE", "1")  # a worker is given folders; no library of its may ask a hub for more
    if device == "cpu":
        variables["CUDA_VISIBLE_DEVICES"] = ""
        # threads that spin while they wait starve each other on a shared machine: 7 times slower replies were seen
        variables.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    else:
        variables.setdefault("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")
        variables.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    root = str(Path(__file__).resolve().parent.parent)
    variables["PYTHONPATH"] = os.pathsep.join(filter(None, [root, variables.get("PYTHONPATH")]))
    return variables


def _follow(
    process: subprocess.Popen[bytes],
    progress: Path,
    bar: Progress,
    on_progress: Callable[[dict[str, Any]], None] | None,
) -> int:
    """Wait for the process while its progress records are shown and handed on; returns the exit code."""
    records: IO[str] | None = None
    finished = False
    while not finished:
        finished = process.poll() is not None
        if records is None and progress.is_file():
            records = progress.open(encoding="utf-8")
        for record in _new_records(records) if records else ():
            bar.update(record)
            if on_progress:
                on_progress(record)
        if not finished:
            time.sleep(_POLL_S)
    if records:
        records.close()
    return int(process.returncode)


def _new_records(file: IO[str]) -> Iterator[dict[str, Any]]:
    while True:
        position = file.tell()
        line = file.readline()
        if not line.endswith("\n"):  # not written as a whole yet
            file.seek(position)
            return
        yield json.loads(line)


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
