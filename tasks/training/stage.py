"""The training stage: one worker, resumed where an interrupted attempt stopped."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tasks import devices, schema
from tasks.artifacts import BaseModelArtifact, Checkpoints, TokenizedDataset
from tasks.launch import run_worker
from tasks.methods._method import MethodConfig
from tasks.store import Store
from tasks.training.config import HardwareConfig, TrainingConfig


def train(
    config: TrainingConfig,
    method: MethodConfig,
    hardware: HardwareConfig,
    tokens: TokenizedDataset,
    base: BaseModelArtifact,
    *,
    store: Store,
    on_metrics: Callable[[Path], None] | None = None,
) -> Checkpoints:
    """Train ``method`` on ``base``; ``on_metrics`` is called with the growing metrics.jsonl while it runs."""
    device = devices.resolve_device(hardware.device)
    precision = devices.resolve_precision(config.precision, device)

    def work(folder: Path) -> Mapping[str, Any]:
        job = {
            "model": str(base.weights),
            "base_fingerprint": base.fingerprint,
            "tokens": str(tokens.path),
            "method": method.model_dump(mode="json"),
            "training": config.model_dump(mode="json"),
            "device": device,
            "precision": precision,
        }
        return run_worker(
            "tasks.training.worker",
            folder,
            job,
            label="train",
            processes=hardware.processes,
            device=device,
            on_progress=lambda _: on_metrics(folder / "metrics.jsonl") if on_metrics else None,
        )

    return store.publish(
        Checkpoints,
        name=f"{method.name}-{tokens.path.name.rsplit('-', 1)[0]}",
        revision=1,
        config={"training": {**schema.identity(config), "precision": precision}, "method": schema.identity(method)},
        inputs={"tokens": tokens.fingerprint, "base_model": base.fingerprint},
        execution={"device": device, "processes": hardware.processes, "versions": devices.versions()},
        work=work,
        resumable=True,
    )
