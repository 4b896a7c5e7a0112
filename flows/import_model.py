"""The base model: found, downloaded or converted, and fingerprinted."""

from __future__ import annotations

from functools import partial
from operator import attrgetter

from flows import cli
from flows.full import run

if __name__ == "__main__":
    cli.main(partial(run, goal=attrgetter("base"), name="import_model"), verb="import_model", show=cli.as_lines)
