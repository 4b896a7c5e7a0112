"""Plots: which are drawn, that every glyph of them is there, and what they show."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tasks.evaluation.predictions import Prediction
from tasks.evaluation.reporting import plots as report_plots
from tasks.evaluation.reporting import report
from tasks.evaluation.reporting import text as report_text

VALIDATION = [{"step": s, "score": 0.5, "low": 0.4, "high": 0.6} for s in (100, 200)]


def rows(right: int, task: str, relation: str = "部件故障") -> list[Prediction]:
    """Twenty rows of one triple each; replies become longer, the last one is cut."""
    reference = f"电机_{relation}_异响"
    return [
        Prediction(
            id=f"{i:03d}",
            task=task,
            metric="triples",
            prompt="句",
            reference=reference,
            prediction=reference if i < right else "",
            tokens=i,
            finish_reason="length" if i == 19 else "stop",
        )
        for i in range(20)
    ]


def content(task: str = "三元组", relation: str = "部件故障", **chosen: Any) -> dict[str, Any]:
    return report.build(
        {"base": rows(5, task, relation), "tuned": rows(15, task, relation)},
        split="test",
        chosen={"step": 100, "why": "best", "by": f"{task}.f1", "validation": [], **chosen},
        resamples=100,
        permutations=100,
        seed=1,
        worst_rows=0,
    )


@pytest.fixture(autouse=True)
def missing_glyphs_fail() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


@pytest.fixture
def no_chinese_font(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report_plots, "_CHINESE_FONTS", ())


def test_every_plot_with_something_to_show_is_drawn(tmp_path: Path, no_chinese_font: None) -> None:
    drawn = report_plots.draw(content(validation=VALIDATION), tmp_path)
    assert drawn.files == ("tasks.png", "checkpoints.png", "breakdown.png", "lengths.png")
    assert all((tmp_path / name).read_bytes().startswith(b"\x89PNG") for name in drawn.files)
    assert drawn.names == {"task 1": "三元组", "value 1": "三元组.f1", "relation 1": "部件故障"}
    shown = report_text.markdown(content(), drawn)
    assert "| relation 1 | `部件故障` |" in shown


def test_a_plot_of_an_earlier_attempt_does_not_stay(tmp_path: Path) -> None:
    report_plots.draw(content(validation=VALIDATION), tmp_path)
    drawn = report_plots.draw(content(), tmp_path)
    assert "checkpoints.png" not in drawn.files
    assert {path.name for path in tmp_path.iterdir()} == set(drawn.files)


def test_names_that_fonts_have_are_drawn_as_they_are(tmp_path: Path) -> None:
    # a dollar sign begins a formula, and this one would be a broken one
    drawn = report_plots.draw(content(task="cost $x_{ in $", relation="part-of $\\frac$"), tmp_path)
    assert drawn.names == {}


def test_control_characters_are_no_names(tmp_path: Path) -> None:
    drawn = report_plots.draw(content(task="triples", relation="\x07"), tmp_path)
    assert drawn.names == {"relation 1": "\x07"}


@pytest.mark.parametrize(
    ("highest", "limit"), [(0, 0.1), (0.03, 0.1), (0.1, 0.1), (0.11, 0.2), (0.21, 0.5), (0.7, 1), (1.0 + 1e-12, 1)]
)
def test_axes_end_above_the_largest_interval(highest: float, limit: float) -> None:
    import matplotlib.figure

    interval = {"value": highest / 2, "low": 0, "high": highest}
    axes = matplotlib.figure.Figure().add_subplot()
    report_plots.scale(axes.set_xlim, [{"value": 0, "low": 0, "high": 0}, interval])
    assert axes.get_xlim() == pytest.approx((-0.02 * limit, 1.02 * limit))
    axes.set_ylim(0, 7)
    report_plots.scale(axes.set_ylim, [interval, {"value": 3, "low": 2, "high": 4}])  # a perplexity
    assert axes.get_ylim() == (0, 7)


def test_binned_means_follow_the_points() -> None:
    import numpy as np

    tokens, score = np.arange(60), (np.arange(60) >= 30).astype(float)
    lengths, means = report_plots._binned(tokens, score)
    assert means == [0, 0, 0, 1, 1, 1] and lengths == [4.5, 14.5, 24.5, 34.5, 44.5, 54.5][: len(lengths)]
    assert report_plots._binned(np.array([3, 3, 4]), np.array([0.0, 1.0, 1.0])) == ([3.0, 4.0], [0.5, 1.0])
