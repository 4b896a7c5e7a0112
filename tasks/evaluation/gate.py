"""Decides whether a tuned model goes on. An action: it looks at the present champion, so it is never reused.

The rule, in words that the reason repeats: a model is refused when it is below one of ``evaluation.gate.floors``, and
when it is worse beyond noise than the champion, or than the untuned base where no champion can be compared. Worse
beyond noise means that the one-sided p-value of the paired permutation test is below ``evaluation.gate.level``: so
often, at most, is a model refused that is as good as the champion. With too few rows no p-value is so small; then the
model passes, and the reason says that the gate could not have refused it.

A floor for a value that the report does not hold refuses the model too and says which values it holds: the gate comes
after hours of training, where a misspelt name is no reason to crash, and none to let a model pass unchecked.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from tasks import plugins
from tasks.artifacts import EvalReport
from tasks.evaluation import scoring, significance
from tasks.evaluation.comparison import Interval
from tasks.evaluation.config import GateConfig
from tasks.evaluation.files import replies
from tasks.evaluation.metric import Options
from tasks.evaluation.predictions import Prediction
from tasks.evaluation.significance import PairedTest


@dataclass(frozen=True)
class Decision:
    """The gate's outcome: a result, not an error.

    Attributes:
        compared_with: "champion", "base", or "nothing" where the gate is off or a floor was missed.
        difference: tuned minus that one, with its paired interval; None where nothing was compared.
        p_value: one-sided, of being worse; None where nothing was compared.
        level: below which p_value refuses.
    """

    promoted: bool
    reason: str
    compared_with: str
    difference: Interval | None
    p_value: float | None = None
    level: float | None = None

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def decide(report: EvalReport, champion: Path | None, config: GateConfig) -> Decision:
    """Judge the model that ``report`` scored.

    Args:
        champion: folder of the present champion's evaluation (report.json, predictions/), or None without one.
    """
    if not config.enabled:
        return Decision(True, "the gate is off (evaluation.gate.enabled=false)", "nothing", None)
    content = _content(report.path)
    missed = _missed_floors(content, config.floors)
    if missed:
        return Decision(False, "; ".join(missed), "nothing", None)
    against, note, rows = _opponent(report.path, champion)
    test = _test(content, _read(report.path, "tuned"), rows, config)
    promoted = not test.p_worse < config.level
    other = "the champion" if against == "champion" else "the untuned base"
    reason = note + (_passed(test, other, config.level) if promoted else _refused(test, other, config.level))
    return Decision(promoted, reason, against, test.difference, test.p_worse, config.level)


def _passed(test: PairedTest, other: str, level: float) -> str:
    found = significance.conclusion(test, "the tuned model", other)
    least = test.least_p(sides=1)
    if least < level:
        return f"not worse beyond noise: {found}"
    return (
        f"the gate could refuse no model: the least one-sided p of {test.too_few}, {least:.2g}, is not below "
        f"evaluation.gate.level={level:g}; {found}"
    )


def _refused(test: PairedTest, other: str, level: float) -> str:
    d = test.difference
    return (
        f"worse beyond noise: the tuned model is worse than {other}: {d.value:+.3f} [{d.low:+.3f}, {d.high:+.3f}], "
        f"one-sided {significance.shown_p(test.p_worse)}, below evaluation.gate.level={level:g}, {test.size}"
    )


def _missed_floors(content: Mapping[str, Any], floors: Mapping[str, float]) -> list[str]:
    """A sentence for every floor that the tuned model is below, or that names no value of the report."""
    known = {"score": float(content["score"]["tuned"]["value"])}
    for task, facts in content["tasks"].items():
        known |= {f"{task}.{name}": value["value"] for name, value in facts["values"]["tuned"].items()}
    missed = []
    for name, floor in floors.items():
        key = f"evaluation.gate.floors.{name}={floor:g}"
        if name not in known:
            missed.append(f"{key} names no value of the report; {plugins.nearest(name, list(known))}")
        elif not known[name] >= floor:
            missed.append(f"{name} {known[name]:.3f} is below {key}")
    return missed


def _opponent(evaluation: Path, champion: Path | None) -> tuple[str, str, list[Prediction]]:
    """(what is compared with, a remark, its predictions)."""
    if champion is None:
        return "base", "", _read(evaluation, "base")
    if not (champion / "report.json").is_file():
        return "base", "the champion's evaluation is gone, so the base is compared; ", _read(evaluation, "base")
    asked = {_question(row): row for row in _read(evaluation, "tuned")}
    answered = {_question(row): row for row in _read(champion, "tuned")}
    if asked.keys() != answered.keys():
        return "base", "the champion was scored on other rows, so the base is compared; ", _read(evaluation, "base")
    # how a row is scored and resampled is the present data set's to say; the champion's may be an older version's
    rows = [
        replace(row, metric=asked[q].metric, group=asked[q].group, fields=asked[q].fields)
        for q, row in answered.items()
    ]
    return "champion", "", rows


def _test(
    content: Mapping[str, Any], tuned: list[Prediction], other: list[Prediction], config: GateConfig
) -> PairedTest:
    resamples, seed, options = content["intervals"]["resamples"], content["intervals"]["seed"], content["options"]
    a, b = (
        scoring.sampled(rows, resamples=resamples, seed=seed, options=Options(**options)) for rows in (tuned, other)
    )
    return significance.paired_test(a, b, permutations=config.permutations, seed=seed)


def _content(evaluation: Path) -> dict[str, Any]:
    return dict(json.loads((evaluation / "report.json").read_text(encoding="utf-8")))


def _read(evaluation: Path, system: str) -> list[Prediction]:
    return replies.read(evaluation / _content(evaluation)["files"][system])


def _question(row: Prediction) -> tuple[str, ...]:
    """What makes two rows the same question with the same answer key."""
    return row.id, row.task, row.prompt, row.reference
