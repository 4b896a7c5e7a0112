"""Measure a part of weitiao beside what it replaces; prints a table, and with output=json one JSON object.

python -m flows.bench data                          # rows/s and peak memory of the data stage
python -m flows.bench data 'rows=[10000,100000,1000000]' repeats=1
python -m flows.bench redaction                     # recall and precision by kind, on the labelled sets
python -m flows.bench redaction path=FILE           # what it finds in a file that holds no personal data
python -m flows.bench models                        # conversion beside a copy, rendering beside apply_chat_template
python -m flows.bench methods                       # what each method costs, and that it learns
python -m flows.bench train                         # tokens/s, MFU and memory beside the seeds' recipe and the Trainer
python -m flows.bench memory                        # the planner's estimate beside the peak of real workers
python -m flows.bench evaluate                      # generated rows/s beside one row at a time and model.generate
python -m flows.bench score                         # seconds to score predictions and resample them
python -m flows.bench statistics                    # coverage of intervals, and how often equal systems are told apart
"""

from __future__ import annotations

import json
import logging
import sys
from functools import partial
from pathlib import Path
from typing import Any, Literal

from flows import cli, evaluation_bench, methods_bench, training_bench
from tasks.config import parse_section
from tasks.data import benchmark
from tasks.data.parts import resolve
from tasks.data.personal_data import quality
from tasks.data.sources.auto import Config as AutoConfig
from tasks.devices import resolve_device
from tasks.errors import UserError
from tasks.evaluation import scoring_benchmark, simulation
from tasks.models import benchmark as models
from tasks.schema import How, Section
from tasks.training import memory_benchmark as memory

log = logging.getLogger("flows.bench")
_GOLDEN = cli.CONF.parent / "tests" / "golden"
LABELLED = (_GOLDEN / "redaction.jsonl", _GOLDEN / "redaction_heldout.jsonl")


class Output(Section):
    """How the result is shown."""

    output: Literal["text", "json"] = How("text", doc="json: one JSON object as the last line of standard output.")


class DataBench(Output):
    """Sizes and repetitions."""

    rows: list[int] = How([10_000, 100_000], min_length=1, doc="Sizes to measure, in rows.")
    repeats: int = How(3, ge=1, doc="Runs of each step; the median is shown.")
    steps: list[Literal[tuple(benchmark.STEPS)]] = How(list(benchmark.STEPS), doc="What to measure.")  # type: ignore[valid-type]


class RedactionBench(Output):
    """What to look at."""

    path: Path | None = How(None, doc="A data file without personal data: counts false hits; null: the labelled sets.")


class ModelsBench(Output):
    """Size and repetitions."""

    layers: int = How(4, ge=1, le=28, doc="Layers of the checkpoint of ChatGLM3-6B's shape; 28 are 12.5 GB.")
    repeats: int = How(3, ge=1, doc="Runs of each step; the median is shown.")
    steps: list[Literal[tuple(models.STEPS)]] = How(list(models.STEPS), doc="What to measure.")  # type: ignore[valid-type]


class MemoryBench(Output):
    """Where, and how much of the grid."""

    device: Literal["auto", "cpu", "cuda"] = How("auto", doc="cpu: resident memory; cuda: allocated memory.")
    points: int | None = How(None, ge=1, doc="The first so many of the grid's points; null: all.")


class ScoreBench(Output):
    """How much is scored."""

    rows: int = How(100_000, ge=100, doc="Rows of each metric.")
    resamples: int = How(1000, ge=100, doc="Resamples behind every interval.")
    metrics: list[Literal[tuple(scoring_benchmark.METRICS)]] = How(  # type: ignore[valid-type]
        list(scoring_benchmark.METRICS), doc="What to score."
    )


class StatisticsBench(Output):
    """How often things are simulated."""

    coverage_trials: int = How(simulation.COVERAGE_TRIALS, ge=10, doc="Data sets drawn to see what intervals hold.")
    test_trials: int = How(simulation.TEST_TRIALS, ge=10, doc="Pairs of equal systems that are tested.")


