"""What needs a GPU: ``pytest -m gpu`` on a machine that has one."""

from __future__ import annotations

from pathlib import Path

import pytest
from test_embedded import full

from tasks import devices


@pytest.mark.gpu
def test_main_example_on_a_gpu_in_bf16(tmp_path: Path) -> None:
    if devices.resolve_device("auto") != "cuda":
        pytest.skip("torch can use no GPU here")
    result, _ = full("lora_medical", tmp_path, "hardware.device=cuda", "training.precision=bf16", "orchestrator=none")
    assert result["stages"]["plan"]["precision"] == "bf16"
    assert result["metrics"]["score"]["difference"]["low"] > 0
    assert result["stages"]["merge"]["max_logit_difference"] < 0.05
