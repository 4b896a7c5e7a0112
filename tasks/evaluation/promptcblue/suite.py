"""PromptCBLUE's tasks: the kind of answer that each has, its labels' rules, and the two editions of the suite.

The edition of CCKS 2023 has 16 tasks; the repository's later one has 18 (CMeIE-V2 for CMeIE, and two more). They
read the same text differently, so a reading names its dialect. A task that only one edition has decides it;
a shared task is read as CCKS 2023's unless its row says otherwise.

Source: michael-wzhu/PromptCBLUE, post_generate_process.py and evaluate.py at 7e01dff (16 tasks) and HEAD (18).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, get_args

from tasks.errors import DataError

Dialect = Literal["ccks2023", "head"]
DIALECTS: tuple[Dialect, ...] = get_args(Dialect)
Kind = Literal[
    "entities", "relations", "causal", "terms", "events", "attributes", "label", "text", "report", "tree"
]  # fmt: skip

KINDS: dict[str, Kind] = {
    "CMeEE-V2": "entities",
    "CMeEE": "entities",
    "CMeIE": "relations",
    "CMeIE-V2": "relations",
    "CHIP-CDN": "terms",
    "CHIP-CDEE": "events",
    "CHIP-STS": "label",
    "CHIP-CTC": "label",
    "CHIP-MDCFNPC": "attributes",
    "KUAKE-IR": "label",
    "KUAKE-QIC": "label",
    "KUAKE-QQR": "label",
    "KUAKE-QTR": "label",
    "MedDG": "text",
    "IMCS-V2-MRG": "report",
    "IMCS-V2-NER": "entities",
    "IMCS-V2-DAC": "label",
    "IMCS-V2-SR": "attributes",
    "Text2DT": "tree",
    "CMedCausal": "causal",
}


@dataclass(frozen=True)
class LabelRules:
    """How a label task is scored.

    Attributes:
        empty_means: the label that an empty answer counts as (the first of the official list).
        average: what the task's main F1 is a mean over: labels alike, or weighted by how often gold has them. The
            weighted one is published as "Micro-F1".
    """

    empty_means: str
    average: Literal["macro", "weighted"]


LABELS = {
    "CHIP-CTC": LabelRules("非上述类型", "macro"),
    "IMCS-V2-DAC": LabelRules("非上述类型", "macro"),
    "KUAKE-QIC": LabelRules("非上述类型", "macro"),
    "CHIP-STS": LabelRules("是的", "weighted"),
    "KUAKE-IR": LabelRules("相关", "weighted"),
    "KUAKE-QTR": LabelRules("完全不匹配或者没有参考价值", "weighted"),
    "KUAKE-QQR": LabelRules("完全一致", "weighted"),
}

#: The official files hold the tasks in this order.
_CCKS2023 = (
    "CMeEE-V2",
    "CMeIE",
    "CHIP-CDN",
    "CHIP-CDEE",
    "CHIP-STS",
    "CHIP-CTC",
    "CHIP-MDCFNPC",
    "KUAKE-IR",
    "KUAKE-QIC",
    "KUAKE-QQR",
    "KUAKE-QTR",
    "MedDG",
    "IMCS-V2-MRG",
    "IMCS-V2-NER",
    "IMCS-V2-DAC",
    "IMCS-V2-SR",
)
EDITIONS: dict[Dialect, tuple[str, ...]] = {
    "ccks2023": _CCKS2023,
    "head": (*("CMeIE-V2" if task == "CMeIE" else task for task in _CCKS2023), "Text2DT", "CMedCausal"),
}
_ONLY_IN: dict[str, Dialect] = {"CMeIE": "ccks2023", "CMeIE-V2": "head", "Text2DT": "head", "CMedCausal": "head"}


def kind(task: str) -> Kind:
    """The kind of a task's answers.

    Raises:
        DataError: PromptCBLUE has no such task.
    """
    if task not in KINDS:
        raise DataError(f"task={task!r}: PromptCBLUE has no such task; known: {', '.join(sorted(KINDS))}")
    return KINDS[task]


def dialect(task: str, asked: str | None = None) -> Dialect:
    """The edition whose rules read the task's answers; ``asked`` decides where both editions have the task.

    Raises:
        DataError: ``asked`` is no edition.
    """
    if asked is not None and asked not in DIALECTS:
        raise DataError(f"dialect={asked!r}: PromptCBLUE has {' and '.join(DIALECTS)}")
    if task in _ONLY_IN:
        return _ONLY_IN[task]
    return "head" if asked == "head" else "ccks2023"


def edition(tasks: Iterable[str]) -> Dialect:
    """The edition that a set of tasks belongs to: CCKS 2023's where both have them all.

    Raises:
        DataError: the tasks are of both editions.
    """
    own = {task: _ONLY_IN[task] for task in tasks if task in _ONLY_IN}
    if len(set(own.values())) > 1:
        raise DataError(f"tasks {', '.join(sorted(own))}: no edition of PromptCBLUE has them all; take those of one")
    return next(iter(own.values()), "ccks2023")
