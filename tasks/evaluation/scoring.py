"""Scores a system's predictions: one table of rows per task, each by its own metric.

A row names its metric; a task whose rows name several is as many tables. Rows are put in the order of their ids,
so that two systems' tables over the same rows pair up position by position. Intervals come from resampling groups of
rows (``Prediction.group``), a row without one by itself. Also owns the mean of one method's several training seeds.
"""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from tasks import plugins
from tasks.evaluation import comparison
from tasks.evaluation.comparison import Sampled
from tasks.evaluation.metric import Options, RowScores
from tasks.evaluation.predictions import Prediction

METRICS = "tasks.evaluation.metrics"
DEFAULT = Options()


@dataclass(frozen=True)
class TaskScores:
    """One task of one system: the predictions in the order of their ids, and their scores.

    Attributes:
        options: what the metric was asked for.
        columns: the same object in tables whose statistics have common columns (significance.align); None: unknown.
    """

    metric: str
    predictions: list[Prediction]
    scores: RowScores
    options: Options = DEFAULT
    columns: object = None

    @property
    def primary(self) -> float:
        return self.scores.point()[self.scores.primary]

    @property
    def groups(self) -> npt.NDArray[np.intp]:
        """[n] the number of each row's group, in the order in which groups first appear."""
        seen: dict[str | int, int] = {}
        codes = [seen.setdefault(p.group or i, len(seen)) for i, p in enumerate(self.predictions)]
        return np.array(codes, dtype=np.intp)


def score(predictions: Iterable[Prediction], options: Options = DEFAULT) -> dict[str, TaskScores]:
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
        result[name] = TaskScores(metric, rows, score_rows(metric, rows, options), options)
    return result


def score_rows(metric: str, rows: Sequence[Prediction], options: Options) -> RowScores:
    """The rows of one task by the metric of that name, in the order given."""
    scorer: Callable[[Sequence[Prediction], Options], RowScores] = plugins.load(METRICS, metric, key="metric").score
    return scorer(rows, options)


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


def sampled(
    predictions: Iterable[Prediction], *, resamples: int, seed: int, options: Options = DEFAULT
) -> SystemScores:
    """Score and resample a system. Systems over the same rows, with the same seed, pair up (see comparison)."""
    return resampled(score(predictions, options), resamples=resamples, seed=seed)


def part(system: SystemScores, keep: Callable[[Prediction], bool], *, resamples: int, seed: int) -> SystemScores | None:
    """The system on some of its rows, resampled anew; None where no row is kept. No text is scored again."""
    tasks: dict[str, TaskScores] = {}
    for name, task in system.tasks.items():
        kept = np.array([keep(p) for p in task.predictions])
        if kept.any():
            scores = replace(task.scores, statistics=task.scores.statistics[kept], rows=task.scores.rows[kept])
            rows = [p for p, k in zip(task.predictions, kept, strict=True) if k]
            tasks[name] = replace(task, predictions=rows, scores=scores)
    return resampled(tasks, resamples=resamples, seed=seed) if tasks else None


def resampled(tasks: dict[str, TaskScores], *, resamples: int, seed: int) -> SystemScores:
    """A system of tasks that are scored already."""
    samples = {
        name: comparison.sample(task.scores, task=name, resamples=resamples, seed=seed, groups=task.groups)
        for name, task in tasks.items()
    }
    primaries = [samples[name][task.scores.primary] for name, task in tasks.items()]
    return SystemScores(tasks, samples, comparison.mean(primaries))


def mean_score(predictions: Iterable[Prediction], options: Options = DEFAULT) -> float:
    """The headline alone, without an interval."""
    primaries = [task.primary for task in score(predictions, options).values()]
    return sum(primaries) / len(primaries)


@dataclass(frozen=True)
class SeedSpread:
    """One value of a method's training seeds.

    Attributes:
        values: one a seed, in the order of the seeds.
        sd: the sample's standard deviation (divisor seeds - 1); None with one seed.
        low, high: the lowest and the highest seed; no interval.
    """

    values: tuple[float, ...]
    mean: float
    sd: float | None
    low: float
    high: float

    def to_json(self) -> dict[str, Any]:
        return {"values": list(self.values), "mean": self.mean, "sd": self.sd, "low": self.low, "high": self.high}


def spread(values: Sequence[float]) -> SeedSpread:
    """How far the seeds of a method lie apart."""
    sd = statistics.stdev(values) if len(values) > 1 else None
    return SeedSpread(tuple(values), statistics.fmean(values), sd, min(values), max(values))


@dataclass(frozen=True)
class SeedScores:
    """The mean of a method's training seeds over the same rows.

    Its intervals tell how the mean *of these seeds* moves with the rows; how seeds differ is told by ``spread``.

    Attributes:
        systems: one a seed.
        samples, headline: as SystemScores', the seeds' means in every resample.
    """

    systems: tuple[SystemScores, ...]
    samples: dict[str, dict[str, Sampled]]
    headline: Sampled

    def primary(self, task: str) -> Sampled:
        return self.samples[task][self.systems[0].tasks[task].scores.primary]

    def spread(self, task: str | None = None) -> SeedSpread:
        """Of the headline, or of one task's primary value."""
        return spread([(s.headline if task is None else s.primary(task)).value for s in self.systems])


def mean_over_seeds(systems: Sequence[SystemScores]) -> SeedScores:
    """The seeds of one method as one; all sampled over the same rows with the same ``seed`` of resampling."""
    first = systems[0]
    samples = {
        task: {name: comparison.mean_of_same_rows([s.samples[task][name] for s in systems]) for name in values}
        for task, values in first.samples.items()
    }
    return SeedScores(tuple(systems), samples, comparison.mean_of_same_rows([s.headline for s in systems]))
