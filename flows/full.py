"""The whole pipeline: raw files in; a tuned, evaluated, gated, merged, deployed model out.

    plan -> prepare ────┐
            base_model ─┴-> tokenize -> train -> evaluate -> gate -> merge -> deploy

Each stage is a property of :class:`Pipeline` that names what it needs; asking for one runs what it needs first. Stages
that are done are taken from the store, so that a second run redoes nothing and a failed one goes on where it failed.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Any

from flows import cli, summary
from flows.execution import Execution
from flows.planning import Plan, make_plan
from tasks import devices
from tasks.artifacts import (
    BaseModelArtifact,
    Checkpoints,
    Dataset,
    EvalReport,
    Preview,
    ServableModel,
    TokenizedDataset,
)
from tasks.config import PipelineConfig
from tasks.data.stage import prepare
from tasks.evaluation.gate import Decision, decide
from tasks.evaluation.stage import evaluate, question
from tasks.export.stage import merge
from tasks.models.preview import preview
from tasks.models.stage import base_model, tokenize
from tasks.serving.release import Release, champion
from tasks.serving.stage import deploy
from tasks.training.stage import train


class Pipeline:
    """The DAG."""

    def __init__(self, config: PipelineConfig, execution: Execution | None = None) -> None:
        self.config = config
        self.execution = execution or Execution(config)
        self._run = self.execution.stage
        self._device = devices.resolve_device(config.hardware.device)

    @cached_property
    def plan(self) -> Plan:
        return self._run("plan", make_plan, self.config)

    @cached_property
    def dataset(self) -> Dataset:
        return self._run("prepare", prepare, self.config.data)

    @cached_property
    def base(self) -> BaseModelArtifact:
        return self._run("base_model", base_model, self.config.model)

    @cached_property
    def tokens(self) -> TokenizedDataset:
        return self._run("tokenize", tokenize, self.config.tokenization, self.dataset, self.base)

    def preview(self, rows: int) -> Preview:
        """A few training rows as the model sees them; not a part of the whole."""
        return self._run("preview", preview, self.config.tokenization, self.dataset, self.base, rows=rows)

    @cached_property
    def checkpoints(self) -> Checkpoints:
        c = self.config
        return self._run("train", train, c.training, c.method, c.hardware, self.tokens, self.base)

    @cached_property
    def report(self) -> EvalReport:
        c = self.config
        tokens = c.tokenization
        limits = {"max_prompt_tokens": tokens.max_prompt_tokens, "max_reply_tokens": tokens.max_reply_tokens}
        where = {"device": self._device, "dtype": devices.dtype(c.training.precision, self._device)}
        return self._run(
            "evaluate", evaluate, c.evaluation, self.dataset, self.base, self.checkpoints, **limits, **where
        )

    @cached_property
    def decision(self) -> Decision:
        c = self.config
        return self._run("gate", decide, self.report, champion(c.paths.root, c.serving.model_name), c.evaluation.gate)

    @cached_property
    def model(self) -> ServableModel:
        c = self.config
        inputs = (self.dataset, self.base, self.checkpoints, self.report)
        return self._run("merge", merge, c.export, c.tokenization, self._device, *inputs)

    @cached_property
    def release(self) -> Release:
        c = self.config
        asked, expected = question(c.evaluation, self.report, self.dataset)
        return self._run(
            "deploy",
            deploy,
            c.serving,
            self.model,
            evaluation=self.report.path,
            root=c.paths.root,
            question=asked,
            expected=expected,
            register=self.execution.register,
            device=self._device,
            dtype=devices.dtype(c.training.precision, self._device),
            device_map=c.model.device_map,
        )


def full(pipeline: Pipeline) -> None:
    """Everything in order; a model that the gate refuses goes no further."""
    for stage in ("plan", "dataset", "base", "tokens", "checkpoints", "report"):
        getattr(pipeline, stage)
    if pipeline.decision.promoted:
        _ = pipeline.model, pipeline.release


def run(config: PipelineConfig, goal: Callable[[Pipeline], Any] = full, name: str = "full") -> dict[str, Any]:
    """Run a goal of the pipeline; returns the JSON of ``output=json``."""
    pipeline = Pipeline(config)
    execution = pipeline.execution
    execution.run(lambda: goal(pipeline), name=name)
    if name == "full":
        return summary.of_pipeline(execution)
    last, result = list(execution.results.items())[-1]
    return summary.of_stage(result, execution.seconds[last])


if __name__ == "__main__":
    cli.main(run, verb="full", show=summary.shown)
