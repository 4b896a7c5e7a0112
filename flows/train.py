"""Train one method; an interrupted run goes on where it stopped."""

from __future__ import annotations

from functools import partial
from operator import attrgetter

from flows import cli
from flows.full import run

if __name__ == "__main__":
    cli.main(partial(run, goal=attrgetter("checkpoints"), name="train"), verb="train", show=cli.as_lines)
