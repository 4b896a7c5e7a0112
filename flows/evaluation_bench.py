"""What ``python -m flows.bench evaluate`` measures: replies to test rows by a checkpoint that the pipeline trains.

A trained one, because a model that never stops makes every reply as long as the limit, which hides what batching does.
"""

from __future__ import annotations

import tempfile
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from pydantic import PositiveInt

from flows import cli
from flows.full import Pipeline
from tasks import devices
from tasks.config import parse
from tasks.conversation import read_rows, write_rows
from tasks.errors import DataError
from tasks.evaluation import scoring
from tasks.evaluation.answering import benchmark as generation_benchmark
from tasks.evaluation.files import replies
from tasks.launch import run_worker
from tasks.schema import How, Section


class EvaluateBench(Section):
    """Whose rows and checkpoint, what to compare, how often."""

    output: Literal["text", "json"] = How("text", doc="json: one JSON object as the last line of standard output.")
    experiment: str = How("lora_medical", doc="Configuration whose data, model, method and limits are used.")
    overrides: list[str] = How([], doc="More of its keys, as ['data=triples', 'data.path=FILE'].")
    max_steps: int | None = How(None, ge=1, doc="Steps of the training; null: the experiment's own.")
    rows: int | None = How(None, ge=1, doc="Test rows, the first so many; null: all.")
    sizes: list[PositiveInt] = How(
        [2, 4, 8, 16, 32, 64, 128], min_length=1, doc="Rows of the fixed batches that are tried."
    )
    repeats: int = How(3, ge=1, doc="Runs of each recipe, in turns; medians are shown.")
    root: Path = How(Path("runs"), doc="Where artifacts are kept: a checkpoint that is there is not trained again.")


def evaluate_bench(config: EvaluateBench) -> dict[str, Any]:
    """One result a recipe, and what their replies to the same rows score."""
    pipeline = Pipeline(parse(cli.composed(config.experiment, _overrides(config))))
    made = pipeline.checkpoints
    file = pipeline.dataset.rows_file("test")
    with tempfile.TemporaryDirectory(prefix="weitiao-bench-") as name:
        folder = Path(name)
        if not file.is_file() or not write_rows(folder / "rows.jsonl", islice(read_rows(file), config.rows)):
            raise DataError(f"experiment={config.experiment}: its data has no test rows; set data.test")
        job = {**_job(pipeline), "sizes": config.sizes, "repeats": config.repeats}
        job["rows"] = {"test": str(folder / "rows.jsonl")}
        job["systems"] = [
            {"name": "tuned", "path": str(made.checkpoint(made.steps[-1])), "base": str(pipeline.base.weights)}
        ]
        measured = run_worker(
            "tasks.evaluation.answering.benchmark", folder, job, label="generation", device=job["device"]
        )
        answered = {name: replies.read(folder / f"{name}.jsonl") for name in ("loop", measured["best"], "ours")}
    scores = {name: round(scoring.mean_score(rows), 6) for name, rows in answered.items()}
    return {"experiment": config.experiment, "step": made.steps[-1], **measured, "scores": scores}


def _job(pipeline: Pipeline) -> dict[str, Any]:
    """What an evaluation of the experiment would be asked for."""
    config = pipeline.config
    device = devices.resolve_device(config.hardware.device)
    return {
        "max_prompt_tokens": config.tokenization.max_prompt_tokens,
        "max_new_tokens": config.evaluation.max_new_tokens,
        "batch_tokens": config.evaluation.batch_tokens,
        "device": device,
        "dtype": devices.dtype(config.training.precision, device),
        "quantization": pipeline.base.quantization,
        "device_map": pipeline.base.device_map,
    }


def _overrides(config: EvaluateBench) -> list[str]:
    steps = [] if config.max_steps is None else [f"training.max_steps={config.max_steps}"]
    return ["orchestrator=none", "tracking.tracker=none", f"paths.root={config.root}", *steps, *config.overrides]


def shown(result: dict[str, Any]) -> str:
    """The table."""
    return generation_benchmark.table(result)
