"""Training in real worker processes: exact resume after kills, and one result whatever the micro-batch or processes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tiny import write_dataset

from tasks.launch import command, run_worker
from tasks.worker import LIFELINE

STEPS = 40
WORKER = "tasks.training.worker"


@pytest.fixture(scope="module")
def tokens(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokens")
    dataset = tmp_path_factory.mktemp("dataset")
    write_dataset(dataset)
    limits = {"max_prompt_tokens": 64, "max_reply_tokens": 32, "overlong": "truncate"}
    run_worker(
        "tasks.models.tokenizing", folder, {"dataset": str(dataset), "model": str(tiny_base), **limits}, label="t"
    )
    return folder


@pytest.fixture(scope="module")
def job(tiny_base: Path, tokens: Path) -> Callable[..., dict[str, Any]]:
    def make(**training: Any) -> dict[str, Any]:
        from tasks import plugins
        from tasks.training.config import TrainingConfig

        method = training.pop("method", {"name": "lora", "lora_dropout": training.pop("dropout", 0.1)})
        plugin = plugins.load("tasks.methods", method["name"], key="method")
        settings = {"max_steps": STEPS, "batch_size": 10, "learning_rate": 1e-2, "save_steps": 5, "logging_steps": 5}
        return {
            "model": str(tiny_base),
            "base_fingerprint": "0" * 64,
            "tokens": str(tokens),
            "method": plugin.Config(**method).model_dump(mode="json"),
            "training": TrainingConfig(**{**settings, **training}).model_dump(mode="json"),
            "device": "cpu",
            "precision": "fp32",
        }

    return make


@pytest.fixture(scope="module")
def uninterrupted(job: Callable[..., dict[str, Any]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    run_worker(WORKER, folder, job(), label="train")
    return folder


def final_adapter(folder: Path, steps: int = STEPS) -> dict[str, bytes]:
    """The bytes of every weight file of the last checkpoint."""
    files = (folder / "checkpoints" / f"step-{steps:06d}").glob("*.safetensors")
    return {file.name: file.read_bytes() for file in files}


def losses(folder: Path) -> list[tuple[int, float]]:
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    return [(r["step"], r.get("loss", r.get("validation_loss"))) for r in records]


def start(folder: Path, job: dict[str, Any], **options: Any) -> subprocess.Popen[bytes]:
    (folder / "job.json").write_text(json.dumps(job), encoding="utf-8")
    log = (folder / "worker.log").open("ab")
    return subprocess.Popen(
        command(WORKER, folder, 1), stdout=log, stderr=log, cwd=Path(__file__).parents[2], **options
    )


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[bytes], seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, "the worker ended before the test could interrupt it"
        assert time.monotonic() < deadline
        time.sleep(0.002)


@pytest.mark.parametrize("step", [pytest.param(5, marks=pytest.mark.slow), 20])
def test_killed_run_resumes_and_ends_with_the_same_bytes(
    step: int, job: Callable[..., dict[str, Any]], uninterrupted: Path, tmp_path: Path
) -> None:
    process = start(tmp_path, job())
    wait_for((tmp_path / "state" / f"step-{step:06d}" / "MANIFEST.json").is_file, process)
    process.kill()
    process.wait()
    assert not (tmp_path / "result.json").exists()

    run_worker(WORKER, tmp_path, job(), label="train")

    assert f"resumes after step {step}" in (tmp_path / "worker.log").read_text(encoding="utf-8")
    assert final_adapter(tmp_path) == final_adapter(uninterrupted)
    assert losses(tmp_path) == losses(uninterrupted)


def test_damaged_newest_checkpoint_is_set_aside_and_the_one_before_is_used(
    job: Callable[..., dict[str, Any]], uninterrupted: Path, tmp_path: Path
) -> None:
    process = start(tmp_path, job())
    wait_for((tmp_path / "state" / "step-000015" / "MANIFEST.json").is_file, process)
    process.kill()
    process.wait()
    newest = max((tmp_path / "state").glob("step-*"))
    weights = tmp_path / "checkpoints" / newest.name / "adapter_model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)

    run_worker(WORKER, tmp_path, job(), label="train")

    before = int(newest.name.removeprefix("step-")) - 5
    assert f"resumes after step {before}" in (tmp_path / "worker.log").read_text(encoding="utf-8")
    assert final_adapter(tmp_path) == final_adapter(uninterrupted)


def test_sigterm_saves_the_state_and_exits_with_75(
    job: Callable[..., dict[str, Any]], uninterrupted: Path, tmp_path: Path
) -> None:
    process = start(tmp_path, job())
    wait_for((tmp_path / "state" / "step-000005" / "MANIFEST.json").is_file, process)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=60) == 75
    error = json.loads((tmp_path / "error.json").read_text(encoding="utf-8"))
    assert error["kind"] == "Stopped"

    run_worker(WORKER, tmp_path, job(), label="train")

    assert final_adapter(tmp_path) == final_adapter(uninterrupted)


@pytest.mark.slow
@pytest.mark.parametrize(
    "method",
    [
        {"name": "ptuning_v2", "num_virtual_tokens": 4, "prefix_projection": True},
        {"name": "ptuning", "num_virtual_tokens": 4},
        {"name": "freeze", "trainable_layers": 1},
        {"name": "full"},
    ],
    ids=lambda m: m["name"],
)
def test_every_method_resumes_exactly(
    method: dict[str, Any], job: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    whole.mkdir()
    cut.mkdir()
    run_worker(WORKER, whole, job(method=method), label="train")
    process = start(cut, job(method=method))
    wait_for((cut / "state" / "step-000010" / "MANIFEST.json").is_file, process)
    process.kill()
    process.wait()
    run_worker(WORKER, cut, job(method=method), label="train")
    assert final_adapter(cut) == final_adapter(whole) and final_adapter(whole)


def test_an_eight_bit_optimiser_is_saved_and_resumes_exactly(
    job: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    """Its moments are 8-bit from 4,096 numbers on, which matrices of rank 64 have here."""
    values = job(method={"name": "lora", "r": 64}, optimizer="adamw_8bit", max_steps=20)
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    for folder in (whole, cut):
        folder.mkdir()
    run_worker(WORKER, whole, values, label="train")
    process = start(cut, values)
    wait_for((cut / "state" / "step-000010" / "MANIFEST.json").is_file, process)
    process.kill()
    process.wait()
    assert b"qmap1" in (cut / "state" / "step-000010" / "optimizer.safetensors").read_bytes()
    run_worker(WORKER, cut, values, label="train")
    assert final_adapter(cut, 20) == final_adapter(whole, 20) and final_adapter(whole, 20)
    assert losses(cut) == losses(whole)


def test_worker_stops_when_its_parent_dies(job: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    environment = {**os.environ, LIFELINE: "1"}
    process = start(tmp_path, job(max_steps=100_000), stdin=subprocess.PIPE, env=environment)
    wait_for((tmp_path / "state" / "step-000005" / "MANIFEST.json").is_file, process)
    assert process.stdin is not None
    process.stdin.close()  # what the kernel does to a dead parent's end of the pipe
    assert process.wait(timeout=60) == 75


@pytest.mark.parametrize(("processes", "micro"), [(1, 3), (2, 4)])
def test_loss_does_not_depend_on_micro_batch_or_processes(
    processes: int, micro: int, job: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    for folder, settings, count in ((one, {}, 1), (other, {"micro_batch_size": micro}, processes)):
        folder.mkdir()
        run_worker(WORKER, folder, job(dropout=0.0, max_steps=12, **settings), label="train", processes=count)
    for (step, a), (other_step, b) in zip(losses(one), losses(other), strict=True):
        assert step == other_step
        assert b == pytest.approx(a, rel=2e-4)


def test_short_memory_halves_what_is_computed_at_once_and_changes_no_loss(
    job: Callable[..., dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tasks.training.stage import MICRO_BATCH, shrinking

    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[1] / "workers"))
    whole, short = tmp_path / "whole", tmp_path / "short"
    for folder in (whole, short):
        folder.mkdir()
    values = job(dropout=0.0, max_steps=12) | {"micro_batch": None}
    run_worker(WORKER, whole, values, label="train")
    shrinking(lambda: run_worker("short_memory_worker", short, values, label="train"), short, values, 10, longest=40)
    assert json.loads((short / MICRO_BATCH).read_text(encoding="utf-8"))["rows"] < 5  # 10, 5, then less
    for (step, expected), (other_step, found) in zip(losses(whole), losses(short), strict=True):
        assert step == other_step
        assert found == pytest.approx(expected, rel=2e-4)


#: Other libraries look for these too; what matters is that this project's own modules do not need them.
BLOCKER = """
import sys
BLOCKED = {"pydantic", "prefect", "hydra", "omegaconf", "mlflow", "filelock", "fastapi", "psutil", "jieba", "scipy"}
class Blocker:
    def find_spec(self, name, path=None, target=None):
        frame = sys._getframe(1)
        while frame and "importlib" in frame.f_code.co_filename:
            frame = frame.f_back
        asks = frame.f_globals.get("__name__", "") if frame else ""
        if name.partition(".")[0] in BLOCKED and (asks.startswith("tasks") or asks == "__main__"):
            raise ModuleNotFoundError(f"No module named {name!r} (blocked)", name=name)
sys.meta_path.insert(0, Blocker())
"""


def test_worker_needs_only_torch_transformers_and_peft(
    job: Callable[..., dict[str, Any]], uninterrupted: Path, tmp_path: Path
) -> None:
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(BLOCKER, encoding="utf-8")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "site")}
    process = start(tmp_path, job(), env=environment)
    assert process.wait(timeout=300) == 0, (tmp_path / "worker.log").read_text(encoding="utf-8")[-2000:]
    assert final_adapter(tmp_path) == final_adapter(uninterrupted)


def test_second_worker_in_a_busy_folder_is_refused(job: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    import fcntl

    (tmp_path / "job.json").write_text(json.dumps(job(max_steps=1)), encoding="utf-8")
    with (tmp_path / "worker.lock").open("w", encoding="utf-8") as held:
        held.write("4711")
        held.flush()
        fcntl.flock(held, fcntl.LOCK_EX)
        environment = {**os.environ, "WEITIAO_LOCK_WAIT_S": "0"}
        done = subprocess.run([sys.executable, "-m", WORKER, str(tmp_path)], env=environment, check=False)
    assert done.returncode == 1
    assert "4711" in json.loads((tmp_path / "error.json").read_text(encoding="utf-8"))["message"]
