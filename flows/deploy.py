"""Start, prove and register the model that the gate lets pass; serving.keep=true leaves the server running."""

from __future__ import annotations

from functools import partial
from typing import Any

from flows import cli
from flows.full import Pipeline, run


def deploy(pipeline: Pipeline) -> Any:
    return pipeline.release if pipeline.decision.promoted else pipeline.decision


if __name__ == "__main__":
    cli.main(partial(run, goal=deploy, name="deploy"), verb="deploy", show=cli.as_lines)
