"""What the flows tell a tracker, and the tracker that tells nobody."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, Protocol

from tasks.artifacts import Artifact, ServableModel


class Span(Protocol):
    """One stage's run."""

    def curve(self, path: Path) -> None:
        """Look for new lines of a metrics.jsonl and record them; cheap to call often."""

    def done(self, artifact: Artifact) -> None:
        """The stage's artifact: facts, reports and small weights are recorded."""


class Tracker(Protocol):
    """One execution of the pipeline."""

    def stage(self, name: str) -> AbstractContextManager[Span]:
        """Open a stage's run below the pipeline's; it fails when the block raises."""

    def below(self, name: str, settings: Mapping[str, Any]) -> Tracker:
        """Open a run below this one, for an execution within this execution."""

    def register(self, model: ServableModel, name: str, alias: str, metrics: Mapping[str, float]) -> str | None:
        """Register a released model under an alias; returns its version, None when that did not work."""

    def finish(self, status: str, metrics: Mapping[str, float]) -> None:
        """Close the pipeline's run: FINISHED, FAILED or KILLED."""

    @property
    def how_to_open(self) -> str:
        """The command or address that shows the runs."""


class NoTracker:
    """Records nothing."""

    how_to_open = ""

    @contextmanager
    def stage(self, name: str) -> Iterator[NoTracker]:
        yield self

    def below(self, name: str, settings: Mapping[str, Any]) -> NoTracker:
        return self

    def curve(self, path: Path) -> None:
        return

    def done(self, artifact: Artifact) -> None:
        return

    def register(self, model: ServableModel, name: str, alias: str, metrics: Mapping[str, float]) -> str | None:
        return None

    def finish(self, status: str, metrics: Mapping[str, float]) -> None:
        return
