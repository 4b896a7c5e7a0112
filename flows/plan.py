"""What a run would read, use and need; checks it and starts nothing."""

from __future__ import annotations

from functools import partial
from operator import attrgetter

from flows import cli, planning
from flows.full import run

if __name__ == "__main__":
    cli.main(partial(run, goal=attrgetter("plan"), name="plan"), verb="plan", show=planning.shown)
