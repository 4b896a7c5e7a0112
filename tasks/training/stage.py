"""The training stage: one worker, resumed where an interrupted attempt stopped."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tasks import devices, schema
from tasks.artifacts import BaseModelArtifact, Checkpoints, TokenizedDataset
from tasks.errors import ConfigError, OutOfMemory
from tasks.files import write_atomic
from tasks.launch import Machines, run_worker
from tasks.methods._method import MethodConfig
from tasks.models import outline
from tasks.store import Store
from tasks.training import checkpointing, deepspeed_config, planning
from tasks.training.config import HardwareConfig, TrainingConfig

log = logging.getLogger(__name__)

#: In a run's folder: what may be computed at once, after a shortage of memory; read by the worker.
MICRO_BATCH = "micro_batch.json"


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
    settings = {
        "training": {**schema.identity(config), "precision": precision, "quantization": base.quantization},
        "method": schema.identity(method),
    }
    inputs = {"tokens": tokens.fingerprint, "base_model": base.fingerprint}
    identity = {**settings, "inputs": inputs}

    def work(folder: Path) -> Mapping[str, Any]:
        if base.device_map != "none":
            raise ConfigError(
                f"model.device_map={base.device_map}: a model that is spread layer by layer over devices can answer, "
                "not train: its loss and its gradients end on other devices than their inputs. Set "
                "model.device_map=none; for a model too large for one GPU take model.quantization=nf4 with "
                "method=qlora; ZeRO-3 (hardware=zero3), which divides each layer's weights over the GPUs, is the way "
                "to train all of a large model"
            )
        if config.early_stopping_patience is not None and not tokens.rows.get("validation"):
            raise ConfigError(
                f"training.early_stopping_patience={config.early_stopping_patience}: there is no validation row to "
                "judge by; set it to null, or give the data a validation split"
            )
        done = checkpointing.finished(folder)
        if done is not None:  # an attempt that was ended between its last step and the publishing
            return done
        planned = _log_memory(config, method, hardware, tokens, base, device, precision)
        job = {
            "model": str(base.weights),
            "base_fingerprint": base.fingerprint,
            "layout": base.layout,
            "quantization": base.quantization,
            "tokens": str(tokens.path),
            "method": method.model_dump(mode="json"),
            "training": config.model_dump(mode="json"),
            "hardware": hardware.model_dump(mode="json"),
            "deepspeed": _deepspeed(config, hardware, base, device, precision),
            "micro_batch": planned.to_json() if planned else None,
            "identity": identity,
            "device": device,
            "precision": precision,
            "gpus": hardware.processes if device == "cuda" else 0,
        }

        def run() -> Mapping[str, Any]:
            return run_worker(
                "tasks.training.worker",
                folder,
                job,
                label="train",
                processes=hardware.processes,
                device=device,
                machines=Machines(hardware.nodes, str(hardware.main_address), hardware.main_port)
                if hardware.nodes > 1
                else None,
                on_progress=lambda _: on_metrics(folder / "metrics.jsonl") if on_metrics else None,
            )

        found = shrinking(run, folder, job, config.rows_at_once(hardware.world), tokens.longest)
        return {**found, "predicted_memory_bytes": planned.memory.peak if planned else None}

    return store.publish(
        Checkpoints,
        name=f"{method.name}-{tokens.path.name.rsplit('-', 1)[0]}",
        revision=3,
        config=settings,
        inputs=inputs,
        execution={
            "device": device,
            "processes": hardware.world,
            "strategy": hardware.strategy,
            "offload": hardware.offload,
            "versions": devices.versions(),
        },
        work=work,
        resumable=True,
    )


def shrinking(
    run: Callable[[], Mapping[str, Any]], folder: Path, job: dict[str, Any], rows: int, longest: int
) -> Mapping[str, Any]:
    """Run the worker; out of memory, again with half as much computed at once, from its last checkpoint.

    A step stays ``training.batch_size`` rows: it is only cut into more micro-batches.

    Args:
        job: what the worker is given; its ``micro_batch`` is what is computed at once at first.
        rows: computed at once where the job does not say.
        longest: tokens of the longest row.

    Raises:
        OutOfMemory: one row at once is too much already; says what to lower.
    """
    while True:
        try:
            return run()
        except OutOfMemory as error:
            lower = halved(_at_once(folder, job, rows), longest)
            if lower is None:
                raise OutOfMemory(f"{_what_to_lower(job, longest)} ({error})") from error
            write_atomic(folder / MICRO_BATCH, json.dumps(lower))
            job["training"]["resume"] = "auto"  # never, or a step, was meant for the start
            log.warning(
                "train: out of memory; goes on from the last checkpoint with at most %s rows%s at once (%s)",
                lower["rows"],
                f" and {lower['tokens']} tokens" if lower["tokens"] else "",
                str(error)[:200],
            )


def halved(at_once: Mapping[str, int | None], longest: int) -> dict[str, int | None] | None:
    """Half of what is computed at once, None where that is a single row already (the longest one goes alone)."""
    rows, tokens = int(at_once["rows"] or 1), at_once.get("tokens")
    if rows <= 1 or (tokens is not None and tokens <= longest):
        return None
    return {"rows": rows // 2, "tokens": None if tokens is None else tokens // 2}


def _at_once(folder: Path, job: Mapping[str, Any], rows: int) -> dict[str, int | None]:
    """What the worker computed at once in its last attempt."""
    file = folder / MICRO_BATCH
    if file.is_file():
        return dict(json.loads(file.read_text(encoding="utf-8")))
    return {"rows": rows, "tokens": job["training"]["micro_batch_tokens"], **(job["micro_batch"] or {})}


def _what_to_lower(job: Mapping[str, Any], longest: int) -> str:
    ways = ["shorten rows (tokenization.max_prompt_tokens, max_reply_tokens)"]
    if job["training"]["gradient_checkpointing"] != "full":
        ways.append("set training.gradient_checkpointing=full")
    if job["quantization"] == "none":
        ways.append("train over a quantised base (method=qlora model.quantization=nf4)")
    if not job["hardware"]["offload"]:
        ways.append("divide the model (hardware=zero3, or zero3_offload)")
    return f"training needs more memory than there is even with one row of {longest} tokens at once: {', '.join(ways)}"


def _deepspeed(
    config: TrainingConfig, hardware: HardwareConfig, base: BaseModelArtifact, device: str, precision: str
) -> dict[str, Any] | None:
    """DeepSpeed's JSON where a ZeRO strategy is chosen.

    Raises:
        ConfigError: the user's own file contradicts the configuration.
        ResourceError: DeepSpeed is not installed.
    """
    if hardware.strategy == "ddp":
        return None
    deepspeed_config.require()
    settings = deepspeed_config.Settings.of(
        config, hardware, device=device, precision=precision, hidden_size=base.hidden_size
    )
    own = None if hardware.deepspeed is None else deepspeed_config.read(hardware.deepspeed)
    return deepspeed_config.generate(settings, own, f"hardware.deepspeed={str(hardware.deepspeed)!r}")


def _log_memory(
    config: TrainingConfig,
    method: MethodConfig,
    hardware: HardwareConfig,
    tokens: TokenizedDataset,
    base: BaseModelArtifact,
    device: str,
    precision: str,
) -> planning.MicroBatch | None:
    """The plan again, now that the longest row is known: what is computed at once, and the memory that it takes.

    None for an architecture that the estimate does not know.

    Raises:
        ConfigError, ResourceError: it does not fit; with the nearest settings that would.
    """
    shape = outline.of_folder(base.weights)
    if shape is None:
        log.info(
            "train: the memory that this architecture needs is not known; lower training.micro_batch_size if short"
        )
        return None
    run = planning.Run(
        outline=shape,
        method=method.model_dump(),
        training=config,
        hardware=hardware,
        longest=tokens.longest,
        device=device,
        precision=precision,
        quantization=base.quantization,
        available=devices.memory_bytes(device),
    )
    chosen = planning.choose_micro_batch(run)
    log.info("train: %s", planning.described(run, chosen))
    work = planning.work_of(run, tokens.tokens, tokens.rows)
    rate = planning.rate(tokens.path.parent.parent, device, devices.facts(tokens.path))
    log.info("train: %s", planning.duration(run, work, rate))
    return chosen
