"""The account of a data set as pictures: funnel.png, lengths.png, labels.png.

Chinese where the machine has a font for it, else English; a text that no font at hand can draw becomes a number, the
one it has in report.md. The same account and fonts give the same bytes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks.data.reporting.page import pictures, share, top_labels
from tasks.data.source import SPLITS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Summary = Mapping[str, Any]

_COLOURS = {"train": "#2f6fb0", "validation": "#d98324", "test": "#3f9067"}
_BAR, _LOST, _GREY = "#2f6fb0", "#c9d3de", "#5b6670"
_LONGEST_LABEL = 24
_TASKS = 8
#: Fonts known to draw Chinese well, by a part of their file's name; the first found is taken.
_PREFERRED = ("notosanscjk", "notosanssc", "sourcehansans", "msyh", "pingfang", "hiragino", "wqy", "simhei")

_CHINESE = {
    "rows": "行",
    "messages": "条消息",
    "read": "读入",
    "parsed": "可解析",
    "converted": "可转换",
    "clean": "清洗后",
    "without duplicates": "去重后",
    "without leaks": "去除泄漏后",
    "kept": "保留",
    "Left after each step": "每一步之后剩余",
    "of all read": "占读入的比例",
    "prompt": "输入",
    "reply": "回复",
    "characters": "字符数",
    "share of rows": "占该部分行数的比例",
    "per": "每",
    "median": "中位数",
    "longest": "最长",
    "train": "训练",
    "validation": "验证",
    "test": "测试",
    "task": "任务",
    "label": "标签",
    "others": "其他",
    "training rows": "训练集行数",
    "names by number: report.md": "编号对应的名称见 report.md",
    "smaller tasks not shown": "个较小的任务未画出",
    "(empty)": "（空）",
}


class Words:
    """The texts of a picture in the language that its font can draw.

    Attributes:
        font: the file of a font with Chinese; None: matplotlib's own, which has none.
        numbered: a name was replaced by a number.
    """

    def __init__(self, font: Path | None) -> None:
        from matplotlib import font_manager

        self.font, self.numbered = font, False
        self.properties = (
            font_manager.FontProperties(fname=font)
            if font
            else font_manager.FontProperties(family=["DejaVu Sans"])  # ships with matplotlib
        )
        self._glyphs = frozenset(font_manager.get_font(font_manager.findfont(self.properties)).get_charmap())

    def __call__(self, english: str) -> str:
        return _CHINESE.get(english, english) if self.font else english

    def name(self, text: str, what: str, number: int) -> str:
        """A name from the data on one short line, or ``what number`` where the font lacks one of its characters."""
        line = " ".join("".join(c if c.isprintable() else " " for c in text).split())
        if not line:
            return self("(empty)")
        if any(ord(c) not in self._glyphs for c in line):
            self.numbered = True
            return f"{self(what)} {number}"
        return line if len(line) <= _LONGEST_LABEL else line[: _LONGEST_LABEL - 1].rstrip() + "…"


def draw(summary: Summary, folder: Path, fonts: Iterable[Path] | None = None) -> list[str]:
    """Draw what there is to show; returns the names of the pictures.

    Args:
        fonts: font files to find one with Chinese in; None: those of the machine.
    """
    font = chinese_font(machine_fonts() if fonts is None else fonts)
    drawn = {"funnel.png": _funnel, "lengths.png": _lengths, "labels.png": _labels}
    names = pictures(summary)
    for name in names:
        words = Words(font)
        figure = drawn[name](summary, words)
        _set_font(figure, words)
        figure.savefig(folder / name, dpi=120, format="png", metadata={"Software": None})
    return names


def machine_fonts() -> list[Path]:
    """The machine's font files, those known for Chinese first; looked up afresh, matplotlib's own list may be old."""
    from matplotlib import font_manager

    def rank(path: Path) -> tuple[int, str, str]:
        name = path.name.lower().replace("-", "").replace("_", "")
        known = next((place for place, part in enumerate(_PREFERRED) if part in name), len(_PREFERRED))
        return known + (0 if "bold" not in name and "light" not in name else 100), path.name, str(path)

    return sorted((Path(p) for p in font_manager.findSystemFonts()), key=rank)


def chinese_font(fonts: Iterable[Path]) -> Path | None:
    """The first font that can draw Chinese.

    Two characters must have glyphs of their own: a last-resort font has one and the same for all.
    """
    from matplotlib.ft2font import FT2Font

    for path in fonts:
        try:
            font = FT2Font(str(path))
        except (OSError, RuntimeError, ValueError):  # not a font that FreeType reads
            continue
        glyphs = {font.get_char_index(ord(c)) for c in "微调读0"}
        if 0 not in glyphs and len(glyphs) == 4:
            return path
    return None


def _set_font(figure: Figure, words: Words) -> None:
    """The picture's font on every text; $ in a name is a dollar sign and starts no formula."""
    from matplotlib.text import Text

    for text in figure.findobj(Text):
        assert isinstance(text, Text)
        properties = words.properties.copy()
        properties.set_size(text.get_fontsize())
        text.set_fontproperties(properties)
        text.set_parse_math(False)


def _figure(width: float, height: float) -> Figure:
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    return Figure(figsize=(width, height), layout=ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.1))


def _bars_only(axes: Axes) -> None:
    """No frame and no scale: each bar has its number beside it."""
    axes.set_ylim(len(axes.get_yticks()) - 0.5, -0.5)
    axes.set_xticks([])
    axes.spines[:].set_visible(False)
    axes.tick_params(axis="y", length=0)


# --- funnel -------------------------------------------------------------------------------------------------------


