"""ZeRO-2 and ZeRO-3 by DeepSpeed, behind the same interface as the other engines.

Every process loads the model whole into the machine's memory; under ZeRO-3 it is divided from there, weight by weight,
so that no GPU needs room for all of it. The optimiser is this project's, over DeepSpeed's flat slices: AdamW treats
each number alone, so a slice gets the update that the whole would. Weights stay float32 and the forward pass runs under
torch's autocast, as in the other engines (see tasks.training.deepspeed_config).

Gradients leave a process in every micro-step, since no process has the room to keep them whole; DeepSpeed takes their
mean over the processes, which is undone in the loss's factor.
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, distributed, nn

from tasks.errors import ConfigError
from tasks.training import deepspeed_config
from tasks.training.attempts import Processes
from tasks.training.engines import Update, autocast, make_optimizer
from tasks.training.objective import to_device

_PATIENCE = timedelta(minutes=30)


class DeepSpeedEngine(Processes):
    """Every process calls every method, in the same order.

    Attributes:
        collective_state: every process writes a part of the state, not the first one alone.
    """

    collective_state = True

    def __init__(
        self,
        objective: nn.Module,
        groups: Sequence[Mapping[str, Any]],
        config: Any,
        *,
        device: torch.device,
        rank: int,
        world: int,
        precision: str,
        json_config: Mapping[str, Any],
    ) -> None:
        """``json_config`` is what tasks.training.deepspeed_config.generate returned.

        Under ZeRO-3 the objective is best still in the machine's memory: it is moved weight by weight.

        Raises:
            ResourceError: DeepSpeed is not installed.
        """
        deepspeed = _start(device)
        super().__init__()
        self.device, self.rank, self.world = device, rank, world
        self._objective = objective
        self._kept = [index for index, group in enumerate(groups) if group["params"]]
        parameters = [p for group in groups for p in group["params"]]
        options = _fitted(json_config, sum(p.numel() for p in parameters))
        self._zero3 = options["zero_optimization"]["stage"] == 3
        if self._zero3:
            # deepspeed.initialize would move the whole model to the GPU before it divides it
            deepspeed.zero.Init(module=objective, config_dict_or_path=options, mem_efficient_linear=False)
            for buffer in objective.buffers():
                buffer.data = buffer.data.to(device)
        self.optimizer = make_optimizer(config.optimizer, [groups[index] for index in self._kept], config)
        self._engine, self._zero, _, _ = deepspeed.initialize(
            model=_Autocast(objective, device, precision), optimizer=self.optimizer, config=options
        )
        self._parameters = parameters
        self._scale = _LossScale(options["fp16"]) if precision == "fp16" else None
        self._engine.train(objective.training)

    # --- computing --------------------------------------------------------------------------------------------

    def micro_step(self, batch: dict[str, Any], scale: float, last: bool) -> Tensor:
        self._engine.set_gradient_accumulation_boundary(last)
        if self._scale is not None:
            self._zero.override_loss_scale(self._scale.value)
        loss = self._engine(to_device(batch, self.device))
        self._engine.backward(loss * (scale * self.world))
        return loss.detach()

    def update(self, learning_rates: Sequence[float], limit: float) -> Update:
        for group, index in zip(self.optimizer.param_groups, self._kept, strict=True):
            group["lr"] = learning_rates[index]
        norm = self._norm()
        applied = math.isfinite(norm) and norm <= limit
        if applied:
            self._engine.step()  # clips by the same norm
        else:
            self.discard()
        if self._scale is not None:
            self._scale.update(math.isfinite(norm))
        # at a scale of 1 it is no matter of the scale any more
        scaled = self._scale is not None and self._scale.value > 1
        return Update(norm, applied, overflow=scaled and not math.isfinite(norm))

    def _norm(self) -> float:
        """The gradients' norm over all processes, before clipping; infinite where it is not a number."""
        if self._zero3:
            from deepspeed.runtime.utils import combine_grad_norm_groups

            norm = float(combine_grad_norm_groups(self._zero._get_norm_groups()))
        else:
            self._zero._wait_for_offload_copies()
            norm = float(self._zero.scaled_global_norm())
        # DeepSpeed says -1 for what is not finite
        return math.inf if norm < 0 or not math.isfinite(norm) else norm / self._zero.loss_scale

    def discard(self) -> None:
        """What DeepSpeed itself does with gradients that overflowed; it has no public name for it."""
        zero = self._zero
        if self._zero3:
            zero._pre_step()
            zero._overflow_clean_up(zero.loss_scale)
            return
        from deepspeed.runtime.zero.stage_1_and_2 import INITIAL_MICRO_STEP_ID

        zero.micro_step_id = INITIAL_MICRO_STEP_ID
        zero.zero_grad(set_to_none=True)
        zero._release_preflattened_grad_buffers()
        if zero.cpu_offload:
            zero.reset_cpu_buffers()
        for index in list(zero.averaged_gradients):
            zero.averaged_gradients[index] = None
        for index in list(zero.all_grad_tensors):
            zero.all_grad_tensors[index] = None

    @torch.no_grad()
    def loss(self, batch: dict[str, Any]) -> Tensor:
        return self._engine(to_device(batch, self.device))

    # --- between processes ------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def weights(self) -> Iterator[None]:
        """Within it the first process has the trained weights whole, in the machine's memory under ZeRO-3.

        They are gathered one after another, so that no GPU needs room for all.
        """
        if not self._zero3:
            yield
            return
        import deepspeed

        divided: list[tuple[nn.Parameter, Tensor]] = []
        whole: list[Tensor] = []
        for parameter in self._parameters:
            placeholder = parameter.data
            with deepspeed.zero.GatheredParameters([parameter]):
                if self.rank == 0:
                    whole.append(parameter.data.to("cpu", copy=True))
                    divided.append((parameter, placeholder))
        try:
            for (parameter, _), tensor in zip(divided, whole, strict=True):
                parameter.data = tensor
            yield
        finally:
            for parameter, placeholder in divided:
                parameter.data = placeholder
            self.barrier()

    # --- state ------------------------------------------------------------------------------------------------

    def save(self, folder: Path) -> None:
        """Each process writes the optimiser's state of its slices; the weights' slices are in the checkpoint."""
        from safetensors.torch import save_file

        tensors = {
            f"{index}|{key}": torch.as_tensor(value).detach().to("cpu", copy=True).contiguous()
            for index, flat in enumerate(self._slices())
            for key, value in self.optimizer.state[flat].items()
        }
        layout = {
            "stage": 3 if self._zero3 else 2,
            "loss_scale": None if self._scale is None else self._scale.state(),
        }
        # one entry: safetensors writes several in any order, and the same state is to be the same bytes
        save_file(tensors, folder / _file(self.rank, self.world), metadata={"layout": json.dumps(layout)})

    def load(self, folder: Path) -> None:
        """Read back what :meth:`save` wrote.

        Raises:
            ConfigError: another number of processes or another strategy wrote it: the slices would be others.
        """
        from safetensors import safe_open

        path = folder / _file(self.rank, self.world)
        if not path.is_file():
            raise ConfigError(_other_processes(folder, self.world))
        with safe_open(path, "pt") as file:
            layout, stage = json.loads(file.metadata()["layout"]), 3 if self._zero3 else 2
            if layout["stage"] != stage:
                raise ConfigError(
                    f"hardware.strategy=zero{stage}: the run was saved by zero{layout['stage']}; "
                    f"go on with hardware.strategy=zero{layout['stage']}, or start anew with training.resume=never"
                )
            slices = self._slices()
            for key in file.keys():  # noqa: SIM118 - no mapping
                index, _, moment = key.partition("|")
                flat, value = slices[int(index)], file.get_tensor(key)
                # step counters stay where a fresh optimiser has them; fused AdamW keeps them beside the weights
                fused = self.optimizer.param_groups[0].get("fused")
                self.optimizer.state[flat][moment] = value.to(flat.device) if value.dim() or fused else value
            if self._scale is not None and layout["loss_scale"]:
                self._scale = _LossScale.restored(layout["loss_scale"])

    def _slices(self) -> list[Tensor]:
        """This process's flat float32 slices of the trained weights."""
        zero = self._zero
        return list(zero.fp32_partitioned_groups_flat if self._zero3 else zero.single_partition_of_fp32_groups)


class _Autocast(nn.Module):
    """The objective under torch's autocast; DeepSpeed switches off an autocast that is entered outside of it."""

    def __init__(self, objective: nn.Module, device: torch.device, precision: str) -> None:
        super().__init__()
        self.objective = objective
        self._device, self._precision = device, precision

    def forward(self, batch: dict[str, Any]) -> Tensor:
        with autocast(self._device, self._precision):
            loss: Tensor = self.objective(batch)
        return loss


class _LossScale:
    """Dynamic loss scale for fp16: halved when a gradient overflows, doubled after ``window`` steps without."""

    def __init__(self, options: Mapping[str, Any]) -> None:
        self.value = float(2 ** options["initial_scale_power"])
        self.window = int(options["loss_scale_window"])
        self.good = 0

    def update(self, finite: bool) -> None:
        self.good = self.good + 1 if finite else 0
        if not finite:
            self.value = max(self.value / 2, 1.0)
        elif self.good == self.window:
            self.value, self.good = self.value * 2, 0

    def state(self) -> dict[str, float]:
        return {"value": self.value, "window": self.window, "good": self.good}

    @classmethod
    def restored(cls, state: Mapping[str, float]) -> _LossScale:
        scale = cls({"initial_scale_power": 0, "loss_scale_window": state["window"]})
        scale.value, scale.good = float(state["value"]), int(state["good"])
        return scale


def _import(device: torch.device) -> Any:
    os.environ.setdefault("DS_ACCELERATOR", device.type)
    deepspeed_config.require()
    import deepspeed

    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
    # it calls collectives by names that torch 2.13 deprecates: a warning a call
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"torch\.distributed\.c10d_logger")
    return deepspeed


def _start(device: torch.device) -> Any:
    """DeepSpeed, with the processes joined; one alone is a group too, since DeepSpeed always talks to one."""
    deepspeed = _import(device)
    if device.type == "cpu":
        # its shared-memory collectives are compiled on first use: a minute, with a compiler that may not be there
        deepspeed.ops.__compatible_ops__ = {}
    backend, alone = "gloo" if device.type == "cpu" else "nccl", {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1"}
    for name, value in alone.items():
        os.environ.setdefault(name, value)
    if not distributed.is_initialized():
        if "MASTER_ADDR" in os.environ:
            distributed.init_process_group(backend, timeout=_PATIENCE)
        else:
            distributed.init_process_group(backend, store=distributed.HashStore(), rank=0, world_size=1)
    deepspeed.init_distributed(backend, auto_mpi_discovery=False, verbose=False, timeout=_PATIENCE)
    return deepspeed


def _fitted(options: Mapping[str, Any], trained: int) -> dict[str, Any]:
    """The JSON with communication buffers no larger than what is trained: LoRA needs megabytes, not gigabytes."""
    zero = dict(options["zero_optimization"])
    zero["reduce_bucket_size"] = max(min(int(zero["reduce_bucket_size"]), trained), 1)
    return {**options, "zero_optimization": zero}


def _file(rank: int, world: int) -> str:
    return f"optimizer-{rank:05d}-of-{world:05d}.safetensors"


def _other_processes(folder: Path, world: int) -> str:
    written = sorted(folder.glob("optimizer-*-of-*.safetensors"))
    if not written:
        return (
            f"{folder}: holds no ZeRO state, the run was saved by another strategy; go on with hardware.strategy=ddp, "
            "or start anew with training.resume=never"
        )
    count = int(written[0].stem.rpartition("-")[2])
    return (
        f"the run was saved by {count} processes, and a ZeRO run goes on with the same number: here are {world}; set "
        f"hardware.processes (times hardware.nodes) to {count}, or start anew with training.resume=never"
    )
