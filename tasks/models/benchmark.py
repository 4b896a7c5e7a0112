"""Measures importing and rendering, each beside the plain way in the same run.

A conversion is compared with copying the same bytes: the disk is its limit. Rendering is compared with the tokenizer's
own ``apply_chat_template``, row by row. Each step runs in a worker process of its own, so that its peak memory is its
own. ``python -m tasks.models.benchmark FOLDER`` is such a process; job.json: step, source or rows, target.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import struct
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tasks.launch import run_worker
from tasks.worker import Job, main, peak_resident_bytes

#: What each step is, in the order of the table; a step's baseline is the one before it.
STEPS = {
    "copy": "copy a checkpoint's files (shutil), then fsync",
    "convert": "convert the same checkpoint of ChatGLM3's shape to GlmForCausalLM",
    "chat_template": "apply_chat_template on 1,000 rows, the embedded model's tokenizer",
    "render": "fit the same rows into their limits, with the mask of learned tokens",
    "tokenize": "read 20,000 rows, render and write them, over the usual processes and with their start",
}
_BASELINES = {"convert": "copy", "render": "chat_template", "tokenize": "render"}

#: ChatGLM3-6B's published configuration.
CHATGLM3 = {
    "architectures": ["ChatGLMModel"],
    "model_type": "chatglm",
    "_name_or_path": "THUDM/chatglm3-6b",
    "add_bias_linear": False,
    "add_qkv_bias": True,
    "apply_residual_connection_post_layernorm": False,
    "ffn_hidden_size": 13696,
    "hidden_size": 4096,
    "kv_channels": 128,
    "layernorm_epsilon": 1e-05,
    "multi_query_attention": True,
    "multi_query_group_num": 2,
    "num_attention_heads": 32,
    "num_layers": 28,
    "original_rope": True,
    "padded_vocab_size": 65024,
    "post_layer_norm": True,
    "rmsnorm": True,
    "seq_length": 8192,
    "eos_token_id": 2,
    "pad_token_id": 0,
    "tie_word_embeddings": False,
    "torch_dtype": "float16",
}
_LAYER = {
    "input_layernorm.weight": (4096,),
    "self_attention.query_key_value.weight": (4608, 4096),
    "self_attention.query_key_value.bias": (4608,),
    "self_attention.dense.weight": (4096, 4096),
    "post_attention_layernorm.weight": (4096,),
    "mlp.dense_h_to_4h.weight": (27392, 4096),
    "mlp.dense_4h_to_h.weight": (4096, 13696),
}


def write_checkpoint(folder: Path, layers: int, shards: int) -> int:
    """Write a checkpoint of ChatGLM3-6B's shape under the hub's names, as mostly sparse files; returns its bytes."""
    shapes: dict[str, tuple[int, ...]] = {
        "transformer.embedding.word_embeddings.weight": (65024, 4096),
        "transformer.rotary_pos_emb.inv_freq": (32,),
    }
    for layer in range(layers):
        shapes |= {f"transformer.encoder.layers.{layer}.{name}": shape for name, shape in _LAYER.items()}
    shapes |= {
        "transformer.encoder.final_layernorm.weight": (4096,),
        "transformer.output_layer.weight": (65024, 4096),
    }
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(CHATGLM3 | {"num_layers": layers}), encoding="utf-8")
    items, index, total = list(shapes.items()), {}, 0
    for shard in range(shards):
        name = f"model-{shard + 1:05d}-of-{shards:05d}.safetensors"
        header, place = {}, 0
        for tensor, shape in items[shard * len(items) // shards : (shard + 1) * len(items) // shards]:
            size = 2 * shape[0] * (shape[1] if len(shape) > 1 else 1)
            header[tensor] = {"dtype": "F16", "shape": list(shape), "data_offsets": [place, place + size]}
            index[tensor], place = name, place + size
        text = json.dumps(header).encode()
        with (folder / name).open("wb") as file:
            # exponents below 2: finite numbers
            file.write(struct.pack("<Q", len(text)) + text + bytes(b & 0x3F for b in os.urandom(64)))
            file.truncate(8 + len(text) + place)
        total += place
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}), encoding="utf-8")
    return total


def measure(layers: int, repeats: int, steps: Sequence[str]) -> list[dict[str, Any]]:
    """One result a step: medians of seconds and of the rate, the largest peak memory, the ratio to its baseline."""
    results: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory(prefix="weitiao-bench-") as name:
        source = Path(name) / "chatglm3"
        if {"copy", "convert"} & set(steps):
            write_checkpoint(source, layers, shards=max(1, layers // 4))
        for step in [s for s in STEPS if s in steps]:
            runs = [_run(step, Path(name), source) for _ in range(repeats)]
            rate = statistics.median(run["amount"] / run["seconds"] for run in runs)
            results[step] = {
                "subject": "models",
                "step": step,
                "seconds": round(statistics.median(run["seconds"] for run in runs), 3),
                "rate": round(rate, 1),
                "unit": runs[0]["unit"],
                "peak_mib": round(max(run["peak"] for run in runs) / 2**20),
                "repeats": repeats,
            }
            base = results.get(_BASELINES.get(step, ""))
            if base is not None:
                results[step]["speed_to_baseline"] = round(rate / base["rate"], 2)
    return list(results.values())


def table(results: Sequence[dict[str, Any]]) -> str:
    """The results as Markdown."""
    lines = ["| step | rate | s | peak MiB | to the step before |", "|---|---:|---:|---:|---:|"]
    for r in results:
        ratio = f"{r['speed_to_baseline']:.2f}x" if "speed_to_baseline" in r else ""
        cells = (r["step"], f"{r['rate']:,.0f} {r['unit']}", f"{r['seconds']:.2f}", f"{r['peak_mib']:,}", ratio)
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, "", *(f"{step}: {what}" for step, what in STEPS.items())])


def _run(step: str, root: Path, source: Path) -> dict[str, Any]:
    folder = root / "job"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    try:
        return run_worker("tasks.models.benchmark", folder, {"step": step, "source": str(source)}, label=step)
    finally:
        shutil.rmtree(folder)


def run(job: Job) -> Mapping[str, Any]:
    work: Callable[[Job], tuple[float, float, str]] = {
        "copy": _copy,
        "convert": _convert,
        "chat_template": _chat_template,
        "render": _render,
        "tokenize": _tokenize,
    }[job.values["step"]]
    seconds, amount, unit = work(job)
    return {"seconds": seconds, "amount": amount, "unit": unit, "peak": peak_resident_bytes()}


def _copy(job: Job) -> tuple[float, float, str]:
    from tasks.files import sync_files

    files = sorted(Path(job.values["source"]).glob("*.safetensors"))
    target = job.folder / "model"
    target.mkdir()
    started = time.monotonic()
    for file in files:
        with file.open("rb") as read, (target / file.name).open("wb") as write:
            shutil.copyfileobj(read, write, 1 << 24)  # not copyfile: it would keep the files sparse
    sync_files(target)
    return time.monotonic() - started, sum(f.stat().st_size for f in files) / 1e6, "MB/s"


def _convert(job: Job) -> tuple[float, float, str]:
    from tasks.models import families, resolving
    from tasks.models.importing import conversion

    source, target = Path(job.values["source"]), job.folder / "model"
    target.mkdir()
    made = families.named("chatglm3").conversion(resolving.read_json(source / "config.json"), source)
    files = resolving.weight_files(source)
    started = time.monotonic()
    conversion.write(conversion.outline(files, made), made, target, job.progress)
    return time.monotonic() - started, sum(f.stat().st_size for f in files) / 1e6, "MB/s"


def _rows(count: int = 1000, seed: int = 7) -> list[Any]:
    """Rows of an instruction of 60 to 250 characters and a reply of 4 to 60, drawn from frequent characters."""
    from random import Random

    from tasks.conversation import Message, Row

    rng = Random(seed)
    characters = (
        "的一是不了在人有我他这中大来上国个到说们为子和你地出道也时年得就那要下以生会自着去之过家学对可她里后，。：；"
    )

    def text(shortest: int, longest: int) -> str:
        return "".join(rng.choices(characters, k=rng.randint(shortest, longest)))

    return [
        Row(str(i), (Message("user", text(60, 250)), Message("assistant", text(4, 60))), "", "") for i in range(count)
    ]


def _chat_template(job: Job) -> tuple[float, float, str]:
    from tasks.models.embedded import FOLDER
    from tasks.models.loading import load_tokenizer

    tokenizer, rows = load_tokenizer(FOLDER), _rows()
    dialogues = [[{"role": m.role, "content": m.content} for m in row.messages] for row in rows]
    tokenizer.apply_chat_template(dialogues[0], tokenize=True)  # compiles the template
    started = time.monotonic()
    for dialogue in dialogues:
        tokenizer.apply_chat_template(dialogue, tokenize=True)
    return time.monotonic() - started, len(rows), "rows/s"


def _render(job: Job) -> tuple[float, float, str]:
    from tasks.models.embedded import FOLDER
    from tasks.models.fitting import Tokeniser, fit

    values = {"model": str(FOLDER), "max_prompt_tokens": 256, "max_reply_tokens": 96}
    renderer, rows = Tokeniser(values).renderer, _rows()
    started = time.monotonic()
    for row in rows:
        fit(renderer, row, 256, 96)
    return time.monotonic() - started, len(rows), "rows/s"


def _tokenize(job: Job) -> tuple[float, float, str]:
    import pyarrow as pa
    from pyarrow import parquet

    from tasks.models import tokenizing
    from tasks.models.embedded import FOLDER

    rows = _rows(20_000)
    for name in ("data", "tokens"):
        (job.folder / name).mkdir()
    lines = [row.to_json() for row in rows]
    messages = [[{"learn": None, "metadata": "", **m} for m in line["messages"]] for line in lines]
    kind = pa.struct([(name, pa.bool_() if name == "learn" else pa.string()) for name in messages[0][0]])
    columns = {name: [line[name] for line in lines] for name in ("id", "task", "metric")}
    table = pa.table({**columns, "messages": pa.array(messages, pa.list_(kind))})
    parquet.write_table(table, job.folder / "data" / "train.parquet")
    limits = {"max_prompt_tokens": 256, "max_reply_tokens": 96, "overlong": "truncate"}
    values = {"dataset": str(job.folder / "data"), "model": str(FOLDER), **limits}
    (job.folder / "tokens" / "job.json").write_text(json.dumps(values), encoding="utf-8")
    started = time.monotonic()
    tokenizing.run(Job(job.folder / "tokens"))
    return time.monotonic() - started, len(rows), "rows/s"


if __name__ == "__main__":
    main(run)
