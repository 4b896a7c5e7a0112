"""Locks of GPUs between processes, with made-up GPUs."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tasks import gpu_locks
from tasks.errors import ResourceError

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="no file locks of this kind")

HOLDER = """
import pathlib, sys
from tasks import gpu_locks
with gpu_locks.held(["GPU-b", "GPU-a"], "runs/one", folder=pathlib.Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.readline()
"""


@pytest.fixture
def holder(tmp_path: Path) -> Callable[[], subprocess.Popen[str]]:
    def start() -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", HOLDER, str(tmp_path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parents[3],
        )
        assert process.stdout and process.stdout.readline() == "held\n"
        return process

    return start


def test_second_run_fails_and_names_who_holds_the_gpu(
    tmp_path: Path, holder: Callable[[], subprocess.Popen[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    process = holder()
    monkeypatch.setenv("WEITIAO_LOCK_WAIT_S", "0")
    message = rf"GPU GPU-a: process {process.pid} on .+ \(runs/one\) trains on it; .*WEITIAO_SHARE_GPU=1"
    with pytest.raises(ResourceError, match=message), gpu_locks.held(["GPU-a"], "runs/two", folder=tmp_path):
        pass
    with gpu_locks.held(["GPU-c"], "runs/two", folder=tmp_path):
        pass
    monkeypatch.setenv("WEITIAO_SHARE_GPU", "1")
    with gpu_locks.held(["GPU-a"], "runs/two", folder=tmp_path):
        pass
    process.communicate("\n")


def test_killed_holder_leaves_no_lock(
    tmp_path: Path, holder: Callable[[], subprocess.Popen[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    process = holder()
    process.kill()
    process.wait()
    monkeypatch.setenv("WEITIAO_LOCK_WAIT_S", "0")
    with gpu_locks.held(["GPU-a", "GPU-b"], "runs/two", folder=tmp_path):
        assert f"process {os.getpid()}" in (tmp_path / "weitiao-GPU-b.lock").read_text(encoding="utf-8")


def test_gpus_are_named_by_what_cuda_shows_the_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\nprintf 'GPU-zero\\nGPU-one\\n'\n", encoding="utf-8")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert gpu_locks.visible(2) == ["GPU-zero", "GPU-one"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1,0")
    assert gpu_locks.visible(1) == ["GPU-one"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "MIG-7,1")
    assert gpu_locks.visible(2) == ["gpu-MIG-7", "GPU-one"]
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    assert gpu_locks.visible(2) == ["gpu-0", "gpu-1"]
