"""The data set rendered and tokenised for the base model."""

from __future__ import annotations

from functools import partial
from operator import attrgetter

from flows import cli
from flows.full import run

if __name__ == "__main__":
    cli.main(partial(run, goal=attrgetter("tokens"), name="tokenize"), verb="tokenize", show=cli.as_lines)
