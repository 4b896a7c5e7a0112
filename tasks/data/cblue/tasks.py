"""CBLUE's raw records: what each task asks, what its labels say, and how the answer is written in PromptCBLUE's form.

Does not know templates, files, or which options a prompt offers (see ``sources/cblue``).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from tasks.data.cblue import labels as labels
from tasks.data.source import Unusable

#: What is right about a record: every right option, with what belongs to it (mentions of a type, pairs of a relation).
Right = dict[str, list[str]]
#: Separators of the answer texts; a value that holds one reads differently when the answer is taken apart.
_SEPARATOR_NOTE = "a value holds the separator of the answer"


@dataclass(frozen=True)
class Labelled:
    """What a record's label says, and what had to be decided about it."""

    right: Right
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Task:
    """One task.

    Attributes:
        name: in PromptCBLUE's rows (``task_dataset``); it decides the metric. kind: their ``task_type``.
        texts: column names of the one or two texts, in every form that the files have.
        column: of the label.
        read: the label's value to what is right.
        answer: what is right and the options offered to the target.
        options: all that there are; None: the terms of a list.
        fixed: every prompt offers all options, in this order.
        extra: fewest and most wrong options beside all right ones; None: a random part of all options.
        always_answer_line: every prompt ends with the line that asks for the answer.
    """

    name: str
    kind: str
    texts: tuple[tuple[str, ...], ...]
    column: str
    read: Callable[[Any], Labelled]
    answer: Callable[[Right, Sequence[str]], str]
    options: tuple[str, ...] | None
    fixed: bool = False
    extra: tuple[int, int] | None = None
    always_answer_line: bool = False


def _choice(
    names: Mapping[str, str], *, none: str = "", notes: Mapping[str, str] = MappingProxyType({})
) -> Callable[[Any], Labelled]:
    """A reader of single labels; the label ``none`` has no option, ``notes`` belong to single labels."""

    def read(value: Any) -> Labelled:
        label = str(value) if isinstance(value, (str, int)) and not isinstance(value, bool) else ""
        noted = (notes[label],) if label in notes else ()
        if none and label == none:
            return Labelled({}, noted)
        if label not in names:
            raise Unusable("unknown label", detail=f"not one of the {len(names) + bool(none)} labels of this task")
        return Labelled({names[label]: []}, noted)

    return read


def _chosen(right: Right, options: Sequence[str]) -> str:
    return next((option for option in right if option in options), labels.NONE_OF_THESE)


def _terms(value: Any) -> Labelled:
    """``term##term``; a piece O stands for a part of the diagnosis that has no standard term."""
    if not isinstance(value, str):
        raise Unusable("broken label", detail="normalized_result is not a text")
    pieces = value.split("##")
    terms = [piece for piece in pieces if piece.strip() and piece != "O"]
    notes = ["the mark O (no standard term) left out"] if "O" in pieces else []
    if any("，" in term for term in terms):
        notes.append(_SEPARATOR_NOTE)
    return Labelled({term: [] for term in terms}, tuple(notes))


def _listed_terms(right: Right, options: Sequence[str]) -> str:
    return "，".join(option for option in options if option in right) or labels.NO_TERM


def _entities(value: Any) -> Labelled:
    """Mentions by type, in the order of the text; the raw ``end_idx`` is the place of the last character."""
    found: list[tuple[int, str, str]] = []
    for number, entity in enumerate(_objects(value, "entities"), start=1):
        kind, mention, start = entity.get("type"), entity.get("entity"), entity.get("start_idx")
        if not isinstance(mention, str) or not mention or not isinstance(start, int):
            raise Unusable("broken label", detail=f"entities, number {number}: entity or start_idx is missing")
        if kind not in labels.ENTITY_TYPES:
            raise Unusable("unknown label", detail=f"entities, number {number}: type is none of the 9")
        found.append((start, labels.ENTITY_TYPES[kind], mention))
    right: Right = {}
    for _, name, mention in sorted(found, key=lambda item: item[0]):
        if mention not in right.setdefault(name, []):
            right[name].append(mention)
    return Labelled(right, (_SEPARATOR_NOTE,) if any("，" in mention for _, _, mention in found) else ())


def _entity_lines(right: Right, options: Sequence[str]) -> str:
    if not any(option in right for option in options):
        return labels.NO_ENTITY
    return "\n".join(
        ["上述句子中的实体包含：", *(f"{option}实体：{'，'.join(right.get(option, []))}" for option in options)]
    )


def _relations(value: Any) -> Labelled:
    """Pairs by predicate; an object is ``{"@value": text}`` or the text itself."""
    right: Right = {}
    broken = False
    for number, triple in enumerate(_objects(value, "spo_list"), start=1):
        predicate, head, tail = triple.get("predicate"), triple.get("subject"), triple.get("object")
        tail = tail.get("@value") if isinstance(tail, dict) else tail
        if not isinstance(head, str) or not head or not isinstance(tail, str) or not tail:
            raise Unusable("broken label", detail=f"spo_list, number {number}: subject or object is missing")
        if predicate not in labels.RELATIONS:
            raise Unusable("unknown label", detail=f"spo_list, number {number}: predicate is none of the 44")
        broken |= "。" in head + tail or "，尾实体为" in head + tail
        pair = f"头实体为{head}，尾实体为{tail}。"
        if pair not in right.setdefault(predicate, []):
            right[predicate].append(pair)
    return Labelled(right, (_SEPARATOR_NOTE,) if broken else ())


