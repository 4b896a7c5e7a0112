"""How gradients are computed and applied: on one device, on several that each hold the model (DDP), or by DeepSpeed.

An engine knows devices and processes; it does not know rows, steps or checkpoints (see tasks.training.worker).
"""

from __future__ import annotations

import contextlib
import json
import math
import os
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, distributed

from tasks.training import checkpointing
from tasks.training.attempts import Processes
from tasks.training.objective import Objective, to_device

_TYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Update:
    """What became of a step's gradients.

    Attributes:
        norm: before clipping.
        applied: the optimiser stepped.
        overflow: they did not fit into float16 at the present loss scale, which is lower now: no fault of the run.
    """

    norm: float
    applied: bool
    overflow: bool = False


class Engine(Protocol):
    """See the module; every process calls every method, in the same order."""

    device: torch.device
    rank: int
    world: int

    def micro_step(self, batch: dict[str, Any], scale: float, last: bool) -> Tensor:
        """Loss sum of a micro-batch, detached; adds the gradient of ``scale`` times it, which is summed over the
        processes in the ``last`` micro-batch of a step."""

    def update(self, learning_rates: Sequence[float], limit: float) -> Update:
        """Clip, step with one rate for each parameter group, clear the gradients.

        Nothing is stepped where the norm is not finite or above ``limit``.
        """

    def discard(self) -> None:
        """Clear the gradients."""

    def loss(self, batch: dict[str, Any]) -> Tensor:
        """Loss sum of a micro-batch, without gradients."""

    def sum(self, value: float) -> float:
        """The sum of a number over the processes."""

    def barrier(self) -> None:
        """Wait for all processes."""

    def weights(self) -> AbstractContextManager[None]:
        """Within it the first process can read the trained weights whole."""

    def save(self, folder: Path) -> None:
        """Write the optimiser's state into a folder that all processes see."""

    def load(self, folder: Path) -> None:
        """Read it back."""


def start_processes(values: Mapping[str, Any]) -> tuple[torch.device, int, int]:
    """This process's device, its rank and the number of processes; joins them where torchrun started several.

    Args:
        values: the job, of which device ("cpu" or "cuda") is looked at.
    """
    device = values["device"]
    world = int(os.environ.get("WORLD_SIZE", "1"))
    local = int(os.environ.get("LOCAL_RANK", "0"))
    place = torch.device("cpu") if device == "cpu" else torch.device("cuda", local)
    if place.type == "cuda":
        torch.cuda.set_device(place)
    if world > 1 and not distributed.is_initialized():
        backend = "gloo" if place.type == "cpu" else "nccl"
        distributed.init_process_group(backend, timeout=timedelta(minutes=30))
    return place, int(os.environ.get("RANK", "0")), world


def autocast(device: torch.device, precision: str) -> AbstractContextManager[Any]:
    """In which every forward pass runs: trained weights are float32 whatever the precision."""
    kind = _TYPES.get(precision)
    context: AbstractContextManager[Any] = torch.autocast(device.type, kind, enabled=kind is not None)
    return context


def make_optimizer(name: str, groups: Sequence[Mapping[str, Any]], config: Any) -> torch.optim.Optimizer:
    """AdamW over parameter groups {"params", "lr_scale", "weight_decay"}; the rates are set at every step.

    Raises:
        ResourceError: bitsandbytes is needed and not there.
    """
    options: dict[str, Any] = {
        "lr": config.learning_rate,
        "betas": (config.adam_beta1, config.adam_beta2),
        "eps": config.adam_epsilon,
    }
    parameters = [{"params": group["params"], "weight_decay": group["weight_decay"]} for group in groups]
    if name == "adamw":
        return torch.optim.AdamW(parameters, **options, fused=True)
    from tasks.models import quantizing

    quantizing.require("int8")
    import bitsandbytes

    kind = {"adamw_8bit": bitsandbytes.optim.AdamW8bit, "paged_adamw_8bit": bitsandbytes.optim.PagedAdamW8bit}[name]
    optimizer: torch.optim.Optimizer = kind(parameters, **options)
    return optimizer


