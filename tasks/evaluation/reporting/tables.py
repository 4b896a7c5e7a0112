"""The tables of report.md, as rows of texts whose first is the header; and how numbers and foreign text are shown."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tasks.evaluation.label_counts import OTHER
from tasks.evaluation.reporting import value_names
from tasks.evaluation.triple_errors import KINDS

Rows = list[tuple[str, ...]]

_SYSTEMS = ("base", "tuned")
_TRIVIAL = ("majority", "copy")
_REPLY_COLUMNS = (
    *("replies", "stopped by itself", "empty", "finish reasons", "tokens", "tokens/s"),
    *("s a reply (median)", "s a reply (95 %)"),
)
_CONFUSED_LABELS = 10
_LONGEST_LABEL = 40


# --- how things are shown -----------------------------------------------------------------------------------------


def factor(facts: Mapping[str, Any], value: str) -> int:
    """What a task's value is multiplied by to be shown as its literature does."""
    return 100 if value_names.split(value)[0] in facts["percent"] else 1


def unit(times: int) -> str:
    return f" ×{times}" if times != 1 else ""


def shown(interval: Mapping[str, float], times: int = 1, sign: str = "") -> str:
    value, low, high = (_number(interval[key], times, sign) for key in ("value", "low", "high"))
    return f"{value} [{low}, {high}]"


def _number(value: float, times: int = 1, sign: str = "") -> str:
    return f"{value * times:{sign}.{3 if times == 1 else 1}f}"


def _p(value: float) -> str:
    return "<0.001" if value < 0.001 else f"{value:.3f}"


def code(text: str) -> str:
    """Text of the data or of a model as code, on one line, shortened."""
    line = " ".join(text.split()) or "(empty)"
    line = line if len(line) <= _LONGEST_LABEL else line[: _LONGEST_LABEL - 1] + "…"
    fence = "`" * (1 + max((len(run) for run in re.findall(r"`+", line)), default=0))
    pad = " " if "`" in line else ""
    return f"{fence}{pad}{line}{pad}{fence}"


