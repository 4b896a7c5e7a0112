"""The whole pipeline as a user runs it, on a tiny random model: reuse, interruption, chat, errors. Real processes."""

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

import psutil
import pytest

ROOT = Path(__file__).parents[2]
STEPS = 30


def overrides(base: Path, root: Path) -> list[str]:
    return [
        "--config-name",
        "lora_medical",
        "orchestrator=none",
        "model=local",
        f"model.path={base}",
        f"paths.root={root}",
        "data.max_rows.train=60",
        "data.max_rows.validation=6",
        "data.max_rows.test=12",
        "tokenization.max_prompt_tokens=150",
        "tokenization.max_reply_tokens=48",
        "evaluation.max_new_tokens=48",
        "evaluation.checkpoints=last",
        "evaluation.bootstrap_resamples=100",
        f"training.max_steps={STEPS}",
        "training.batch_size=4",
        "training.save_steps=5",
        "training.learning_rate=0.01",
    ]


def command(verb: str, *arguments: str) -> list[str]:
    return [sys.executable, "-m", f"flows.{verb}", *arguments]


def run(verb: str, *arguments: str, code: int = 0) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        command(verb, *arguments), cwd=ROOT, capture_output=True, text=True, encoding="utf-8", check=False
    )
    assert done.returncode == code, done.stderr[-3000:]
    return done