def data(config: DataBench) -> dict[str, Any]:
    results = []
    for rows in config.rows:
        log.info("bench: %s rows", f"{rows:,}")
        results += benchmark.measure(rows, config.repeats, config.steps)
    return {"results": results, "growth": benchmark.linear(results)}


def redaction(config: RedactionBench) -> dict[str, Any]:
    """Recall and precision on the labelled sets, or hits per 1,000 rows of a file without personal data."""
    if config.path is None:
        found = {
            f"{name} on {path.name}": quality.measure(path, detector)
            for path in LABELLED
            for name, detector in quality.detectors().items()
        }
        left = [case for path in LABELLED for case in quality.left_over(path)]
        return {"results": found, "left_after_redaction": left}
    given = resolve(AutoConfig(path=config.path))
    texts = [message.content for part, file in given.files() for message in benchmark.messages(given.parts[part], file)]
    hits = {name: quality.false_hits(texts, d) for name, d in quality.detectors().items()}
    return {"results": {"texts": len(texts), "hits_per_1000": hits}}


def models_bench(config: ModelsBench) -> dict[str, Any]:
    return {"results": models.measure(config.layers, config.repeats, config.steps)}


def memory_bench(config: MemoryBench) -> dict[str, Any]:
    device = resolve_device(config.device)
    results = memory.measure(memory.GRID[: config.points], device)
    return {"results": results, "difference": memory.summary(results)}


def score_bench(config: ScoreBench) -> dict[str, Any]:
    return {"results": scoring_benchmark.measure(config.rows, config.resamples, config.metrics)}


def statistics_bench(config: StatisticsBench) -> dict[str, Any]:
    return {"results": simulation.measure(config.coverage_trials, config.test_trials)}


def _redaction_shown(result: dict[str, Any]) -> str:
    found = result["results"]
    if "texts" in found:
        return json.dumps(found, ensure_ascii=False, indent=1)
    tables = [f"{name}\n{quality.table(one)}" for name, one in found.items()]
    left = result["left_after_redaction"]
    return "\n\n".join([*tables, f"left for the final scan after redaction: {len(left)} {left or ''}"])


SUBJECTS: dict[str, tuple[Any, type[Section], Any]] = {
    "data": (data, DataBench, lambda result: benchmark.table(result["results"])),
    "redaction": (redaction, RedactionBench, _redaction_shown),
    "models": (models_bench, ModelsBench, lambda result: models.table(result["results"])),
    "methods": (methods_bench.methods_bench, methods_bench.MethodsBench, methods_bench.shown),
    "memory": (memory_bench, MemoryBench, lambda result: memory.table(result["results"])),
    "evaluate": (evaluation_bench.evaluate_bench, evaluation_bench.EvaluateBench, evaluation_bench.shown),
    "score": (score_bench, ScoreBench, lambda result: scoring_benchmark.table(result["results"])),
    "statistics": (statistics_bench, StatisticsBench, lambda result: simulation.table(result["results"])),
    "train": (training_bench.train_bench, training_bench.TrainBench, training_bench.shown),
}


def main() -> None:
    """Take the subject off the command line; the rest is like every verb's."""
    known = ", ".join(SUBJECTS)
    subject = sys.argv.pop(1) if len(sys.argv) > 1 and sys.argv[1] in SUBJECTS else None
    if subject is None and not {"-h", "--help"} & set(sys.argv):
        print(
            f"error: {UserError(f'what to measure must be named first: python -m flows.bench {known}')}",
            file=sys.stderr,
        )
        sys.exit(UserError.exit_code)
    run, kind, show = SUBJECTS[subject or "data"]
    cli.main(
        run,
        verb="bench",
        default=f"bench_{subject or 'data'}",
        folder=cli.CONF / "verbs",
        schema=partial(parse_section, kind),
        show=show,
    )


if __name__ == "__main__":
    main()
