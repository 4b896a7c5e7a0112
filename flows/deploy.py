"""Start, prove and register the model; serving.keep=true leaves the server running."""

from __future__ import annotations

from functools import partial
from operator import attrgetter

from flows import cli
from flows.full import run

if __name__ == "__main__":
    cli.main(partial(run, goal=attrgetter("release"), name="deploy"), verb="deploy", show=cli.as_lines)
