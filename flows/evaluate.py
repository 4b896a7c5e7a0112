"""Score the untouched base model and the checkpoints on the task's own metrics."""

from __future__ import annotations

from functools import partial
from operator import attrgetter

from flows import cli
from flows.full import run

if __name__ == "__main__":
    cli.main(partial(run, goal=attrgetter("report"), name="evaluate"), verb="evaluate", show=cli.as_lines)
