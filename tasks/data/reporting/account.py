"""The account of a data set: what was read, kept and dropped, by file, task and step, and what the texts look like.

Holds counts only, never content.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, TypeVar

import numpy as np

from tasks.data.hashing import Array
from tasks.data.processing import Prepared
from tasks.data.source import SPLITS
from tasks.data.splitting import Division
from tasks.data.spool import Keys
from tasks.data.writing import Written

_UNKNOWN = "(unreadable)"
_BINS = 24


@dataclass
class Account:
    """Source records by what became of them. ``read`` is counted at the reader, the rest where records end.

    Attributes:
        read: records by file number.
        dropped: records by (file number, task, reason).
        rejected: records that ended at each step (parsed, converted, clean).
    """

    read: Counter[int] = field(default_factory=Counter)
    dropped: Counter[tuple[int, str, str]] = field(default_factory=Counter)
    kept: Counter[tuple[int, str]] = field(default_factory=Counter)
    rejected: Counter[str] = field(default_factory=Counter)
    hits: Counter[str] = field(default_factory=Counter)
    redacted_rows: int = 0

    def add(self, file: int, prepared: Prepared) -> None:
        """What one batch made."""
        for one in prepared.rejected:
            self.dropped[file, one.task or _UNKNOWN, one.reason] += one.records
            self.rejected[one.step] += one.records
        self.hits += prepared.hits
        self.redacted_rows += prepared.redacted_rows

    def close(self, keys: Keys) -> None:
        """What the division of the rows made of them; after this the account is complete, which is asserted."""
        codes = np.stack([keys.file, keys.task, keys.reason], 1)
        groups, member = np.unique(codes, axis=0, return_inverse=True)
        records = np.bincount(member.reshape(-1), weights=keys.records, minlength=len(groups)).astype(int)
        for (file, task, reason), count in zip(groups.tolist(), records.tolist(), strict=True):
            if reason:
                self.dropped[file, keys.tasks[task], keys.reasons[reason]] += count
            else:
                self.kept[file, keys.tasks[task]] += count
        for file in self.read:
            self.of_file(file)

    def rows(self) -> dict[str, Any]:
        """{"read", "kept", "dropped": {reason: n}} of all files."""
        return _account(self.read.total(), self.kept.total(), ((r, n) for (_, _, r), n in self.dropped.items()))

    def of_file(self, file: int) -> dict[str, Any]:
        kept, dropped = self._by_file
        return _account(self.read[file], kept[file], dropped[file])

    def of_task(self, task: str) -> dict[str, Any]:
        kept, dropped = self._by_task
        return _account(kept[task] + sum(n for _, n in dropped[task]), kept[task], dropped[task])

    @cached_property
    def _by_file(self) -> _Grouped[int]:
        return _grouped(self.kept.items(), self.dropped.items(), lambda key: key[0])

    @cached_property
    def _by_task(self) -> _Grouped[str]:
        return _grouped(self.kept.items(), self.dropped.items(), lambda key: key[1])

    def tasks(self) -> list[str]:
        return sorted({task for _, task in self.kept} | {task for _, task, _ in self.dropped})


K = TypeVar("K")
_Grouped = tuple[Counter[K], defaultdict[K, list[tuple[str, int]]]]


def _grouped(
    kept: Iterable[tuple[Any, int]], dropped: Iterable[tuple[Any, int]], key: Callable[[Any], K]
) -> _Grouped[K]:
    """Records kept, and records dropped with their reasons, by ``key``."""
    counted: Counter[K] = Counter()
    reasons: defaultdict[K, list[tuple[str, int]]] = defaultdict(list)
    for place, n in kept:
        counted[key(place)] += n
    for place, n in dropped:
        reasons[key(place)].append((place[2], n))
    return counted, reasons


def _account(read: int, kept: int, dropped: Iterable[tuple[str, int]]) -> dict[str, Any]:
    total: Counter[str] = Counter()
    for reason, count in dropped:
        assert reason, "a record was dropped without a reason"
        total[reason] += count
    assert read == kept + total.total(), f"{read} read, {kept} kept, {total.total()} dropped"
    by_count = sorted(total.items(), key=lambda item: (-item[1], item[0]))
    return {"read": read, "kept": kept, "dropped": dict(by_count)}


def report(
    account: Account,
    keys: Keys,
    division: Division,
    written: Written,
    files: Sequence[Mapping[str, str]],
) -> dict[str, Any]:
    """The parts of the report that follow from the rows, as JSON values in a stable order.

    Args:
        files: name, split and encoding of each.
    """
    rows = account.rows()
    left = rows["read"]
    steps = [{"name": "read", "records": left}]
    for name in ("parsed", "converted", "clean"):
        left -= account.rejected[name]
        steps.append({"name": name, "records": left})
    steps += [{"name": name, "records": records} for name, records in division.steps.items()]
    return {
        "rows": rows,
        "made": int(keys.alive.sum()),
        "steps": steps,
        "files": {
            file["name"]: {"split": file["split"], "encoding": file["encoding"], **account.of_file(i)}
            for i, file in enumerate(files)
        },
        "tasks": {task: account.of_task(task) for task in account.tasks()},
        "splits": {
            split: {"origin": division.origin[split], **_statistics(keys, np.flatnonzero(keys.of(split)))}
            for split in SPLITS
        },
        "labels": {task: dict(counts.most_common()) for task, counts in sorted(written.labels.items())},
        "notes": dict(sorted(written.notes.items())),
        "unseen_entities": {"unseen": written.unseen[True], "seen": written.unseen[False]} if written.unseen else None,
    }


def _statistics(keys: Keys, rows: Array) -> dict[str, Any]:
    """Rows, rows per task, and characters of prompts and replies."""
    counts = np.bincount(keys.task[rows], minlength=len(keys.tasks))
    by_task = {task: int(n) for task, n in zip(keys.tasks, counts, strict=True) if n}
    prompts, replies = keys.prompt_characters[rows], keys.reply_characters[rows]
    return {
        "rows": len(rows),
        "tasks": dict(sorted(by_task.items())),
        "prompt_characters": _spread(prompts),
        "reply_characters": _spread(replies),
        "distinct_replies": len(np.unique(keys.reply[rows])),
        "histogram": {"prompt": _histogram(prompts), "reply": _histogram(replies)},
    }


def _spread(values: Array) -> dict[str, int]:
    if not len(values):
        return {}
    ordered = np.sort(values)
    at = {"smallest": 0.0, "median": 0.5, "p95": 0.95, "largest": 1.0}
    return {name: int(ordered[round(place * (len(ordered) - 1))]) for name, place in at.items()}


def _histogram(values: Array) -> list[list[int]]:
    """[[upper bound, rows], ...]: even bins up to the 99th percentile, and one for the rest."""
    if not len(values):
        return []
    width = max(1, int(np.ceil((np.percentile(values, 99) + 1) / _BINS)))
    counts = np.bincount(np.minimum(values // width, _BINS), minlength=_BINS + 1).tolist()
    bounds = [(i + 1) * width for i in range(_BINS)] + [max(int(values.max()) + 1, (_BINS + 1) * width)]
    found = [[bound, count] for bound, count in zip(bounds, counts, strict=True)]
    while found[-1][1] == 0:
        found.pop()
    return found
