"""Which rows make which step, and how a step is cut into micro-batches: pure functions, so resuming needs no state.

Shapes: b rows and s tokens of a padded micro-batch, t tokens of a packed one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tasks.models.tokens import TokenRows

#: Rows of this many batches are sorted by length together: little padding, order still random.
_GROUP_BATCHES = 8

Rows = NDArray[np.int64]


@dataclass(frozen=True)
class BatchPlan:
    """Rows of every step of a run.

    Attributes:
        lengths: tokens of each row.
        batch_size: rows a step over all devices.
        steps: of the whole run.
        seed: of the order.
    """

    lengths: Rows
    batch_size: int
    steps: int
    seed: int

    @staticmethod
    def steps_for(rows: int, batch_size: int, epochs: float, max_steps: int | None) -> int:
        return max_steps if max_steps is not None else max(1, math.ceil(epochs * math.ceil(rows / batch_size) - 1e-9))

    def rows(self, step: int) -> Rows:
        """Row numbers of step ``step`` (from 0). The last batch of an epoch may be smaller."""
        per_epoch = math.ceil(len(self.lengths) / self.batch_size)
        epoch, index = divmod(step, per_epoch)
        if getattr(self, "_epoch", None) != epoch:
            object.__setattr__(self, "_batches", self._shuffled(epoch))
            object.__setattr__(self, "_epoch", epoch)
        return self._batches[index]  # type: ignore[attr-defined,no-any-return]

    def _shuffled(self, epoch: int) -> list[Rows]:
        random = np.random.default_rng([self.seed, epoch])
        order = random.permutation(len(self.lengths))
        group = self.batch_size * _GROUP_BATCHES
        batches = []
        for start in range(0, len(order), group):
            part = order[start : start + group]
            part = part[np.argsort(self.lengths[part], kind="stable")]
            batches += [part[i : i + self.batch_size] for i in range(0, len(part), self.batch_size)]
        # only the last group may hold a short batch; batches are shuffled so that lengths do not rise in every group
        return [batches[i] for i in random.permutation(len(batches))]


@dataclass(frozen=True)
class Limits:
    """What a device computes at once; at least one row, whatever its length.

    Attributes:
        rows: at most so many.
        tokens: at most so many, padding included; None for no limit.
        packed: rows stand end to end; else all are as long as the longest.
    """

    rows: int
    tokens: int | None = None
    packed: bool = True

    def cut(self, rows: Rows, lengths: Rows) -> list[Rows]:
        """Consecutive parts of ``rows`` (the longest first) that keep the limits."""
        parts: list[list[int]] = []
        taken = 0
        for row in rows[np.argsort(-lengths[rows], kind="stable")]:
            length = int(lengths[row])
            fits = parts and len(parts[-1]) < self.rows
            if fits and self.tokens is not None:
                whole = taken + length if self.packed else int(lengths[parts[-1][0]]) * (len(parts[-1]) + 1)
                fits = whole <= self.tokens
            if fits:
                parts[-1].append(int(row))
                taken += length
            else:
                parts.append([int(row)])
                taken = length
        return [np.array(part, dtype=np.int64) for part in parts]


def divided(rows: Rows, lengths: Rows, processes: int) -> list[Rows]:
    """The rows of each process: about the same number of tokens each, the longest rows first."""
    shares: list[list[int]] = [[] for _ in range(processes)]
    tokens = [0] * processes
    for row in rows[np.argsort(-lengths[rows], kind="stable")]:
        least = tokens.index(min(tokens))
        shares[least].append(int(row))
        tokens[least] += int(lengths[row])
    return [np.array(share, dtype=np.int64) for share in shares]


def micro_batches(rows: Rows, lengths: Rows, rank: int, processes: int, limits: Limits) -> list[Rows]:
    """The micro-batches of process ``rank``; every process has as many, so the last ones may be empty."""
    parts = [limits.cut(share, lengths) for share in divided(rows, lengths, processes)]
    most = max(map(len, parts))
    return [*parts[rank], *([np.zeros(0, dtype=np.int64)] * (most - len(parts[rank])))]


def collate(source: TokenRows, rows: Rows, *, packed: bool) -> dict[str, Any]:
    """A micro-batch as tensors: the model's arguments, and ``places`` and ``targets`` for tasks.training.objective.

    ``places`` are those tokens, counted through [b * s] or [t], whose next token is learned: ``targets``.
    """
    import torch

    from tasks.models import packed as packing

    found = [source.row(int(row)) for row in rows]
    lengths = source.lengths[rows]
    width = 0 if packed else int(lengths.max())
    if packed:
        ids = np.concatenate([ids for ids, _ in found]).astype(np.int64)
        starts = np.concatenate([[0], np.cumsum(lengths)[:-1]])
        batch = packing.batch(ids, lengths)
    else:
        grid = np.zeros((len(rows), width), dtype=np.int64)
        mask = np.zeros((len(rows), width), dtype=np.int64)
        for line, (row_ids, _) in enumerate(found):
            grid[line, : len(row_ids)], mask[line, : len(row_ids)] = row_ids, 1
        starts = np.arange(len(rows)) * width
        batch = {"input_ids": torch.from_numpy(grid), "attention_mask": torch.from_numpy(mask)}
    # the first token of a row is predicted from nothing, so it is never a target
    learned = [np.flatnonzero(learn[1:]) for _, learn in found]
    places = np.concatenate([start + where for start, where in zip(starts, learned, strict=True)])
    targets = np.concatenate([ids[1:][where] for (ids, _), where in zip(found, learned, strict=True)])
    batch["places"] = torch.from_numpy(places.astype(np.int64))
    batch["targets"] = torch.from_numpy(targets.astype(np.int64))
    return batch


def worst(lengths: Rows, limits: Limits) -> Rows:
    """The rows of the largest micro-batch that can come: the longest rows together."""
    longest = np.argsort(-lengths, kind="stable")[: limits.rows]
    parts = limits.cut(longest, lengths)
    return max(parts, key=lambda part: int(lengths[part].sum() if limits.packed else lengths[part].max() * len(part)))
