"""What an evaluation found: the numbers as JSON. report_text.py writes them for people.

Owns report.json. ``systems`` are named base, tuned (the chosen checkpoint), majority and copy; every value is on the
scale 0-1 unless its metric says otherwise, and every difference is tuned minus the other, paired over the rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tasks.evaluation import comparison, scoring
from tasks.evaluation.comparison import Sampled
from tasks.evaluation.predictions import Prediction
from tasks.evaluation.scoring import SystemScores

Systems = Mapping[str, Sequence[Prediction]]

HEADLINE = "score"
_FEW_ROWS = 30
_OTHERS = ("base", "majority", "copy")


def build(
    systems: Systems, *, split: str, chosen: Mapping[str, Any], resamples: int, seed: int, worst_rows: int
) -> dict[str, Any]:
    """The content of report.json.

    Args:
        systems: the predictions of base, tuned, majority and copy over the same rows.
        split: name of the rows' split.
        chosen: {"step", "why", "validation": [{"step", "score"}]}.
    """
    scored = {name: scoring.sampled(p, resamples=resamples, seed=seed) for name, p in systems.items()}
    tuned = scored["tuned"]
    differences = {name: _difference(tuned.headline, scored[name].headline) for name in _OTHERS}
    report: dict[str, Any] = {
        "schema": 1,
        "headline": HEADLINE,
        "scale": "0-1",
        "split": split,
        "rows": tuned.rows,
        "chosen": dict(chosen),
        "intervals": {"confidence": 0.95, "kind": "BCa bootstrap of rows", "resamples": resamples, "seed": seed},
        "score": {name: s.headline.interval().to_json() for name, s in scored.items()},
        "differences": differences,
        "tasks": {task: _task(task, scored) for task in tuned.tasks},
        "entities": _by_entities(scored, resamples=resamples, seed=seed),
        "generation": {name: _generation(systems[name]) for name in ("base", "tuned")},
        "same_as_base": _same_share(systems),
        "worst": _worst(scored, worst_rows),
    }
    return {**report, "conclusions": _conclusions(report, scored), "warnings": _warnings(report)}


def _difference(this: Sampled, other: Sampled) -> dict[str, Any]:
    interval = (this - other).interval()
    return {**interval.to_json(), "verdict": comparison.verdict(interval)}


def _task(task: str, scored: Mapping[str, SystemScores]) -> dict[str, Any]:
    tuned = scored["tuned"].tasks[task]
    return {
        "metric": tuned.metric,
        "primary": tuned.scores.primary,
        "percent": list(tuned.scores.percent),
        "rows": len(tuned.predictions),
        "values": {
            name: {value: s.interval().to_json() for value, s in system.samples[task].items()}
            for name, system in scored.items()
        },
        "differences": {
            name: _difference(scored["tuned"].primary(task), scored[name].primary(task)) for name in _OTHERS
        },
        "facts": {name: dict(scored[name].tasks[task].scores.facts) for name in ("base", "tuned")},
    }


def _by_entities(scored: Mapping[str, SystemScores], *, resamples: int, seed: int) -> dict[str, Any]:
    """Base and tuned on rows whose entities do and do not occur in training, where the data set says so."""
    result: dict[str, Any] = {}
    for name, flag in (("unseen", True), ("seen", False)):

        def keep(row: Prediction, flag: bool = flag) -> bool:
            return row.fields.get("unseen_entities") is flag

        base, tuned = (scoring.part(scored[s], keep, resamples=resamples, seed=seed) for s in ("base", "tuned"))
        if base and tuned:
            result[name] = {
                "rows": tuned.rows,
                "tasks": list(tuned.tasks),
                "score": {"base": base.headline.interval().to_json(), "tuned": tuned.headline.interval().to_json()},
                "difference": _difference(tuned.headline, base.headline),
            }
    return result


def _generation(predictions: Sequence[Prediction]) -> dict[str, float]:
    rows, seconds = len(predictions), sum(p.seconds for p in predictions)
    tokens = sum(p.tokens for p in predictions)
    return {
        "stopped": sum(p.finish_reason == "stop" for p in predictions) / rows,
        "empty": sum(not p.prediction.strip() for p in predictions) / rows,
        "prompts_cut": sum(p.prompt_cut for p in predictions) / rows,
        "tokens": tokens,
        "seconds": round(seconds, 3),
        "tokens_per_second": round(tokens / seconds, 1) if seconds else 0.0,
    }


def _same_share(systems: Systems) -> float:
    base = {(p.task, p.id): p.prediction for p in systems["base"]}
    same = [base[p.task, p.id] == p.prediction for p in systems["tuned"]]
    return sum(same) / len(same)


def _worst(scored: Mapping[str, SystemScores], count: int) -> list[dict[str, Any]]:
    """The tuned model's lowest rows; among equals the tasks take turns, so that one task does not fill the list."""
    ranked = []
    for name, task in scored["tuned"].tasks.items():
        before = scored["base"].tasks[name]
        rows = zip(task.scores.rows, before.scores.rows, task.predictions, before.predictions, strict=True)
        ordered = sorted(rows, key=lambda row: (row[0], row[0] - row[1], row[2].id))
        ranked += [(float(row[0]), turn, name, row) for turn, row in enumerate(ordered)]
    ranked.sort(key=lambda entry: entry[:3])
    return [
        {
            "id": tuned.id,
            "task": name,
            "score": after,
            "base_score": float(before),
            "prompt": tuned.prompt,
            "reference": tuned.reference,
            "prediction": tuned.prediction,
            "base_prediction": base.prediction,
            "finish_reason": tuned.finish_reason,
        }
        for after, _, name, (_, before, tuned, base) in ranked[:count]
    ]


