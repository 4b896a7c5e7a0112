"""Device facts and how "auto" is resolved, with a stand-in for nvidia-smi."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tasks import devices
from tasks.errors import ConfigError, ResourceError


@pytest.fixture
def smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    """Puts an nvidia-smi on the path that prints the given lines; a CUDA build of torch is pretended."""
    if sys.platform == "win32":
        pytest.skip("a shell script stands in for nvidia-smi")

    def install(lines: str, torch: str = "2.13.0") -> None:
        tool = tmp_path / "nvidia-smi"
        tool.write_text(f"#!/bin/sh\nprintf '{lines}'\n", encoding="utf-8")
        tool.chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
        monkeypatch.setattr(devices, "torch_build", lambda: torch)
        devices.gpus.cache_clear()

    yield install
    devices.gpus.cache_clear()


H100 = "NVIDIA H100 80GB HBM3, 81559, 81000, 9.0, 580.159.04\\n"
T4 = "Tesla T4, 15360, 15000, 7.5, 535.1\\n"


def test_gpu_is_read_and_used(smi: Callable[..., None]) -> None:
    smi(H100)
    (gpu,) = devices.gpus()
    assert (gpu["name"], gpu["bytes"], gpu["capability"]) == ("NVIDIA H100 80GB HBM3", 81559 << 20, 9.0)
    assert devices.resolve_device("auto") == "cuda"
    assert devices.resolve_device("cpu") == "cpu"
    assert devices.resolve_precision("auto", "cuda") == "bf16"
    assert devices.dtype("auto", "cuda") == "bfloat16"


def test_older_card_decides_for_fp16(smi: Callable[..., None]) -> None:
    smi(H100 + T4)
    assert devices.resolve_precision("auto", "cuda") == "fp16"
    assert devices.memory_bytes("cuda") == 15360 << 20


def test_cpu_build_of_torch_uses_no_gpu_and_says_so_when_asked(smi: Callable[..., None]) -> None:
    smi(H100, torch="2.13.0+cpu")
    assert devices.resolve_device("auto") == "cpu"
    with pytest.raises(ResourceError, match=r"hardware\.device=cuda: torch 2\.13\.0\+cpu is a CPU build"):
        devices.resolve_device("cuda")


def test_cpu_computes_in_fp32_and_refuses_fp16() -> None:
    assert devices.resolve_precision("auto", "cpu") == "fp32"
    with pytest.raises(ConfigError, match=r"training\.precision='fp16'"):
        devices.resolve_precision("fp16", "cpu")
