"""Score a predictions file without a model: weitiao's own, an older program's, or PromptCBLUE's.

python -m flows.score metric=triples predictions=FILE
python -m flows.score predictions=test_predictions.json references=dev.json submission=results.json
python -m flows.score predictions=tuned.jsonl against=base.jsonl output=json

A task's values come with 95 % intervals; against=FILE adds a paired test of two systems on the same rows.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

from flows import cli, score_text
from tasks import plugins
from tasks.config import parse_section
from tasks.errors import ConfigError, DataError
from tasks.evaluation import scoring, significance
from tasks.evaluation.files import json_records, prediction_files, structured_scoring
from tasks.evaluation.files.prediction_files import Answers, Columns
from tasks.evaluation.metric import Options, RowScores
from tasks.evaluation.predictions import Prediction
from tasks.evaluation.promptcblue import scores, submission, suite
from tasks.evaluation.promptcblue.submission import Structured
from tasks.evaluation.scoring import SystemScores
from tasks.schema import How, Section

log = logging.getLogger("flows.score")
_TEXTS = ("predictions", "references", "prediction_column", "reference_column", "group_by", "against", "submission")


class Score(Section):
    """What to score, and by what."""

    predictions: Path = How(doc="The predictions file.")
    references: Path | None = How(None, doc="The file of the references; null: each row holds its own.")
    metric: str = How("auto", doc="Name of a metric; auto: the rows' own.")
    prediction_column: str | None = How(None, doc="Column of the answers; null: the known names.")
    reference_column: str | None = How(None, doc="Column of the references; null: the known names.")
    group_by: str | None = How(None, doc="Column whose rows are resampled as one; null: every row by itself.")
    dialect: Literal[suite.DIALECTS] | None = How(  # type: ignore[valid-type]
        None, doc="Edition whose rules read PromptCBLUE's answers; null: the later one where the file has its tasks."
    )
    text_unit: Literal["words", "characters"] = How("words", doc="What ROUGE and BLEU of free text count.")
    resamples: int = How(1000, ge=100, doc="Resamples behind every interval, and permutations of the test.")
    seed: int = How(42, ge=0, doc="Draws the resamples.")
    against: Path | None = How(None, doc="Another system's predictions for the same rows, to be tested against.")
    submission: Path | None = How(None, doc="Where to write the official PromptCBLUE submission.")
    output: Literal["text", "json"] = How("text", doc="json: one JSON object as the last line of standard output.")


@dataclass(frozen=True)
class Scored:
    """The systems: that of ``predictions``, and that of ``against`` where it is given.

    Attributes:
        rows: how many predictions were read.
        systems: none where there are no references.
        references: where they came from, in words.
        unanswered: how many of them have no prediction.
    """

    rows: int
    systems: list[SystemScores]
    references: str
    unanswered: int = 0


def score(config: Score) -> dict[str, Any]:
    """The JSON of ``output=json``: ``metrics`` by value where there is one task, by task and value where several."""
    if config.metric != "auto":
        plugins.load(scoring.METRICS, config.metric, key="metric")
    _keep_the_input(config)
    given = [path for path in (config.predictions, config.against, config.references) if path is not None]
    scored = (_structured if any(map(json_records.is_structured, given)) else _texts)(config)
    result: dict[str, Any] = {"predictions": str(config.predictions), "rows": scored.rows}
    if config.submission is not None:
        result["submission"] = str(config.submission)
    if scored.systems:
        result |= {"references": scored.references, "unanswered": scored.unanswered, **_scores(scored.systems[0])}
    if config.against is not None:
        result["against"] = _against(scored.systems, config)
    return result


def _keep_the_input(config: Score) -> None:
    """Refuse to write the submission over a file that is read."""
    for key in ("predictions", "references", "against"):
        path: Path | None = getattr(config, key)
        if config.submission and path and config.submission.resolve() == path.resolve():
            raise ConfigError(
                f"submission={config.submission}: would overwrite {key}={path}; name a file that is not read"
            )


def _systems(config: Score) -> list[Path]:
    return [config.predictions, *([config.against] if config.against else [])]


def _texts(config: Score) -> Scored:
    """Score files whose answers are texts."""
    read = [_read(config, path) for path in _systems(config)]
    if config.submission is not None:
        submission.write(config.submission, read[0].predictions)
    rows = len(read[0].predictions)
    if not read[0].references:
        if config.against is not None:
            raise ConfigError("references: must be set, as against=FILE asks for a comparison of scores")
        return Scored(rows, [], "")
    for answers in read:
        if not any(p.reference.strip() for p in answers.predictions):
            raise DataError(f"{answers.references}: every reference is empty, as in a test whose gold is kept back")
    options = Options(text_unit=config.text_unit)
    systems = [
        scoring.sampled(answers.predictions, resamples=config.resamples, seed=config.seed, options=options)
        for answers in read
    ]
    return Scored(rows, systems, read[0].references, len(read[0].unanswered))


def _read(config: Score, path: Path) -> Answers:
    metric = None if config.metric == "auto" else config.metric
    columns = Columns(config.prediction_column, config.reference_column, config.group_by, metric)
    answers = prediction_files.read(path, columns, config.references, may_lack=config.submission is not None)
    if answers.unanswered:
        log.warning(
            "score: %d references have no prediction in %s, the first is %s; scored are the %d that have one",
            len(answers.unanswered), path, answers.unanswered[0], len(answers.predictions),
        )  # fmt: skip
    return replace(answers, predictions=structured_scoring.with_dialect(answers.predictions, config.dialect))


def _structured(config: Score) -> Scored:
    """Score the official scorer's files; a side that is text is structured first."""
    for key, value in (("metric", config.metric), ("group_by", config.group_by)):
        if value not in (None, "auto", structured_scoring.METRIC):
            raise ConfigError(f"{key}={value}: not with official structured files, which metric=promptcblue scores")
    if config.references is None:
        raise ConfigError("references: must be set, as official structured files hold answers alone")
    if config.submission is not None:
        if json_records.is_structured(config.predictions):
            raise ConfigError(f"submission={config.submission}: {config.predictions} is one already")
        submission.write(config.submission, _answers(config.predictions, config.prediction_column, config))
    systems = [(str(path), _as_structured(path, config.prediction_column, config)) for path in _systems(config)]
    gold = _as_structured(config.references, config.reference_column or "target", config)
    sampled = structured_scoring.sampled(
        gold, systems, gold_name=str(config.references), resamples=config.resamples, seed=config.seed
    )
    rows = sum(map(len, systems[0][1].values()))
    return Scored(rows, sampled, f"{config.references}, paired by task and sample_id")