_NAMES = {
    "base": "the untuned base",
    "majority": "the most frequent training reply",
    "copy": "the copied input",
}


def _conclusions(report: Mapping[str, Any], scored: Mapping[str, SystemScores]) -> list[str]:
    """What may be said, in sentences; no sentence claims what its interval does not show."""
    tuned, rows = scored["tuned"], report["rows"]
    lines = []
    for name in _OTHERS:
        difference = (tuned.headline - scored[name].headline).interval()
        line = comparison.conclusion(difference, rows=rows, this="the tuned model", other=_NAMES[name])
        lines.append(line.replace("the", "The", 1) if line.startswith("the ") else line)
    for name, part in report["entities"].items():
        interval = comparison.Interval(*(part["difference"][key] for key in ("value", "low", "high")))
        line = comparison.conclusion(interval, rows=part["rows"], this="the tuned model", other=_NAMES["base"])
        lines.append(f"On rows whose entities are {name} in training: {line}")
    if len(report["tasks"]) > 1:
        verdicts: dict[str, list[str]] = {}
        for task, facts in report["tasks"].items():
            verdicts.setdefault(facts["differences"]["base"]["verdict"], []).append(task)
        parts = "; ".join(f"{word}: {', '.join(tasks)}" for word, tasks in sorted(verdicts.items()))
        lines.append(f"By task against the base (each on its own, not corrected for looking at several): {parts}.")
    return lines


def _warnings(report: Mapping[str, Any]) -> list[str]:
    tuned, warnings = report["generation"]["tuned"], []
    if report["same_as_base"] == 1:
        warnings.append("Every reply is the untuned base's: the training changed nothing, or was not loaded.")
    if tuned["empty"] > 0.1:
        warnings.append(f"{tuned['empty']:.0%} of the tuned model's replies are empty.")
    if tuned["stopped"] < 0.9:
        warnings.append(
            f"{1 - tuned['stopped']:.0%} of the tuned model's replies were cut at evaluation.max_new_tokens: "
            "it does not stop by itself, or the limit is too low."
        )
    if tuned["prompts_cut"] > 0:
        warnings.append(f"{tuned['prompts_cut']:.0%} of the prompts were cut at tokenization.max_prompt_tokens.")
    few = [f"{task} ({facts['rows']})" for task, facts in report["tasks"].items() if facts["rows"] < _FEW_ROWS]
    if few:
        warnings.append(f"Under {_FEW_ROWS} rows, where a bootstrap interval is too narrow: {', '.join(few)}.")
    if report["split"] != "test":
        warnings.append(f"The data set has no test rows: these are the {report['split']} rows.")
    return warnings
