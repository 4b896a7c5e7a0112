"""What an evaluation found: the numbers as JSON, and the sentences that they allow.

Owns the content of report.json; text.py writes it for people, rows.py reads the answers one by one,
cautions.py says what makes the numbers doubtful. ``systems`` are named base, tuned (the chosen checkpoint), and, where
the task has them, majority and copy; every value is on the scale 0-1 unless its metric says otherwise, and every
difference is tuned minus the other, paired over the rows.

A verdict (better, worse, not separable) comes from a paired permutation test whose p-value is adjusted by Holm's
method over its family: the headline against the other systems; the parts by entities; the tasks against one system.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

from tasks.evaluation import scoring, significance, simulation
from tasks.evaluation.metric import Options
from tasks.evaluation.predictions import Prediction
from tasks.evaluation.reporting import cautions
from tasks.evaluation.reporting import rows as report_rows
from tasks.evaluation.scoring import SystemScores
from tasks.evaluation.significance import PairedTest

Systems = Mapping[str, Sequence[Prediction]]

HEADLINE = "score"
_NAMES = {
    "base": "the untuned base",
    "majority": "the most frequent training reply",
    "copy": "the copied input",
}


@dataclass(frozen=True)
class Finding:
    """One test of the tuned model against another system, as one of several.

    Attributes:
        adjusted_p: the p-value after Holm's correction over the family.
        family: how many tests that is.
    """

    test: PairedTest
    adjusted_p: float
    level: float
    family: int

    @property
    def verdict(self) -> significance.Verdict:
        return self.test.verdict(self.level, self.adjusted_p)

    @property
    def detectable(self) -> float | None:
        return self.test.detectable_at(self.level, self.family)

    def to_json(self) -> dict[str, Any]:
        return {
            **self.test.difference.to_json(),
            "verdict": self.verdict,
            "p_value": self.test.p_value,
            "adjusted_p": self.adjusted_p,
            "family": self.family,
            "detectable": self.detectable,
        }

    def sentence(self, other: str) -> str:
        return significance.conclusion(
            self.test, "the tuned model", other, self.level, self.adjusted_p, family=self.family
        )

    def size(self) -> str:
        """How many groups were looked at, and what difference as many can show."""
        n = self.test.groups
        if self.detectable is not None:
            return f"n={n}: detectable about {self.detectable:.2g}"
        if self.family * self.test.least_p() >= self.level:
            return f"n={n}: {self.test.too_few} can show none"
        return f"n={n}"


Findings = Mapping[str, Finding]


def build(
    systems: Systems,
    *,
    split: str,
    chosen: Mapping[str, Any],
    resamples: int,
    permutations: int,
    seed: int,
    worst_rows: int,
    level: float = significance.LEVEL,
    options: Options = scoring.DEFAULT,
    worker_facts: Mapping[str, Mapping[str, Any]] = {},
) -> dict[str, Any]:
    """The content of report.json.

    Args:
        systems: the predictions of base and tuned, and of majority and copy where there are such, over the same rows.
        split: name of the rows' split.
        chosen: {"step", "why", "by": the value that chose, "validation": [{"step", "score", "low", "high"}]}.
        level: two-sided, at which an adjusted p-value counts.
        worker_facts: of base and tuned, what the worker noted beside the replies ("same_as_base").
    """
    scored = _scored(systems, resamples=resamples, seed=seed, options=options)
    parts = _parts(scored, resamples=resamples, seed=seed)
    tests = _tests(scored, parts, partial(significance.paired_test, permutations=permutations, seed=seed), level)
    report: dict[str, Any] = {
        "schema": 2,
        "headline": HEADLINE,
        "scale": "0-1",
        "split": split,
        "rows": scored["tuned"].rows,
        "groups": tests.headline["base"].test.groups,
        "chosen": dict(chosen),
        "options": asdict(options),
        "intervals": _intervals(tests.headline["base"].test, resamples, seed),
        "tests": {
            "kind": "paired permutation test",
            "permutations": permutations,
            "seed": seed,
            "level": level,
            "correction": "Holm",
        },
        **_values(scored, parts, tests),
        **_answers(systems, scored, worst_rows, seed),
    }
    return {
        **report,
        "conclusions": list(_conclusions(tests)),
        "warnings": list(cautions.find(report, systems["tuned"], worker_facts.get("tuned", {}))),
    }


def _scored(systems: Systems, *, resamples: int, seed: int, options: Options) -> dict[str, SystemScores]:
    """Every system sampled, their statistics under common columns, so that no test scores text again."""
    every = [scoring.sampled(p, resamples=resamples, seed=seed, options=options) for p in systems.values()]
    return dict(zip(systems, significance.align(every, list(every[0].tasks)), strict=True))


@dataclass(frozen=True)
class _Tests:
    """The families of tests.

    Attributes:
        headline: by the other system.
        entities: by part, against the base.
        tasks: by the other system, a family for each, by task.
    """

    headline: Findings
    entities: Findings
    tasks: Mapping[str, Findings]


def _tests(
    scored: Mapping[str, SystemScores],
    parts: Mapping[str, Mapping[str, SystemScores]],
    paired: Callable[..., PairedTest],
    level: float,
) -> _Tests:
    tuned, others = scored["tuned"], {name: scored[name] for name in _NAMES if name in scored}
    by_task = {
        name: _family({task: paired(tuned, other, task=task) for task in tuned.tasks}, level)
        for name, other in others.items()
    }
    return _Tests(
        headline=_family({name: paired(tuned, other) for name, other in others.items()}, level),
        entities=_family({name: paired(part["tuned"], part["base"]) for name, part in parts.items()}, level),
        tasks=by_task,
    )


def _family(tests: Mapping[str, PairedTest], level: float) -> dict[str, Finding]:
    adjusted = significance.holm([test.p_value for test in tests.values()])
    return {name: Finding(test, p, level, len(tests)) for (name, test), p in zip(tests.items(), adjusted, strict=True)}


def _intervals(test: PairedTest, resamples: int, seed: int) -> dict[str, Any]:
    return {
        "confidence": 0.95,
        "kind": f"BCa bootstrap of {'rows' if test.groups == test.rows else 'documents'}",
        "resamples": resamples,
        "seed": seed,
        "simulated": simulation.sentence(),
    }


def _values(
    scored: Mapping[str, SystemScores], parts: Mapping[str, Mapping[str, SystemScores]], tests: _Tests
) -> dict[str, Any]:
    """The score, by system, by task and by the rows' entities."""
    return {
        "score": {name: system.headline.interval().to_json() for name, system in scored.items()},
        "differences": {name: finding.to_json() for name, finding in tests.headline.items()},
        "tasks": {
            task: _task(task, scored, {name: findings[task] for name, findings in tests.tasks.items()})
            for task in scored["tuned"].tasks
        },
        "entities": {name: _entities(part, tests.entities[name]) for name, part in parts.items()},
    }


