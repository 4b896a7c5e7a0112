"""Micro F1 over the sets of items that an answer lists, for PromptCBLUE's listing tasks.

An item is what one listing line names: (type, mention) of ``疾病实体：a，b``; (relation, head, tail) of
``具有P关系的头尾实体对如下：头实体为a，尾实体为b。``; (entity, attribute) of ``咳嗽：患有该症状``; a whole event of
``主体词：痛；发生状态：；…``; a term of ``a，b`` (CHIP-CDN). Half-width ``: , ;`` count as full-width ones. Items
that repeat within an answer count once; rows that list nothing on either side add nothing.

This is not the official conversion, which has a metric of its own to come. Known differences from it: types and
attributes outside answer_choices stay as they are (official: dropped, or replaced by a fallback), the first line
of an answer is not skipped blindly (a header is told by its empty right side), an unreadable event line is
nothing (official: an all-empty event), a relation line without its header is nothing (official: garbage).
Source: the formats of the PromptCBLUE (CCKS 2023) tasks.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from tasks.evaluation.metric import Array, RowScores, precision_recall_f1, set_f1
from tasks.evaluation.predictions import Prediction

Item = tuple[str, ...]
Items = set[Item]

_FULL_WIDTH = str.maketrans({":": "：", ",": "，", ";": "；"})
_RELATION_LINE = re.compile(r"具有(.+?)关系的头尾实体对如下：(.*)")
_EVENT_KEYS = ("主体词", "发生状态", "描述词", "解剖部位")
_TYPED_LINE = re.compile(r"([^：；，。]+)实体：(.*)")


def _split(text: str, separator: str) -> list[str]:
    return [piece.strip() for piece in text.split(separator) if piece.strip()]


def _typed(lines: Sequence[str]) -> Items:
    matches = [m for line in lines if (m := _TYPED_LINE.fullmatch(line))]
    return {(m[1].strip(), mention) for m in matches for mention in _split(m[2], "，")}


def _relations(lines: Sequence[str]) -> Items:
    items: Items = set()
    for match in filter(None, map(_RELATION_LINE.fullmatch, lines)):
        for pair in _split(match[2], "。"):
            head, found, tail = pair.partition("，尾实体为")
            if found:
                items.add((match[1].strip(), head.removeprefix("头实体为").strip(), tail.strip()))
    return items


def _events(lines: Sequence[str]) -> Items:
    items: Items = set()
    for line in lines:
        parts = {key.strip(): value.strip() for key, _, value in (p.partition("：") for p in line.split("；"))}
        event = tuple(parts.get(key, "") for key in _EVENT_KEYS)
        if any(event):
            items.add(event)
    return items


def _attributes(lines: Sequence[str]) -> Items:
    pairs = [line.split("：") for line in lines if line.count("：") == 1]
    return {(entity.strip(), attribute.strip()) for entity, attribute in pairs if entity.strip() and attribute.strip()}


def _terms(lines: Sequence[str]) -> Items:
    return {(term,) for term in _split(lines[-1], "，")} if lines else set()


_BY_TASK: dict[str, Callable[[Sequence[str]], Items]] = {
    "CMeEE-V2": _typed,
    "IMCS-V2-NER": _typed,
    "CMeIE": _relations,
    "CMeIE-V2": _relations,
    "CHIP-CDEE": _events,
    "CHIP-MDCFNPC": _attributes,
    "IMCS-V2-SR": _attributes,
    "CHIP-CDN": _terms,
}


def parser(task: str, reference: str) -> Callable[[Sequence[str]], Items]:
    """How to read the answers of a row: its task's form, else the first form that its reference shows."""
    if task in _BY_TASK:
        return _BY_TASK[task]
    lines = _lines(reference)
    return next((form for form in (_relations, _typed, _events, _attributes) if form(lines)), _terms)


def items(row: Prediction, text: str) -> Items:
    """The items that ``text`` lists, read as an answer to ``row``."""
    found = parser(row.task, row.reference)(_lines(text))
    choices = row.fields.get("answer_choices")
    if row.task == "CHIP-CDN" and choices:  # prose such as "no standard term" is not a term
        return {item for item in found if item[0] in choices}
    return found


def _lines(text: str) -> list[str]:
    return _split(text.translate(_FULL_WIDTH), "\n")


def score(rows: Sequence[Prediction]) -> RowScores:
    pairs = [(items(r, r.prediction), items(r, r.reference)) for r in rows]
    return RowScores(
        primary="f1",
        statistics=np.array([[len(p & g), len(p), len(g)] for p, g in pairs], dtype=np.float64),
        values=_values,
        rows=np.array([set_f1(p, g) for p, g in pairs]),
        facts={
            "empty_predictions": sum(not r.prediction.strip() for r in rows),
            "answers_without_items": sum(not p for p, _ in pairs),
            "references_without_items": sum(not g for _, g in pairs),
        },
    )


def _values(sums: Array) -> Mapping[str, Array]:
    precision, recall, f1 = precision_recall_f1(sums[..., 0], sums[..., 1], sums[..., 2])
    return {"precision": precision, "recall": recall, "f1": f1}
