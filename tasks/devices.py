"""What this machine has, read without importing torch: GPUs, torch's build, memory, disk."""

from __future__ import annotations

import functools
import os
import re
import shutil
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from tasks.errors import ConfigError, ResourceError

_FIELDS = "name,memory.total,memory.free,compute_cap,driver_version"


@functools.cache
def gpus() -> tuple[dict[str, Any], ...]:
    """NVIDIA GPUs by nvidia-smi: name, total and free bytes, compute capability, driver; empty without the tool."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return ()
    query = [tool, f"--query-gpu={_FIELDS}", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(query, capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError):
        return ()
    found = []
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")  # numbers are understood, GPU names are left to torch
    chosen = (
        None if visible is None or re.search(r"[^\d, ]", visible) else {int(n) for n in visible.split(",") if n.strip()}
    )
    for index, line in enumerate(done.stdout.strip().splitlines()):
        if chosen is not None and index not in chosen:
            continue
        name, total, free, capability, driver = (part.strip() for part in line.split(","))
        found.append(
            {
                "name": name,
                "bytes": int(total) << 20,
                "free_bytes": int(free) << 20,
                "capability": float(capability),
                "driver": driver,
            }
        )
    return tuple(found)


def torch_build() -> str:
    """The installed torch's version; a ``+cpu`` build has no CUDA."""
    try:
        return version("torch")
    except PackageNotFoundError:
        return "not installed"


def resolve_device(wanted: str) -> str:
    """ "cpu" or "cuda" for hardware.device.

    Raises:
        ResourceError: cuda was asked for and cannot be had.
    """
    usable = bool(gpus()) and "+cpu" not in torch_build()
    if wanted == "cuda" and not usable:
        what = "nvidia-smi finds no GPU" if not gpus() else f"torch {torch_build()} is a CPU build"
        raise ResourceError(f"hardware.device=cuda: {what}; use hardware.device=cpu")
    return "cuda" if usable and wanted != "cpu" else "cpu"


def resolve_precision(wanted: str, device: str) -> str:
    """ "fp32", "bf16" or "fp16" for training.precision.

    CPUs compute in fp32: bf16 was 45 times slower on a CPU without matrix units (0.55 against 25 GFLOPS).
    """
    if device == "cpu":
        if wanted == "fp16":
            raise ConfigError("training.precision='fp16': not on a CPU; allowed there: auto, fp32, bf16")
        return "fp32" if wanted == "auto" else wanted
    if wanted == "auto":
        return "bf16" if min(gpu["capability"] for gpu in gpus()) >= 8.0 else "fp16"
    return wanted


def dtype(precision: str, device: str) -> str:
    """The type of the weights when a model only answers: torch's name for the training precision."""
    return {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}[resolve_precision(precision, device)]


def memory_bytes(device: str) -> int:
    """Memory of the smallest GPU, or of the machine."""
    import psutil

    return min(gpu["bytes"] for gpu in gpus()) if device == "cuda" else int(psutil.virtual_memory().total)


def facts(root: Path) -> dict[str, Any]:
    """Device facts for the plan and for every record of how something ran."""
    import psutil

    place = next(p for p in (root, *root.parents) if p.exists())
    memory = psutil.virtual_memory()
    return {
        "torch": torch_build(),
        "gpus": [dict(gpu) for gpu in gpus()],
        "cpus": os.cpu_count() or 1,
        "memory_bytes": memory.total,
        "memory_free_bytes": memory.available,
        "disk_free_bytes": shutil.disk_usage(place).free,
    }


def versions() -> dict[str, str]:
    """Versions of the libraries that decide a result's bytes."""
    found = {}
    for name in ("torch", "transformers", "peft", "accelerate", "tokenizers", "safetensors", "numpy"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
