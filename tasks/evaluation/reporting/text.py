"""Writes a report for people: the folder's report.json, report.md and plots, and a flow's closing table.

Text of the data and of models is shown in code, where it can be no markup.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tasks.evaluation import selection
from tasks.evaluation.reporting import plots as report_plots
from tasks.evaluation.reporting import tables as report_tables
from tasks.evaluation.reporting.plots import Drawn
from tasks.evaluation.reporting.tables import shown, table
from tasks.files import write_atomic

_SHOWN_CHARACTERS = 600


def write(folder: Path, report: Mapping[str, Any]) -> None:
    """report.json, report.md and the plots."""
    write_atomic(folder / "report.json", json.dumps(report, ensure_ascii=False, indent=1, allow_nan=False))
    write_atomic(folder / "report.md", markdown(report, report_plots.draw(report, folder)))


def _tasks(content: Mapping[str, Any]) -> str:
    count = len(content["tasks"])
    return "1 task" if count == 1 else f"{count} tasks"


def markdown(report: Mapping[str, Any], drawn: Drawn) -> str:
    """report.md; it shows the plots that were drawn."""
    return "\n".join(_lines(report, drawn)) + "\n"


def _lines(report: Mapping[str, Any], drawn: Drawn) -> Iterator[str]:
    yield f"# Evaluation: {report['rows']} {report['split']} rows, {_tasks(report)}"
    yield from ["", *_how_to_read(report), "", "## What can be concluded", ""]
    yield from (f"- {line}" for line in report["conclusions"])
    if report["warnings"]:
        yield from ["", "## Warnings", ""]
        yield from (f"- {line}" for line in report["warnings"])
    yield from ["", "## By task", "", *_plot("tasks.png", "base against tuned", drawn)]
    yield from table(report_tables.by_task(report))
    yield from _section("By entities", report_tables.by_entities(report), _ENTITIES)
    yield from _section("By label", report_tables.by_label(report), *_plot("breakdown.png", "values by label", drawn))
    yield from _section("Errors in triples", report_tables.errors(report), _ERRORS)
    for task, rows in report_tables.confusions(report):
        yield from _section(f"Answers to each label: {task}", rows, _CONFUSION)
    yield from _section("Generation", report_tables.generation(report))
    if "lengths.png" in drawn.files:
        yield from ["", "## Length against score", "", *_plot("lengths.png", "length of replies against score", drawn)]
        yield _lengths(report["lengths"])
    yield from _checkpoints(report["chosen"], drawn)
    yield from _section("All values", report_tables.every_value(report))
    yield from _worst(report["worst"])
    names = [("in the plots", "is"), *((name, report_tables.code(text)) for name, text in drawn.names.items())]
    yield from _section("Names in the plots", names, _NO_FONT)


_ENTITIES = "Rows whose entities occur in the training rows, and rows whose do not."
_ERRORS = (
    "Each wrong or missing triple is one kind. Wrong relation: head and tail are right. Wrong span: the relation is "
    "right, head and tail overlap the right ones. Spurious and missing: nothing answers to it on the other side."
)
_NO_FONT = "This machine has no font that plots could write them in; Noto Sans CJK SC is one."
_CONFUSION = "Rows of the tuned model: a line is the reference, a column the answer."


def _how_to_read(report: Mapping[str, Any]) -> Iterator[str]:
    intervals, tests = report["intervals"], report["tests"]
    groups = "" if report["groups"] == report["rows"] else f", {report['groups']} documents or dialogues"
    yield f"- Checkpoint: step {report['chosen']['step']} ({report['chosen']['why']})."
    yield (
        "- Values lie in 0-1 unless a factor is given; `score` is the unweighted mean of the tasks' values in the "
        "first table. Differences are tuned minus base, paired over the rows."
    )
    yield (
        f"- [low, high] is the 95 % interval ({intervals['kind']}{groups}, {intervals['resamples']} resamples, seed "
        f"{intervals['seed']}): it shows the size and decides nothing. {intervals['simulated']}"
    )
    yield (
        f"- A verdict needs p < {tests['level']:g} in a {tests['kind']} ({tests['permutations']} permutations), p "
        f"being adjusted by {tests['correction']} over its family: the score against each other system; the tasks; the "
        "parts by entities. Differences by label (relation, type, turn) and of a task's other values have intervals "
        "only and are not tested."
    )
    yield (
        "- `detectable` is the smallest true difference that so many rows show in 80 % of tests, as one of its family; "
        "– where they can show none, or where nothing varies to go by."
    )


def _section(title: str, rows: Sequence[Sequence[str]], *before: str) -> Iterator[str]:
    """A titled table; nothing where it has no row below its header."""
    if len(rows) > 1:
        yield from ["", f"## {title}", "", *before]
        if before and before[-1]:
            yield ""
        yield from table(rows)


def _plot(file: str, text: str, drawn: Drawn) -> list[str]:
    return [f"![{text}]({file})", ""] if file in drawn.files else []


def _lengths(lengths: Mapping[str, Any]) -> str:
    drawn, rows = len(lengths["tokens"]), lengths["rows"]
    which = f"{rows}" if drawn == rows else f"{drawn} of {rows}, drawn at random"
    return f"Each point is a reply of the tuned model ({which}); the line is the mean of replies of like length."


def _checkpoints(chosen: Mapping[str, Any], drawn: Drawn) -> Iterator[str]:
    points = chosen["validation"]
    if not points:
        return
    better = "lower" if selection.lower_is_better(chosen["by"]) else "higher"
    yield from ["", "## Checkpoints on validation", ""]
    yield f"Chosen by `{chosen['by']}` ({better} is better). {_how_sure(chosen)}"
    yield from ["", *_plot("checkpoints.png", "the choosing value by checkpoint", drawn)]
    rows = [(f"{p['step']}{' (chosen)' if p['step'] == chosen['step'] else ''}", _score(p)) for p in points]
    yield from table([("step", chosen["by"]), *rows])


def _score(point: Mapping[str, Any]) -> str:
    return shown({"value": point["score"], "low": point["low"], "high": point["high"]})


def _how_sure(chosen: Mapping[str, Any]) -> str:
    best = next(p for p in chosen["validation"] if p["step"] == chosen["step"])
    others = [p for p in chosen["validation"] if p is not best]
    near = sum(p["low"] <= best["score"] <= p["high"] for p in others)
    if not near:
        return "Its value lies outside every other checkpoint's interval."
    return (
        f"Its value lies within the interval of {near} of the {len(others)} others: these rows do not tell them "
        "apart for certain, so the choice is the likelier one, not a finding."
    )


def _worst(rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    if rows:
        yield from ["", "## Worst rows of the tuned model"]
    for row in rows:
        title = f"{row['task']} · {row['id']} · {row['score']:.3f} (base {row['base_score']:.3f})"
        yield from ["", f"### {' '.join(title.split())}", "", _end(row)]
        for name, text in (
            ("prompt", "prompt"),
            ("reference", "gold"),
            *([("prediction", "prediction")] if row["replied"] else []),
        ):
            yield from ["", f"{text}:", "", *_fenced(row[name])]


def _end(row: Mapping[str, Any]) -> str:
    if not row["replied"]:
        return "Not replied to: the score is the probability of a token of the reference."
    reason = str(row["finish_reason"])
    end = {"stop": "Stopped by itself", "length": "Cut at the limit"}.get(reason, reason)
    return f"{end}, {row['tokens']} tokens."


def _fenced(text: str) -> list[str]:
    """A code block that the text cannot close."""
    shown_text = text if len(text) <= _SHOWN_CHARACTERS else text[:_SHOWN_CHARACTERS] + " …"
    longest = max((len(run) for run in re.findall(r"`+", shown_text)), default=0)
    fence = "`" * max(3, longest + 1)
    return [fence + "text", shown_text, fence]