class PlainEngine(Processes):
    """One device a process, the whole model on each; DistributedDataParallel where there are several."""

    def __init__(
        self,
        objective: Objective,
        groups: Sequence[Mapping[str, Any]],
        config: Any,
        *,
        device: torch.device,
        rank: int,
        world: int,
        precision: str,
    ) -> None:
        super().__init__(alone=world == 1)
        self.device, self.rank, self.world = device, rank, world
        self._precision = precision
        self._max_norm = config.max_grad_norm
        self._parameters = [p for group in groups for p in group["params"]]
        self._names = {p: name for name, p in objective.model.named_parameters() if p.requires_grad}
        self.optimizer = make_optimizer(config.optimizer, groups, config)
        self._scaler = torch.amp.GradScaler(device.type) if precision == "fp16" else None
        self._module: Any = objective
        if config.compile:
            objective.compile(dynamic=True)
        if world > 1:
            from torch.nn.parallel import DistributedDataParallel

            self._module = DistributedDataParallel(
                objective,
                device_ids=[device] if device.type == "cuda" else None,
                broadcast_buffers=False,  # rotary frequencies are the only ones, and the same everywhere
                gradient_as_bucket_view=True,
            )

    def micro_step(self, batch: dict[str, Any], scale: float, last: bool) -> Tensor:
        alone = self.world == 1 or last
        with contextlib.nullcontext() if alone else self._module.no_sync():
            loss = self._forward(batch)
            # DDP takes the mean over processes
            scaled = loss * (scale * self.world)
            (scaled if self._scaler is None else self._scaler.scale(scaled)).backward()
        return loss.detach()

    def _forward(self, batch: dict[str, Any]) -> Tensor:
        with autocast(self.device, self._precision):
            loss: Tensor = self._module(to_device(batch, self.device))
        return loss

    def update(self, learning_rates: Sequence[float], limit: float) -> Update:
        for group, rate in zip(self.optimizer.param_groups, learning_rates, strict=True):
            group["lr"] = rate
        if self._scaler is not None:
            self._scaler.unscale_(self.optimizer)
        norm = float(torch.nn.utils.clip_grad_norm_(self._parameters, self._max_norm))
        applied = math.isfinite(norm) and norm <= limit
        if self._scaler is not None:
            if applied or not math.isfinite(norm):  # an overflow lowers the scale
                self._scaler.step(self.optimizer)
            self._scaler.update()
        elif applied:
            self.optimizer.step()
        self.discard()
        # at a scale of 1 it is no matter of the scale any more
        scaled = self._scaler is not None and self._scaler.get_scale() > 1
        return Update(norm, applied, overflow=scaled and not math.isfinite(norm))

    def discard(self) -> None:
        self.optimizer.zero_grad()

    @torch.no_grad()
    def loss(self, batch: dict[str, Any]) -> Tensor:
        return self._forward(batch)

    def weights(self) -> AbstractContextManager[None]:
        return contextlib.nullcontext()

    def save(self, folder: Path) -> None:
        if self.rank:  # the processes' optimisers are the same
            return
        checkpointing.save_optimizer(folder, self.optimizer, self._names)
        if self._scaler is not None:
            (folder / "scaler.json").write_text(json.dumps(self._scaler.state_dict()), encoding="utf-8")

    def load(self, folder: Path) -> None:
        checkpointing.load_optimizer(folder, self.optimizer, self._names)
        if self._scaler is not None:
            self._scaler.load_state_dict(json.loads((folder / "scaler.json").read_text(encoding="utf-8")))


def make(
    values: Mapping[str, Any],
    config: Any,
    objective: Objective,
    groups: Sequence[Mapping[str, Any]],
    place: tuple[torch.device, int, int],
) -> Engine:
    """The engine that the job asks for.

    Args:
        values: the job; ``deepspeed`` holds that library's options where it is wanted.
        place: what :func:`start_processes` gave.
    """
    device, rank, world = place
    where = {"device": device, "rank": rank, "world": world, "precision": values["precision"]}
    if values.get("deepspeed"):
        from tasks.training.deepspeed_engine import DeepSpeedEngine

        return DeepSpeedEngine(objective, groups, config, **where, json_config=values["deepspeed"])
    return PlainEngine(objective, groups, config, **where)
