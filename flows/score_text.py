"""What a scored predictions file shows for people: one table, the counts, what a comparison allows to conclude."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from typing import Any

from rich.console import Console
from rich.table import Table


def shown(result: Mapping[str, Any]) -> str:
    """The whole text."""
    if "score" not in result:
        return "\n".join(_head(result))
    screen = Console(file=io.StringIO(), width=120, force_terminal=False)
    screen.print(_table(result))
    text = str(screen.file.getvalue())  # type: ignore[attr-defined]
    return "\n".join([*_head(result), text.rstrip("\n"), *_official(result), *_facts(result), *_compared(result)])


def _head(result: Mapping[str, Any]) -> Iterator[str]:
    yield f"{result['predictions']}: {result['rows']} rows"
    yield f"references: {result['references']}" if "references" in result else "no references: nothing was scored"
    if result.get("unanswered"):
        yield f"not scored: {result['unanswered']} references without a prediction"
    if "submission" in result:
        yield f"submission: {result['submission']}"


def _table(result: Mapping[str, Any]) -> Table:
    table = Table()
    for column in ("task", "n", "value", "", "95 % interval"):
        table.add_column(column, justify="left" if column in ("task", "value") else "right", overflow="fold")
    for name, task in result["tasks"].items():
        for value, interval in task["values"].items():
            factor = 100 if value in task["percent"] else 1
            divisor = task["facts"].get(f"{value}_divisor")
            label = f"{value}{f' x{factor}' if factor != 1 else ''}{f' (sum over rows / {divisor})' if divisor else ''}"
            main = " *" if value == task["primary"] else ""
            table.add_row(name, str(task["rows"]), label + main, *_interval(interval, factor))
        table.add_section()
    table.add_row("score", str(result["rows"]), "mean of the tasks' *", *_interval(result["score"], 1))
    return table


def _interval(interval: Mapping[str, float], factor: int) -> tuple[str, str]:
    value, low, high = (_number(interval[key] * factor, 4 if factor == 1 else 2) for key in ("value", "low", "high"))
    return value, f"[{low}, {high}]"


def _number(value: float, digits: int) -> str:
    """The perplexity of a broken model has dozens of digits before its point."""
    return f"{value:.{digits}f}" if abs(value) < 1e9 else f"{value:.{digits}e}"


def _official(result: Mapping[str, Any]) -> Iterator[str]:
    if "official" in result:
        official = result["official"]
        missing = f"; not the official mean, which takes {', '.join(official['missing'])} too"
        yield f"official score x100: {official['score']:.4f}{missing if official['missing'] else ''}"


def _facts(result: Mapping[str, Any]) -> Iterator[str]:
    """What else was counted, a task a line; zeros and tables are in the JSON only."""
    for name, task in result["tasks"].items():
        facts = {k: v for k, v in task["facts"].items() if isinstance(v, (int, float, str)) and v}
        plain = (f"{k} {v:.4f}" if isinstance(v, float) else f"{k} {v}" for k, v in facts.items())
        yield f"{name}: {', '.join(plain) or 'no malformed, empty or other odd answer'}"


def _compared(result: Mapping[str, Any]) -> Iterator[str]:
    if "against" in result:
        against = result["against"]
        yield against["conclusion"]
        if len(against["tests"]) > 1:
            for name, test in against["tests"].items():
                value, interval = _interval(test, 1)
                yield f"{name}: {value} {interval}, p={test['p_adjusted']:.2g} (adjusted): {test['verdict']}"
