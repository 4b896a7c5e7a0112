"""Several fine-tuning methods on the same data: the numbers of their comparison, as JSON.

Owns comparison.json. A method's score is the mean over its training seeds; the untuned base is one of the systems.
Every pair of systems is tested on the same rows, the p-values are adjusted together (Holm), and a winner is named only
where the test and the seeds allow it. method_comparison_text.py writes the numbers for people.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tasks.artifacts import Checkpoints, EvalReport
from tasks.evaluation import predictions, scoring, significance
from tasks.evaluation.metric import Options
from tasks.evaluation.scoring import SeedScores, SystemScores

BASE = "base"


@dataclass(frozen=True)
class Run:
    """One method with one training seed, trained and evaluated."""

    method: str
    seed: int
    learning_rate: float
    quantization: str
    checkpoints: Checkpoints
    report: EvalReport

    @property
    def content(self) -> dict[str, Any]:
        return dict(json.loads((self.report.path / "report.json").read_text(encoding="utf-8")))

    def replies(self, system: str) -> list[predictions.Prediction]:
        """The test replies of "tuned" or "base"."""
        return predictions.read(self.report.path / self.content["files"][system])


def build(
    runs: Sequence[Run],
    failed: Mapping[str, str],
    *,
    resamples: int,
    permutations: int,
    seed: int,
    level: float,
    options: Options,
) -> dict[str, Any]:
    """The content of comparison.json.

    Args:
        runs: at least one; of each method all seeds that succeeded.
        failed: "method, seed n" -> why there is no run of it.
        level: two-sided, of the adjusted p-values.

    Raises:
        DataError: the runs were not scored on the same rows.
    """
    by_method = {name: list(group) for name, group in itertools.groupby(runs, key=lambda run: run.method)}
    untuned = next((run for run in runs if run.quantization == "none"), runs[0])
    systems: dict[str, list[SystemScores]] = {
        name: [scoring.sampled(replies, resamples=resamples, seed=seed, options=options) for replies in sides]
        for name, sides in {
            BASE: [untuned.replies("base")],
            **{name: [run.replies("tuned") for run in group] for name, group in by_method.items()},
        }.items()
    }
    means = {name: scoring.mean_over_seeds(every) for name, every in systems.items()}
    base = systems[BASE][0]
    best_first = sorted(systems, key=lambda name: -means[name].headline.value)
    pairs = _pairs({name: systems[name] for name in best_first}, permutations=permutations, seed=seed, level=level)
    return {
        "schema": 1,
        "rows": base.rows,
        "split": untuned.content["split"],
        "tasks": {
            name: {"metric": task.metric, "primary": task.scores.primary, "percent": list(task.scores.percent)}
            for name, task in base.tasks.items()
        },
        "intervals": {"confidence": 0.95, "kind": "BCa bootstrap", "resamples": resamples, "seed": seed},
        "tests": {"kind": "paired permutation, Holm-adjusted", "permutations": permutations, "level": level},
        "systems": {
            BASE: {**_scores(means[BASE]), **_base_costs(untuned)},
            **{name: {**_scores(means[name]), **_costs(group)} for name, group in by_method.items()},
        },
        "pairs": pairs,
        "failed": dict(failed),
        "conclusions": _conclusions(pairs, systems, failed),
    }


def _scores(mean: SeedScores) -> dict[str, Any]:
    return {
        "score": mean.headline.interval().to_json(),
        "seeds": mean.spread().to_json(),
        "values": {
            task: {name: sampled.interval().to_json() for name, sampled in values.items()}
            for task, values in mean.samples.items()
        },
    }


def _costs(runs: Sequence[Run]) -> dict[str, Any]:
    """What a method took: parameters, and means over its seeds of memory and time."""
    made = [run.checkpoints for run in runs]
    return {
        "training_seeds": [run.seed for run in runs],
        "learning_rate": runs[0].learning_rate,
        "quantization": runs[0].quantization,
        "chosen_steps": [run.report.chosen_step for run in runs],
        "trainable": made[0].trainable,
        "total": made[0].total,
        "training_memory_bytes": max(c.peak_memory_bytes for c in made),
        "training_seconds": _mean([c.train_seconds for c in made]),
        "inference_memory_bytes": _memory([run.content["worker"]["tuned"] for run in runs]),
        "test_seconds": _mean([run.content["generation"]["tuned"]["seconds"] for run in runs]),
    }


def _base_costs(run: Run) -> dict[str, Any]:
    return {
        "training_seeds": [],
        "learning_rate": None,
        "quantization": run.quantization,
        "chosen_steps": [],
        "trainable": 0,
        "total": run.content["worker"]["base"].get("parameters"),
        "training_memory_bytes": None,
        "training_seconds": None,
        "inference_memory_bytes": _memory([run.content["worker"]["base"]]),
        "test_seconds": run.content["generation"]["base"]["seconds"],
    }


def _mean(values: Sequence[float]) -> float:
    return round(sum(values) / len(values), 3)


def _memory(facts: Sequence[Mapping[str, Any]]) -> int | None:
    known = [int(f["peak_memory_bytes"]) for f in facts if f.get("peak_memory_bytes")]
    return max(known) if known else None


def _pairs(
    systems: Mapping[str, Sequence[SystemScores]], *, permutations: int, seed: int, level: float
) -> list[dict[str, Any]]:
    """Every pair of systems, which come best first, tested; p-values adjusted over all pairs."""
    tests = []
    for a, b in itertools.combinations(systems, 2):
        tests.append((a, b, significance.paired_test(systems[a], systems[b], permutations=permutations, seed=seed)))
    adjusted = significance.holm([test.p_value for _, _, test in tests])
    return [
        {
            "a": a,
            "b": b,
            **test.to_json(),
            "adjusted_p": p,
            "verdict": test.verdict(level, p),
            "sentence": significance.conclusion(test, _name(a), _name(b), level, p),
        }
        for (a, b, test), p in zip(tests, adjusted, strict=True)
    ]


def _name(system: str) -> str:
    return "the untuned base" if system == BASE else system


def _conclusions(
    pairs: Sequence[Mapping[str, Any]], systems: Mapping[str, Sequence[SystemScores]], failed: Mapping[str, str]
) -> list[str]:
    """The winner where there is one, what beats the base, and what the comparison cannot tell."""
    beats = {(p["a"], p["b"]) for p in pairs if p["verdict"] == "better"}
    methods = [name for name in systems if name != BASE]
    winners = [name for name in methods if all((name, other) in beats for other in systems if other != name)]
    above = [name for name in methods if (name, BASE) in beats]
    lines = [f"Better than the untuned base: {', '.join(above)}." if above else "No method beats the untuned base."]
    if winners and len(methods) > 1:
        lines.append(f"{winners[0]} is better than every other method and the untuned base.")
    elif len(methods) > 1:
        apart = [f"{a} over {b}" for a, b in sorted(beats) if BASE not in (a, b)]
        lines.append(f"No single winner; separated pairs of methods: {', '.join(apart) or 'none'}.")
    seeds = {name: len(systems[name]) for name in methods}
    if min(seeds.values()) < 2:
        lone = ", ".join(name for name, count in seeds.items() if count < 2)
        lines.append(f"One training seed of {lone}: another seed may rank otherwise; this compares trained models.")
    lines.append("It holds for this data, base model and settings; no method's learning rate or size was searched.")
    lines += [f"Not compared: {what}: {why}" for what, why in failed.items()]
    return lines