def _answers(systems: Systems, scored: Mapping[str, SystemScores], worst_rows: int, seed: int) -> dict[str, Any]:
    """What is told of single answers."""
    return {
        "generation": {name: report_rows.generation(systems[name]) for name in ("base", "tuned")},
        "same_as_base": report_rows.same_share(systems["base"], systems["tuned"]),
        "lengths": report_rows.lengths(scored["tuned"], seed),
        "worst": report_rows.worst(scored["base"], scored["tuned"], worst_rows),
    }


def _task(task: str, scored: Mapping[str, SystemScores], findings: Findings) -> dict[str, Any]:
    tuned, base = scored["tuned"], scored["base"]
    scores = tuned.tasks[task].scores
    shared = [value for value in tuned.samples[task] if value in base.samples[task]]
    moved = {value: tuned.samples[task][value] - base.samples[task][value] for value in shared}
    return {
        "metric": tuned.tasks[task].metric,
        "primary": scores.primary,
        "percent": list(scores.percent),
        "rows": len(tuned.tasks[task].predictions),
        "groups": findings["base"].test.groups,
        "values": {
            name: {value: s.interval().to_json() for value, s in system.samples[task].items()}
            for name, system in scored.items()
        },
        "value_differences": {value: sampled.interval().to_json() for value, sampled in moved.items()},
        "differences": {name: finding.to_json() for name, finding in findings.items()},
        "facts": {name: dict(scored[name].tasks[task].scores.facts) for name in ("base", "tuned")},
    }


def _parts(scored: Mapping[str, SystemScores], *, resamples: int, seed: int) -> dict[str, dict[str, SystemScores]]:
    """Base and tuned on rows whose entities do and do not occur in training, where the data set says so."""
    result: dict[str, dict[str, SystemScores]] = {}
    for name, flag in (("unseen", True), ("seen", False)):

        def keep(row: Prediction, flag: bool = flag) -> bool:
            return row.fields.get("unseen_entities") is flag

        part = {s: scoring.part(scored[s], keep, resamples=resamples, seed=seed) for s in ("base", "tuned")}
        kept = {system: scores for system, scores in part.items() if scores is not None}
        if kept:
            result[name] = kept
    return result


def _entities(part: Mapping[str, SystemScores], finding: Finding) -> dict[str, Any]:
    return {
        "rows": part["tuned"].rows,
        "tasks": list(part["tuned"].tasks),
        "score": {system: scores.headline.interval().to_json() for system, scores in part.items()},
        "difference": finding.to_json(),
    }


def _conclusions(tests: _Tests) -> Iterable[str]:
    """What may be said, in sentences; no sentence names a winner that its test did not find."""
    for name, finding in tests.headline.items():
        line = finding.sentence(_NAMES[name])
        yield line.replace("the", "The", 1) if line.startswith("the ") else line
    for name, finding in tests.entities.items():
        yield f"On rows whose entities are {name} in training: {finding.sentence(_NAMES['base'])}"
    tasks = tests.tasks["base"]
    if len(tasks) > 1:
        yield f"By task against the base (p adjusted over {len(tasks)} tasks): {_by_verdict(tasks)}."


def _by_verdict(tasks: Findings) -> str:
    verdicts: dict[str, list[str]] = {}
    for task, finding in tasks.items():
        missed = f" ({finding.size()})" if finding.verdict == "not separable" else ""
        verdicts.setdefault(finding.verdict, []).append(task + missed)
    return "; ".join(f"{word}: {', '.join(names)}" for word, names in sorted(verdicts.items()))
