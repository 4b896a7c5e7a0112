"""DeepSpeed's JSON: which of our hardware options it is. The file itself stays in use (hardware.deepspeed).

Source: https://www.deepspeed.ai/docs/config-json/
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tasks.errors import ConfigError
from tasks.training.importing.account import Account

#: Keys that this project decides itself: DeepSpeed is handed its numbers.
_OURS = {
    "train_batch_size": "training.batch_size",
    "train_micro_batch_size_per_gpu": "training.micro_batch_size",
    "gradient_accumulation_steps": "training.batch_size and the number of devices",
    "gradient_clipping": "training.max_grad_norm",
    "optimizer": "training.optimizer and its keys",
    "scheduler": "training.lr_scheduler_type",
    "fp16": "training.precision",
    "bf16": "training.precision",
}


def recognises(value: Mapping[str, Any]) -> bool:
    return bool({"zero_optimization", "train_micro_batch_size_per_gpu", "train_batch_size"} & set(value))


def read(value: Mapping[str, Any], account: Account, file: str | None) -> None:
    """Choose the hardware option; ``file`` is the path that hardware.deepspeed gets."""
    zero = value.get("zero_optimization") or {}
    stage = zero.get("stage", 0) if isinstance(zero, Mapping) else None
    if stage not in (0, 1, 2, 3):
        raise ConfigError(f"{file or 'deepspeed'}: zero_optimization.stage={stage!r}: allowed: 0, 1, 2, 3")
    moved = [key for key in ("offload_param", "offload_optimizer") if _device(zero.get(key)) in ("cpu", "nvme")]
    note = f"with {' and '.join(moved)}" if moved else ""
    option = {0: "ddp", 1: "zero2", 2: "zero2", 3: "zero3_offload" if moved else "zero3"}[stage]
    account.choose("hardware", option, "zero_optimization.stage", stage, note)
    if stage == 1:
        account.tell("zero_optimization.stage=1: zero2 is written, which shares the gradients out as well")
    if file and stage:
        account.map("deepspeed file", file, "hardware.deepspeed")
    for kind in ("bf16", "fp16"):
        half = value.get(kind)
        if isinstance(half, Mapping) and half.get("enabled") is True:
            account.map(f"{kind}.enabled", True, "training.precision", kind)
    for key, setting in value.items():
        if key in _OURS:
            fixed = [v for v in _numbers(setting) if v != "auto"]
            account.drop(key, setting, f"{_OURS[key]} decides")
            if key in ("train_batch_size", "train_micro_batch_size_per_gpu") and fixed:
                account.tell(f"{file or 'deepspeed'}: {key}={setting} is not used: {_OURS[key]} decides")
        elif key != "zero_optimization" and file and stage:
            account.map(key, setting, "hardware.deepspeed", file, "stays in the file")
        elif key != "zero_optimization":
            account.drop(key, setting, "of DeepSpeed only")


def by_name(name: str, account: Account) -> None:
    """A file that is not at hand: its name has to tell."""
    plain = name.lower().replace("_", "").replace("-", "").replace("zereo", "zero")
    stage = next((stage for stage in (2, 3) if f"zero{stage}" in plain), None)
    if stage is None:
        raise ConfigError(f"deepspeed={name}: the file is not there; give it too: 'path=[CONFIG,{name}]'")
    account.choose("hardware", f"zero{stage}", "deepspeed", name, "the file was not at hand: read off its name")
    account.tell(f"deepspeed={name} was not at hand: hardware=zero{stage} makes its own settings; give the file to use")


def _device(setting: Any) -> str:
    return str(setting.get("device", "none")) if isinstance(setting, Mapping) else "none"


def _numbers(setting: Any) -> list[Any]:
    return [leaf for part in setting.values() for leaf in _numbers(part)] if isinstance(setting, Mapping) else [setting]
