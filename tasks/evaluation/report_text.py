"""Writes a report's numbers for people: report.md, the closing table, and the plot."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tasks.artifacts import EvalReport

_SHOWN_CHARACTERS = 600
_Interval = Mapping[str, float]


def closing_rows(report: EvalReport) -> list[tuple[str, str, str]]:
    """(what, base, tuned) for a flow's closing table: the headline first, then each task's primary value."""
    content = json.loads((report.path / "report.json").read_text(encoding="utf-8"))
    score = content["score"]
    rows = [(f"{content['headline']} (mean of {_tasks(content)}, 0-1)", _shown(score["base"]), _shown(score["tuned"]))]
    for task, facts in content["tasks"].items():
        base, tuned = (facts["values"][s][facts["primary"]] for s in ("base", "tuned"))
        factor = _factor(facts, facts["primary"])
        name = f"{task} {facts['primary']}{_unit(factor)} (n={facts['rows']})"
        rows.append((name, _shown(base, factor), _shown(tuned, factor)))
    return rows


def _tasks(content: Mapping[str, Any]) -> str:
    count = len(content["tasks"])
    return "1 task" if count == 1 else f"{count} tasks"


def _factor(facts: Mapping[str, Any], value: str) -> int:
    return 100 if value in facts["percent"] else 1


def _unit(factor: int) -> str:
    return f" ×{factor}" if factor != 1 else ""


def _shown(interval: _Interval, factor: int = 1, sign: str = "") -> str:
    digits = 3 if factor == 1 else 1
    value, low, high = (f"{interval[key] * factor:{sign}.{digits}f}" for key in ("value", "low", "high"))
    return f"{value} [{low}, {high}]"


def markdown(report: Mapping[str, Any]) -> str:
    """report.md."""
    return "\n".join(_lines(report)) + "\n"


def _lines(report: Mapping[str, Any]) -> Iterator[str]:
    intervals = report["intervals"]
    yield f"# Evaluation: {report['rows']} {report['split']} rows, {_tasks(report)}"
    yield ""
    yield (
        f"Checkpoint: step {report['chosen']['step']} ({report['chosen']['why']}). Values lie in 0-1 unless a factor "
        f"is given; [low, high] is the 95 % interval ({intervals['kind']}, {intervals['resamples']} resamples, seed "
        f"{intervals['seed']}); differences are tuned minus base, paired over the rows. `score` is the unweighted mean "
        "of the tasks' values below."
    )
    yield from ["", "## What can be concluded", ""]
    yield from (f"- {line}" for line in report["conclusions"])
    if report["warnings"]:
        yield from ["", "## Warnings", ""]
        yield from (f"- {line}" for line in report["warnings"])
    yield from ["", "## By task", "", "![base against tuned](tasks.png)", ""]
    yield from _table(_task_rows(report))
    yield from _entities(report)
    yield from ["", "## Generation", ""]
    yield from _table(_generation_rows(report))
    if report["chosen"]["validation"]:
        yield from ["", "## Checkpoints on validation", ""]
        scores = [(str(c["step"]), f"{c['score']:.4f}") for c in report["chosen"]["validation"]]
        yield from _table([("step", "score"), *scores])
    yield from ["", "## All values", ""]
    yield from _table(_value_rows(report))
    yield from _worst(report["worst"])


def _table(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    for index, row in enumerate(rows):
        yield "| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |"
        if index == 0:
            yield "|" + "---|" * len(row)


def _task_rows(report: Mapping[str, Any]) -> list[tuple[str, ...]]:
    score, difference = report["score"], report["differences"]["base"]
    rows = [
        ("task", "n", "value", "base", "tuned", "difference", "verdict", "majority", "copy"),
        (
            "**score**",
            str(report["rows"]),
            "mean",
            *(_shown(score[s]) for s in ("base", "tuned")),
            _shown(difference, sign="+"),
            difference["verdict"],
            *(f"{score[s]['value']:.3f}" for s in ("majority", "copy")),
        ),
    ]
    for task, facts in report["tasks"].items():
        primary, difference = facts["primary"], facts["differences"]["base"]
        factor = _factor(facts, primary)
        values = {system: named[primary] for system, named in facts["values"].items()}
        rows.append(
            (
                task,
                str(facts["rows"]),
                primary + _unit(factor),
                *(_shown(values[s], factor) for s in ("base", "tuned")),
                _shown(difference, factor, sign="+"),
                difference["verdict"],
                *(f"{values[s]['value'] * factor:.{3 if factor == 1 else 1}f}" for s in ("majority", "copy")),
            )
        )
    return rows


def _entities(report: Mapping[str, Any]) -> Iterator[str]:
    if not report["entities"]:
        return
    yield from ["", "## By entities", "", "Rows whose entities occur in the training rows, and rows whose do not.", ""]
    rows = [
        (
            name,
            str(part["rows"]),
            _shown(part["score"]["base"]),
            _shown(part["score"]["tuned"]),
            _shown(part["difference"], sign="+"),
            part["difference"]["verdict"],
        )
        for name, part in report["entities"].items()
    ]
    yield from _table([("entities", "n", "base", "tuned", "difference", "verdict"), *rows])


def _generation_rows(report: Mapping[str, Any]) -> list[tuple[str, ...]]:
    names = ("stopped", "empty", "prompts_cut")
    rows = [
        (system, *(f"{facts[name]:.1%}" for name in names), f"{facts['tokens_per_second']:.0f}")
        for system, facts in report["generation"].items()
    ]
    header = ("system", "stopped by itself", "empty replies", "prompts cut", "tokens/s")
    return [header, *rows]


def _value_rows(report: Mapping[str, Any]) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = [("task", "value", "base", "tuned")]
    for task, facts in report["tasks"].items():
        for value, after in facts["values"]["tuned"].items():
            factor = _factor(facts, value)
            before = facts["values"]["base"][value]
            rows.append((task, value + _unit(factor), _shown(before, factor), _shown(after, factor)))
        for fact, count in facts["facts"]["tuned"].items():
            if isinstance(count, (int, float, str)):
                rows.append((task, fact, _plain(facts["facts"]["base"][fact]), _plain(count)))
    return rows


def _plain(value: float | str) -> str:
    return f"{value:.3f}" if isinstance(value, float) else str(value)


def _worst(rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    if not rows:
        return
    yield from ["", "## Worst rows of the tuned model", ""]
    for row in rows:
        yield f"### {row['task']} · {row['id']} · {row['score']:.3f} (base {row['base_score']:.3f})"
        for name in ("prompt", "reference", "prediction"):
            yield from ["", f"{name}:", "", *_fenced(row[name]), ""]


def _fenced(text: str) -> list[str]:
    """A code block that the text cannot close."""
    shown = text if len(text) <= _SHOWN_CHARACTERS else text[:_SHOWN_CHARACTERS] + " …"
    longest = max((len(run) for run in re.findall(r"`+", shown)), default=0)
    fence = "`" * max(3, longest + 1)
    return [fence + "text", shown, fence]


def plot(report: Mapping[str, Any], path: Path) -> None:
    """Bars of base and tuned per task with their intervals. Names are ASCII: plots have no Chinese font to count on."""
    from matplotlib.figure import Figure

    entries = [("score", report["score"])]
    for index, (task, facts) in enumerate(report["tasks"].items(), start=1):
        label = task if task.isascii() else f"task {index}"
        entries.append(
            (
                f"{label}\n{facts['primary']}, n={facts['rows']}",
                {s: v[facts["primary"]] for s, v in facts["values"].items()},
            )
        )
    figure = Figure(figsize=(8, 1.2 + 0.7 * len(entries)), layout="constrained")
    axes = figure.add_subplot()
    for offset, system, colour in ((-0.2, "base", "#9aa5b1"), (0.2, "tuned", "#2f6fb0")):
        values = [entry[system]["value"] for _, entry in entries]
        reach = [
            [max(0.0, entry[system]["value"] - entry[system]["low"]) for _, entry in entries],
            [max(0.0, entry[system]["high"] - entry[system]["value"]) for _, entry in entries],
        ]
        places = [i + offset for i in range(len(entries))]
        axes.barh(places, values, height=0.38, xerr=reach, label=system, color=colour, capsize=3)
    axes.set_yticks(range(len(entries)), [label for label, _ in entries])
    axes.invert_yaxis()
    axes.set_xlim(0, 1.02)
    axes.set_xlabel("value, 0-1, with 95 % interval")
    axes.legend(loc="lower right")
    figure.savefig(path, dpi=120)
