"""Workers as processes: results, progress, failures by name, and no process left behind."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from tasks import launch
from tasks.errors import ConfigError, Diverged, OutOfMemory, StageError, Stopped
from tasks.launch import Machines, command, run_worker
from tasks.worker import Job, out_of_memory

MODULE = "odd_worker"
WORKERS = Path(__file__).parents[2] / "workers"


@pytest.fixture(autouse=True)
def workers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(WORKERS))


def run(folder: Path, what: str, **options: Any) -> dict[str, Any]:
    return run_worker(MODULE, folder, {"what": what}, label="odd", **options)


def test_result_and_progress_come_back(tmp_path: Path) -> None:
    seen: list[dict[str, Any]] = []
    result = run(tmp_path, "work", on_progress=seen.append)
    assert result == {"answer": 42, "cuda": ""}
    assert [(r["done"], r["total"], r["loss"]) for r in seen] == [(1, 2, 0.5), (2, 2, 0.25)]


def test_users_mistake_keeps_its_kind_and_words(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^method\.r=9: too large$"):
        run(tmp_path, "config")


@pytest.mark.parametrize(
    ("what", "message"),
    [("crash", "RuntimeError: boom"), ("die", "killed by signal 9.*last words"), ("exit", "exit code 3")],
)
def test_crash_names_what_happened_and_the_log(tmp_path: Path, what: str, message: str) -> None:
    with pytest.raises(StageError, match=message) as caught:
        run(tmp_path, what)
    assert str(tmp_path / "worker.log") in str(caught.value)


def test_stale_result_is_not_taken_for_a_new_one(tmp_path: Path) -> None:
    run(tmp_path, "work")
    with pytest.raises(StageError):
        run(tmp_path, "die")


@pytest.mark.parametrize(
    ("what", "kind", "code"), [("memory", OutOfMemory, 76), ("diverge", Diverged, 77), ("config", ConfigError, 2)]
)
def test_exit_code_and_kind_tell_what_may_help(tmp_path: Path, what: str, kind: type[Exception], code: int) -> None:
    with pytest.raises(kind) as caught:
        run(tmp_path, what)
    assert type(caught.value) is kind
    by_hand = [sys.executable, str(WORKERS / "odd_worker.py"), str(tmp_path)]
    root = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])}
    assert subprocess.run(by_hand, env=root, capture_output=True, check=False).returncode == code


def test_shortages_of_memory_are_known_by_their_words() -> None:
    assert out_of_memory(MemoryError())
    assert out_of_memory(type("OutOfMemoryError", (RuntimeError,), {})("CUDA out of memory."))
    assert out_of_memory(RuntimeError("CUDA error: out of memory"))
    assert not out_of_memory(RuntimeError("shapes do not match"))
    assert not out_of_memory(ValueError("out of memory"))


def test_what_own_modules_log_is_passed_on_once_and_nothing_else(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "worker.log").write_text("2026-01-01 00:00:00,000 WARNING tasks.old: an earlier attempt\n", "utf-8")
    with caplog.at_level(logging.INFO, logger="tasks.launch"):
        run(tmp_path, "tell")
    assert [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING] == ["odd: step 3 is set aside"]


def test_first_failure_is_the_one_that_is_told(tmp_path: Path) -> None:
    from tasks.worker import _report

    (tmp_path / "job.json").write_text("{}", encoding="utf-8")
    job = Job(tmp_path)
    _report(job, OutOfMemory("not enough"))
    _report(job, StageError("connection closed by peer"))
    assert json.loads((tmp_path / "error.json").read_text(encoding="utf-8"))["kind"] == "OutOfMemory"


@pytest.mark.skipif(sys.platform != "linux", reason="processes are found by /proc")
def test_worker_that_hangs_is_killed_with_its_children_when_it_is_to_stop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WEITIAO_GRACE_S", "1")

    def on_progress(record: dict[str, Any]) -> None:
        if record["done"] == 2:
            raise Stopped("stop")

    with pytest.raises(Stopped):
        run(tmp_path, "hang", on_progress=on_progress)
    assert_gone(tmp_path)


@pytest.mark.skipif(sys.platform != "linux", reason="processes are found by /proc")
def test_worker_that_hangs_ends_by_force_when_its_parent_was_killed(tmp_path: Path) -> None:
    code = f"""