def _funnel(summary: Summary, words: Words) -> Figure:
    """A bar for each step: dark what is left, light what the step took."""
    steps = summary["steps"] or [{"name": name, "records": summary["rows"][name]} for name in ("read", "kept")]
    left = [step["records"] for step in steps]
    before = [left[0], *left[:-1]]
    figure = _figure(8, 1.1 + 0.42 * len(steps))
    axes = figure.add_subplot()
    places = range(len(steps))
    axes.barh(places, before, color=_LOST, height=0.66)
    axes.barh(places, left, color=_BAR, height=0.66)
    axes.set_yticks(places, [words.name(words(step["name"]), "step", i) for i, step in enumerate(steps, 1)])
    whole = max(left[0], 1)
    for place, (now, was) in enumerate(zip(left, before, strict=True)):
        lost = f"  −{was - now:,}" if was > now else ""
        axes.text(
            was + whole * 0.012,
            place,
            f"{now:,} ({share(now, left[0])}){lost}",
            va="center",
            fontsize=9,
            color=_GREY,
        )
    axes.set_xlim(0, whole * 1.42)
    unit = words(summary["records"])
    axes.set_title(f"{words('Left after each step')} ({unit})", loc="left")
    _bars_only(axes)
    return figure


# --- lengths ------------------------------------------------------------------------------------------------------


def _lengths(summary: Summary, words: Words) -> Figure:
    figure = _figure(10, 3.6)
    for axes, what in zip(figure.subplots(1, 2), ("prompt", "reply"), strict=True):
        _histograms(axes, what, summary, words)
    return figure


def _histograms(axes: Axes, what: str, summary: Summary, words: Words) -> None:
    """One outline a split, as shares of its rows, so that splits of different size and bins can be compared."""
    found = {name: summary["splits"][name] for name in SPLITS if name in summary["splits"]}
    found = {name: split for name, split in found.items() if split.get("histogram", {}).get(what)}
    per = max((split["histogram"][what][0][0] for split in found.values()), default=1)
    end = 0
    for name, split in found.items():
        bins = split["histogram"][what]
        edges = [0, *(bound for bound, _ in bins)]
        widths = [high - low for low, high in pairwise(edges)]
        heights = [100 * n / split["rows"] * per / width for (_, n), width in zip(bins, widths, strict=True)]
        # the last bin holds all that is longer and may be very wide: it would leave no room for the others
        end = max([end, *(edge for edge, width in zip(edges[1:], widths, strict=True) if width <= 2 * bins[0][0])])
        spread = split[f"{what}_characters"]
        label = f"{words(name)}: {words('median')} {spread['median']:,}, {words('longest')} {spread['largest']:,}"
        first = name == next(iter(found))
        axes.stairs(heights, edges, color=_COLOURS[name], label=label, fill=first, alpha=0.35 if first else 1, lw=1.6)
    axes.set_xlim(0, end or None)
    axes.set_ylim(0, 1.4 * axes.dataLim.ymax or 1)  # the legend lies above the bars
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g} %")
    axes.set_title(words(what), loc="left")
    axes.set_xlabel(words("characters"))
    per_text = f"{words('per')} {per:,} {words('characters')}"
    axes.set_ylabel(f"{words('share of rows')}\n{per_text}")
    if found:
        axes.legend(frameon=False, loc="upper right", fontsize=9)
    axes.spines[["top", "right"]].set_visible(False)


# --- labels -------------------------------------------------------------------------------------------------------


def _labels(summary: Summary, words: Words) -> Figure:
    """A panel a task, the tasks with most rows first; the labels in the order and with the numbers of report.md."""
    tasks = [(task, counts) for task, counts in sorted(summary["labels"].items()) if counts]
    numbers = {task: number for number, (task, _) in enumerate(tasks, 1)}
    tasks.sort(key=lambda item: -sum(item[1].values()))
    shown = tasks[:_TASKS]
    bars = {task: _bars(counts, words) for task, counts in shown}
    heights = [len(bars[task]) for task, _ in shown]
    figure = _figure(8, 0.27 * sum(heights) + 0.6 * len(shown) + 0.3)
    panels = figure.subplots(len(shown), 1, squeeze=False, gridspec_kw={"height_ratios": heights})
    for axes, (task, counts) in zip(panels[:, 0], shown, strict=True):
        title = words.name(task, "task", numbers[task])
        _label_bars(axes, bars[task], sum(counts.values()))
        total = f"{sum(counts.values()):,} {words('training rows')}"
        axes.set_title(f"{title} ({total})", loc="left")
    notes = [f"+ {len(tasks) - _TASKS} {words('smaller tasks not shown')}"] if len(tasks) > _TASKS else []
    if words.numbered:
        notes.append(words("names by number: report.md"))
    if notes:
        figure.supxlabel("; ".join(notes), fontsize=9, color=_GREY)
    return figure


def _bars(counts: Mapping[str, int], words: Words) -> list[tuple[str, int, str]]:
    """(text, rows, colour) of the labels shown, and of the others together."""
    top, others, rest = top_labels(counts)
    bars = [(words.name(label, "label", number), n, _BAR) for number, (label, n) in enumerate(top, 1)]
    return [*bars, (f"{others:,} {words('others')}", rest, _LOST)] if others else bars


def _label_bars(axes: Axes, bars: list[tuple[str, int, str]], total: int) -> None:
    places = range(len(bars))
    axes.barh(places, [n for _, n, _ in bars], color=[colour for _, _, colour in bars], height=0.7)
    axes.set_yticks(places, [text for text, _, _ in bars])
    longest = max(n for _, n, _ in bars)
    for place, (_, n, _) in enumerate(bars):
        text = f"{n:,} ({share(n, total)})"
        axes.text(n + longest * 0.01, place, text, va="center", fontsize=8, color=_GREY)
    axes.set_xlim(0, longest * 1.2)
    _bars_only(axes)
