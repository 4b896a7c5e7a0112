"""Scores a system's predictions: one table of rows per task, each by its own metric.

A row names its metric; a task whose rows name several is as many tables. Rows are put in the order of their ids,
so that two systems' tables over the same rows pair up position by position.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

import numpy as np

from tasks import plugins
from tasks.evaluation import comparison
from tasks.evaluation.comparison import Sampled
from tasks.evaluation.metric import RowScores
from tasks.evaluation.predictions import Prediction

METRICS = "tasks.evaluation.metrics"


@dataclass(frozen=True)
class TaskScores:
    """One task of one system: the predictions in the order of their ids, and their scores."""

    metric: str
    predictions: list[Prediction]
    scores: RowScores

    @property
    def primary(self) -> float:
        return self.scores.point()[self.scores.primary]


def score(predictions: Iterable[Prediction]) -> dict[str, TaskScores]:
    """Score every task, tasks sorted by name.

    Raises:
        ConfigError: a row names a metric that does not exist.
    """
    tables: dict[tuple[str, str], list[Prediction]] = defaultdict(list)
    for prediction in predictions:
        tables[prediction.task, prediction.metric].append(prediction)
    tasks = [task for task, _ in tables]
    result: dict[str, TaskScores] = {}
    for (task, metric), rows in sorted(tables.items()):
        name = task if tasks.count(task) == 1 else f"{task}/{metric}"
        rows.sort(key=lambda r: r.id)
        module = plugins.load(METRICS, metric, key="metric")
        scorer: Callable[[list[Prediction]], RowScores] = module.score
        result[name] = TaskScores(metric, rows, scorer(rows))
    return result


@dataclass(frozen=True)
class SystemScores:
    """One system over all tasks, with the resampled values behind its intervals.

    Attributes:
        tasks: the scored tasks.
        samples: per task, every value of its metric.
        headline: the unweighted mean of the tasks' primary values, 0-1.
    """

    tasks: dict[str, TaskScores]
    samples: dict[str, dict[str, Sampled]]
    headline: Sampled

    def primary(self, task: str) -> Sampled:
        return self.samples[task][self.tasks[task].scores.primary]

    @property
    def rows(self) -> int:
        return sum(len(t.predictions) for t in self.tasks.values())


def sampled(predictions: Iterable[Prediction], *, resamples: int, seed: int) -> SystemScores:
    """Score and resample a system. Systems over the same rows, with the same seed, pair up (see comparison)."""
    return _sampled(score(predictions), resamples=resamples, seed=seed)


def part(system: SystemScores, keep: Callable[[Prediction], bool], *, resamples: int, seed: int) -> SystemScores | None:
    """The system on some of its rows, resampled anew; None where no row is kept. No text is scored again."""
    tasks: dict[str, TaskScores] = {}
    for name, task in system.tasks.items():
        kept = np.array([keep(p) for p in task.predictions])
        if kept.any():
            scores = replace(task.scores, statistics=task.scores.statistics[kept], rows=task.scores.rows[kept])
            tasks[name] = TaskScores(task.metric, [p for p, k in zip(task.predictions, kept, strict=True) if k], scores)
    return _sampled(tasks, resamples=resamples, seed=seed) if tasks else None


def _sampled(tasks: dict[str, TaskScores], *, resamples: int, seed: int) -> SystemScores:
    samples = {
        name: comparison.sample(task.scores, task=name, resamples=resamples, seed=seed) for name, task in tasks.items()
    }
    primaries = [samples[name][task.scores.primary] for name, task in tasks.items()]
    return SystemScores(tasks, samples, comparison.mean(primaries))


def mean_score(predictions: Iterable[Prediction]) -> float:
    """The headline alone, without an interval."""
    primaries = [task.primary for task in score(predictions).values()]
    return sum(primaries) / len(primaries)
