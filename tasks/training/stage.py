"""The training stage: one worker, resumed where an interrupted attempt stopped."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tasks import devices, schema
from tasks.artifacts import BaseModelArtifact, Checkpoints, TokenizedDataset
from tasks.errors import ConfigError
from tasks.launch import run_worker
from tasks.methods._method import MethodConfig
from tasks.store import Store
from tasks.training import checkpointing, memory
from tasks.training.config import HardwareConfig, TrainingConfig

log = logging.getLogger(__name__)


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
    """Train ``method`` on ``base``; ``on_metrics`` is called with the growing metrics.jsonl while it runs.

    Raises:
        ConfigError: the model would be spread over devices; checkpoints that are there already are given all the same.
    """
    device = devices.resolve_device(hardware.device)
    precision = devices.resolve_precision(config.precision, device)

    def work(folder: Path) -> Mapping[str, Any]:
        if base.device_map != "none":
            raise ConfigError(
                f"model.device_map={base.device_map}: a model that is spread layer by layer over devices can answer, "
                "not train: its loss and its gradients end on other devices than their inputs. Set "
                "model.device_map=none; for a model too large for one GPU take model.quantization=nf4 with "
                "method=lora; ZeRO-3, which divides each layer's weights over the GPUs, is the way to train all of a "
                "large model (not built in yet)"
            )
        done = checkpointing.finished(folder)
        if done is not None:  # an attempt that was ended between its last step and the publishing
            return done
        _log_memory(config, method, hardware, tokens, base, device, precision)
        job = {
            "model": str(base.weights),
            "base_fingerprint": base.fingerprint,
            "layout": base.layout,
            "quantization": base.quantization,
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
        revision=2,
        config={
            "training": {**schema.identity(config), "precision": precision, "quantization": base.quantization},
            "method": schema.identity(method),
        },
        inputs={"tokens": tokens.fingerprint, "base_model": base.fingerprint},
        execution={"device": device, "processes": hardware.processes, "versions": devices.versions()},
        work=work,
        resumable=True,
    )


def _log_memory(
    config: TrainingConfig,
    method: MethodConfig,
    hardware: HardwareConfig,
    tokens: TokenizedDataset,
    base: BaseModelArtifact,
    device: str,
    precision: str,
) -> None:
    """The plan's estimate again, now that the longest row is known."""
    names = ("parameters", "hidden_size", "layers", "vocabulary", "key_value_heads", "head_size")
    shape = {name: int(getattr(base, name)) for name in names}
    rows = config.rows_at_once(hardware.processes)
    needed = memory.estimate(
        shape,
        trainable=memory.trainable_parameters(shape, method.model_dump()),
        rows=rows,
        tokens=tokens.longest,
        precision=precision,
        gradient_checkpointing=config.gradient_checkpointing,
        quantization=base.quantization,
    ).total
    available = devices.memory_bytes(device)
    level = logging.WARNING if needed > available else logging.INFO
    log.log(
        level,
        "train: longest row %d tokens, %d rows at once: about %.1f of %.1f GiB%s",
        tokens.longest,
        rows,
        needed / (1 << 30),
        available / (1 << 30),
        "; lower training.micro_batch_size if it runs out" if needed > available else "",
    )
