"""A worker of tasks.parallel whose batches say what it is to do."""

from __future__ import annotations

import os
import signal

from tasks.errors import DataError


class Worker:
    def __init__(self, setup: int) -> None:
        self._factor = setup

    def __call__(self, batch: int | str) -> tuple[int, int] | str:
        if batch == "refuse":
            raise DataError("rows.json:3: no")
        if batch == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        return batch if isinstance(batch, str) else (batch * self._factor, os.getpid())
