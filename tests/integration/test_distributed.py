"""Two processes: DDP and ZeRO compute what one process does, go on exactly, and leave no process behind."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from tiny import write_dataset

from tasks.launch import Machines, command, run_worker
from tasks.lifeline import RUN_ID, marked

WORKER = "tasks.training.worker"
WORKERS = Path(__file__).parents[1] / "workers"
ROOT = Path(__file__).parents[2]

linux = pytest.mark.skipif(sys.platform != "linux", reason="torchrun and DeepSpeed on Linux")
needs_deepspeed = pytest.mark.skipif(importlib.util.find_spec("deepspeed") is None, reason="DeepSpeed is not installed")


def setting(name: str, strategy: str, processes: int = 2, **changes: Any) -> dict[str, Any]:
    usual = {"offload": False, "first": 0, "last": 6, "start": None, "precision": "fp32"}
    # one update is refused, and gradients are thrown away in one step
    return {
        "name": name,
        "strategy": strategy,
        "processes": processes,
        **usual,
        "refused": 2,
        "thrown_away": 4,
    } | changes


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Engines side by side in one start of two processes: whole runs, and runs cut after three steps."""
    folder = tmp_path_factory.mktemp("engines")
    settings = [setting("reference", "ddp", 1), setting("ddp", "ddp")]
    for strategy in ("zero2", "zero3"):
        for offload in (False, True):
            name = strategy + "-offload" * offload
            settings += [
                setting(name, strategy, offload=offload),
                setting(f"{name}-cut", strategy, offload=offload, last=3),
                setting(f"{name}-on", strategy, offload=offload, first=3, start=f"{name}-cut"),
            ]
    (folder / "settings.json").write_text(json.dumps(settings), encoding="utf-8")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    done = subprocess.run(
        [*command, str(WORKERS / "zero_worker.py"), str(folder)], env=environment, capture_output=True, check=False
    )
    assert done.returncode == 0, (done.stdout + done.stderr).decode()[-4000:]
    return folder


def result(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "losses.json").read_text(encoding="utf-8")))


@linux
@needs_deepspeed
@pytest.mark.parametrize("name", ["ddp", "zero2", "zero2-offload", "zero3", "zero3-offload"])
def test_two_processes_learn_what_one_does(runs: Path, name: str) -> None:
    from safetensors.numpy import load_file

    expected, found = result(runs / "reference"), result(runs / name)
    assert found["applied"] == expected["applied"] == [True, True, False, True, True, True]
    # sums of float32 in another order; 6 losses and gradient norms of about 1
    for before, after in zip(expected["losses"], found["losses"], strict=True):
        assert after == pytest.approx(before, rel=2e-6)
    reference = load_file(runs / "reference" / "weights.safetensors")
    weights = load_file(runs / name / "weights.safetensors")
    assert weights.keys() == reference.keys() and len(weights) == 7
    for key, value in reference.items():
        assert weights[key].shape == value.shape
        assert abs(weights[key] - value).max() < 1e-6


@linux
@needs_deepspeed
@pytest.mark.parametrize("name", ["zero2", "zero2-offload", "zero3", "zero3-offload"])
def test_run_that_was_cut_goes_on_to_the_same_bytes(runs: Path, name: str) -> None:
    whole, on = runs / name, runs / f"{name}-on"
    assert result(on)["losses"] == result(whole)["losses"][3:]
    files = ["weights.safetensors", *(f"state/optimizer-0000{n}-of-00002.safetensors" for n in (0, 1))]
    assert sorted(p.name for p in (whole / "state").iterdir()) == [Path(f).name for f in files[1:]]
    for file in files:
        assert (on / file).read_bytes() == (whole / file).read_bytes(), file


@linux
@needs_deepspeed
def test_state_of_another_number_of_processes_is_refused(runs: Path) -> None:
    from tasks.training.deepspeed_engine import _other_processes

    message = _other_processes(runs / "zero2" / "state", 3)
    assert message.startswith(
        "the run was saved by 2 processes, and a ZeRO run goes on with the same number: here are 3"
    )
    assert "saved by another strategy" in _other_processes(runs / "reference" / "state", 2)


@pytest.fixture(scope="module")
def job(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., dict[str, Any]]:
    from tasks.methods import lora
    from tasks.training.config import HardwareConfig, TrainingConfig
    from tasks.training.deepspeed_config import Settings, generate

    dataset, tokens = tmp_path_factory.mktemp("dataset"), tmp_path_factory.mktemp("tokens")
    write_dataset(dataset)
    limits = {"max_prompt_tokens": 64, "max_reply_tokens": 32, "overlong": "truncate"}
    run_worker(
        "tasks.models.tokenizing", tokens, {"dataset": str(dataset), "model": str(tiny_base), **limits}, label="t"
    )

    def make(strategy: str = "ddp", dropout: float = 0.0, **changes: Any) -> dict[str, Any]:
        usual = {"max_steps": 12, "batch_size": 10, "micro_batch_size": 2, "learning_rate": 1e-2, "save_steps": 4}
        training = TrainingConfig(**{**usual, "logging_steps": 1, **changes})
        hardware = HardwareConfig(processes=2, strategy=strategy)
        settings = dict(device="cpu", precision="fp32", hidden_size=1)
        return {
            "model": str(tiny_base),
            "base_fingerprint": "0" * 64,
            "tokens": str(tokens),
            "method": lora.Config(name="lora", lora_dropout=dropout).model_dump(mode="json"),
            "training": training.model_dump(mode="json"),
            "hardware": hardware.model_dump(mode="json"),
            "deepspeed": None if strategy == "ddp" else generate(Settings.of(training, hardware, **settings)),
            "device": "cpu",
            "precision": "fp32",
        }

    return make


