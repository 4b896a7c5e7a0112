"""A report's plots as PNG files; each is drawn only where it has something to show.

``tasks.png``: base and tuned by task. ``checkpoints.png``: the value that chose, by checkpoint. ``breakdown.png``:
values by label (relation, type, turn). ``lengths.png``: length of the replies against their score. Whiskers are 95 %
intervals. Axes of values in 0-1 begin at 0 and end at 0.1, 0.2, 0.5 or 1, the first that holds every interval.

Chinese names are drawn where the machine has a font for them; elsewhere a plot says "relation 1", and ``Drawn.names``
what that is, for the report to list.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from tasks.evaluation import selection
from tasks.evaluation.reporting import value_names

BASE_COLOUR, TUNED_COLOUR, _CUT = "#9aa5b1", "#2f6fb0", "#c8553d"
#: Fonts with Chinese glyphs, as Linux distributions, Windows and macOS ship them; the first that is found is used.
_CHINESE_FONTS = (
    "Noto Sans CJK SC",
    "Noto Sans SC",
    "Source Han Sans SC",
    "Source Han Sans CN",
    "WenQuanYi Micro Hei",
    "WenQuanYi Zen Hei",
    "Droid Sans Fallback",
    "Microsoft YaHei",
    "SimHei",
    "PingFang SC",
    "Hiragino Sans GB",
    "Heiti TC",
    "Arial Unicode MS",
)
_LATIN_FONT = "DejaVu Sans"  # comes with matplotlib
_LONGEST_LABEL = 24
_MOST_BARS = 16
_MOST_PANELS = 6
_MOST_TICKS = 10
_LEAST_POINTS = 10
_BINS = 6
_LIMITS = (0.1, 0.2, 0.5, 1)
_MARGIN = 0.02  # of the limit, so that an interval that ends at it, or lies at 0, is seen

Entry = tuple[str, Mapping[str, Mapping[str, float]]]


@dataclass(frozen=True)
class Drawn:
    """The plots that were made.

    Attributes:
        files: their names.
        names: {"relation 1": what it stands for}, where no font has the glyphs.
    """

    files: tuple[str, ...] = ()
    names: Mapping[str, str] = field(default_factory=dict)


def draw(report: Mapping[str, Any], folder: Path) -> Drawn:
    """Write the plots of a report into ``folder``; plots of an earlier attempt that have no place now are removed."""
    from matplotlib import rc_context

    labels, files = _Labels(), []
    with rc_context({"font.family": _fonts(), "axes.spines.top": False, "axes.spines.right": False}):
        for name, figure in (
            ("tasks.png", _tasks(report, labels)),
            ("checkpoints.png", _checkpoints(report["chosen"], labels)),
            ("breakdown.png", _breakdown(report, labels)),
            ("lengths.png", _lengths(report, labels)),
        ):
            (folder / name).unlink(missing_ok=True)
            if figure is not None:
                figure.savefig(folder / name, dpi=120)
                files.append(name)
    return Drawn(tuple(files), labels.names)


# --- names --------------------------------------------------------------------------------------------------------


def _fonts() -> list[str]:
    from matplotlib import font_manager

    known = {entry.name for entry in font_manager.fontManager.ttflist}
    return [_LATIN_FONT, *[name for name in _CHINESE_FONTS if name in known][:1]]


@functools.cache
def _glyphs(fonts: tuple[str, ...]) -> frozenset[int]:
    from matplotlib import font_manager, ft2font

    paths = [font_manager.findfont(name) for name in fonts]
    return frozenset(code for path in paths for code in ft2font.FT2Font(path).get_charmap())


class _Labels:
    """Texts as plots can show them."""

    def __init__(self) -> None:
        self.names: dict[str, str] = {}
        self._known: dict[tuple[str, str], str] = {}
        self._glyphs = _glyphs(tuple(_fonts()))

    def of(self, kind: str, text: str) -> str:
        """``text``, or the number of its ``kind`` where the fonts lack a glyph of it."""
        line = " ".join(text.split())
        if line and all(ord(character) in self._glyphs for character in line):
            # a dollar sign would begin a formula
            return (line if len(line) <= _LONGEST_LABEL else line[: _LONGEST_LABEL - 1] + "…").replace("$", r"\$")
        if (kind, text) not in self._known:
            number = 1 + sum(known == kind for known, _ in self._known)
            self._known[kind, text] = f"{kind} {number}"
            self.names[f"{kind} {number}"] = line or "(empty)"
        return self._known[kind, text]


# --- figures ------------------------------------------------------------------------------------------------------


def _tasks(report: Mapping[str, Any], labels: _Labels) -> Any:
    """Bars of base and tuned per task, the score first."""
    entries: list[Entry] = [("score", report["score"])]
    for task, facts in report["tasks"].items():
        primary = facts["primary"]
        values = {system: facts["values"][system][primary] for system in ("base", "tuned")}
        entries.append((f"{labels.of('task', task)}\n{primary}, n={facts['rows']}", values))
    figure, (axes,) = _panels([len(entries)])
    _bars(axes, entries)
    scale(axes.set_xlim, [interval for _, values in entries for interval in values.values()])
    axes.set_xlabel("value, 0-1, with 95 % interval")
    return _with_legend(figure, [axes])


def _checkpoints(chosen: Mapping[str, Any], labels: _Labels) -> Any:
    """The choosing value of each checkpoint, the chosen one marked."""
    points = sorted(chosen["validation"], key=lambda point: point["step"])
    if len(points) < 2:
        return None
    figure, axes = _figure(6.4, 4)
    steps, values = ([point[key] for point in points] for key in ("step", "score"))
    axes.errorbar(
        steps, values, yerr=reach(points, "score"), color=TUNED_COLOUR, marker="o", capsize=3, label="checkpoint"
    )
    best = next(point for point in points if point["step"] == chosen["step"])
    axes.plot(best["step"], best["score"], "o", markersize=13, fillstyle="none", color=_CUT, label="chosen")
    scale(axes.set_ylim, points)
    if len(steps) <= _MOST_TICKS:
        axes.set_xticks(steps)
    axes.set_xlabel("optimiser step")
    axes.set_ylabel(f"{labels.of('value', chosen['by'])} on validation{_direction(chosen['by'])}")
    return _with_legend(figure, [axes])


def _breakdown(report: Mapping[str, Any], labels: _Labels) -> Any:
    """Bars of base and tuned per label, a panel for each value of each task that has labels."""
    panels = [
        (f"{labels.of('task', task)}: {value}{_direction(value)}", _by_label(facts, named, labels))
        for task, facts in report["tasks"].items()
        for value, named in value_names.labelled(facts["value_differences"]).items()
    ][:_MOST_PANELS]
    if not panels:
        return None
    figure, every = _panels([len(entries) for _, entries in panels])
    for axes, (title, entries) in zip(every, panels, strict=True):
        _bars(axes, entries)
        axes.set_title(title, loc="left", fontsize="medium")
        scale(axes.set_xlim, [interval for _, values in entries for interval in values.values()])
    every[-1].set_xlabel("value, with 95 % interval")
    return _with_legend(figure, every)


def _by_label(facts: Mapping[str, Any], named: Mapping[str, str], labels: _Labels) -> list[Entry]:
    kind = "relation" if facts["metric"] == "triples" else "label"
    return [
        (labels.of(kind, label), {system: facts["values"][system][name] for system in ("base", "tuned")})
        for label, name in list(named.items())[:_MOST_BARS]
    ]


def _lengths(report: Mapping[str, Any], labels: _Labels) -> Any:
    """The tuned model's replies: length against score, and the mean score of replies of like length."""
    panels = [
        (task, *_points(report["lengths"], task)) for task in report["tasks"] if task in report["lengths"]["task"]
    ]
    panels = [p for p in panels if len(p[1]) >= _LEAST_POINTS and np.ptp(p[1]) > 0][:_MOST_PANELS]
    if not panels:
        return None
    figure, every = _grid(len(panels))
    for axes, (task, tokens, score, cut) in zip(every, panels, strict=True):
        for mask, colour, name in ((~cut, TUNED_COLOUR, "stopped"), (cut, _CUT, "cut at the limit")):
            if mask.any():
                axes.scatter(tokens[mask], score[mask], s=16, alpha=0.4, color=colour, linewidths=0, label=name)
        axes.plot(*_binned(tokens, score), color="black", marker="o", markersize=4, label="mean of like length")
        axes.set_title(labels.of("task", task), loc="left", fontsize="medium")
        axes.set_ylim(-0.05, 1.05)
        axes.set_xlabel("reply, tokens")
        axes.set_ylabel("score of the row, 0-1")
    return _with_legend(figure, every)


