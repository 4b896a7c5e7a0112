"""Compare fine-tuning methods on the same data: one table of quality with intervals, memory, parameters and time.

python -m flows.compare 'compare.methods=[lora,ptuning_v2,freeze]' 'compare.seeds=[42,43]'
python -m flows.compare --config-name ptuning_v2_triples data.path=/data/spo_train.json 'compare.methods=[lora,full]'

Every method gets the same data, lengths, precision, rows and steps, and the learning rate of its recipe
(conf/recipe/<model>_<method>.yaml) or of compare.learning_rates. The untuned base is always among the systems. Runs
that exist are reused, a method that fails is left out and named, and the same command goes on after an interruption.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flows import cli
from flows.execution import Execution, first_line
from flows.full import Pipeline
from tasks import plugins
from tasks.artifacts import MethodComparison
from tasks.config import PipelineConfig, parse, parse_section
from tasks.errors import ConfigError, StageError, Stopped, UserError
from tasks.evaluation.comparison_stage import compare_methods
from tasks.evaluation.reporting.method_comparison import BASE, Run
from tasks.schema import Field, Section

log = logging.getLogger(__name__)
_OWN = "compare."
#: What a method may have of its own; everything else must be the same for all.
_FREE = ("method", "training.learning_rate", "training.seed", "model.quantization")
#: Sections that hold what differs, which no run above those of the methods tells.
_VARYING = ("method", "training")


class CompareConfig(Section):
    """What is compared."""

    methods: list[str] = Field(min_length=1, doc="Methods, by name; the untuned base is always among the systems.")
    seeds: list[int] = Field(min_length=1, doc="Training seeds of every method; two or more show what a seed changes.")
    learning_rates: dict[str, float] = Field(
        {}, doc="A method's learning rate where its recipe has none to your liking."
    )


@dataclass(frozen=True)
class Comparison:
    """One pipeline for each method and seed; they differ in nothing else."""

    pipelines: Mapping[tuple[str, int], PipelineConfig]

    @property
    def first(self) -> PipelineConfig:
        return next(iter(self.pipelines.values()))

    @property
    def output(self) -> str:
        return self.first.output


def configure(name: str, overrides: Sequence[str]) -> Comparison:
    """The configurations of all runs.

    Raises:
        ConfigError: a key is wrong for any of them, or something else than the method would differ.
    """
    own = [o.lstrip("+").removeprefix(_OWN) for o in overrides if o.lstrip("+").startswith(_OWN)]
    rest = [o for o in overrides if not o.lstrip("+").startswith(_OWN)]
    try:
        compare = parse_section(CompareConfig, cli.composed("compare", own, cli.CONF / "verbs"))
    except ConfigError as error:
        raise ConfigError([re.sub(r"^(override not understood: )?", rf"\1{_OWN}", p) for p in error.problems]) from None
    methods = [m for m in dict.fromkeys(compare.methods) if m != BASE]
    if problems := list(_misnamed(compare, methods, rest)):
        raise ConfigError(problems)
    pipelines = {
        (method, seed): parse(cli.composed(name, [*rest, *_choice(compare, method, seed)]))
        for method in methods
        for seed in dict.fromkeys(compare.seeds)
    }
    if problems := list(_unequal(pipelines)):
        raise ConfigError(problems)
    return Comparison(pipelines)


def _misnamed(compare: CompareConfig, methods: Sequence[str], rest: Sequence[str]) -> Iterator[str]:
    """Unknown methods, and keys of an experiment that the comparison decides."""
    fixed = {"method": "compare.methods", "training.seed": "compare.seeds"}
    for override in rest:
        if (key := override.lstrip("+").partition("=")[0]) in fixed:
            yield f"{override}: {fixed[key]} decides it in a comparison; say {fixed[key]}=[...]"
    known = plugins.names("tasks.methods")
    for key, names in (("methods", methods), ("learning_rates", compare.learning_rates)):
        for name in names:
            if name not in known:
                yield f"compare.{key}: {name}: unknown; {plugins.nearest(name, known)}"
            elif name not in methods:
                yield f"compare.{key}: {name}: not among compare.methods={methods}"
    if not methods:
        yield f"compare.methods={compare.methods}: names no method; known: {', '.join(known)}"


def _choice(compare: CompareConfig, method: str, seed: int) -> list[str]:
    rate = compare.learning_rates.get(method)
    return [f"method={method}", f"training.seed={seed}", *([] if rate is None else [f"training.learning_rate={rate}"])]


def _unequal(pipelines: Mapping[tuple[str, int], PipelineConfig]) -> Iterator[str]:
    """What would make the comparison unfair: settings beside the method in which the runs differ."""
    plain = {method: dict(_flat(config.model_dump(mode="json"))) for (method, _), config in pipelines.items()}
    (first, expected), *others = plain.items()
    for method, values in others:
        for key in sorted({*expected, *values}):
            if expected.get(key) != values.get(key):
                yield (
                    f"{key}: {expected.get(key)!r} for {first} but {values.get(key)!r} for {method}: a comparison "
                    f"needs the same for all; say {key}=... on the command line"
                )


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every setting by its dotted key, those left out that belong to a method."""
    for name, value in values.items():
        key = prefix + name
        if key in _FREE:
            continue
        if isinstance(value, dict):
            yield from _flat(value, f"{key}.")
        else:
            yield key, value


