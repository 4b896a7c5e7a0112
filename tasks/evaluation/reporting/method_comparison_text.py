"""Writes a comparison of methods for people and spreadsheets: comparison.md, .csv and .png."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tasks.evaluation.reporting import plots
from tasks.evaluation.reporting.method_comparison import BASE
from tasks.files import write_atomic

_MIB, _GIB = 1 << 20, 1 << 30


def write(folder: Path, content: Mapping[str, Any]) -> None:
    """comparison.json, comparison.md, comparison.csv, comparison.png."""
    write_atomic(folder / "comparison.json", json.dumps(content, ensure_ascii=False, indent=1, allow_nan=False))
    write_atomic(folder / "comparison.md", markdown(content))
    write_atomic(folder / "comparison.csv", table(content))
    plot(content, folder / "comparison.png")


def markdown(content: Mapping[str, Any]) -> str:
    """The table with a column a method, what may be concluded, and every pair."""
    return "\n".join(_lines(content)) + "\n"


def _lines(content: Mapping[str, Any]) -> Iterator[str]:
    tests, intervals = content["tests"], content["intervals"]
    yield f"# Methods compared on {content['rows']} {content['split']} rows"
    yield ""
    yield (
        "`score` is the unweighted mean of the tasks' main values (0-1), averaged over training seeds; [low, high] is "
        f"its 95 % interval over rows ({intervals['kind']}, {intervals['resamples']} resamples), which does not hold "
        f"what another training seed changes. Pairs: {tests['kind']}, {tests['permutations']} permutations, level "
        f"{tests['level']}; `smallest difference shown` is found in 80 % of such tests among {len(content['pairs'])}. "
        "Memory is the most of one process; times are means over seeds."
    )
    yield ""
    yield from _grid([["", *content["systems"]], *_quantities(content)])
    yield from ["", "## What can be concluded", ""]
    yield from (f"- {line}" for line in content["conclusions"])
    if content["cautions"]:
        yield from ["", "## Cautions", "", *(f"- {line}" for line in content["cautions"])]
    yield from ["", "## Pairs", ""]
    header = ["a", "b", "a - b", "p", "adjusted p", "verdict", "smallest difference shown"]
    yield from _grid([header, *map(_pair, content["pairs"])])
    yield from ["", *(f"- {pair['sentence']}" for pair in content["pairs"])]


def _grid(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    for index, row in enumerate(rows):
        yield "| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |"
        if index == 0:
            yield "|---|" + "---:|" * (len(row) - 1)


def _pair(pair: Mapping[str, Any]) -> list[str]:
    return [
        pair["a"],
        pair["b"],
        _interval(pair, sign="+"),
        f"{pair['p_value']:.4f}",
        f"{pair['adjusted_p']:.4f}",
        pair["verdict"],
        _or_dash(pair["detectable"], "{:.3f}"),
    ]


def _quantities(content: Mapping[str, Any]) -> Iterator[list[str]]:
    """The rows of the table, each with one cell a system."""
    systems = content["systems"].values()
    yield ["training memory", *(_bytes(s["training_memory_bytes"]) for s in systems)]
    yield ["trainable parameters", *(_count(s["trainable"]) for s in systems)]
    yield ["total parameters", *(_count(s["total"]) for s in systems)]
    yield ["trainable share", *(_share(s) for s in systems)]
    yield ["quantisation", *(s["quantization"] for s in systems)]
    yield ["learning rate", *(_or_dash(s["learning_rate"], "{:g}") for s in systems)]
    yield ["inference memory", *(_bytes(s["inference_memory_bytes"]) for s in systems)]
    yield ["training time", *(_or_dash(s["training_seconds"], "{:.1f} s") for s in systems)]
    yield ["**score**", *(_interval(s["score"]) for s in systems)]
    yield ["seeds", *(_seeds(s) for s in systems)]
    for task, facts in content["tasks"].items():
        for value in _shown_values(content, task):
            factor = 100 if value in facts["percent"] else 1
            name = f"{task} {value}" + (f" ×{factor}" if factor > 1 else "")
            yield [name, *(_interval(s["values"][task][value], factor) for s in systems)]
    yield ["test time", *(_or_dash(s["test_seconds"], "{:.1f} s") for s in systems)]


def _shown_values(content: Mapping[str, Any], task: str) -> list[str]:
    """A task's main value, and of triples also those that other work quotes; all the rest is in the JSON."""
    known = content["systems"][BASE]["values"][task]
    return [v for v in dict.fromkeys([content["tasks"][task]["primary"], "f1_normalised", "seed_f1"]) if v in known]


