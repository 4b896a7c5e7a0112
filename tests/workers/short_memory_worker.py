"""The training worker on a device whose memory holds 150 tokens at once, and after step 8 only 100."""

from __future__ import annotations

from typing import Any

import torch

from tasks.training import objective
from tasks.training.worker import run
from tasks.worker import main

whole = objective.Objective.forward
calls = 0


def forward(self: Any, batch: dict[str, Any]) -> torch.Tensor:
    global calls
    calls += 1
    if batch["input_ids"].numel() > (150 if calls < 60 else 100):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")
    return whole(self, batch)


objective.Objective.forward = forward  # type: ignore[method-assign]

if __name__ == "__main__":
    main(run)
