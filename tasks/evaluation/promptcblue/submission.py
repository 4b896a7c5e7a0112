"""The official scorer's files: ``{task: [{"sample_id", "answer"}]}``, written from predictions, read and scored.

The official scorer pairs rows by position and only then looks at their ids. Here a difference is told apart: a task
or sample that is missing, given twice or never asked for, and an order that is not gold's; each is an error, as it
is there.

Source: michael-wzhu/PromptCBLUE, evaluate.py; toy_examples/dev_structured.json and results.json.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tasks import files
from tasks.errors import DataError
from tasks.evaluation.metric import RowScores
from tasks.evaluation.predictions import Prediction
from tasks.evaluation.promptcblue import nested_answers, scores, structure, suite

Rows = Sequence[Mapping[str, Any]]
Structured = Mapping[str, Rows]
_SURROGATE = re.compile("[\ud800-\udfff]")


def submission(predictions: Iterable[Prediction]) -> dict[str, list[dict[str, Any]]]:
    """The structured answers of predictions: every task of their edition, each task's rows in the order given.

    Raises:
        DataError: a row cannot be read (see :mod:`tasks.evaluation.promptcblue.structure`), has no sample_id, or shares
            it within its task; the tasks are of both editions.
    """
    by_task: dict[str, list[Prediction]] = {}
    for row in predictions:
        by_task.setdefault(row.task, []).append(row)
    tasks = dict.fromkeys((*suite.EDITIONS[suite.edition(by_task)], *by_task))
    return {task: _answers(by_task[task]) if task in by_task else [] for task in tasks}


def _answers(rows: Sequence[Prediction]) -> list[dict[str, Any]]:
    questions = [structure.question(row) for row in rows]
    structure.require_choices(questions, (row.prediction for row in rows))
    seen: set[str | int] = set()
    for row in rows:
        sample: Any = row.fields.get("sample_id")
        if not _is_id(sample):
            raise DataError(f"row {row.id} (task {row.task}): no sample_id; a submission names every answer by it")
        if sample in seen:
            raise DataError(f"row {row.id} (task {row.task}): sample_id {sample} is there twice; leave one of them out")
        seen.add(sample)
    return [
        {"sample_id": row.fields["sample_id"], "answer": structure.structure(row.prediction, asked).answer}
        for row, asked in zip(rows, questions, strict=True)
    ]


def write(path: Path, predictions: Iterable[Prediction]) -> None:
    """Write the submission file of predictions, in the order of the official gold.

    Raises:
        DataError: as :func:`submission`; an answer cannot be written in UTF-8.
    """
    content = submission(predictions)
    text = json.dumps(content, ensure_ascii=False, indent=2)
    try:
        files.write_atomic(path, text + "\n")
    except UnicodeEncodeError:
        raise DataError(_unwritable(content)) from None


def _unwritable(content: Structured) -> str:
    """Names the first answer that UTF-8 cannot hold."""
    every = ((task, row) for task, rows in content.items() for row in rows)
    task, row = next(one for one in every if _SURROGATE.search(json.dumps(one[1], ensure_ascii=False)))
    shown = json.dumps(row, ensure_ascii=False).encode("utf-8", "backslashreplace").decode("utf-8")
    return (
        f"task {task}, row {shown[:80]}: holds half a character (a lone surrogate), which no UTF-8 file can hold; mend "
        "it in the predictions"
    )


def read_structured(path: Path) -> dict[str, list[dict[str, Any]]]:
    """Read a structured file.

    Raises:
        DataError: it cannot be read, or is not ``{task: [{"sample_id", "answer"}]}``.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path}: cannot be read as JSON: {error}") from error
    if not isinstance(content, dict) or not all(isinstance(rows, list) for rows in content.values()):
        raise DataError(f'{path}: must be {{task: [{{"sample_id": ..., "answer": ...}}]}}')
    for task, rows in content.items():
        for place, row in enumerate(rows, start=1):
            if not (isinstance(row, dict) and "answer" in row and _is_id(row.get("sample_id"))):
                raise DataError(f'{path}: task {task}, row {place}: must be {{"sample_id": ..., "answer": ...}}')
    return content


