"""Several fine-tuning methods on the same data: the numbers of their comparison, as JSON.

Owns comparison.json. A method's score is the mean over its training seeds; the untuned base is one of the systems.
Every pair of systems is tested on the same rows, and the p-values are adjusted together (Holm).
method_conclusions.py says what the numbers allow to say, method_comparison_text.py writes them for people.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tasks.artifacts import Checkpoints, EvalReport
from tasks.evaluation import scoring, significance
from tasks.evaluation.files import replies
from tasks.evaluation.metric import Options
from tasks.evaluation.predictions import Prediction
from tasks.evaluation.reporting import method_conclusions
from tasks.evaluation.scoring import SeedScores, SystemScores

BASE = method_conclusions.BASE


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

    def replies(self, system: str) -> list[Prediction]:
        """The test replies of "tuned" or "base", read as the run's own report read them."""
        return replies.read(self.report.path / self.content["files"][system])


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
    systems = _scored(untuned, by_method, resamples=resamples, seed=seed, options=options)
    means = {name: scoring.mean_over_seeds(every) for name, every in systems.items()}
    best_first = sorted(systems, key=lambda name: -means[name].headline.value)
    pairs = _pairs({name: systems[name] for name in best_first}, permutations=permutations, seed=seed, level=level)
    costs = {BASE: _base_costs(untuned), **{name: _costs(group) for name, group in by_method.items()}}
    content: dict[str, Any] = {
        "schema": 1,
        "rows": systems[BASE][0].rows,
        "split": untuned.content["split"],
        "tasks": dict(_tasks(systems[BASE][0])),
        "intervals": {"confidence": 0.95, "kind": "BCa bootstrap", "resamples": resamples, "seed": seed},
        "tests": {"kind": "paired permutation, Holm-adjusted", "permutations": permutations, "level": level},
        "systems": {name: {**_scores(means[name]), **costs[name]} for name in systems},
        "pairs": pairs,
        "failed": dict(failed),
    }
    return {
        **content,
        "conclusions": list(method_conclusions.conclusions(content)),
        "cautions": list(method_conclusions.cautions(content)),
    }


def _scored(
    untuned: Run, by_method: Mapping[str, Sequence[Run]], *, resamples: int, seed: int, options: Options
) -> dict[str, list[SystemScores]]:
    """The base, and every method's seeds; their statistics under common columns, so that no test scores text again."""
    answers = {BASE: [untuned.replies("base")], **{m: [r.replies("tuned") for r in rs] for m, rs in by_method.items()}}
    every = [
        scoring.sampled(rows, resamples=resamples, seed=seed, options=options)
        for seeds in answers.values()
        for rows in seeds
    ]
    aligned = iter(significance.align(every, sorted({task for system in every for task in system.tasks})))
    return {name: list(itertools.islice(aligned, len(seeds))) for name, seeds in answers.items()}


def _tasks(base: SystemScores) -> Iterator[tuple[str, dict[str, Any]]]:
    for name, task in base.tasks.items():
        yield (
            name,
            {
                "metric": task.metric,
                "primary": task.scores.primary,
                "percent": list(task.scores.percent),
                "rows": len(task.predictions),
                "groups": len(set(task.groups.tolist())),
            },
        )


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
        "training_seconds": _mean_known([c.train_seconds for c in made]),
        "inference_memory_bytes": _memory([run.content["worker"]["tuned"] for run in runs]),
        "test_seconds": _mean_known([run.content["generation"]["tuned"].get("seconds") for run in runs]),
    }


def _base_costs(run: Run) -> dict[str, Any]:
    return {
        "training_seeds": [],
        "learning_rate": None,
        "quantization": run.quantization,
        "chosen_steps": [],
        "trainable": 0,
        "total": run.content.get("base_parameters"),
        "training_memory_bytes": None,
        "training_seconds": None,
        "inference_memory_bytes": _memory([run.content["worker"]["base"]]),
        "test_seconds": run.content["generation"]["base"].get("seconds"),
    }


def _mean_known(values: Sequence[float | None]) -> float | None:
    """None where nothing was timed: rows of which only the likelihood is asked are not replied to."""
    known = [value for value in values if value is not None]
    return round(sum(known) / len(known), 3) if known else None


def _memory(facts: Sequence[Mapping[str, Any]]) -> int | None:
    known = [int(f["peak_memory_bytes"]) for f in facts if f.get("peak_memory_bytes")]
    return max(known) if known else None


def _pairs(
    systems: Mapping[str, Sequence[SystemScores]], *, permutations: int, seed: int, level: float
) -> list[dict[str, Any]]:
    """Every pair of systems, which come best first, tested; p-values adjusted over all pairs."""
    # the base is a given system: no other training seed would have made another one
    sides = {name: seeds[0] if name == BASE else seeds for name, seeds in systems.items()}
    names = list(itertools.combinations(sides, 2))
    tests = [significance.paired_test(sides[a], sides[b], permutations=permutations, seed=seed) for a, b in names]
    adjusted = significance.holm([test.p_value for test in tests])
    return [
        {
            "a": a,
            "b": b,
            **test.to_json(),
            "detectable": test.detectable_at(level, len(tests)),
            "adjusted_p": p,
            "verdict": test.verdict(level, p),
            "about_methods": test.verdict(level, p) != "not separable" and test.about_methods(level, len(tests)),
            "sentence": significance.conclusion(test, _name(a), _name(b), level, p, len(tests)),
        }
        for (a, b), test, p in zip(names, tests, adjusted, strict=True)
    ]


def _name(system: str) -> str:
    return "the untuned base" if system == BASE else system
