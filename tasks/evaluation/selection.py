"""Which rows are scored, which checkpoints are candidates, and the number that chooses. Deterministic for a seed."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from tasks.conversation import Row
from tasks.errors import ConfigError
from tasks.evaluation import baselines, comparison, scoring
from tasks.evaluation.comparison import Sampled
from tasks.evaluation.metric import Options
from tasks.evaluation.scoring import SystemScores

HEADLINE = "score"
_LOWER_IS_BETTER = ("perplexity", "bits_per_character")


def rows(every: Sequence[Row], limit: int | None, seed: int) -> list[Row]:
    """At most ``limit`` rows, as evenly over the tasks as they allow, in their own order."""
    if limit is None or len(every) <= limit:
        return list(every)
    by_task: dict[str, list[int]] = defaultdict(list)
    for index, row in enumerate(every):
        by_task[row.task].append(index)
    for task, indices in by_task.items():
        random.Random(f"{seed} {task}").shuffle(indices)
    # the first of every task, then the second of every task, ...
    turns = sorted((turn, task, index) for task, indices in by_task.items() for turn, index in enumerate(indices))
    return [every[i] for i in sorted(index for _, _, index in turns[:limit])]


def candidates(steps: Sequence[int], wanted: str | int, best: int | None = None) -> list[int]:
    """The checkpoints to consider, ascending: "all", "last", or the newest ``wanted`` and the ``best``.

    Args:
        best: the one with the lowest validation loss, which training keeps beside the newest; None: not known.
    """
    count = {"all": len(steps), "last": 1}[wanted] if isinstance(wanted, str) else wanted
    newest = sorted(steps)[-count:]
    return sorted({*newest, best}) if best in steps and best is not None and count > 1 else newest


def value(system: SystemScores, name: str) -> Sampled:
    """The number that a name stands for, sampled: ``score``, ``task.value``, or a value of every task that has it.

    The last is the mean over those tasks.

    Raises:
        ConfigError: nothing has that name; says what there is.
    """
    if name == HEADLINE:
        return system.headline
    parts = [
        sampled
        for task, values in system.samples.items()
        for key, sampled in values.items()
        if name in (key, f"{task}.{key}")
    ]
    if parts:
        return comparison.mean(parts)
    known = dict.fromkeys(key for values in system.samples.values() for key in values)
    raise ConfigError(
        f"{name!r}: no task has a value of that name; known: {HEADLINE}, {', '.join(known)}, "
        f"and each behind its task's name ({next(iter(system.samples))}.{next(iter(known))})"
    )


def lower_is_better(name: str) -> bool:
    """Whether the smaller number is the better one; true of perplexities alone."""
    return name.rpartition(".")[2].startswith(_LOWER_IS_BETTER)


def check(name: str, rows: Sequence[Row], options: Options, *, likelihoods: bool) -> None:
    """Refuse the name of a value that these rows' metrics do not have, before any model is asked.

    Args:
        likelihoods: whether the models' likelihoods will be known, and what follows from them.

    Raises:
        ConfigError: naming evaluation.choose_by.
    """
    if name == HEADLINE:
        return
    known: dict[str, Any] = {"nll": 1.0, "nll_tokens": 1} if likelihoods else {}
    stand_in = [replace(p, copied=False, **known) for p in baselines.copy(rows)]
    try:
        value(scoring.sampled(stand_in, resamples=100, seed=0, options=options), name)
    except ConfigError as error:
        raise ConfigError(f"evaluation.choose_by={error}") from None
