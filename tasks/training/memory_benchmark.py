"""Measures the peak memory of real training workers over a fixed grid, each beside the planner's prediction.

Models are of random weights, written on the fly; rows are of one length, half of each learned. A point is one worker
process of a few steps, so that its peak is its own: resident memory on a CPU, allocated memory on a GPU.
"""

from __future__ import annotations

import json
import statistics
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from tasks import allocator, devices, plugins
from tasks.launch import run_worker
from tasks.models import outline
from tasks.models.embedded import FOLDER
from tasks.models.tokens import Tokens, shard_file, write_shard
from tasks.training import memory, planning
from tasks.training.config import HardwareConfig, TrainingConfig

#: Shapes of the models: type of the stored weights, and config.json. Large enough that libraries do not dominate.
_SIZES = {
    "hidden_size": 512,
    "intermediate_size": 1408,
    "num_hidden_layers": 12,
    "num_attention_heads": 8,
    "head_dim": 64,
    "vocab_size": 8192,
    "max_position_embeddings": 4096,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "tie_word_embeddings": False,
    "hidden_act": "silu",
    "attention_bias": False,
}
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": (
        "float32",
        {"architectures": ["LlamaForCausalLM"], "model_type": "llama", **_SIZES, "num_key_value_heads": 4},
    ),
    "glm": (
        "float16",
        {"architectures": ["GlmForCausalLM"], "model_type": "glm", **_SIZES, "num_key_value_heads": 2},
    ),
    "neox": (
        "float32",
        {
            "architectures": ["GPTNeoXForCausalLM"],
            "model_type": "gpt_neox",
            **{k: v for k, v in _SIZES.items() if k not in ("head_dim", "hidden_act", "attention_bias")},
            "intermediate_size": 2048,
            "hidden_act": "gelu",
        },
    ),
}
METHODS: dict[str, dict[str, Any]] = {
    "lora": {"name": "lora"},
    "lora_attention": {"name": "lora", "target_modules": ["q_proj", "v_proj"], "lora_dropout": 0.0},
    "qlora": {"name": "qlora"},
    "ptuning_v2": {"name": "ptuning_v2", "num_virtual_tokens": 64},
    "ptuning": {"name": "ptuning"},
    "prompt_tuning": {"name": "prompt_tuning", "num_virtual_tokens": 20},
    "freeze": {"name": "freeze", "trainable_layers": 3},
    "full": {"name": "full"},
}


@dataclass(frozen=True)
class Point:
    """One training setting: ``rows`` of ``length`` tokens at once, ``parts`` such micro-batches a step."""

    method: str
    length: int
    rows: int
    checkpointing: str = "none"
    model: str = "llama"
    parts: int = 1
    training: Mapping[str, Any] = field(default_factory=dict)
    quantization: str = "none"


#: The grid of the published figures: every method, four lengths, micro-batches of 1 to 16 rows, three modes.
GRID: tuple[Point, ...] = (
    Point("lora", 128, 4),
    Point("lora", 128, 16),
    Point("lora", 512, 4),
    Point("lora", 1024, 1),
    Point("lora", 1024, 2, parts=2),
    Point("lora", 512, 4, "full"),
    Point("lora", 1024, 4, "full"),
    Point("lora", 512, 4, "selective"),
    Point("lora_attention", 512, 4),
    Point("ptuning_v2", 128, 8),
    Point("ptuning_v2", 512, 4),
    Point("ptuning_v2", 1024, 2),
    Point("ptuning_v2", 512, 4, "full"),
    Point("ptuning_v2", 512, 4, "selective"),
    Point("ptuning", 256, 8),
    Point("ptuning", 512, 4, "full"),
    Point("prompt_tuning", 256, 4),
    Point("freeze", 128, 8),
    Point("freeze", 512, 4),
    Point("freeze", 1024, 2, "full"),
    Point("full", 128, 8),
    Point("full", 512, 4),
    Point("full", 512, 2, parts=2),
    Point("full", 512, 4, "full"),
    Point("full", 512, 4, "selective"),
    Point("lora", 256, 8, model="glm"),
    Point("full", 256, 4, "full", model="glm"),
    Point("lora", 256, 8, model="neox"),
    Point("lora", 256, 16, model="embedded"),
    Point("full", 512, 8, model="embedded"),
    Point("ptuning_v2", 256, 16, "full", model="embedded"),
)


def measure(grid: Sequence[Point] = GRID, device: str = "cpu", precision: str | None = None) -> list[dict[str, Any]]:
    """One result a point: predicted and measured bytes, and their difference as a share of the measured ones."""
    precision = precision or devices.resolve_precision("auto", device)
    results = []
    with tempfile.TemporaryDirectory(prefix="weitiao-bench-") as name:
        root = Path(name)
        for number, point in enumerate(grid):
            model = FOLDER if point.model == "embedded" else root / point.model
            if not model.exists():
                write_model(model, *MODELS[point.model])
            results.append(_measured(point, model, root / f"point-{number}", device, precision))
    return results


