"""Shows a worker's progress: one bar on a terminal, a plain line now and then in a log."""

from __future__ import annotations

import logging
import sys
import time
from typing import Any

log = logging.getLogger(__name__)

#: Seconds between plain lines where standard error is not a terminal.
LINE_EVERY_S = 15.0


class Progress:
    """A context in which :meth:`update` may be called with {"done", "total", numbers...} records."""

    def __init__(self, label: str) -> None:
        self._label = label
        self._bar: Any = None
        self._task: Any = None
        self._line_at = time.monotonic()
        self._started = time.monotonic()
        self._first_done: int | None = None

    def __enter__(self) -> Progress:
        if sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
            from rich.progress import Progress as Bar

            self._bar = Bar(
                TextColumn("{task.description:>10}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
                TextColumn("left"),
                TimeRemainingColumn(),
                TextColumn("{task.fields[numbers]}"),
                console=Console(stderr=True),
            )
            self._bar.start()
            self._task = self._bar.add_task(self._label, total=None, numbers="starting")
        return self

    def update(self, record: dict[str, Any]) -> None:
        done, total = int(record["done"]), int(record["total"])
        numbers = "  ".join(
            f"{name} {_shown(value)}" for name, value in record.items() if name not in ("done", "total", "time")
        )
        if self._bar is not None:
            self._bar.update(self._task, completed=done, total=total, numbers=numbers)
            return
        now = time.monotonic()
        if self._first_done is None:
            self._first_done, self._started = done, now
        if now - self._line_at >= LINE_EVERY_S or done == total:
            self._line_at = now
            log.info("%s: %d/%d  %s%s", self._label, done, total, numbers, self._remaining(done, total, now))

    def _remaining(self, done: int, total: int, now: float) -> str:
        first = self._first_done or 0
        if done <= first or done >= total:
            return ""
        return f"  left {(now - self._started) / (done - first) * (total - done):.0f} s"

    def __exit__(self, *_: Any) -> None:
        if self._bar is not None:
            self._bar.stop()


def _shown(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return str(value)