def table(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Markdown's lines of a table."""
    for index, row in enumerate(rows):
        yield "| " + " | ".join(" ".join(cell.replace("|", "\\|").split()) for cell in row) + " |"
        if index == 0:
            yield "|" + "---|" * len(row)


# --- tables -------------------------------------------------------------------------------------------------------


def by_task(report: Mapping[str, Any]) -> Rows:
    """The score, then every task's primary value, each with its test against the base."""
    trivial = [name for name in _TRIVIAL if name in report["score"]]
    header = ("task", "n", "value", *_SYSTEMS, "difference", "adjusted p", "detectable", "verdict", *trivial)
    score = ("**score**", str(report["rows"]), "mean")
    rows = [(*score, *_compared(report["score"], report["differences"]["base"], 1, trivial))]
    for task, facts in report["tasks"].items():
        primary = facts["primary"]
        values = {system: named[primary] for system, named in facts["values"].items()}
        times = factor(facts, primary)
        name = (task, str(facts["rows"]), primary + unit(times))
        rows.append((*name, *_compared(values, facts["differences"]["base"], times, trivial)))
    return [header, *rows]


def _compared(
    values: Mapping[str, Any], difference: Mapping[str, Any], times: int, trivial: Sequence[str]
) -> tuple[str, ...]:
    return (
        *(shown(values[system], times) for system in _SYSTEMS),
        shown(difference, times, sign="+"),
        _p(difference["adjusted_p"]),
        "–" if difference["detectable"] is None else _number(difference["detectable"], times),
        difference["verdict"],
        *(_number(values[system]["value"], times) for system in trivial),
    )


def by_entities(report: Mapping[str, Any]) -> Rows:
    rows = [
        (name, str(part["rows"]), *_compared(part["score"], part["difference"], 1, ()))
        for name, part in report["entities"].items()
    ]
    return [("entities", "n", *_SYSTEMS, "difference", "adjusted p", "detectable", "verdict"), *rows]


def by_label(report: Mapping[str, Any]) -> Rows:
    """Values of single labels (relations, types, turns). Their differences are not tested: there are many."""
    rows: Rows = [("task", "value", "label", "in references", "answered", *_SYSTEMS, "difference")]
    for task, facts in report["tasks"].items():
        for value, named in value_names.labelled(facts["value_differences"]).items():
            times = factor(facts, value)
            for label, name in named.items():
                counts = facts["facts"]["tuned"].get("relations", {}).get(label, {})
                rows.append(
                    (
                        task,
                        value + unit(times),
                        code(label),
                        *(str(counts[side]) if counts else "" for side in ("gold", "predicted")),
                        *(shown(facts["values"][system][name], times) for system in _SYSTEMS),
                        shown(facts["value_differences"][name], times, sign="+"),
                    )
                )
    return rows


def errors(report: Mapping[str, Any]) -> Rows:
    """Kinds of wrong and missing triples."""
    rows: Rows = [("task", "system", *(kind.replace("_", " ") for kind in KINDS), "malformed lines", "repeated")]
    for task, facts in report["tasks"].items():
        for system, own in facts["facts"].items():
            if "errors" in own:
                lines = (str(own[name]) for name in ("malformed_lines", "duplicate_triples"))
                rows.append((task, system, *(str(own["errors"][kind]) for kind in KINDS), *lines))
    return rows


def confusions(report: Mapping[str, Any]) -> Iterator[tuple[str, Rows]]:
    """(task, the tuned model's confusion matrix of the labels that are most frequent in the references)."""
    for task, facts in report["tasks"].items():
        if matrix := facts["facts"]["tuned"].get("confusion"):
            yield task, _matrix(matrix)


def _matrix(matrix: Mapping[str, Mapping[str, int]]) -> Rows:
    """{reference: {answer: rows}} with everything past the first ten references in the last line and column."""
    labels = [label for label in matrix if label != OTHER][:_CONFUSED_LABELS]
    counts: dict[tuple[str, str], int] = {}
    for gold, answers in matrix.items():
        for answer, rows in answers.items():
            cell = tuple(label if label in labels else OTHER for label in (gold, answer))
            counts[cell[0], cell[1]] = counts.get((cell[0], cell[1]), 0) + rows
    sides = [[*labels, *([OTHER] if any(cell[side] == OTHER for cell in counts) else [])] for side in (0, 1)]
    head = ("reference", *(_label(label) for label in sides[1]))
    return [head, *((_label(gold), *(str(counts.get((gold, answer), 0)) for answer in sides[1])) for gold in sides[0])]


def _label(label: str) -> str:
    return OTHER if label == OTHER else code(label)


def generation(report: Mapping[str, Any]) -> Rows:
    """How the rows were answered; of replies and of likelihoods only where there are any."""
    systems = report["generation"].values()
    replied, measured = (any(name in facts for facts in systems) for name in ("stopped", "nll"))
    header = ("system", "prompts cut", *(_REPLY_COLUMNS if replied else ()))
    rows: Rows = [(*header, *(("nats a reference token",) if measured else ()))]
    for system, facts in report["generation"].items():
        nll = [f"{facts['nll']['per_token']:.3f}" if "nll" in facts else ""] if measured else []
        rows.append((system, f"{facts['prompts_cut']:.1%}", *(_replies(facts) if replied else ()), *nll))
    return rows


def _replies(facts: Mapping[str, Any]) -> tuple[str, ...]:
    return (
        str(facts["replies"]),
        *(f"{facts[share]:.1%}" for share in ("stopped", "empty")),
        ", ".join(f"{reason} {count}" for reason, count in facts["finish_reasons"].items()),
        str(facts["tokens"]),
        f"{facts['tokens_per_second']:.0f}",
        *(f"{facts[quantile]:.3f}" for quantile in ("seconds_p50", "seconds_p95")),
    )


def every_value(report: Mapping[str, Any]) -> Rows:
    """Every value of every task without the labels' own, then its facts that are single numbers or words."""
    rows: Rows = [("task", "value", *_SYSTEMS, "difference")]
    for task, facts in report["tasks"].items():
        values = facts["values"]
        for value in dict.fromkeys([*values["base"], *values["tuned"]]):
            if value_names.split(value)[1]:
                continue
            times = factor(facts, value)
            both = (shown(values[s][value], times) if value in values[s] else "" for s in _SYSTEMS)
            moved = facts["value_differences"].get(value)
            rows.append((task, value + unit(times), *both, shown(moved, times, sign="+") if moved else ""))
        for fact, found in facts["facts"]["tuned"].items():
            if isinstance(found, (int, float, str)):
                rows.append((task, fact, _plain(facts["facts"]["base"].get(fact, "")), _plain(found), ""))
    return rows


def _plain(value: float | str) -> str:
    return f"{value:.3f}" if isinstance(value, float) else str(value)
