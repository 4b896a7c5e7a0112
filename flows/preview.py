"""A few training rows as the model sees them: token, id and label, before anything is trained.

rows=N chooses how many (3). Learned tokens are in one colour, context, whose label is -100, in another.
"""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Mapping
from functools import partial
from typing import Any

from rich.console import Console

from flows import cli
from flows.full import Pipeline, run
from tasks.config import WithOwnKeys, parse_with
from tasks.models.preview import tables
from tasks.schema import How, Section


class Extent(Section):
    """The key that this command has beside those of the pipeline."""

    rows: int = How(3, ge=1, le=1000, doc="How many rows of the training split are shown.")


def preview(config: WithOwnKeys[Extent]) -> dict[str, Any]:
    def goal(pipeline: Pipeline) -> None:
        pipeline.preview(config.own.rows)

    return run(config.pipeline, goal=goal, name="preview")


def shown(result: Mapping[str, Any]) -> str:
    """The tables, in colour on a terminal."""
    colour = sys.stdout.isatty() and "NO_COLOR" not in os.environ
    text = io.StringIO()
    screen = Console(file=text, width=None if colour else 100, force_terminal=colour, no_color=not colour)
    tables(result, screen)
    return f"{text.getvalue()}page: {result['path']}/preview.html"


if __name__ == "__main__":
    cli.main(preview, verb="preview", schema=partial(parse_with, Extent), show=shown)
