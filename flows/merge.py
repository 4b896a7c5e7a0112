"""The chosen checkpoint as a model that a server loads, checked after a reload."""

from __future__ import annotations

from functools import partial
from operator import attrgetter

from flows import cli
from flows.full import run

if __name__ == "__main__":
    cli.main(partial(run, goal=attrgetter("model"), name="merge"), verb="merge", show=cli.as_lines)
