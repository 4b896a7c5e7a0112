"""Worker: reads a GGUF file once and writes its weights as native safetensors with tokenizer and configuration."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tasks.worker import Job, main


def run(job: Job) -> Mapping[str, Any]:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    source = Path(job.values["gguf"])
    target = job.folder / "model"
    place: dict[str, Any] = {"pretrained_model_name_or_path": str(source.parent), "gguf_file": source.name}
    job.progress(0, 3)
    tokenizer = AutoTokenizer.from_pretrained(**place)
    job.progress(1, 3)
    # without dequantize=True transformers 5.23 refuses to save a model that came from GGUF
    model = AutoModelForCausalLM.from_pretrained(
        **place, quantization_config=GgufConfig(dequantize=True), dtype=torch.float16
    )
    job.progress(2, 3)
    model.save_pretrained(target)
    tokenizer.save_pretrained(target)
    job.progress(3, 3)
    return {}


if __name__ == "__main__":
    main(run)
