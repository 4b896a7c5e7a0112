"""Scores PromptCBLUE's structured files with intervals: systems' answers to the same gold, ready for a paired test.

Rows of a task pair by sample_id. The official scorer takes them by position and refuses another order; here they are
put in gold's order first, and what it would refuse besides (a missing, surplus or repeated row) stays an error. Text
that is to be scored beside structured answers is structured by the official rules first.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from tasks.evaluation import scoring
from tasks.evaluation.metric import RowScores
from tasks.evaluation.predictions import Prediction
from tasks.evaluation.promptcblue import scores, submission, suite
from tasks.evaluation.promptcblue.submission import Rows, Structured
from tasks.evaluation.scoring import SystemScores, TaskScores

METRIC = "promptcblue"


def with_dialect(predictions: Iterable[Prediction], asked: str | None) -> list[Prediction]:
    """The predictions with the edition whose rules read them: ``asked``, else the later one where its own tasks are."""
    rows = list(predictions)
    tasks = {row.task for row in rows if row.metric == METRIC}
    older, later = (tasks & set(suite.EDITIONS[name]) for name in ("ccks2023", "head"))
    chosen = asked or ("head" if later - older and not older - later else None)
    if chosen is None:
        return rows
    return [replace(row, fields={"dialect": chosen, **row.fields}) if row.metric == METRIC else row for row in rows]


def sampled(
    gold: Structured, systems: Sequence[tuple[str, Structured]], *, gold_name: str, resamples: int, seed: int
) -> list[SystemScores]:
    """Score and resample systems, each a (name, answers); their statistics have common columns, as a test needs.

    Raises:
        DataError: a system's rows are not gold's, or an answer has not the form of its task; named by its system.
    """
    ordered = [{task: _in_order(gold.get(task, ()), rows) for task, rows in answers.items()} for _, answers in systems]
    own = [
        submission.score_structured(gold, answers, names=(gold_name, name))
        for (name, _), answers in zip(systems, ordered, strict=True)
    ]
    result: list[dict[str, TaskScores]] = [{} for _ in own]
    for task in sorted(own[0]):
        rows, columns = [_row(task, row) for row in gold[task]], object()
        order = sorted(range(len(rows)), key=lambda place: rows[place].id)  # as texts are: resamples are then the same
        rows = [rows[place] for place in order]
        for system, table in enumerate(_with_common_columns(task, gold, ordered, [s[task] for s in own])):
            table = replace(table, statistics=table.statistics[order], rows=table.rows[order])
            result[system][task] = TaskScores(METRIC, rows, table, columns=columns)
    return [scoring.resampled(tasks, resamples=resamples, seed=seed) for tasks in result]


def _in_order(gold: Rows, rows: Rows) -> Rows:
    """A task's rows in gold's order where they are gold's; else as they are, for the scorer to say what differs."""
    own = {row["sample_id"]: row for row in rows}
    wanted = [row["sample_id"] for row in gold]
    if len(own) != len(rows) or len(wanted) != len(rows) or {*own} != {*wanted}:
        return rows
    return [own[sample] for sample in wanted]


def _row(task: str, row: Mapping[str, Any]) -> Prediction:
    """Stands for a row whose answers are no texts."""
    return Prediction(id=str(row["sample_id"]), task=task, metric=METRIC, prompt="", reference="", prediction="")


def _with_common_columns(
    task: str, gold: Structured, systems: Sequence[Structured], own: Sequence[RowScores]
) -> list[RowScores]:
    if len(systems) == 1:
        return list(own)
    answers = [[row["answer"] for row in rows[task]] for rows in systems]
    wanted = [row["answer"] for row in gold[task]]
    together = scores.score(task, wanted * len(systems), [answer for side in answers for answer in side])
    n = len(wanted)
    return [
        replace(table, statistics=together.statistics[i * n : (i + 1) * n], values=together.values)
        for i, table in enumerate(own)
    ]
