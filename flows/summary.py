"""What a run says at its end: one JSON object for scripts, one table for people."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from flows.execution import Execution


def of_stage(result: Any, seconds: float) -> dict[str, Any]:
    """A stage's JSON; an action, which is no artifact, gets its duration here."""
    value: dict[str, Any] = result.summary() if hasattr(result, "summary") else result.to_json()
    return {"seconds": seconds, **value}


def of_pipeline(execution: Execution) -> dict[str, Any]:
    """The JSON of a full run: every stage, the metrics before and after, whether it was promoted."""
    results = execution.results
    report = results["evaluate"]
    content = json.loads((report.path / "report.json").read_text(encoding="utf-8"))
    tasks = {
        task: {
            "metric": facts["primary"],
            "rows": facts["rows"],
            **{system: facts["values"][system][facts["primary"]] for system in ("base", "tuned")},
        }
        for task, facts in content["tasks"].items()
    }
    return {
        "stages": {name: of_stage(result, execution.seconds[name]) for name, result in results.items()},
        "metrics": {
            "score": {"base": report.base, "tuned": report.tuned, "difference": report.difference},
            "tasks": tasks,
            "baselines": report.baselines,
            "rows": report.rows,
        },
        "promoted": results["gate"].promoted,
        "mlflow": execution.tracker.how_to_open,
    }


def shown(result: Mapping[str, Any]) -> str:
    """The closing text of a full run."""
    stages, metrics = result["stages"], result["metrics"]
    screen = Console(file=io.StringIO(), width=118, force_terminal=False)
    table = Table(title="Stages", title_justify="left")
    for column in ("stage", "time", "artifact"):
        table.add_column(column, justify="right" if column == "time" else "left", overflow="fold")
    for name, stage in stages.items():
        time = "reused" if stage.get("reused") else f"{stage['seconds']:.1f} s"
        table.add_row(name, time, _relative(stage.get("path", "")))
    screen.print(table)
    table = Table(title=f"{metrics['rows']} test rows, 0-1, with 95 % intervals", title_justify="left")
    for column in ("", "untuned base", "tuned"):
        table.add_column(column, justify="right" if column else "left")
    for task, facts in metrics["tasks"].items():
        label = f"{task} {facts['metric']} (n={facts['rows']})"
        table.add_row(label, _interval(facts["base"]), _interval(facts["tuned"]))
    table.add_section()
    score = metrics["score"]
    table.add_row("score (mean of the tasks)", _interval(score["base"]), _interval(score["tuned"]))
    table.add_row("tuned - base, paired", "", _interval(score["difference"]))
    for name, value in metrics["baselines"].items():
        table.add_row(f"trivial answers: {name}", "", f"{value:.3f}".ljust(22))
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


def _interval(value: Mapping[str, float]) -> str:
    return f"{value['value']:.3f} [{value['low']:.3f}, {value['high']:.3f}]"


def _relative(path: str) -> str:
    """The path from here where it lies below, else as it is."""
    try:
        return Path(path).relative_to(Path.cwd()).as_posix() if path else ""
    except ValueError:
        return path
