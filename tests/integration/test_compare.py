"""``flows.compare`` as a user runs it, on a tiny random model: methods, seeds, one that fails. Real processes."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
from mlflow import MlflowClient

ROOT = Path(__file__).parents[2]


def command(base: Path, root: Path, *more: str) -> list[str]:
    arguments = [
        "--config-name=ptuning_v2_triples",
        "orchestrator=none",
        "model=local",
        f"model.path={base}",
        f"paths.root={root}",
        "data.max_rows.train=40",
        "data.max_rows.validation=4",
        "data.max_rows.test=8",
        "tokenization.max_prompt_tokens=150",
        "tokenization.max_reply_tokens=24",
        "evaluation.max_new_tokens=24",
        "evaluation.checkpoints=last",
        "evaluation.bootstrap_resamples=100",
        "evaluation.permutations=100",
        "training.max_steps=4",
        "training.batch_size=4",
        "output=json",
        *more,
    ]
    return [sys.executable, "-m", "flows.compare", *arguments]


def compare(base: Path, root: Path, *more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(base, root, *more), cwd=ROOT, capture_output=True, text=True, encoding="utf-8", check=False
    )


def kill_trainer_of(method: str, root: Path, flow: subprocess.Popen[str]) -> None:
    """Kill the process that trains ``method`` as soon as there is one."""
    while flow.poll() is None:
        for process in psutil.process_iter(["cmdline"]):
            line = " ".join(process.info["cmdline"] or [])
            if "tasks.training.worker" in line and f"{root}/train/{method}-" in line:
                process.kill()
                return
        time.sleep(0.02)  # between looks: the processes that are waited for need the cores


def result(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    assert done.returncode == 0, done.stderr[-3000:]
    return dict(json.loads(done.stdout.splitlines()[-1]))


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("compare")


@pytest.fixture(scope="module")
def first(readable_base: Path, root: Path) -> subprocess.CompletedProcess[str]:
    """lora and full with two seeds each; the trainer of full's first seed is killed."""
    asked = command(readable_base, root, "compare.methods=[lora,full]", "compare.seeds=[1,2]")
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "encoding": "utf-8"}
    with subprocess.Popen(asked, cwd=ROOT, **pipes) as flow:
        kill_trainer_of("full", root, flow)
        out, err = flow.communicate()
    return subprocess.CompletedProcess(asked, flow.returncode, out, err)


def test_the_table_holds_what_succeeded_and_names_what_failed(first: subprocess.CompletedProcess[str]) -> None:
    made = result(first)
    assert set(made["systems"]) == {"base", "lora", "full"}
    assert list(made["failed"]) == ["full, seed 1"]
    assert "killed by signal 9" in made["failed"]["full, seed 1"]
    folder = Path(made["path"])
    content = json.loads((folder / "comparison.json").read_text(encoding="utf-8"))
    lora = content["systems"]["lora"]
    assert lora["training_seeds"] == [1, 2] and len(lora["seeds"]["values"]) == 2
    assert lora["score"]["value"] == pytest.approx(sum(lora["seeds"]["values"]) / 2)
    assert 0 < lora["trainable"] < lora["total"]
    for name in ("training_memory_bytes", "inference_memory_bytes", "training_seconds", "test_seconds"):
        assert lora[name] > 0, name
    assert content["systems"]["full"]["training_seeds"] == [2]
    assert content["systems"]["base"]["total"] == content["systems"]["full"]["total"]
    assert len(content["pairs"]) == 3
    text = (folder / "comparison.md").read_text(encoding="utf-8")
    assert "| trainable parameters |" in text and "full, seed 1" in text
    assert (folder / "comparison.png").stat().st_size > 1000
    with (folder / "comparison.csv").open(encoding="utf-8", newline="") as file:
        lines = {line["system"]: line for line in csv.DictReader(file)}
    assert float(lines["lora"]["score"]) == lora["score"]["value"]


def test_the_untuned_base_answered_once(first: subprocess.CompletedProcess[str], root: Path) -> None:
    result(first)
    assert len(list((root / "answers").glob("base-*"))) == 1
    assert first.stderr.count("the replies of base are those of") == 2


def test_mlflow_nests_a_run_a_method_with_the_same_metric_names(
    first: subprocess.CompletedProcess[str], root: Path
) -> None:
    result(first)
    client = MlflowClient(tracking_uri=f"sqlite:///{root / 'mlflow.db'}")
    (experiment,) = [e for e in client.search_experiments() if e.name == "ptuning_v2_triples"]
    runs = client.search_runs([experiment.experiment_id])
    (top,) = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
    below = {r.info.run_name: r for r in runs if r.data.tags.get("mlflow.parentRunId") == top.info.run_id}
    assert {"base", "lora", "full", "compare"} <= set(below)
    assert below["base"].data.metrics["score.value"] <= 1
    assert set(below["base"].data.metrics) <= set(below["lora"].data.metrics)
    seeds = [r for r in runs if r.data.tags.get("mlflow.parentRunId") == below["full"].info.run_id]
    assert {r.info.run_name: r.info.status for r in seeds} == {"full-1": "FAILED", "full-2": "FINISHED"}


def test_what_failed_is_done_again_and_nothing_else(
    first: subprocess.CompletedProcess[str], readable_base: Path, root: Path
) -> None:
    again = compare(readable_base, root, "compare.methods=[lora,full,ptuning_v2]", "compare.seeds=[1]")
    made = result(again)
    assert set(made["systems"]) == {"base", "lora", "full", "ptuning_v2"} and not made["failed"]
    assert (again.stderr.count("train: reused"), again.stderr.count("train: starts")) == (1, 2)


def test_a_mistake_in_what_all_share_is_the_users_and_told_once(readable_base: Path, tmp_path: Path) -> None:
    done = compare(readable_base, tmp_path, "data.path=nowhere.json", "compare.methods=[lora,full]")
    assert done.returncode == 2
    assert [line for line in done.stderr.splitlines() if line.startswith("error:")] == [done.stderr.splitlines()[-1]]
    assert "nowhere.json" in done.stderr.splitlines()[-1]
