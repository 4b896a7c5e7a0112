"""What a run must remember beside its weights and its optimiser, and whether it ends early."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any


class RunState:
    """What a run knows beside weights and optimiser; saved with every checkpoint.

    Attributes:
        losses: of the steps since the last line of the log.
        norms: the last gradient norms, where spikes are looked for; ``norm`` the very last.
        skipped: steps left out.
        best: step of the checkpoint with the lowest validation loss.
        stopped: early, because of the validation loss.
    """

    def __init__(self, values: Mapping[str, Any]) -> None:
        self.losses: list[float] = list(values.get("losses", []))
        self.norms: list[float] = list(values.get("norms", []))
        self.norm = 0.0
        self.skipped = int(values.get("skipped", 0))
        self.best: int | None = values.get("best")
        self.lowest: float | None = values.get("lowest")
        self.worse = int(values.get("worse", 0))
        self.stopped = bool(values.get("stopped", False))

    def judge(self, step: int, loss: float, patience: int | None) -> bool:
        """Take note of a checkpoint's validation loss; whether the run ends with it."""
        if math.isfinite(loss) and (self.lowest is None or loss < self.lowest):
            self.best, self.lowest, self.worse = step, loss, 0
        else:
            self.worse += 1
        self.stopped = patience is not None and self.worse >= patience
        return self.stopped

    def to_json(self) -> dict[str, Any]:
        names = ("losses", "norms", "skipped", "best", "lowest", "worse", "stopped")
        return {name: getattr(self, name) for name in names}