def _points(lengths: Mapping[str, Any], task: str) -> tuple[Any, Any, Any]:
    own = np.array(lengths["task"]) == task
    tokens, score, cut = (np.array(lengths[column])[own] for column in ("tokens", "score", "cut"))
    return tokens, score, cut


def _binned(tokens: Any, score: Any) -> tuple[list[float], list[float]]:
    """Means of length and score over replies of like length, in about equally many each."""
    edges = np.unique(np.quantile(tokens, np.linspace(0, 1, _BINS + 1)))
    place = np.clip(np.searchsorted(edges, tokens, side="right") - 1, 0, max(0, len(edges) - 2))
    bins = [place == i for i in np.unique(place)]
    return [float(tokens[b].mean()) for b in bins], [float(score[b].mean()) for b in bins]


# --- parts of figures ---------------------------------------------------------------------------------------------


def _figure(width: float, height: float) -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.add_subplot()


def _panels(bars: Sequence[int]) -> tuple[Any, list[Any]]:
    """Panels below each other, each as high as its bars need."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 0.7 + sum(0.9 + 0.55 * count for count in bars)), layout="constrained")
    grid = figure.add_gridspec(len(bars), height_ratios=[count + 1 for count in bars])
    return figure, [figure.add_subplot(grid[i]) for i in range(len(bars))]


def _grid(count: int) -> tuple[Any, list[Any]]:
    from matplotlib.figure import Figure

    columns = min(count, 2)
    rows = -(-count // columns)
    figure = Figure(figsize=(0.8 + 4.4 * columns, 3.4 * rows), layout="constrained")
    return figure, [figure.add_subplot(rows, columns, i + 1) for i in range(count)]


def _with_legend(figure: Any, every: Sequence[Any]) -> Any:
    """The figure with one legend for all its axes below it, where it hides nothing."""
    named = {name: handle for axes in every for handle, name in zip(*axes.get_legend_handles_labels(), strict=True)}
    figure.legend(list(named.values()), list(named), loc="outside lower center", ncols=len(named), frameon=False)
    return figure


def _direction(value: str) -> str:
    return " (lower is better)" if selection.lower_is_better(value) else ""


def _bars(axes: Any, entries: Sequence[Entry]) -> None:
    for offset, system, colour in ((-0.2, "base", BASE_COLOUR), (0.2, "tuned", TUNED_COLOUR)):
        intervals = [values[system] for _, values in entries]
        axes.barh(
            [i + offset for i in range(len(entries))],
            [interval["value"] for interval in intervals],
            height=0.38,
            xerr=reach(intervals, "value"),
            label=system,
            color=colour,
            capsize=3,
        )
    axes.set_yticks(range(len(entries)), [label for label, _ in entries])
    axes.invert_yaxis()


def scale(set_limits: Callable[[float, float], Any], intervals: Sequence[Mapping[str, float]]) -> None:
    """Show 0 to the first limit above every interval; as matplotlib chooses where a value is not on the scale 0-1."""
    highest = round(max(interval["high"] for interval in intervals), 9)
    limit = next((limit for limit in _LIMITS if highest <= limit), None)
    if limit is not None:
        set_limits(-_MARGIN * limit, (1 + _MARGIN) * limit)


def reach(intervals: Sequence[Mapping[str, float]], key: str) -> list[list[float]]:
    """How far the intervals reach below and above their values."""
    below = [max(0.0, i[key] - i["low"]) for i in intervals]
    return [below, [max(0.0, i["high"] - i[key]) for i in intervals]]
