"""The stage and its worker on a tiny random model: real processes, real files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tasks.artifacts import BaseModelArtifact, Checkpoints, Dataset, EvalReport
from tasks.errors import ConfigError
from tasks.evaluation import gate, predictions, report_text
from tasks.evaluation.config import EvaluationConfig, GateConfig
from tasks.evaluation.stage import evaluate
from tasks.store import Store

CONFIG = EvaluationConfig(max_new_tokens=6, bootstrap_resamples=200, batch_tokens=200, worst_rows=3)


def inputs(tiny: Path, dataset_folder: Path) -> tuple[Dataset, BaseModelArtifact, Checkpoints]:
    dataset = Dataset(
        path=dataset_folder, fingerprint="d" * 64, source="promptcblue", rows={}, splits={"test": 18}, tasks={}
    )
    base = BaseModelArtifact(
        path=tiny,
        fingerprint="b" * 64,
        weights=tiny / "base",
        family="glm",
        parameters=1,
        bytes=1,
        hidden_size=32,
        layers=2,
        vocabulary=300,
        context_tokens=256,
    )
    checkpoints = Checkpoints(
        path=tiny,
        fingerprint="c" * 64,
        steps=[1, 2],
        method="lora",
        trainable=1,
        total=2,
        train_loss=1.0,
        validation_loss=None,
        tokens_per_second=1.0,
        peak_memory_bytes=1,
        train_seconds=1.0,
    )
    return dataset, base, checkpoints


def run(tiny: Path, dataset_folder: Path, store: Store, config: EvaluationConfig = CONFIG) -> EvalReport:
    return evaluate(
        config,
        *inputs(tiny, dataset_folder),
        max_prompt_tokens=64,
        dtype="float32",
        device="cpu",
        store=store,
    )


def test_stage_chooses_on_validation_scores_test_and_is_reused(tiny: Path, dataset_folder: Path, tmp_path: Path) -> None:
    store = Store(tmp_path / "runs")
    made = run(tiny, dataset_folder, store)
    content = json.loads((made.path / "report.json").read_text(encoding="utf-8"))
    print((made.path / "report.md").read_text(encoding="utf-8"))
    assert made.rows == 18
