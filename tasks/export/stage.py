"""The merge stage: the chosen checkpoint as a model that a server loads, checked after a reload."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tasks import devices, schema
from tasks.artifacts import BaseModelArtifact, Checkpoints, Dataset, EvalReport, ServableModel
from tasks.export.config import ExportConfig
from tasks.launch import run_worker
from tasks.models.config import TokenizationConfig
from tasks.store import Store


def merge(
    config: ExportConfig,
    tokenization: TokenizationConfig,
    device: str,
    dataset: Dataset,
    base: BaseModelArtifact,
    checkpoints: Checkpoints,
    report: EvalReport,
    *,
    store: Store,
) -> ServableModel:
    """Merge the checkpoint that the evaluation chose."""
    dtype = _base_dtype(base.weights) if config.dtype == "auto" else config.dtype
    checkpoint = checkpoints.checkpoint(report.chosen_step)
    device = devices.resolve_device(device if config.device == "auto" else config.device)
    split = json.loads((report.path / "report.json").read_text(encoding="utf-8"))["split"]

    def work(folder: Path) -> Mapping[str, Any]:
        job = {
            "checkpoint": str(checkpoint),
            "base": str(base.weights),
            "rows": str(dataset.rows_file(split)),
            "device": device,
            "max_prompt_tokens": tokenization.max_prompt_tokens,
            **schema.identity(config),
            "dtype": dtype,
        }
        done = run_worker("tasks.export.worker", folder, job, label="merge", device=device)
        return {
            "form": "merged" if done["merges"] else "base+adapter",
            "model": "",
            "adapter": None,
            "family": base.family,
            "max_logit_difference": done["max_logit_difference"],
            "check_tokens": done["check_tokens"],
            "same_tokens": done["same_tokens"],
        }

    made = store.publish(
        ServableModel,
        name=checkpoints.path.name.rsplit("-", 1)[0],
        revision=3,
        config={**schema.identity(config), "dtype": dtype, "max_prompt_tokens": tokenization.max_prompt_tokens},
        inputs={
            "checkpoints": checkpoints.fingerprint,
            "base_model": base.fingerprint,
            "dataset": dataset.fingerprint,
            "step": str(report.chosen_step),
        },
        work=work,
        execution={"device": device, "versions": devices.versions()},
    )
    # folders are filled in here: the store may be moved, the base model too
    if made.form == "merged":
        return made.model_copy(update={"model": made.path / "model"})
    return made.model_copy(update={"model": base.weights, "adapter": made.path / "adapter"})


def _base_dtype(weights: Path) -> str:
    """The type that the base model's configuration names; float16 where it names none."""
    config = json.loads((weights / "config.json").read_text(encoding="utf-8"))
    return str(config.get("dtype") or config.get("torch_dtype") or "float16")