def run(comparison: Comparison) -> dict[str, Any]:
    """Train and evaluate what is missing, then compare; returns the JSON of ``output=json``."""
    execution = Execution(comparison.first)
    made = execution.run(lambda: _compare(execution, comparison), name="compare", unused=_VARYING)
    return {**made.summary(), "mlflow": execution.tracker.how_to_open}


def _compare(execution: Execution, comparison: Comparison) -> MethodComparison:
    """Each system's run stays open until its numbers, which are means over its seeds, are known."""
    first = comparison.first
    shared = Pipeline(first, execution)
    _ = shared.dataset, shared.base, shared.tokens  # a mistake in what all share is told once, and ends the comparison
    runs: list[Run] = []
    failed: dict[str, Exception] = {}
    with ExitStack() as stack:
        base = execution.below(first, BASE, unused=_VARYING, timed=False)
        systems = {BASE: stack.enter_context(base)}
        for (method, seed), config in comparison.pipelines.items():
            if method not in systems:
                systems[method] = stack.enter_context(execution.below(config, method, timed=False))
            label = f"{method}, seed {seed}"
            log.info("compare: %s", label)
            try:
                with systems[method].below(config, f"{method}-{seed}") as of_seed:
                    runs.append(_run(Pipeline(config, of_seed), method, seed))
            except (KeyboardInterrupt, Stopped):
                raise
            except Exception as error:  # one failed method does not lose the others
                failed[label] = error
                log.error("compare: %s failed and is left out: %s", label, first_line(error))
        for method in systems.keys() - {BASE, *(run.method for run in runs)}:
            systems[method].status = "FAILED"
        why = {label: first_line(error) for label, error in failed.items()}
        if not runs:
            kind = ConfigError if all(isinstance(error, UserError) for error in failed.values()) else StageError
            raise kind(f"compare: no method succeeded: {'; '.join(f'{label}: {line}' for label, line in why.items())}")
        made = execution.stage("compare", compare_methods, first.evaluation, runs, why)
        for name, system in made.systems.items():
            systems[name].metrics.update(_numbers(system))
    execution.publish_page("methods", (made.path / "comparison.md").read_text(encoding="utf-8"))
    return made


def _numbers(system: Mapping[str, Any]) -> dict[str, float]:
    """A system's numbers under the names that every system's run has."""
    return {key: float(value) for key, value in _flat(system) if isinstance(value, (int, float))}


def _run(pipeline: Pipeline, method: str, seed: int) -> Run:
    config = pipeline.config
    return Run(
        method=method,
        seed=seed,
        learning_rate=config.training.learning_rate,
        quantization=config.model.quantization,
        checkpoints=pipeline.checkpoints,
        report=pipeline.report,
    )


def shown(result: Mapping[str, Any]) -> str:
    """The table, and where everything is."""
    folder = Path(result["path"])
    lines = [(folder / "comparison.md").read_text(encoding="utf-8"), f"files: {folder}"]
    return "\n".join(lines + ([f"runs:  {result['mlflow']}"] if result["mlflow"] else []))


if __name__ == "__main__":
    cli.main(run, verb="compare", configure=configure, show=shown)
