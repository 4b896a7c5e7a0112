"""The official PromptCBLUE score of a task's rows, from the text of the answers.

Texts become structured answers by the official rules (``tasks.evaluation.promptcblue.structure``), references as well
as predictions, and those are scored as the official scorer does: micro F1 of listed items; macro F1 (CHIP-CTC,
KUAKE-QIC, IMCS-V2-DAC) or support-weighted F1 (published as "Micro-F1") of labels; ROUGE-L of replies and reports;
the tree edit ratio of Text2DT. Every row carries its own reference, so no two files need to be paired.

Source: michael-wzhu/PromptCBLUE; see the modules of ``tasks.evaluation.promptcblue``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from tasks.errors import DataError
from tasks.evaluation.metric import Options, RowScores
from tasks.evaluation.predictions import Prediction
from tasks.evaluation.promptcblue import scores, suite
from tasks.evaluation.promptcblue.structure import READ_BY_CHOICES, Structured, question, require_choices, structure


def score(rows: Sequence[Prediction], options: Options) -> RowScores:
    """Score the rows of one task; ``options`` change nothing, as the official scorer knows none.

    Raises:
        DataError: a task that is not PromptCBLUE's; no row has the options of its prompt though the task's answers are
            read by them; an empty reference where it must be a label.
    """
    kind = suite.kind(rows[0].task)
    questions = [question(row) for row in rows]
    require_choices(questions, (row.reference for row in rows))
    gold = [structure(row.reference, asked) for row, asked in zip(rows, questions, strict=True)]
    predicted = [structure(row.prediction, asked) for row, asked in zip(rows, questions, strict=True)]
    if kind == "label":
        _require_labels(rows, gold)
    base = scores.score(rows[0].task, [side.answer for side in gold], [side.answer for side in predicted])
    facts: dict[str, Any] = {
        "dialects": sorted({asked.dialect for asked in questions}),
        "empty_predictions": sum(not row.prediction.strip() for row in rows),
        "unread_lines": sum(side.unread for side in predicted),
        "reference_unread_lines": sum(side.unread for side in gold),
        "outside_the_choices": sum(side.outside for side in predicted),
        "reference_outside_the_choices": sum(side.outside for side in gold),
    }
    if kind in READ_BY_CHOICES:
        facts["rows_without_choices"] = sum(not asked.choices for asked in questions)
    return replace(base, facts={**base.facts, **facts})


def _require_labels(rows: Sequence[Prediction], gold: Sequence[Structured]) -> None:
    for row, reference in zip(rows, gold, strict=True):
        if not reference.answer:
            raise DataError(f"row {row.id} (task {row.task}): the reference is empty; a label task needs one")