def _interval(value: Mapping[str, float], factor: int = 1, sign: str = "") -> str:
    digits = 3 if factor == 1 else 1
    shown, low, high = (f"{value[key] * factor:{sign}.{digits}f}" for key in ("value", "low", "high"))
    return f"{shown} [{low}, {high}]"


def _seeds(system: Mapping[str, Any]) -> str:
    names, values = system["training_seeds"], system["seeds"]["values"]
    return ", ".join(f"{value:.3f} (seed {name})" for name, value in zip(names, values, strict=True)) if names else "-"


def _bytes(value: int | None) -> str:
    if value is None:
        return "-"
    return f"{value / _GIB:.2f} GiB" if value >= _GIB else f"{value / _MIB:.0f} MiB"


def _count(value: int | None) -> str:
    return "-" if value is None else f"{value:,}"


def _share(system: Mapping[str, Any]) -> str:
    return f"{system['trainable'] / system['total']:.2%}" if system["total"] else "-"


def _or_dash(value: float | None, form: str) -> str:
    return "-" if value is None else form.format(value)


def table(content: Mapping[str, Any]) -> str:
    """CSV: a line a system, raw numbers, bytes and seconds; an empty cell is unknown."""
    tasks = {task: list(content["systems"][BASE]["values"][task]) for task in content["tasks"]}
    names = [f"{task}.{value}" for task, values in tasks.items() for value in values]
    costs = [
        "trainable",
        "total",
        "training_memory_bytes",
        "inference_memory_bytes",
        "training_seconds",
        "test_seconds",
        "learning_rate",
        "quantization",
    ]
    ends = ("value", "low", "high")
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    heads = [name if end == "value" else f"{name}.{end}" for name in ("score", *names) for end in ends]
    writer.writerow(["system", "training_seeds", *costs, *heads])
    for name, system in content["systems"].items():
        intervals = [system["score"], *(system["values"][t][v] for t, values in tasks.items() for v in values)]
        seeds = " ".join(map(str, system["training_seeds"]))
        writer.writerow([name, seeds, *(system[c] for c in costs), *(i[end] for i in intervals for end in ends)])
    return text.getvalue()


def plot(content: Mapping[str, Any], path: Path) -> None:
    """Score with interval and seeds a system, beside the memory and time of training."""
    from matplotlib.figure import Figure

    systems = content["systems"]
    names = list(systems)
    places = range(len(names))
    figure = Figure(figsize=(11, 1.4 + 0.5 * len(names)), layout="constrained")
    score, memory, time = figure.subplots(1, 3, sharey=True, width_ratios=[2, 1, 1])
    scores = [s["score"] for s in systems.values()]
    colours = [plots.BASE_COLOUR if name == BASE else plots.TUNED_COLOUR for name in names]
    bars = [interval["value"] for interval in scores]
    score.barh(places, bars, xerr=plots.reach(scores, "value"), color=colours, capsize=3, height=0.6)
    for place, system in zip(places, systems.values(), strict=True):
        seeds = system["seeds"]["values"]
        if len(seeds) > 1:
            score.plot(seeds, [place] * len(seeds), "o", color="#d1495b", markersize=4)
    score.set_yticks(list(places), names)
    score.invert_yaxis()
    plots.scale(score.set_xlim, scores)
    score.set_xlabel("score, 0-1, 95 % interval over rows; dots: seeds")
    memory.barh(places, [(s["training_memory_bytes"] or 0) / _MIB for s in systems.values()], color=colours, height=0.6)
    memory.set_xlabel("training memory, MiB")
    time.barh(places, [s["training_seconds"] or 0 for s in systems.values()], color=colours, height=0.6)
    time.set_xlabel("training time, s")
    figure.savefig(path, dpi=120)
