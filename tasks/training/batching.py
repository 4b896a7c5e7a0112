"""Which rows make which step: a pure function of the seed and the step, so that resuming needs no state.

Shapes: b rows a micro-batch, s tokens of its longest row.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

#: Rows of this many batches are sorted by length together: little padding, order still random.
_GROUP_BATCHES = 8


class TokenRows:
    """A tokenised split, memory-mapped: ``ids`` and ``learn`` of row i are slices of two flat arrays."""

    def __init__(self, path: Path) -> None:
        from safetensors import safe_open

        with safe_open(path, framework="numpy") as file:
            self.ids: NDArray[np.int32] = file.get_tensor("ids")
            self.learn: NDArray[np.uint8] = file.get_tensor("learn")
            self.offsets: NDArray[np.int64] = file.get_tensor("offsets")
        self.lengths = np.diff(self.offsets)
        # the first token of a row is predicted from nothing, so it is never a target
        targets = np.concatenate([[0], np.cumsum(self.learn, dtype=np.int64)])
        self.targets = targets[self.offsets[1:]] - targets[np.minimum(self.offsets[:-1] + 1, self.offsets[1:])]

    def __len__(self) -> int:
        return len(self.lengths)

    def padded(self, rows: NDArray[np.int64], pad_id: int) -> dict[str, Any]:
        """Torch tensors [b, s] of right-padded rows: input_ids, attention_mask, labels (-100 where not learned)."""
        import torch

        width = int(self.lengths[rows].max())
        ids = np.full((len(rows), width), pad_id, dtype=np.int64)
        mask = np.zeros((len(rows), width), dtype=np.int64)
        labels = np.full((len(rows), width), -100, dtype=np.int64)
        for line, row in enumerate(rows):
            start, end = self.offsets[row], self.offsets[row + 1]
            length = end - start
            ids[line, :length] = self.ids[start:end]
            mask[line, :length] = 1
            labels[line, :length] = np.where(self.learn[start:end] > 0, self.ids[start:end], -100)
        return {
            "input_ids": torch.from_numpy(ids),
            "attention_mask": torch.from_numpy(mask),
            "labels": torch.from_numpy(labels),
        }


@dataclass(frozen=True)
class BatchPlan:
    """Rows of every step of a run.

    Attributes:
        lengths: tokens of each row.
        batch_size: rows a step over all devices.
        steps: of the whole run.
        seed: of the order.
    """

    lengths: NDArray[np.int64]
    batch_size: int
    steps: int
    seed: int

    @staticmethod
    def steps_for(rows: int, batch_size: int, epochs: float, max_steps: int | None) -> int:
        return max_steps if max_steps is not None else max(1, math.ceil(epochs * math.ceil(rows / batch_size)))

    def rows(self, step: int) -> NDArray[np.int64]:
        """Row numbers of step ``step`` (from 0). The last batch of an epoch may be smaller."""
        per_epoch = math.ceil(len(self.lengths) / self.batch_size)
        epoch, index = divmod(step, per_epoch)
        if getattr(self, "_epoch", None) != epoch:
            object.__setattr__(self, "_batches", self._shuffled(epoch))
            object.__setattr__(self, "_epoch", epoch)
        return self._batches[index]  # type: ignore[attr-defined,no-any-return]

    def _shuffled(self, epoch: int) -> list[NDArray[np.int64]]:
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


def micro_batches(rows: NDArray[np.int64], size: int) -> Iterator[NDArray[np.int64]]:
    """Consecutive parts of at most ``size`` rows."""
    for start in range(0, len(rows), size):
        yield rows[start : start + size]
