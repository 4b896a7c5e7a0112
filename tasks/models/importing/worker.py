"""Worker: makes the native form of a base model in ``FOLDER/model`` and verifies it by loading it back.

job.json: source (folder or .gguf file), kind ("convert" or "gguf"), family (null for a GGUF file: by what it holds).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tasks.errors import ModelError
from tasks.files import write_atomic
from tasks.models import families, loading, resolving
from tasks.models.families import Layout
from tasks.models.importing import conversion, gguf_file, verification
from tasks.worker import Job, main


def run(job: Job) -> Mapping[str, Any]:
    source, target = Path(job.values["source"]), job.folder / "model"
    target.mkdir(exist_ok=True)
    if job.values["kind"] == "gguf":
        _dequantize(job, source, target)
        layout = families.layout(target, job.values["family"])
        facts: dict[str, Any] = {"assumed": []}
    else:
        layout = Layout(job.values["family"])
        facts = _convert(job, source, target, layout)
    verification.verify(target, layout)
    return {**facts, "family": layout.family}


def _convert(job: Job, source: Path, target: Path, layout: Layout) -> dict[str, Any]:
    """The tokenizer first, as it fails fast; config.json last, so that half a folder is no model."""
    config = resolving.read_json(source / "config.json")
    family = layout.module
    made = family.conversion(config, source)
    family.write_tokenizer(source, target, config)
    shards = conversion.outline(resolving.weight_files(source), made)
    kept = conversion.write(shards, made, target, job.progress, lambda: job.stopping)
    if made.generation:
        write_atomic(target / "generation_config.json", json.dumps(made.generation, indent=1))
    written = {**made.config, families.CONFIG_KEY: layout.to_json()}
    write_atomic(target / "config.json", json.dumps(written, ensure_ascii=False, indent=1))
    return {"assumed": list(made.assumed), "shards_kept": kept}


def _dequantize(job: Job, source: Path, target: Path) -> None:
    """A GGUF file's weights as safetensors in float16, its tokenizer beside them.

    Raises:
        ModelError: the file is cut short, or transformers does not know what it holds.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    gguf_file.parameters(source)
    place: dict[str, Any] = {"pretrained_model_name_or_path": str(source.parent), "gguf_file": source.name}
    place["trust_remote_code"] = False
    job.progress(0, 3)
    try:
        tokenizer = AutoTokenizer.from_pretrained(**place)
        job.progress(1, 3)
        # without dequantize=True transformers 5.23 refuses to save a model that came from GGUF
        model, found = AutoModelForCausalLM.from_pretrained(
            **place, quantization_config=GgufConfig(dequantize=True), dtype=torch.float16, output_loading_info=True
        )
    except (ValueError, KeyError, NotImplementedError) as error:
        raise ModelError(
            f"{source}: transformers cannot read this GGUF file ({error}); take the model's safetensors instead"
        ) from error
    loading.require_complete(model, found, source)
    job.progress(2, 3)
    model.save_pretrained(target)
    tokenizer.save_pretrained(target)
    job.progress(3, 3)


if __name__ == "__main__":
    main(run)
