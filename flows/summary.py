"""What a run says at its end: one JSON object for scripts, one table for people."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table


def of_stage(result: Any) -> dict[str, Any]:
    """A stage's JSON."""
    value: dict[str, Any] = result.summary() if hasattr(result, "summary") else result.to_json()
    return value


def of_pipeline(results: Mapping[str, Any], *, how_to_open: str) -> dict[str, Any]:
    """The JSON of a full run: every stage, the metrics before and after, whether it was promoted."""
    report = results["evaluate"]
    return {
        "stages": {name: of_stage(result) for name, result in results.items()},
        "metrics": {
            "score": {"base": report.base, "tuned": report.tuned, "difference": report.difference},
            "baselines": report.baselines,
            "rows": report.rows,
        },
        "promoted": results["gate"].promoted,
        "mlflow": how_to_open,
    }


def shown(result: Mapping[str, Any]) -> str:
    """The closing text of a full run."""
    stages, metrics = result["stages"], result["metrics"]
    screen = Console(file=io.StringIO(), width=118, force_terminal=False)
    table = Table(title="Stages", title_justify="left")
    for column in ("stage", "time", "artifact"):
        table.add_column(column, justify="right" if column == "time" else "left", overflow="fold")
    for name, stage in stages.items():
        time = "reused" if stage.get("reused") else f"{stage['seconds']:.1f} s" if "seconds" in stage else ""
        table.add_row(name, time, _relative(stage.get("path", "")))
    screen.print(table)
    score = metrics["score"]
    table = Table(title=f"Score on {metrics['rows']} test rows (mean of the tasks' metrics, 0-1)", title_justify="left")
    for column in ("system", "score", "95 % interval"):
        table.add_column(column, justify="left" if column == "system" else "right")
    for name, label in (("base", "untuned base"), ("tuned", "tuned"), ("difference", "tuned - base (paired)")):
        value = score[name]
        table.add_row(label, f"{value['value']:.3f}", f"{value['low']:.3f} … {value['high']:.3f}")
    for name, value in metrics["baselines"].items():
        table.add_row(f"trivial: {name}", f"{value:.3f}", "")
    screen.print(table)
    gate = stages["gate"]
    screen.print(f"gate: {'promoted' if gate['promoted'] else 'NOT promoted'}: {gate['reason']}", highlight=False)
    lines = [f"report:  {_relative(stages['evaluate']['path'])}/report.md"]
    if "deploy" in stages:
        deployed = stages["deploy"]
        version = f" version {deployed['version']}" if deployed.get("version") else " (not registered)"
        lines.append(f"model:   {_relative(stages['merge']['path'])}  released as {deployed['name']}{version}")
        lines.append("chat:    python -m flows.chat")
    if result["mlflow"]:
        lines.append(f"runs:    {result['mlflow']}")
    text = screen.file.getvalue()  # type: ignore[attr-defined]
    return str(text) + "\n".join(lines)


def _relative(path: str) -> str:
    """The path from here where it lies below, else as it is."""
    try:
        return Path(path).relative_to(Path.cwd()).as_posix() if path else ""
    except ValueError:
        return path