def result(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    return dict(json.loads(done.stdout.splitlines()[-1]))


def processes_below(root: Path) -> list[list[str]]:
    """Command lines of this machine's processes that name a folder below ``root``."""
    lines = [p.info["cmdline"] or [] for p in psutil.process_iter(["cmdline"])]
    return [line for line in lines if any(str(root) in part for part in line)]


def wait_until(condition: Callable[[], bool], seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.01)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("pipeline")


@pytest.fixture(scope="module")
def first(readable_base: Path, root: Path) -> dict[str, Any]:
    return result(run("full", *overrides(readable_base, root), "output=json"))


def test_every_stage_runs_and_nothing_is_left_running(first: dict[str, Any], root: Path) -> None:
    assert list(first["stages"]) == [
        "plan",
        "prepare",
        "base_model",
        "tokenize",
        "train",
        "evaluate",
        "gate",
        "merge",
        "deploy",
    ]
    assert first["promoted"] is True
    rows = first["stages"]["prepare"]["rows"]
    assert rows["read"] == rows["kept"] + sum(rows["dropped"].values())
    assert first["stages"]["deploy"]["version"] == "1"
    assert first["stages"]["merge"]["max_logit_difference"] < 0.05
    assert processes_below(root) == []


def test_second_run_reuses_everything(first: dict[str, Any], readable_base: Path, root: Path) -> None:
    second = result(run("full", *overrides(readable_base, root), "output=json"))
    assert {name for name, stage in second["stages"].items() if stage.get("reused")} == {
        "prepare",
        "base_model",
        "tokenize",
        "train",
        "evaluate",
        "merge",
        "deploy",
    }
    assert second["metrics"] == first["metrics"]


def test_another_learning_rate_redoes_training_and_what_follows(
    first: dict[str, Any], readable_base: Path, root: Path
) -> None:
    done = run("full", *overrides(readable_base, root), "output=json", "training.learning_rate=0.02")
    stages = result(done)["stages"]
    assert [name for name, stage in stages.items() if stage.get("reused")] == ["prepare", "base_model", "tokenize"]
    assert "config.training.learning_rate 0.01 -> 0.02" in done.stderr
    for name in ("train", "evaluate", "merge", "deploy"):
        assert stages[name]["fingerprint"] != first["stages"][name]["fingerprint"]


def test_chat_asks_the_release_or_any_checkpoint(first: dict[str, Any], readable_base: Path, root: Path) -> None:
    asked = ["prompt=发动机水温高", "max_tokens=8", "output=json", f"paths.root={root}"]
    released = result(run("chat", *asked))
    assert released["tokens"] <= 8 and released["finish_reason"] in ("stop", "length")
    step = first["stages"]["train"]["steps"][-1]
    checkpoint = Path(first["stages"]["train"]["path"]) / "checkpoints" / f"step-{step:06d}"
    moved = root / "moved-base"
    moved.symlink_to(readable_base)
    unreleased = result(run("chat", *asked, f"path={checkpoint}", f"model.path={moved}"))
    assert unreleased["tokens"] <= 8
    assert processes_below(root) == []


def test_broken_row_is_accounted_for_or_with_strict_an_error_with_its_line(tmp_path: Path) -> None:
    data = tmp_path / "train.json"
    good = {"instruction": "抽取", "input": "发动机水温高", "output": "发动机_部件故障_水温高"}
    rows = [json.dumps({**good, "input": f"第{i}辆车发动机水温高"}, ensure_ascii=False) for i in range(12)]
    data.write_text("\n".join([*rows[:3], '{"instruction": "抽取", "inp', *rows[3:]]) + "\n", encoding="utf-8")
    arguments = ["--config-name", "freeze_triples", f"data.path={data}", f"paths.root={tmp_path / 'runs'}"]
    plain = ["orchestrator=none", "tracking.tracker=none", "output=json"]
    rows_account = result(run("prepare", *arguments, *plain))["rows"]
    assert (rows_account["read"], rows_account["kept"]) == (13, 12)
    refused = run("prepare", *arguments, *plain, "data.strict=true", code=2)
    (line,) = [x for x in refused.stderr.splitlines() if x.startswith("error:")]
    assert f"{data}:4: " in line


def test_killed_flow_takes_its_trainer_along_and_goes_on_to_the_same_bytes(readable_base: Path, tmp_path: Path) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    expected = result(run("train", *overrides(readable_base, whole), "output=json", "training.max_steps=60"))
    arguments = [*overrides(readable_base, cut), "output=json", "training.max_steps=60"]
    with (tmp_path / "log").open("wb") as log:
        flow = subprocess.Popen(command("train", *arguments), cwd=ROOT, stdout=log, stderr=log)
        wait_until(lambda: any(cut.glob("train/*.partial/state/step-*/MANIFEST.json")))
        os.kill(flow.pid, signal.SIGKILL)
        flow.wait()
    wait_until(lambda: not processes_below(cut), 60)
    assert not list(cut.glob("train/*/artifact.json"))

    done = run("train", *arguments)

    assert "resumes an interrupted attempt" in done.stderr
    again = result(done)
    assert again["fingerprint"] == expected["fingerprint"]
    name = "checkpoints/step-000060/adapter_model.safetensors"
    assert (Path(again["path"]) / name).read_bytes() == (Path(expected["path"]) / name).read_bytes()


@pytest.mark.slow
def test_ctrl_c_ends_with_75_though_it_ends_prefects_temporary_server_too(readable_base: Path, tmp_path: Path) -> None:
    arguments = [*overrides(readable_base, tmp_path), "training.max_steps=100000", "orchestrator=prefect"]
    with (tmp_path / "log").open("wb") as log:
        flow = subprocess.Popen(command("train", *arguments), cwd=ROOT, stdout=log, stderr=log, start_new_session=True)
        wait_until(lambda: any(tmp_path.glob("train/*.partial/state/step-*/MANIFEST.json")))
        os.killpg(flow.pid, signal.SIGINT)  # as a terminal does: to every process of the group
        code = flow.wait(timeout=45)
    assert code == 75, (tmp_path / "log").read_text(encoding="utf-8")[-2000:]
    assert processes_below(tmp_path) == []


@pytest.mark.parametrize("orchestrator", ["none", pytest.param("prefect", marks=pytest.mark.slow)])
def test_sigterm_saves_the_state_and_exits_with_75(orchestrator: str, readable_base: Path, tmp_path: Path) -> None:
    arguments = [*overrides(readable_base, tmp_path), "training.max_steps=100000", f"orchestrator={orchestrator}"]
    with (tmp_path / "log").open("wb") as log:
        flow = subprocess.Popen(command("train", *arguments), cwd=ROOT, stdout=log, stderr=log)
        wait_until(lambda: any(tmp_path.glob("train/*.partial/state/step-*/MANIFEST.json")))
        flow.send_signal(signal.SIGTERM)
        code = flow.wait(timeout=60)
    assert code == 75, (tmp_path / "log").read_text(encoding="utf-8")[-2000:]
    assert processes_below(tmp_path) == []
    (partial,) = tmp_path.glob("train/*.partial")
    assert "state saved" in json.loads((partial / "error.json").read_text(encoding="utf-8"))["message"]


def test_refusal_of_the_gate_ends_the_run_with_0(readable_base: Path, first: dict[str, Any], root: Path) -> None:
    refused = result(run("full", *overrides(readable_base, root), "output=json", "evaluation.gate.floors.score=0.99"))
    assert refused["promoted"] is False and "merge" not in refused["stages"]
    assert "floors" in refused["stages"]["gate"]["reason"]