def _relation_lines(right: Right, options: Sequence[str]) -> str:
    if not any(option in right for option in options):
        return labels.NO_RELATION
    return "\n".join(f"具有{option}关系的头尾实体对如下：{''.join(right.get(option, []))}" for option in options)


def _objects(value: Any, column: str) -> list[dict[str, Any]]:
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        raise Unusable("broken label", detail=f"{column} is not a list of objects")
    return value


_CTC = Task(
    "CHIP-CTC",
    "cls",
    (("text",),),
    "label",
    _choice(
        labels.CRITERIA,
        none=labels.MULTIPLE,
        notes={labels.MULTIPLE: "label Multiple (several categories) written as none of these"},
    ),
    _chosen,
    tuple(labels.CRITERIA.values()),
)
#: CHIP-CTC where criteria of several categories have an option of their own.
CTC_WITH_MULTIPLE = Task(
    "CHIP-CTC",
    "cls",
    (("text",),),
    "label",
    _choice({**labels.CRITERIA, labels.MULTIPLE: labels.MULTIPLE_NAME}),
    _chosen,
    (*labels.CRITERIA.values(), labels.MULTIPLE_NAME),
)
_TASKS = (
    _CTC,
    Task(
        "CHIP-STS",
        "cls",
        (("text1", "text2"),),
        "label",
        _choice(labels.SAME_MEANING),
        _chosen,
        tuple(labels.SAME_MEANING.values()),
        fixed=True,
        always_answer_line=True,
    ),
    Task("CHIP-CDN", "normalization", (("text",),), "normalized_result", _terms, _listed_terms, None, extra=(2, 4)),
    Task(
        "KUAKE-QIC",
        "cls",
        (("query",),),
        "label",
        _choice(labels.INTENTS, none=labels.OTHER_INTENT),
        _chosen,
        tuple(labels.INTENTS.values()),
    ),
    Task(
        "KUAKE-QQR",
        "matching",
        (("query1", "query2"), ("query", "title")),
        "label",
        _choice(labels.QUERY_RELATIONS, notes={"0": "label 0 (superset or unrelated) written as unrelated"}),
        _chosen,
        labels.QQR_OPTIONS,
        fixed=True,
    ),
    Task(
        "KUAKE-QTR",
        "matching",
        (("query", "title"),),
        "label",
        _choice(labels.MATCHES),
        _chosen,
        tuple(labels.MATCHES.values()),
        fixed=True,
    ),
    Task(
        "CMeEE-V2",
        "ner",
        (("text",),),
        "entities",
        _entities,
        _entity_lines,
        tuple(labels.ENTITY_TYPES.values()),
    ),
    Task(
        "CMeIE",
        "spo_generation",
        (("text",),),
        "spo_list",
        _relations,
        _relation_lines,
        labels.RELATIONS,
        extra=(0, 2),
    ),
)
BY_NAME = {task.name: task for task in _TASKS}
#: A task's name in a file or folder name, with or without what comes before and behind it.
_IN_NAME = re.compile(
    r"(?<![a-z])(?:(?:chip|kuake)[-_])?(ctc|sts|cdn|qic|qqr|qtr|cmeee|cmeie)(?:[-_]?v2)?(?![a-z])", re.IGNORECASE
)
_SHORT = {name.split("-")[-1].lower(): task for name, task in BY_NAME.items() if not name.startswith("CM")} | {
    "cmeee": BY_NAME["CMeEE-V2"],
    "cmeie": BY_NAME["CMeIE"],
}


def named(path: str) -> Task | None:
    """The task of which a path speaks, in the file's name before the folders'; None where it speaks of none."""
    for part in reversed(path.split("/")):
        if found := _IN_NAME.search(part):
            return _SHORT[found[1].lower()]
    return None


def shaped(record: Mapping[str, Any]) -> Task | None:
    """The task whose columns a record has, label included where several tasks have the same texts."""
    for columns, name in (
        (("text1", "text2"), "CHIP-STS"),
        (("query1", "query2"), "KUAKE-QQR"),
        (("query", "title"), "KUAKE-QTR"),
        (("text", "normalized_result"), "CHIP-CDN"),
        (("text", "entities"), "CMeEE-V2"),
        (("text", "spo_list"), "CMeIE"),
    ):
        if all(column in record for column in columns):
            return BY_NAME[name]
    if isinstance(label := record.get("label"), str):
        if "text" in record and (label in labels.CRITERIA or label == labels.MULTIPLE):
            return _CTC
        if "query" in record and (label in labels.INTENTS or label == labels.OTHER_INTENT):
            return BY_NAME["KUAKE-QIC"]
    return None
