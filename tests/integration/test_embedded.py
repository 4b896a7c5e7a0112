"""The shipped configurations on the shipped model and sample data, as the README runs them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]


def full(name: str, root: Path, *overrides: str) -> tuple[dict[str, Any], str]:
    command = [sys.executable, "-m", "flows.full", "--config-name", name, f"paths.root={root}", "output=json"]
    done = subprocess.run(
        [*command, *overrides], cwd=ROOT, capture_output=True, text=True, encoding="utf-8", check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return dict(json.loads(done.stdout.splitlines()[-1])), done.stderr


def reused(result: dict[str, Any]) -> set[str]:
    return {name for name, stage in result["stages"].items() if stage.get("reused")}


def test_main_example_learns_beyond_noise_and_trivial_answers_and_is_done_once(tmp_path: Path) -> None:
    first, log = full("lora_medical", tmp_path)
    score, baselines = first["metrics"]["score"], first["metrics"]["baselines"]
    assert first["promoted"] is True
    assert score["difference"]["low"] > 0, "the tuned model must be better than the base beyond noise"
    assert score["tuned"]["low"] > max(baselines.values()), "and better than answers that learn nothing"
    assert first["stages"]["deploy"]["version"] == "1"
    assert first["stages"]["deploy"]["smoke"]["as_evaluated"] is True
    assert first["stages"]["train"]["train_loss"] < 1.0
    assert "train: " in log and "evaluate test: " in log, "progress must be visible"
    report = json.loads((Path(first["stages"]["evaluate"]["path"]) / "report.json").read_text(encoding="utf-8"))
    assert report["entities"], "rows with unseen entities are reported apart"

    second, log = full("lora_medical", tmp_path)  # under Prefect again
    stages = {"prepare", "base_model", "tokenize", "train", "evaluate", "merge", "deploy"}
    assert reused(second) == stages
    for stage in stages - {"deploy"}:
        assert f"{stage}: reused" in log
    third, _ = full("lora_medical", tmp_path, "orchestrator=none")
    assert reused(third) == stages


def test_prefix_is_trained_and_served_beside_its_base(tmp_path: Path) -> None:
    result, _ = full("ptuning_v2_triples", tmp_path, "orchestrator=none")
    assert result["stages"]["merge"]["form"] == "base+adapter"
    assert result["stages"]["deploy"]["base"] is not None
    assert result["stages"]["merge"]["max_logit_difference"] < 1e-3
    assert result["metrics"]["score"]["difference"]["high"] >= 0


@pytest.mark.slow
@pytest.mark.parametrize("name", ["full", "freeze_triples", "lora_advertisegen", "chatlog_persona"])
def test_every_other_configuration_runs(name: str, tmp_path: Path) -> None:
    result, _ = full(name, tmp_path, "orchestrator=none")
    assert result["metrics"]["rows"] >= 20
    assert result["metrics"]["score"]["difference"]["low"] > 0


@pytest.mark.slow
def test_full_fine_tuning_merges_exactly(tmp_path: Path) -> None:
    result, _ = full("freeze_triples", tmp_path, "method=full", "training.epochs=1", "orchestrator=none")
    assert result["stages"]["merge"]["form"] == "merged"
    assert result["stages"]["train"]["trainable"] == result["stages"]["train"]["total"]
