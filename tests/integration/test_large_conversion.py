"""A checkpoint of ChatGLM3-6B's size (12.5 GB, mostly sparse) is converted within 4 GB of memory."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from tasks.models.benchmark import write_checkpoint

_LIMIT_BYTES = 4 << 30


@pytest.mark.slow
def test_conversion_of_a_6b_checkpoint_stays_under_4_gb(shared: Path, tmp_path: Path) -> None:
    source, job = tmp_path / "chatglm3-6b", tmp_path / "job"
    # 6,243,584,000 parameters of 2 bytes, and 32 rotary frequencies
    assert write_checkpoint(source, layers=28, shards=7) == 12_487_168_064
    (source / "tokenizer.model").write_bytes((shared / "data/tokenizers/chatglm3/tokenizer.model").read_bytes())
    job.mkdir()
    (job / "job.json").write_text(
        json.dumps({"source": str(source), "kind": "convert", "family": "chatglm3"}), encoding="utf-8"
    )
    done = subprocess.run(
        [sys.executable, "-m", "tasks.models.importing.worker", str(job)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, (job / "error.json").read_text(encoding="utf-8")
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
    print(f"peak memory {peak / (1 << 30):.2f} GiB")
    assert peak < _LIMIT_BYTES
    written = json.loads((job / "model/model.safetensors.index.json").read_text(encoding="utf-8"))
    assert written["metadata"]["total_size"] == 12_487_168_000
