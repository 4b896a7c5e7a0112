"""What ``python -m flows.bench train`` measures: the rows, made by the pipeline's own stages, and the job for them."""

from __future__ import annotations

import json
import logging
import shutil
import statistics
import tempfile
from pathlib import Path
from typing import Any, Literal

import numpy as np

from flows import cli
from flows.full import Pipeline
from tasks import devices
from tasks.config import parse
from tasks.errors import ConfigError, UserError
from tasks.files import write_atomic
from tasks.models.tokens import TokenRows, Tokens, shard_file, write_shard
from tasks.schema import How, Section
from tasks.training import benchmark, random_model
from tasks.training.config import TrainingConfig

log = logging.getLogger("flows.bench")

#: Rows of the validation split that the worker looks at after its last step; not timed.
_VALIDATION_ROWS = 4


class TrainBench(Section):
    """Which rows and model, what to compare, how often."""

    output: Literal["text", "json"] = How("text", doc="json: one JSON object as the last line of standard output.")
    recipes: list[Literal[tuple(benchmark.RECIPES)]] = How(  # type: ignore[valid-type]
        ["seeds", "padded", "trainer", "ours"], min_length=1, doc="What to measure."
    )
    data: Literal["advertisegen", "promptcblue", "triples"] = How("advertisegen", doc="Source of the rows.")
    path: Path | None = How(None, doc="Its files; null: the shipped sample.")
    model: str = How("embedded", doc="Option of model= that is trained.")
    model_path: Path | None = How(None, doc="Folder or GGUF file of it.")
    shape: Literal["chatglm3_6b"] | None = How(None, doc="Random weights of this shape, made on the device; no model.")
    layers: int | None = How(None, ge=1, le=28, doc="Layers of the shape; null: all.")
    tokens: int | None = How(None, ge=8, le=65536, doc="Random rows of exactly so many tokens, in place of data.")
    lengths: Path | None = How(None, doc="JSON list of [tokens, learned] of rows, filled at random, in place of data.")
    rows: int = How(64, ge=4, le=100_000, doc="Training rows.")
    max_prompt_tokens: int = How(256, ge=8, doc="Longer prompts are cut.")
    max_reply_tokens: int = How(256, ge=1, doc="Longer replies are cut.")
    batch_size: int = How(4, ge=1, doc="Rows of an optimiser step, the same for every recipe.")
    micro_batch_size: int = How(4, ge=1, doc="Rows that the other recipes pad together.")
    steps: int | None = How(None, ge=1, doc="Timed steps; null: one pass over the rows.")
    warmup_steps: int = How(2, ge=0, doc="Steps before them that are not timed.")
    repeats: int = How(3, ge=1, doc="Runs of each recipe, in turns; medians are shown.")
    profile: bool = How(True, doc="Also the share of matrix multiplications, in a run of its own.")
    method: Literal["lora", "ptuning_v2", "freeze", "full"] = How("lora", doc="Ours; the other recipes know lora.")
    gradient_checkpointing: Literal["none", "full", "selective"] = How("none", doc="Of ours.")
    micro_batch_tokens: int | None = How(None, ge=16, doc="Tokens that ours computes at once; null: a whole step's.")
    compile: bool = How(False, doc="Ours: torch.compile.")
    device: Literal["auto", "cpu", "cuda"] = How("auto", doc="Where.")
    precision: Literal["auto", "fp32", "bf16", "fp16"] = How("auto", doc="Arithmetic, the same for every recipe.")
    llamafactory: Path | None = How(None, doc="Python of an environment that holds LLaMA-Factory.")
    template: str = How("default", doc="LLaMA-Factory's template for the model.")
    root: Path = How(Path("runs"), doc="Where prepared data and models are kept.")
    job: Path | None = How(None, doc="Write the job into this new folder and stop: python -m tasks.training.benchmark.")


def train_bench(config: TrainBench) -> dict[str, Any]:
    """The comparison, or the folder of a job for another machine."""
    _check(config)
    with tempfile.TemporaryDirectory(prefix="weitiao-bench-") as scratch:
        folder = config.job.expanduser().resolve() if config.job else Path(scratch)
        if config.job and folder.exists() and any(folder.iterdir()):
            raise UserError(f"job={config.job}: holds something already; name a new folder")
        folder.mkdir(parents=True, exist_ok=True)
        values = job(config, folder)
        if config.job is None:
            return benchmark.measure(values)
        # the folder may be carried to another machine: what it holds is named from it
        write_atomic(folder / "job.json", json.dumps(values, ensure_ascii=False, indent=1))
        return {"job": str(folder), "command": f"python -m tasks.training.benchmark {folder}", "results": []}


def shown(result: dict[str, Any]) -> str:
    """The table, or where the job is."""
    return benchmark.table(result) if result["results"] else f"run: {result['command']}"


def _check(config: TrainBench) -> None:
    problems = []
    if config.batch_size % config.micro_batch_size:
        problems.append(f"micro_batch_size={config.micro_batch_size}: must divide batch_size={config.batch_size}")
    if config.method != "lora" and set(config.recipes) != {"ours"}:
        problems.append(f"method={config.method}: the other recipes know lora only; add recipes=[ours]")
    if ("llamafactory" in config.recipes) != (config.llamafactory is not None):
        problems.append("llamafactory: recipes must name it, and llamafactory= the Python of its environment")
    if config.shape and not (config.tokens or config.lengths):
        problems.append(f"shape={config.shape}: has no tokenizer; give tokens=1024 or lengths=FILE")
    if "llamafactory" in config.recipes and (config.shape or config.tokens or config.lengths):
        problems.append("llamafactory: reads text and a model's folder, so neither shape, tokens nor lengths")
    if problems:
        raise ConfigError(problems)


