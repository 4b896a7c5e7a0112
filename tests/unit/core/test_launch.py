"""Workers as processes: results, progress, failures by name, and no process left behind."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from tasks.errors import ConfigError, StageError, Stopped
from tasks.launch import run_worker

MODULE = "odd_worker"


@pytest.fixture(autouse=True)
def workers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2] / "workers"))


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
