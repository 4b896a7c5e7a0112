"""Raw files to an accounted-for data set."""

from __future__ import annotations

from functools import partial
from operator import attrgetter

from flows import cli
from flows.full import run

if __name__ == "__main__":
    cli.main(partial(run, goal=attrgetter("dataset"), name="prepare"), verb="prepare", show=cli.as_lines)