def table(results: Sequence[Mapping[str, Any]]) -> str:
    """The results as Markdown, and the differences' median and largest."""
    lines = [
        "| model | method | length | rows | checkpointing | predicted MiB | measured MiB | difference |",
        "|---|---|---:|---:|---|---:|---:|---:|",
    ]
    for r in results:
        rows = f"{r['rows']} x {r['parts']}" if r["parts"] > 1 else str(r["rows"])
        cells = (r["model"], r["method"], str(r["length"]), rows, r["checkpointing"])
        sizes = (f"{r['predicted_mib']:,}", f"{r['measured_mib']:,}", f"{r['difference']:+.1%}")
        lines.append(f"| {' | '.join((*cells, *sizes))} |")
    told = summary(results)
    return "\n".join([*lines, "", f"difference: median {told['median']:.1%}, largest {told['largest']:.1%}"])


def summary(results: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Median and largest of the absolute differences."""
    differences = [abs(float(r["difference"])) for r in results]
    return {"median": round(statistics.median(differences), 4), "largest": round(max(differences), 4)}


def _measured(point: Point, model: Path, folder: Path, device: str, precision: str) -> dict[str, Any]:
    training = _training(point)
    method = plugins.load("tasks.methods", METHODS[point.method]["name"], key="method").Config(**METHODS[point.method])
    shape = outline.of_folder(model)
    assert shape is not None
    run = planning.Run(
        outline=shape,
        method=method.model_dump(),
        training=training,
        hardware=HardwareConfig(device=device),
        longest=point.length,
        reply=point.length // 2,
        device=device,
        precision=precision,
        quantization=point.quantization,
        available=devices.memory_bytes(device),
    )
    predicted = run.estimate(point.length * point.rows)
    write_rows(folder / "tokens", point.length, max(2 * point.rows, 4), shape.vocabulary)
    (folder / "job").mkdir()
    job = {
        "model": str(model),
        "base_fingerprint": "",
        "layout": None,
        "quantization": point.quantization,
        "tokens": str(folder / "tokens"),
        "method": method.model_dump(mode="json"),
        "training": training.model_dump(mode="json"),
        "identity": {},
        "device": device,
        "precision": precision,
    }
    found = run_worker("tasks.training.worker", folder / "job", job, label=point.method, device=device)
    peak = int(found["peak_memory_bytes"])
    return {
        "subject": "memory",
        "model": point.model,
        "method": point.method,
        "length": point.length,
        "rows": point.rows,
        "parts": point.parts,
        "checkpointing": point.checkpointing,
        "packed": found.get("packed"),
        "allocator": allocator.name() if device == "cpu" else "cuda",
        "trainable": found["trainable"],
        "predicted_trainable": memory.trainable_parameters(shape, method.model_dump()),
        "predicted_mib": round(predicted.peak / 2**20),
        "measured_mib": round(peak / 2**20),
        "difference": round(predicted.peak / peak - 1, 4),
        "components_mib": {name: round(size / 2**20) for name, size in predicted.components().items()},
        "seconds": found["train_seconds"],
    }


def _training(point: Point) -> TrainingConfig:
    moments = METHODS[point.method]["name"] in ("full", "freeze")
    values = {
        # the optimiser's moments are there from the second step on; beside a frozen base they are small
        "max_steps": 2 if moments else 1,
        "batch_size": point.rows * point.parts,
        "micro_batch_size": point.rows,
        "gradient_checkpointing": point.checkpointing,
        "logging_steps": 1,
        "save_steps": 1000,
        **point.training,
    }
    return TrainingConfig.model_validate(values)


def write_model(folder: Path, dtype: str, config: Mapping[str, Any]) -> None:
    """A model of random weights: config.json and one safetensors file of ``dtype``."""
    from safetensors.numpy import save_file

    shape = outline.of_config(config)
    assert shape is not None
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({**config, "dtype": dtype}), encoding="utf-8")
    draw = np.random.default_rng(7)
    weights = {
        name: (
            np.ones(size, dtype)
            if len(size) == 1 and name.endswith("weight")
            else (draw.standard_normal(size, np.float32) * 0.02).astype(dtype)
        )
        for name, size in shape.tensors.items()
    }
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def write_rows(folder: Path, length: int, rows: int, vocabulary: int) -> None:
    """A tokenised data set whose rows have one length; the second half of each is learned. Two rows of validation."""
    draw = np.random.default_rng(7)
    for split, count in (("train", rows), ("validation", 2)):
        (folder / split).mkdir(parents=True)
        ids = draw.integers(3, vocabulary, count * length, dtype=np.int32)
        learn = np.tile((np.arange(length) >= length // 2).astype(np.uint8), count)
        part = Tokens(ids, learn, np.full(count, length, dtype=np.int64))
        write_shard(shard_file(folder, split, 0), [part], shards=1, settings="", facts={})