import pathlib
from tasks.launch import run_worker
run_worker("{MODULE}", pathlib.Path({str(tmp_path)!r}), {{"what": "hang"}}, label="hang")
"""
    paths = os.pathsep.join([str(Path(__file__).parents[3]), str(WORKERS)])
    environment = {**os.environ, "PYTHONPATH": paths, "WEITIAO_GRACE_S": "1"}
    parent = subprocess.Popen([sys.executable, "-c", code], env=environment)
    deadline = time.monotonic() + 60
    while not (tmp_path / "pids").exists():
        assert time.monotonic() < deadline and parent.poll() is None
        time.sleep(0.05)
    parent.kill()
    parent.wait()
    assert_gone(tmp_path)


def assert_gone(folder: Path) -> None:
    pids = [int(pid) for pid in (folder / "pids").read_text(encoding="utf-8").split()]
    assert len(pids) == 2
    deadline = time.monotonic() + 30
    while any(psutil.pid_exists(p) and psutil.Process(p).status() != psutil.STATUS_ZOMBIE for p in pids):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_other_machines_are_told_their_command(tmp_path: Path) -> None:
    machines = Machines(3, "gpu-0", 29400)
    first = command(MODULE, tmp_path, 4, machines)
    assert first[3:] == [
        "--nnodes=3", "--node-rank=0", "--master-addr=gpu-0", "--master-port=29400", "--nproc-per-node=4",
        "-m", MODULE, str(tmp_path),
    ]  # fmt: skip
    assert command(MODULE, tmp_path, 4)[3:5] == ["--standalone", "--nproc-per-node=4"]
    assert command(MODULE, tmp_path, 1) == [sys.executable, "-m", MODULE, str(tmp_path)]
    line = launch._elsewhere(command(MODULE, tmp_path, 4, machines, 2), {"A_NAME": "with space"})
    assert line.startswith(
        f"env 'A_NAME=with space' {sys.executable} -m torch.distributed.run --nnodes=3 --node-rank=2 "
    )


def test_environment_shares_the_cpus_and_leaves_what_the_user_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OMP_NUM_THREADS", "PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF", "GLOO_SOCKET_IFNAME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(launch, "_cpus", lambda: 9)
    assert "OMP_NUM_THREADS" not in launch._settings("cpu", 1, None)
    alone = launch._settings("cpu", 4, None)
    assert alone["OMP_NUM_THREADS"] == "2" and alone["CUDA_VISIBLE_DEVICES"] == ""
    gpu = launch._settings("cuda", 1, Machines(2, "gpu-0", 1))
    assert gpu["PYTORCH_ALLOC_CONF"] == "expandable_segments:True" and "GLOO_SOCKET_IFNAME" not in gpu
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    monkeypatch.setenv("PYTORCH_CUDA_ALLOC_CONF", "max_split_size_mb:64")
    assert not {"OMP_NUM_THREADS", "PYTORCH_ALLOC_CONF"} & set(launch._settings("cuda", 4, None))


@pytest.mark.parametrize("interrupt", [KeyboardInterrupt, Stopped])
def test_interrupted_orchestrator_ends_the_worker(tmp_path: Path, interrupt: type[BaseException]) -> None:
    def on_progress(record: dict[str, Any]) -> None:
        if record["done"] == 2:
            raise interrupt("stop")

    with pytest.raises(interrupt):
        run(tmp_path, "wait", on_progress=on_progress)
    pid = int((tmp_path / "pid").read_text(encoding="utf-8"))
    deadline = time.monotonic() + 10
    while psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline
