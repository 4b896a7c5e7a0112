"""DeepSpeed's JSON from our configuration, and a user's own JSON checked against it. No torch, no deepspeed.

What DeepSpeed decides is how weights, gradients and optimiser are divided and moved. What is computed stays with our
configuration: the batch, the optimiser and its schedule, the precision, the clipping. A user's file may say these too
(the usual files do, mostly as "auto"), and is refused where it says something else.

Precision: DeepSpeed itself runs in float32, and the forward pass under torch's autocast, so that trained weights and
their gradients are float32 as under any other strategy; its own bf16/fp16 modes would hold rounded copies of them.
"""

from __future__ import annotations

import importlib.util
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tasks.errors import ConfigError, ResourceError

#: Keys of a user's file that go to DeepSpeed as they are: none of them changes what is computed.
_PASSED = {
    "steps_per_print",
    "wall_clock_breakdown",
    "memory_breakdown",
    "dump_state",
    "comms_logger",
    "flops_profiler",
}
_CHECKED = {
    "train_batch_size", "train_micro_batch_size_per_gpu", "gradient_accumulation_steps", "gradient_clipping", "fp16",
    "bf16", "optimizer", "zero_optimization", "zero_allow_untested_optimizer", "zero_force_ds_cpu_optimizer",
}  # fmt: skip
_ZERO_PASSED = {
    "allgather_partitions", "allgather_bucket_size", "overlap_comm", "reduce_scatter", "reduce_bucket_size",
    "contiguous_gradients", "round_robin_gradients", "sub_group_size", "memory_efficient_linear",
    "stage3_prefetch_bucket_size", "stage3_param_persistence_threshold", "stage3_model_persistence_threshold",
    "stage3_max_live_parameters", "stage3_max_reuse_distance", "stage3_module_granularity_threshold",
    "stage3_gather_16bit_weights_on_model_save",
}  # fmt: skip


@dataclass(frozen=True)
class Settings:
    """What of our configuration DeepSpeed's JSON depends on.

    Attributes:
        stage: 2 or 3.
        world: processes over all machines.
        hidden_size: of the model, for the sizes that are "auto".
    """

    stage: int
    offload: bool
    device: str
    world: int
    batch_size: int
    micro_batch_size: int | None
    max_grad_norm: float
    precision: str
    hidden_size: int
    learning_rate: float
    betas: tuple[float, float]
    epsilon: float
    weight_decay: float

    @classmethod
    def of(cls, training: Any, hardware: Any, *, device: str, precision: str, hidden_size: int) -> Settings:
        """From our sections; ``precision`` as resolved, or "auto" where it is not known yet."""
        return cls(
            stage=int(hardware.strategy.removeprefix("zero")),
            offload=hardware.offload,
            device=device,
            world=hardware.world,
            batch_size=training.batch_size,
            micro_batch_size=training.micro_batch_size,
            max_grad_norm=training.max_grad_norm,
            precision=precision,
            hidden_size=hidden_size,
            learning_rate=training.learning_rate,
            betas=(training.adam_beta1, training.adam_beta2),
            epsilon=training.adam_epsilon,
            weight_decay=training.weight_decay,
        )

    @property
    def rows_at_once(self) -> int:
        share = -(-self.batch_size // self.world)
        return min(self.micro_batch_size or share, share)

    @property
    def micro_steps(self) -> int:
        return -(-self.batch_size // (self.world * self.rows_at_once))


def generate(
    settings: Settings, own: Mapping[str, Any] | None = None, name: str = "hardware.deepspeed"
) -> dict[str, Any]:
    """The JSON that DeepSpeed is started with; ``own`` is a user's file's content, ``name`` its path for messages.

    The batch sizes in the result are bookkeeping only: the number of micro-steps varies from step to step, and the
    engine says itself which one is the last.

    Raises:
        ConfigError: the user's file contradicts our configuration; one line a key, with both values.
    """
    if own is not None:
        problems = list(_problems(settings, own))
        if problems:
            raise ConfigError([f"{name}: {problem}" for problem in problems])
    result = _ours(settings)
    if own is not None:
        result |= {key: value for key, value in own.items() if key in _PASSED}
        for key, value in own.get("zero_optimization", {}).items():
            if key in _ZERO_PASSED and value != "auto":
                result["zero_optimization"][key] = value
            elif key.startswith("offload_") and key in result["zero_optimization"]:
                extra = {k: v for k, v in value.items() if v != "auto"}
                result["zero_optimization"][key] |= extra
        for key in ("initial_scale_power", "loss_scale_window"):
            if key in own.get("fp16", {}):
                result["fp16"][key] = own["fp16"][key]
    return result


def read(path: Path) -> dict[str, Any]:
    """A user's DeepSpeed JSON.

    Raises:
        ConfigError: it is missing or no JSON object.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"hardware.deepspeed={str(path)!r}: cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise ConfigError(f"hardware.deepspeed={str(path)!r}: not JSON: {error}") from error
    if not isinstance(value, dict):
        raise ConfigError(f"hardware.deepspeed={str(path)!r}: must hold a JSON object, not {type(value).__name__}")
    return value


def require() -> None:
    """Raises ResourceError where DeepSpeed is not installed; does not load it."""
    if importlib.util.find_spec("deepspeed") is None:
        raise ResourceError(
            "hardware.strategy=zero2 or zero3: DeepSpeed is not installed; pip install -e '.[deepspeed]' in the "
            "project's folder (Linux only), or use hardware.strategy=ddp"
        )


def problems(training: Any, hardware: Any, quantization: str) -> Iterator[str]:
    """What ZeRO excludes in the rest of the configuration, a user's own file included; one line each."""
    strategy = f"hardware.strategy={hardware.strategy}"
    if hardware.strategy == "zero3" and quantization != "none":
        yield f"model.quantization={quantization}: not with {strategy}, which cannot divide it; use ddp"
    if training.optimizer != "adamw":
        yield f"training.optimizer={training.optimizer}: not with {strategy}, which divides AdamW's state; use adamw"
    if training.compile:
        yield f"training.compile=True: not with {strategy}; use hardware.strategy=ddp or training.compile=false"
    if hardware.deepspeed is not None:
        settings = Settings.of(training, hardware, device="cpu", precision=training.precision, hidden_size=1)
        try:
            generate(settings, read(hardware.deepspeed), f"hardware.deepspeed={str(hardware.deepspeed)!r}")
        except ConfigError as error:
            yield from error.problems


def _ours(settings: Settings) -> dict[str, Any]:
    square = settings.hidden_size**2
    zero: dict[str, Any] = {
        "stage": settings.stage,
        "allgather_partitions": True,
        "allgather_bucket_size": 500_000_000,
        "overlap_comm": settings.device == "cuda",
        "reduce_scatter": True,
        "reduce_bucket_size": 500_000_000 if settings.stage == 2 else square,
        "contiguous_gradients": True,
    }
    if settings.stage == 3:
        zero |= {
            "sub_group_size": 1_000_000_000,
            "stage3_prefetch_bucket_size": int(0.9 * square),
            "stage3_param_persistence_threshold": 10 * settings.hidden_size,
            "stage3_max_live_parameters": 1_000_000_000,
            "stage3_max_reuse_distance": 1_000_000_000,
        }
    if settings.offload:
        pinned = settings.device == "cuda"
        zero["offload_optimizer"] = {"device": "cpu", "pin_memory": pinned}
        if settings.stage == 3:
            zero["offload_param"] = {"device": "cpu", "pin_memory": pinned}
    return {
        "train_batch_size": settings.world,
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        "gradient_clipping": settings.max_grad_norm,
        "bf16": {"enabled": False},
        "fp16": {"enabled": False, "initial_scale_power": 16, "loss_scale_window": 2000},
        "zero_optimization": zero,
        # torch's AdamW: its fused form is vectorised on the CPU too, and needs no compiler on the machine
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "wall_clock_breakdown": False,
    }


def _problems(settings: Settings, own: Mapping[str, Any]) -> Iterator[str]:
    known = _PASSED | _CHECKED
    for key in sorted(set(own) - known):
        allowed_keys = ", ".join(sorted(known))
        yield f"{key}: not taken, it would change what is computed or is unknown here; allowed: {allowed_keys}"
    zero = own.get("zero_optimization", {})
    for key in ("zero_optimization", "fp16", "bf16", "optimizer"):
        if not isinstance(own.get(key, {}), Mapping):
            yield f"{key}={own[key]!r}: must be an object"
            return
    allowed = _ZERO_PASSED | {"stage", "offload_optimizer", "offload_param"}
    for key in sorted(set(zero) - allowed):
        yield f"zero_optimization.{key}: not taken; allowed: {', '.join(sorted(allowed))}"
    for key, given, ours, source in _pairs(settings, own):
        if not _same(given, ours):
            yield f'{key}={given!r}, but {source} gives {ours!r}: make them equal, or write "auto" in the file'
    yield from _batch_arithmetic(settings, own)
    for part in ("offload_optimizer", "offload_param"):
        device = zero[part].get("device", "none") if isinstance(zero.get(part), Mapping) else "none"
        wanted = "cpu" if settings.offload else "none"
        if part in zero and device not in (wanted, "auto"):
            yield (
                f"zero_optimization.{part}.device={device!r}, but hardware.offload={settings.offload} gives {wanted!r}"
                " (nvme is not built in)"
            )
    if own.get("optimizer", {}).get("type", "AdamW").lower() not in ("adamw", "adam", "auto"):
        yield f"optimizer.type={own['optimizer']['type']!r}: the optimiser is AdamW, set up by training.*; remove it"


def _pairs(settings: Settings, own: Mapping[str, Any]) -> Iterator[tuple[str, Any, Any, str]]:
    """(key in the file, its value, the value that ours gives, where ours comes from) for each key that is there."""
    table: dict[str, tuple[Any, str]] = {
        "train_batch_size": (settings.batch_size, "training.batch_size"),
        "gradient_clipping": (settings.max_grad_norm, "training.max_grad_norm"),
        "zero_allow_untested_optimizer": (True, "this project's optimiser"),
        "zero_force_ds_cpu_optimizer": (False, "this project's optimiser"),
        "bf16.enabled": (settings.precision == "bf16", f"training.precision ({settings.precision})"),
        "fp16.enabled": (settings.precision == "fp16", f"training.precision ({settings.precision})"),
        "zero_optimization.stage": (settings.stage, f"hardware.strategy=zero{settings.stage}"),
        "optimizer.params.lr": (settings.learning_rate, "training.learning_rate"),
        "optimizer.params.betas": (list(settings.betas), "training.adam_beta1 and adam_beta2"),
        "optimizer.params.eps": (settings.epsilon, "training.adam_epsilon"),
        "optimizer.params.weight_decay": (settings.weight_decay, "training.weight_decay"),
    }
    if settings.precision == "auto":
        del table["bf16.enabled"], table["fp16.enabled"]
    for key, (ours, source) in table.items():
        value: Any = own
        for part in key.split("."):
            value = value.get(part) if isinstance(value, Mapping) else None
        if value is not None and value != "auto":
            yield key, value, ours, source


def _batch_arithmetic(settings: Settings, own: Mapping[str, Any]) -> Iterator[str]:
    """micro-batch x accumulation x processes must be the batch."""
    micro, steps = (own.get(k) for k in ("train_micro_batch_size_per_gpu", "gradient_accumulation_steps"))
    given = {k: v for k, v in (("micro", micro), ("steps", steps)) if isinstance(v, int) and not isinstance(v, bool)}
    world, batch = settings.world, settings.batch_size
    if len(given) == 2 and given["micro"] * given["steps"] * world != batch:
        product = given["micro"] * given["steps"] * world
        yield (
            f"train_micro_batch_size_per_gpu {given['micro']} x gradient_accumulation_steps {given['steps']} x "
            f"{world} processes = {product} rows a step, but training.batch_size={batch}: "
            f'set training.batch_size={product}, or write "auto" in the file'
        )
        return
    if "micro" in given and given["micro"] != settings.rows_at_once:
        yield (
            f"train_micro_batch_size_per_gpu={given['micro']}, but training.micro_batch_size gives "
            f"{settings.rows_at_once}: set training.micro_batch_size={given['micro']}"
        )
    elif "steps" in given and given["steps"] != settings.micro_steps:
        per_step = given["steps"] * world
        low, high = batch // per_step * per_step, -(-batch // per_step) * per_step
        nearest = f"training.micro_batch_size={batch // per_step}" if low == batch else f"{_pair(low, high)}"
        yield (
            f"gradient_accumulation_steps={given['steps']}, but training.batch_size={batch} over {world} processes of "
            f"{settings.rows_at_once} rows at once gives {settings.micro_steps}; nearest: {nearest}"
        )


def _pair(low: int, high: int) -> str:
    return " or ".join(f"training.batch_size={value}" for value in dict.fromkeys((low, high)) if value)


def _same(given: Any, ours: Any) -> bool:
    if isinstance(given, bool) or isinstance(ours, bool) or not isinstance(given, int | float):
        return type(given) is type(ours) and bool(given == ours)
    return isinstance(ours, int | float) and math.isclose(given, ours, rel_tol=1e-12)