def adapter(folder: Path, step: int) -> bytes:
    return (folder / "checkpoints" / f"step-{step:06d}" / "adapter_model.safetensors").read_bytes()


def losses(folder: Path) -> list[float]:
    lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [line["loss"] for line in map(json.loads, lines) if "loss" in line]


@linux
def test_no_process_is_left_when_the_parent_of_two_ranks_is_killed(
    job: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    code = f"""
import json, pathlib
from tasks.launch import run_worker
folder = pathlib.Path({str(tmp_path)!r})
run_worker({WORKER!r}, folder, json.loads((folder / "given.json").read_text()), label="train", processes=2)
"""
    (tmp_path / "given.json").write_text(json.dumps(job(max_steps=100_000)), encoding="utf-8")
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    parent = subprocess.Popen([sys.executable, "-c", code], env=environment)
    wait_for(lambda: (tmp_path / "state" / "step-000004").is_dir(), parent)
    (torchrun,) = psutil.Process(parent.pid).children()
    run_id = torchrun.environ()[RUN_ID]
    assert len(marked(run_id)) >= 3  # torchrun and two ranks
    parent.kill()
    parent.wait()
    deadline = time.monotonic() + 60
    while marked(run_id):
        assert time.monotonic() < deadline, [psutil.Process(p).cmdline() for p in marked(run_id)]
        time.sleep(0.05)
    assert (tmp_path / "state" / f"step-{stopped_at(tmp_path):06d}").is_dir()


@linux
def test_two_ranks_save_when_torchrun_is_told_to_stop(job: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    step = stop_at_step(5, tmp_path, job(max_steps=100_000))
    assert (tmp_path / "state" / f"step-{step:06d}").is_dir()
    assert "by force" not in (tmp_path / "worker.log").read_text(encoding="utf-8")


def stop_at_step(step: int, folder: Path, job: dict[str, Any]) -> int:
    """Interrupt a run of two ranks at its first record from ``step`` on; the step that it says it saved."""

    def interrupt(record: dict[str, Any]) -> None:
        if record["done"] >= step:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_worker(WORKER, folder, job, label="train", processes=2, on_progress=interrupt)
    return stopped_at(folder)


def stopped_at(folder: Path) -> int:
    error = json.loads((folder / "error.json").read_text(encoding="utf-8"))
    assert error["kind"] == "Stopped"
    return int(error["message"].split("step ")[1].split(" ")[0])


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 180
    while not condition():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)


@linux
@needs_deepspeed
@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["zero2", "zero3"])
def test_trainer_with_zero_that_was_stopped_goes_on_exactly(
    strategy: str, job: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    for folder in (whole, cut):
        folder.mkdir()
    given = job(strategy, dropout=0.1)
    run_worker(WORKER, whole, given, label="train", processes=2)
    stop_at_step(5, cut, given)
    run_worker(WORKER, cut, given, label="train", processes=2)
    assert "resumes after step" in (cut / "worker.log").read_text(encoding="utf-8")
    assert losses(cut) == losses(whole)
    assert adapter(cut, 12) == adapter(whole, 12)


@linux
@needs_deepspeed
@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["zero2", "zero3"])
def test_trainer_with_zero_learns_what_one_process_does(
    strategy: str, job: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    for folder, processes in ((one, 1), (two, 2)):
        folder.mkdir()
        run_worker(WORKER, folder, job(strategy if processes == 2 else "ddp"), label="train", processes=processes)
    assert losses(two) == pytest.approx(losses(one), rel=2e-4)
    assert len(losses(two)) == 12


@linux
@pytest.mark.slow
def test_two_machines_learn_what_one_process_does(job: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    import socket

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    one, two = tmp_path / "one", tmp_path / "two"
    for folder in (one, two):
        folder.mkdir()
    run_worker(WORKER, one, job(), label="train")
    machines = Machines(2, "127.0.0.1", port)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": "", "GLOO_SOCKET_IFNAME": "lo"}
    (two / "job.json").write_text(json.dumps(job()), encoding="utf-8")
    other = subprocess.Popen(command(WORKER, two, 1, machines, 1), env=environment)
    run_worker(WORKER, two, job(), label="train", machines=machines)
    assert other.wait(timeout=60) == 0
    assert losses(two) == pytest.approx(losses(one), rel=2e-4)
