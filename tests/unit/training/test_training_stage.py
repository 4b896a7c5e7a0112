"""The training stage: what it refuses, and that checkpoints of an earlier run serve whoever asks for them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tasks.artifacts import BaseModelArtifact, TokenizedDataset
from tasks.errors import ConfigError
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