def job(config: TrainBench, folder: Path) -> dict[str, Any]:
    """The values that :func:`tasks.training.benchmark.measure` takes; ``folder`` gets rows that are made here."""
    device = devices.resolve_device(config.device)
    precision = devices.resolve_precision(config.precision, device)
    pipeline = Pipeline(parse(cli.composed("full", _overrides(config))))
    place = folder / "tokens"
    shape = random_model.CHATGLM3_6B | ({"num_hidden_layers": config.layers} if config.layers else {})
    model: dict[str, Any] = {"model": "", "layout": None, "shape": shape if config.shape else None}
    if config.shape is None:
        model |= {"model": str(pipeline.base.weights), "layout": pipeline.base.layout}
    if config.tokens or config.lengths:
        vocabulary = int(shape["vocab_size"]) if config.shape else pipeline.base.vocabulary  # type: ignore[call-overload]
        write_random_rows(place, _lengths(config), vocabulary)
    else:
        shutil.copytree(pipeline.tokens.path, place, ignore=shutil.ignore_patterns("*.log", "*.json"))
    rows = TokenRows(place, "train")
    timed = config.steps or max(1, len(rows) // config.batch_size)
    steps = config.warmup_steps + timed
    training = TrainingConfig(
        max_steps=steps, batch_size=config.batch_size, learning_rate=1e-4, lr_scheduler_type="linear", warmup_ratio=0.0,
        precision=config.precision, gradient_checkpointing=config.gradient_checkpointing, compile=config.compile,
        micro_batch_tokens=config.micro_batch_tokens, save_steps=steps, logging_steps=10,
    )  # fmt: skip
    made: dict[str, Any] = {
        **model,
        "tokens": place.name if config.job else str(place),
        "rows": len(rows),
        "mean_row_tokens": round(float(statistics.fmean(rows.lengths.tolist())), 2),
        "longest_row_tokens": int(rows.lengths.max()),
        "method": pipeline.config.method.model_dump(mode="json"),
        "training": training.model_dump(mode="json"),
        "base_fingerprint": "bench",
        "device": device,
        "precision": precision,
        "steps": steps,
        "seed": training.seed,
    }
    for name in ("recipes", "repeats", "profile", "batch_size", "micro_batch_size", "warmup_steps"):
        made[name] = getattr(config, name)
    if config.llamafactory:
        made["llamafactory"] = _llamafactory(config, pipeline, folder)
    return made


def _overrides(config: TrainBench) -> list[str]:
    reply, prompt = config.max_reply_tokens, config.max_prompt_tokens
    made = [
        f"data={config.data}", f"model={config.model}", f"method={config.method}", "orchestrator=none",
        "tracking.tracker=none", f"paths.root={config.root}", f"data.max_rows.train={config.rows}",
        f"data.max_rows.validation={_VALIDATION_ROWS}", f"data.max_rows.test={_VALIDATION_ROWS}",
        f"tokenization.max_prompt_tokens={prompt}", f"tokenization.max_reply_tokens={reply}",
        f"evaluation.max_new_tokens={reply}",
    ]  # fmt: skip
    if config.method == "lora":
        made += ["method.r=8", "method.lora_alpha=32", "method.lora_dropout=0.1", "method.target_modules=all-linear"]
    if config.path is not None:
        made.append(f"data.path='{config.path}'")
    if config.model_path is not None:
        made.append(f"model.path='{config.model_path}'")
    if config.llamafactory is not None:
        made.append("data.export_format=alpaca")
    return made


def _lengths(config: TrainBench) -> list[tuple[int, int]]:
    """Tokens and learned tokens of each row."""
    if config.tokens:
        return [(config.tokens, config.tokens // 2)] * config.rows
    assert config.lengths is not None
    try:
        found = json.loads(config.lengths.expanduser().read_text(encoding="utf-8"))
        pairs = [(int(tokens), int(learned)) for tokens, learned in found]
        if not pairs or not all(1 <= learned < tokens for tokens, learned in pairs):
            raise ValueError("1 <= learned < tokens must hold")
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f"lengths={config.lengths}: must be a JSON list of [tokens, learned]: {error}") from None
    return [pairs[i % len(pairs)] for i in range(config.rows)]


def write_random_rows(folder: Path, lengths: list[tuple[int, int]], vocabulary: int, seed: int = 17) -> None:
    """Token files of random rows: each ends in its learned tokens."""
    random = np.random.default_rng(seed)

    def rows(pairs: list[tuple[int, int]]) -> Tokens:
        learn = [np.r_[np.zeros(tokens - learned, np.uint8), np.ones(learned, np.uint8)] for tokens, learned in pairs]
        ids = random.integers(4, vocabulary, sum(tokens for tokens, _ in pairs)).astype(np.int32)
        return Tokens(ids, np.concatenate(learn), np.array([tokens for tokens, _ in pairs], np.int64))

    for split, part in (("train", lengths), ("validation", lengths[:1]), ("test", lengths[:1])):
        (folder / split).mkdir(parents=True, exist_ok=True)
        write_shard(shard_file(folder, split, 0), [rows(part)], shards=1, settings="bench", facts={})


def _llamafactory(config: TrainBench, pipeline: Pipeline, folder: Path) -> dict[str, Any]:
    """The same rows as a text file, and what its settings need."""
    exported = pipeline.dataset.path / "export" / "train.jsonl"
    rows = [json.loads(line) for line in exported.read_text(encoding="utf-8").splitlines()]
    write_atomic(folder / "rows.json", json.dumps(rows, ensure_ascii=False))
    cutoff = config.max_prompt_tokens + config.max_reply_tokens
    return {
        "python": str(config.llamafactory),
        "rows": str(folder / "rows.json"),
        "template": config.template,
        "cutoff_len": cutoff,
    }
