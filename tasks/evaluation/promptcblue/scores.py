"""Scores of structured answers: one task's by the kind of its answers, the mean over tasks, the official result.

Source: michael-wzhu/PromptCBLUE, evaluate.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tasks.evaluation.metric import RowScores
from tasks.evaluation.promptcblue import labels, lists, suite, texts, trees

_OFFICIAL_NAMES = {"f1": "Micro-F1", "weighted_f1": "Micro-F1", "macro_f1": "Macro-F1", "rouge_l": "RougeL"}
_OFFICIAL_NAMES["tree_ratio"] = "TreeLenvRatio"


def score(task: str, gold: Sequence[Any], predicted: Sequence[Any]) -> RowScores:
    """Score one task's structured answers, position by position; at least one.

    The answers have the form that the task's kind asks for, and a label of gold is not empty
    (:mod:`tasks.evaluation.promptcblue.submission` checks files). The primary value is the one that the official mean
    takes of the task.

    Raises:
        DataError: PromptCBLUE has no such task.
    """
    match suite.kind(task):
        case "label":
            return labels.score(gold, predicted, suite.LABELS[task])
        case "text":
            return texts.score(gold, predicted)
        case "report":
            return texts.score_reports(gold, predicted)
        case "tree":
            return trees.score(gold, predicted)
        case _:
            return lists.score(gold, predicted)


def overall(scores: Mapping[str, RowScores]) -> float:
    """The unweighted mean of the tasks' primary values; the official one is that over all tasks of an edition."""
    return sum(score.point()[score.primary] for score in scores.values()) / len(scores)


def official_result(scores: Mapping[str, RowScores]) -> dict[str, Any]:
    """What the official scorer writes of a success: the primary values and their mean, times 100."""
    values = {
        f"{task}-{_OFFICIAL_NAMES[score.primary]}": 100 * score.point()[score.primary] for task, score in scores.items()
    }
    mean = 100 * overall(scores)
    return {"success": True, "score": mean, "scoreJson": {**values, "score": mean}}
