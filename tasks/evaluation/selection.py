"""Which rows are scored, and which checkpoints are candidates. Deterministic for a seed."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Sequence

from tasks.conversation import Row


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


def candidates(steps: Sequence[int], wanted: str | int) -> list[int]:
    """The checkpoints to consider, ascending: "all", "last", or the newest ``wanted``."""
    count = {"all": len(steps), "last": 1}[wanted] if isinstance(wanted, str) else wanted
    return sorted(steps)[-count:]