def score_structured(
    gold: Structured, predicted: Structured, *, names: tuple[str, str] = ("gold", "predictions")
) -> dict[str, RowScores]:
    """Score every task that gold has rows of, as the official scorer does; other tasks' predictions are not looked at.

    Args:
        names: what errors call the two sides, such as their files.

    Raises:
        DataError: gold has no rows or an unknown task; a task or sample is missing, given twice or not asked for; the
            order is not gold's; an answer has not the form of its task.
    """
    result = {}
    for task, rows in gold.items():
        if not rows:
            continue
        if task not in predicted:
            raise DataError(f"{names[1]}: task {task} is missing; {names[0]} has {len(rows)} rows of it")
        _check_pairs(task, rows, predicted[task], names)
        sides = zip((rows, predicted[task]), names, (True, False), strict=True)
        answers = [[_checked(task, row, name, is_gold) for row in side] for side, name, is_gold in sides]
        result[task] = scores.score(task, *answers)
    if not result:
        raise DataError(f"{names[0]}: no task has rows; give the gold of one task at least")
    return result


def _check_pairs(task: str, gold: Rows, predicted: Rows, names: tuple[str, str]) -> None:
    wanted, given = ([row["sample_id"] for row in rows] for rows in (gold, predicted))
    if wanted == given:
        return
    missing, surplus = Counter(wanted) - Counter(given), Counter(given) - Counter(wanted)
    where = f"{names[1]}: task {task}, sample_id"
    if surplus:
        sample = next(iter(surplus))
        problem = "is given more often than" if sample in set(wanted) else "is not in"
        raise DataError(f"{where} {sample}: {problem} {names[0]}, as are {surplus.total()} of its {len(given)} rows")
    if missing:
        raise DataError(f"{where} {next(iter(missing))}: is missing, as are {missing.total()} of {len(wanted)} rows")
    place = next(i for i, (a, b) in enumerate(zip(wanted, given, strict=True)) if a != b)
    raise DataError(
        f"{where} {given[place]}: stands at place {place + 1}, where {names[0]} has {wanted[place]}; put the rows in "
        "its order"
    )


def _checked(task: str, row: Mapping[str, Any], name: str, is_gold: bool) -> Any:
    """A row's answer, if it has the form of its task."""
    answer, kind = row["answer"], suite.kind(task)
    right, form = {
        "label": (isinstance(answer, str), "a text"),
        "text": (isinstance(answer, str), "a text"),
        "report": (_is_report(answer), "an object of texts by section"),
        "tree": (_is_tree(answer), "a list of nodes, at least one, each with role, logical_rel and triples of texts"),
    }.get(kind, (_is_list(answer), "a list of objects"))
    if not right:
        raise DataError(f"{_where(name, task, row)}: answer={_short(answer)} must be {form}")
    if is_gold and kind == "label" and not answer:
        raise DataError(f"{_where(name, task, row)}: the label is empty; gold must have one")
    return answer


def _where(name: str, task: str, row: Mapping[str, Any]) -> str:
    return f"{name}: task {task}, sample_id {row['sample_id']}"


def _short(answer: Any) -> str:
    return json.dumps(answer, ensure_ascii=False)[:80]


def _is_id(value: Any) -> bool:
    return isinstance(value, str | int) and value != ""


def _is_list(answer: Any) -> bool:
    return isinstance(answer, list) and all(isinstance(entry, dict) for entry in answer)


def _is_report(answer: Any) -> bool:
    return isinstance(answer, dict) and all(isinstance(text, str) for text in answer.values())


def _is_tree(answer: Any) -> bool:
    return _is_list(answer) and bool(answer) and all(map(_is_node, answer))


def _is_node(node: Mapping[str, Any]) -> bool:
    texts = isinstance(node.get("role"), str) and isinstance(node.get("logical_rel"), str)
    triples = node.get("triples")
    return texts and isinstance(triples, list) and all(map(nested_answers.is_triple, triples))
