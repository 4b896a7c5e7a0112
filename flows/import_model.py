"""The base model: found, downloaded, converted to its native class, verified and fingerprinted.

out=DIR also copies the native model into a folder of your own, for other programs.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from flows import cli
from flows.full import Pipeline, run
from tasks.config import WithOwnKeys, parse_with
from tasks.models.stage import export_base
from tasks.schema import How, Section


class Destination(Section):
    """The key that this command has beside those of the pipeline."""

    out: Path | None = How(None, doc="Folder that gets a copy of the native model; it must not hold anything yet.")


def import_model(config: WithOwnKeys[Destination]) -> dict[str, Any]:
    """Import the model; with ``out`` the JSON says where the copy is."""
    copied: dict[str, str] = {}

    def goal(pipeline: Pipeline) -> None:
        base = pipeline.base
        if config.own.out is not None:
            copied["out"] = str(export_base(base, config.own.out))

    return {**run(config.pipeline, goal=goal, name="import_model"), **copied}


if __name__ == "__main__":
    cli.main(import_model, verb="import_model", schema=partial(parse_with, Destination), show=cli.as_lines)
