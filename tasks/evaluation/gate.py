"""Decides whether a tuned model goes on. An action: it looks at the present champion, so it is never reused.

The rule, in words that the reason repeats: a model is refused when it is worse beyond noise (the paired 95 % interval
of the difference lies below 0) than the champion, or than the untuned base where no champion can be compared; and
when it is below ``evaluation.gate.minimum_score``.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tasks.artifacts import EvalReport
from tasks.evaluation import comparison, predictions, scoring
from tasks.evaluation.comparison import Interval
from tasks.evaluation.config import GateConfig
from tasks.evaluation.predictions import Prediction


@dataclass(frozen=True)
class Decision:
    """The gate's outcome: a result, not an error.

    Attributes:
        compared_with: "champion", "base", or "nothing" where the gate is off.
        difference: tuned minus that one, with its paired interval; None where nothing was compared.
    """

    promoted: bool
    reason: str
    compared_with: str
    difference: Interval | None

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def decide(report: EvalReport, champion: Path | None, config: GateConfig) -> Decision:
    """Judge the model that ``report`` scored.

    Args:
        champion: folder of the present champion's evaluation (report.json, predictions/), or None without one.
    """
    if not config.enabled:
        return Decision(True, "the gate is off (evaluation.gate.enabled=false)", "nothing", None)
    score = report.tuned["value"]
    if config.minimum_score is not None and score < config.minimum_score:
        reason = f"score {score:.3f} is below evaluation.gate.minimum_score={config.minimum_score}"
        return Decision(False, reason, "nothing", None)
    against, note, difference = _compare(report, champion)
    promoted = comparison.verdict(difference) != "worse"
    other = "the champion" if against == "champion" else "the untuned base"
    found = comparison.conclusion(difference, rows=report.rows, this="the tuned model", other=other)
    rule = "not worse beyond noise" if promoted else "worse beyond noise"
    return Decision(promoted, f"{note}{rule}: {found}", against, difference)


def _compare(report: EvalReport, champion: Path | None) -> tuple[str, str, Interval]:
    """(compared with, a remark, the paired difference)."""
    base = "base", "", Interval(**report.difference)
    if champion is None:
        return base
    if not (champion / "report.json").is_file():
        return "base", "the champion's evaluation is gone, so the base is compared; ", base[2]
    tuned_rows, champion_rows = _tuned(report.path), _tuned(champion)
    if _keys(tuned_rows) != _keys(champion_rows):
        return "base", "the champion was scored on other rows, so the base is compared; ", base[2]
    intervals = _content(report.path)["intervals"]
    tuned, other = (
        scoring.sampled(rows, resamples=intervals["resamples"], seed=intervals["seed"])
        for rows in (tuned_rows, champion_rows)
    )
    return "champion", "", (tuned.headline - other.headline).interval()


def _content(evaluation: Path) -> dict[str, Any]:
    return dict(json.loads((evaluation / "report.json").read_text(encoding="utf-8")))


def _tuned(evaluation: Path) -> list[Prediction]:
    return predictions.read(evaluation / _content(evaluation)["files"]["tuned"])


def _keys(rows: list[Prediction]) -> set[tuple[str, ...]]:
    """What makes two rows the same question with the same answer key."""
    return {(r.id, r.task, r.metric, r.prompt, r.reference) for r in rows}
