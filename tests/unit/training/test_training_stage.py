"""The training stage: what it refuses, and that checkpoints of an earlier run serve whoever asks for them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tasks.artifacts import BaseModelArtifact, TokenizedDataset
from tasks.errors import ConfigError, Diverged, OutOfMemory
from tasks.methods import lora
from tasks.store import Store
from tasks.training import stage
from tasks.training.config import HardwareConfig, TrainingConfig

TRAINED = {
    "steps": [1],
    "method": "lora",
    "trainable": 1,
    "total": 2,
    "train_loss": 1.0,
    "validation_loss": None,
    "tokens_per_second": 1.0,
    "peak_memory_bytes": 1,
    "train_seconds": 1.0,
}


def base(folder: Path, device_map: str) -> BaseModelArtifact:
    shape = dict.fromkeys(
        ("parameters", "bytes", "hidden_size", "layers", "vocabulary", "context_tokens", "key_value_heads"), 8
    )
    return BaseModelArtifact(
        path=folder,
        fingerprint="b",
        weights=folder,
        form="native",
        family="llama",
        assumed=[],
        head_size=8,
        device_map=device_map,
        **shape,
    )


def test_a_spread_model_is_not_trained_but_its_checkpoints_can_be_evaluated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def worker(module: str, folder: Path, job: Mapping[str, Any], **options: Any) -> Mapping[str, Any]:
        return TRAINED

    monkeypatch.setattr(stage, "run_worker", worker)
    monkeypatch.setattr(stage, "_log_memory", lambda *_: None)  # there is no model to plan for
    tokens = TokenizedDataset(
        path=tmp_path / "tokens-1", fingerprint="t", rows={}, tokens={}, longest=8, dropped={}, truncated=0
    )
    store, hardware = Store(tmp_path / "runs"), HardwareConfig(device="cpu")

    def train(device_map: str) -> Any:
        base_model = base(tmp_path, device_map)
        return stage.train(TrainingConfig(), lora.Config(name="lora"), hardware, tokens, base_model, store=store)

    with pytest.raises(ConfigError, match=r"model\.device_map=auto: .*ZeRO-3"):
        train("auto")
    made = train("none")
    assert not made.reused
    spread = train("auto")
    assert spread.reused and spread.fingerprint == made.fingerprint


JOB: dict[str, Any] = {
    "training": {"micro_batch_tokens": None, "gradient_checkpointing": "full"},
    "micro_batch": {"rows": 12, "tokens": 2000},
    "quantization": "nf4",
    "hardware": {"offload": True},
}


def test_out_of_memory_halves_what_is_computed_at_once_until_it_fits(tmp_path: Path) -> None:
    seen: list[Any] = []

    def worker() -> Mapping[str, Any]:
        file = tmp_path / "micro_batch.json"
        seen.append(json.loads(file.read_text(encoding="utf-8")) if file.is_file() else None)
        if len(seen) < 3:
            raise OutOfMemory("OutOfMemoryError: CUDA out of memory")
        return TRAINED

    assert stage.shrinking(worker, tmp_path, JOB, 16, 500) == TRAINED
    assert seen == [None, {"rows": 6, "tokens": 1000}, {"rows": 3, "tokens": 500}]


def test_one_row_that_is_too_large_is_said_with_what_to_lower(tmp_path: Path) -> None:
    attempts = []

    def worker() -> Mapping[str, Any]:
        attempts.append(1)
        raise OutOfMemory("out")

    with pytest.raises(OutOfMemory, match=r"one row of 500 tokens at once: shorten rows .* \(out\)$") as caught:
        stage.shrinking(worker, tmp_path, JOB, 16, 500)
    assert len(attempts) == 3  # 12 rows or 2000 tokens, 6 or 1000, 3 or 500: the longest row alone
    assert caught.value.exit_code == 1 and caught.value.worker_exit_code == 76


def test_divergence_is_not_tried_again(tmp_path: Path) -> None:
    attempts = []

    def worker() -> Mapping[str, Any]:
        attempts.append(1)
        raise Diverged("training diverged")

    with pytest.raises(Diverged):
        stage.shrinking(worker, tmp_path, JOB, 16, 500)
    assert len(attempts) == 1 and not (tmp_path / "micro_batch.json").exists()