def _as_structured(path: Path, column: str | None, config: Score) -> Structured:
    if json_records.is_structured(path):
        return submission.read_structured(path)
    return submission.submission(_answers(path, column, config))


def _answers(path: Path, column: str | None, config: Score) -> list[Prediction]:
    """A column of texts by itself."""
    answers = prediction_files.read(path, Columns(prediction=column), may_lack=True).predictions
    return structured_scoring.with_dialect(answers, config.dialect)


def _scores(system: SystemScores) -> dict[str, Any]:
    tasks = {name: _task(system, name) for name in system.tasks}
    values = {name: task["values"] for name, task in tasks.items()}
    result = {
        "metrics": next(iter(values.values())) if len(values) == 1 else values,
        "score": system.headline.interval().to_json(),
        "tasks": tasks,
    }
    if all(task.metric == structured_scoring.METRIC for task in system.tasks.values()):
        result |= _official({name: task.scores for name, task in system.tasks.items()})
    return result


def _official(tables: Mapping[str, RowScores]) -> dict[str, Any]:
    """The official scorer's result, times 100, and the edition's tasks that are missing in it."""
    for tasks in suite.EDITIONS.values():
        if set(tables) <= set(tasks):
            missing = [task for task in tasks if task not in tables]
            return {"official": {**scores.official_result(tables), "missing": missing}}
    return {}  # tasks of both editions, or an older one's


def _task(system: SystemScores, name: str) -> dict[str, Any]:
    task = system.tasks[name]
    return {
        "metric": task.metric,
        "primary": task.scores.primary,
        "percent": list(task.scores.percent),
        "rows": len(task.predictions),
        "groups": int(task.groups.max()) + 1,
        "values": {value: sampled.interval().to_json() for value, sampled in system.samples[name].items()},
        "facts": dict(task.scores.facts),
    }


def _against(systems: list[SystemScores], config: Score) -> dict[str, Any]:
    """The paired test of the score, and of every task with the p-values of all tasks adjusted."""
    names = sorted({name for system in systems for name in system.tasks})
    ours, theirs = significance.align(systems, names)
    test = partial(significance.paired_test, ours, theirs, permutations=config.resamples, seed=config.seed)
    overall, tests = test(), {name: test(task=name) for name in names}
    adjusted = dict(zip(names, significance.holm([t.p_value for t in tests.values()]), strict=True))
    return {
        "predictions": str(config.against),
        **_scores(systems[1]),
        "test": overall.to_json() | {"verdict": overall.verdict()},
        "tests": {
            name: {
                **t.to_json(),
                "p_adjusted": adjusted[name],
                "detectable": t.detectable_at(family=len(names)),
                "verdict": t.verdict(adjusted_p=adjusted[name]),
            }
            for name, t in tests.items()
        },
        "conclusion": significance.conclusion(overall, str(config.predictions), str(config.against)),
    }


if __name__ == "__main__":
    cli.main(
        score,
        verb="score",
        default="score",
        folder=cli.CONF / "verbs",
        verbatim=_TEXTS,
        schema=partial(parse_section, Score),
        show=score_text.shown,
    )
