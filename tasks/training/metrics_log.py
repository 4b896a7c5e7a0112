"""metrics.jsonl: one line for each interval of a run and each validation; what the tracker and people read.

After an interruption the file holds exactly what an uninterrupted run would have written up to the resumed step.
"""

from __future__ import annotations

import json
import math
import os
import statistics
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tasks.files import write_atomic


class MetricsLog:
    """The file; only the leading process writes it."""

    def __init__(self, path: Path, *, leader: bool) -> None:
        self._path = path
        self._leader = leader

    def keep_until(self, step: int) -> None:
        """Drop the lines after ``step``, and one that was cut off in the middle."""
        if self._leader and self._path.is_file():
            kept = [json.dumps(line) for line in self.read() if line["step"] <= step]
            write_atomic(self._path, "".join(f"{line}\n" for line in kept))

    def write(self, record: Mapping[str, Any]) -> None:
        if self._leader:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(record) + "\n")

    def sync(self) -> None:
        """Bring the lines to the disk: before a checkpoint that they belong to is committed."""
        if self._leader and self._path.is_file():
            with self._path.open("rb") as file:
                os.fsync(file.fileno())

    def read(self) -> list[dict[str, Any]]:
        """Every whole line."""
        if not self._path.is_file():
            return []
        lines = self._path.read_text(encoding="utf-8").split("\n")
        return [json.loads(line) for line in lines[:-1]]  # what stands after the last line end was cut off


class Interval:
    """Losses, tokens and seconds of the steps between two lines.

    Attributes:
        losses: of each step, those of the run before an interruption included.
    """

    def __init__(self, losses: Sequence[float]) -> None:
        self.losses = list(losses)
        self.tokens = self.learned = 0
        self._seconds = 0.0
        self._began = time.monotonic()

    def start(self) -> None:
        self._began = time.monotonic()

    def add(self, loss: float, tokens: int, learned: int) -> None:
        """Count one step, which began at the last :meth:`start`."""
        self.losses.append(loss)
        self.tokens += tokens
        self.learned += learned
        self._seconds += time.monotonic() - self._began

    def mean_loss(self) -> float:
        """Of the steps that have one: the loss of a step that was left out may be no number."""
        finite = [loss for loss in self.losses if math.isfinite(loss)]
        return statistics.fmean(finite) if finite else math.nan

    def rate(self) -> float:
        """Tokens a second."""
        return self.tokens / max(self._seconds, 1e-9)

    def learned_rate(self) -> float:
        """Learned tokens a second."""
        return self.learned / max(self._seconds, 1e-9)
