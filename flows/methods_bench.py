"""What ``python -m flows.bench methods`` measures: each method trained by the pipeline on the same rows.

For how well methods answer, with intervals, see the evaluation's reports; this is what they cost, and that they learn.
"""

from __future__ import annotations

import json
import logging
import tempfile
from pathlib import Path
from typing import Any, Literal

from flows import cli
from flows.full import Pipeline
from tasks import devices, plugins
from tasks.config import parse
from tasks.launch import run_worker
from tasks.schema import How, Section

log = logging.getLogger("flows.bench")


class MethodsBench(Section):
    """Which methods, on what, for how long."""

    output: Literal["text", "json"] = How("text", doc="json: one JSON object as the last line of standard output.")
    methods: list[str] | None = How(None, min_length=1, doc="Methods to train; null: all.")
    experiment: str = How("lora_medical", doc="Configuration whose data, model and lengths are used.")
    overrides: list[str] = How([], doc="More of its keys, as ['model=local', 'model.path=DIR'].")
    max_steps: int = How(60, ge=1, doc="Steps of each method.")
    prompts: int = How(16, ge=1, doc="Validation prompts that are answered before and after.")
    root: Path = How(Path("runs"), doc="Where artifacts are kept: a method that was trained before is not again.")


def methods_bench(config: MethodsBench) -> dict[str, Any]:
    """One result a method."""
    names = config.methods or plugins.names("tasks.methods")
    return {"experiment": config.experiment, "steps": config.max_steps, "results": [_one(config, n) for n in names]}


def _one(config: MethodsBench, method: str) -> dict[str, Any]:
    log.info("bench: %s", method)
    pipeline = Pipeline(parse(cli.composed(config.experiment, _overrides(config, method))))
    made = pipeline.checkpoints
    lines = [json.loads(x) for x in (made.path / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    losses = [line["validation_loss"] for line in lines if "validation_loss" in line]
    with tempfile.TemporaryDirectory(prefix="weitiao-bench-") as folder:
        job = {
            "model": str(pipeline.base.weights),
            "layout": pipeline.base.layout,
            "tokens": str(pipeline.tokens.path),
            "checkpoint": str(made.checkpoint(made.steps[-1])),
            "prompts": config.prompts,
            "max_new_tokens": 48,
            "device": devices.resolve_device(pipeline.config.hardware.device),
        }
        replies = run_worker("tasks.training.replies", Path(folder), job, label="replies")
    return {
        "method": method,
        "trainable": made.trainable,
        "total": made.total,
        "loss_before": round(losses[0], 4),
        "loss_after": round(losses[-1], 4),
        "replies_changed": replies["changed"],
        "replies": replies["prompts"],
        "tokens_per_second": made.tokens_per_second,
        "peak_mib": round(made.peak_memory_bytes / 2**20),
        "seconds": made.train_seconds,
    }


def _overrides(config: MethodsBench, method: str) -> list[str]:
    return [
        f"method={method}",
        "orchestrator=none",
        "tracking.tracker=none",
        f"paths.root={config.root}",
        f"training.max_steps={config.max_steps}",
        "training.eval_on_start=true",
        *config.overrides,
    ]


def shown(result: dict[str, Any]) -> str:
    """The table as Markdown."""
    lines = [
        "| method | trainable | of all | validation loss before | after | replies changed | tokens/s | peak MiB |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for r in result["results"]:
        cells = (
            f"`{r['method']}`",
            f"{r['trainable']:,}",
            f"{r['trainable'] / r['total']:.2%}",
            f"{r['loss_before']:.3f}",
            f"{r['loss_after']:.3f}",
            f"{r['replies_changed']} of {r['replies']}",
            f"{r['tokens_per_second']:,.0f}",
            f"{r['peak_mib']:,}",
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)
