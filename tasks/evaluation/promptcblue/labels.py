"""F1 and accuracy of answers that are one label: what an empty answer means, and which mean the task takes.

The official report is given no list of labels, so an answer outside the vocabulary is a class of its own (see
tasks.evaluation.label_counts). An empty answer counts as the first label of the task's official list.

Source: scikit-learn's classification_report(zero_division=0), which michael-wzhu/PromptCBLUE's evaluators.py calls.
"""

from __future__ import annotations

from collections.abc import Sequence

from tasks.evaluation import label_counts
from tasks.evaluation.metric import RowScores
from tasks.evaluation.promptcblue.suite import LabelRules


def score(gold: Sequence[str], predicted: Sequence[str], rules: LabelRules) -> RowScores:
    """Score label answers, position by position; no gold label is empty."""
    answers = [label or rules.empty_means for label in predicted]
    own = (f"{rules.average}_precision", f"{rules.average}_recall")
    names = ("accuracy", "macro_f1", "weighted_f1", *own)
    return label_counts.score(gold, answers, primary=f"{rules.average}_f1", names=names)
