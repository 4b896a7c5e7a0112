"""From the text of an answer to the structure that the official scorer compares.

Every rule is the official conversion's, its oddities included, so that scores compare with published ones: a
relation line without its header has its own text as predicate, an empty event line is an all-empty event, the
first line of several tasks is skipped whatever it says. No text is an error. What nothing could be made of is
counted.

Source: michael-wzhu/PromptCBLUE, post_generate_process.py at 7e01dff ("ccks2023") and HEAD ("head").
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from tasks.errors import DataError
from tasks.evaluation.predictions import Prediction
from tasks.evaluation.promptcblue import nested_answers, suite
from tasks.evaluation.promptcblue.suite import Dialect

#: A label or text; a list of entities, relations, terms, events, attributes or tree nodes; a report by section.
Answer = str | list[dict[str, Any]] | dict[str, str]

_NORMALISED = 100  # of each half-width mark, the first so many become full-width ones
_NO_TERM = "没有对应的标准化实体"
_RELATION_HEADER = "关系的头尾实体对"
_EVENT_KEYS = {"主体词": False, "发生状态": False, "描述词": True, "解剖部位": True}  # whether it holds a list
_SAME = {"相同": "是的", "不同": "不是"}
_UNKNOWN_ATTRIBUTE: dict[tuple[str, Dialect], str] = {
    ("CHIP-MDCFNPC", "ccks2023"): "无实际意义的不标注或者和病人当前的状态独立不标注",
    ("CHIP-MDCFNPC", "head"): "不标注",
    ("IMCS-V2-SR", "ccks2023"): "无法根据上下文确定病人是否患有该症状",
    ("IMCS-V2-SR", "head"): "无法根据上下文确定病人是否患有该症状",
}
READ_BY_CHOICES = ("entities", "terms", "attributes")
_SECTIONS = ("主诉", "现病史", "辅助检查", "既往史", "诊断", "建议")


@dataclass(frozen=True)
class Question:
    """What an answer is read against: its task, the options that the prompt listed, and the rules."""

    task: str
    choices: tuple[str, ...] = ()
    dialect: Dialect = "ccks2023"


@dataclass(frozen=True)
class Structured:
    """A structured answer.

    Attributes:
        unread: lines that gave nothing (empty lines, lead-ins and the official "there is none" aside).
        outside: labels, types, terms and attributes that are none of the options.
    """

    answer: Answer
    unread: int = 0
    outside: int = 0


def question(row: Prediction) -> Question:
    """What a row's answers are read against. Without options nothing can be told to be one of them.

    Raises:
        DataError: an unknown task or dialect; options that are not a list of texts.
    """
    suite.kind(row.task)
    choices = row.fields.get("answer_choices") or ()
    if not isinstance(choices, list | tuple) or not all(isinstance(choice, str) for choice in choices):
        raise DataError(
            f"row {row.id} (task {row.task}): answer_choices={str(choices)[:60]!r} must be a list of texts, or null"
        )
    return Question(row.task, tuple(choices), suite.dialect(row.task, row.fields.get("dialect")))


def require_choices(questions: Sequence[Question], texts: Iterable[str]) -> None:
    """Check that a task's texts can be read: some real prompts list no options, and then nothing is to be found.

    Raises:
        DataError: no row of a task has options, by which its answers are read, though a text lists something.
    """
    task = questions[0].task
    if suite.kind(task) not in READ_BY_CHOICES or any(asked.choices for asked in questions):
        return
    # Entities and attributes are listed behind "：", CHIP-CDN's terms without a mark.
    if task == "CHIP-CDN" or any("：" in text for text in texts):
        raise DataError(f"task {task}: no row has answer_choices, by which answers are read; keep that field")


def structure(text: str, question: Question) -> Structured:
    """The structure of an answer; any text has one."""
    if question.dialect == "ccks2023":
        for half, full in ((":", "："), (",", "，"), (";", "；")):
            text = text.replace(half, full, _NORMALISED)
    return _READERS[suite.kind(question.task)](text, question)


def _pieces(text: str, separator: str) -> list[str]:
    return [piece.strip() for piece in text.split(separator) if piece.strip()]


def _entities(text: str, question: Question) -> Structured:
    lines = text.split("\n")
    found = [
        {"entity": mention, "type": choice}
        for choice in question.choices
        for line in lines
        if line.startswith(f"{choice}实体")
        for mention in _pieces(line.replace(f"{choice}实体：", ""), "，")
    ]
    heads = tuple(f"{choice}实体" for choice in question.choices)
    return Structured(found, unread=sum(not line.startswith(heads) for line in lines[1:] if line.strip()))


def _relations(text: str, question: Question) -> Structured:
    found: list[dict[str, Any]] = []
    unread = 0
    for number, line in enumerate(text.split("\n")):
        triples = _relation_line(line)
        found += triples
        unread += bool(number and line.strip() and not triples and _RELATION_HEADER not in line)
    outside = sum(triple["predicate"] not in question.choices for triple in found) if question.choices else 0
    return Structured(found, unread, outside)


def _relation_line(line: str) -> list[dict[str, Any]]:
    predicate = line.split(_RELATION_HEADER)[0][2:].strip()  # less 具有, or whatever stands there
    pieces = line.replace(f"具有{predicate}{_RELATION_HEADER}如下：", "").split("。")
    pairs = [piece.split("，尾实体为")[:2] for piece in pieces if "，尾实体为" in piece]
    return [
        {
            "predicate": predicate,
            "subject": head.replace("头实体为", "").strip(),
            "object": tail.replace("尾实体为", "").strip(),
        }
        for head, tail in pairs
    ]


def _terms(text: str, question: Question) -> Structured:
    terms = list(dict.fromkeys(_pieces(text.split("\n")[-1], "，")))
    kept = [term for term in terms if term in question.choices]
    outside = len(terms) - len(kept) - (terms == [_NO_TERM])
    return Structured([{"entity": term, "type": "normalization"} for term in kept], outside=outside)


def _events(text: str, question: Question) -> Structured:
    lines = text.split("\n")[1:]
    events = [_event(line) for line in lines]
    unread = sum(not any(event.values()) for line, event in zip(lines, events, strict=True) if line.strip())
    return Structured(events, unread)


def _event(line: str) -> dict[str, Any]:
    event: dict[str, Any] = {}
    for part in line.split("；"):
        for key, many in _EVENT_KEYS.items():
            if part.startswith(f"{key}："):
                part = part.replace(f"{key}：", "").strip()  # what is left may start with the next key: read on
                event[key] = _pieces(part, "，") if many else part
    return {key: event.get(key, [] if many else "") for key, many in _EVENT_KEYS.items()}


def _attributes(text: str, question: Question) -> Structured:
    lines = text.split("\n")[1:]
    pairs = [line.split("：") for line in lines if line.count("：") == 1]
    unknown = _UNKNOWN_ATTRIBUTE[question.task, question.dialect]
    found = [
        {"entity": entity.strip(), "attr": attribute if attribute in question.choices else unknown}
        for entity, attribute in pairs
    ]
    return Structured(
        found,
        unread=sum(line.count("：") != 1 for line in lines if line.strip()),
        outside=sum(attribute not in question.choices for _, attribute in pairs),
    )


def _label(text: str, question: Question) -> Structured:
    label = text.strip()
    legal = (*question.choices, suite.LABELS[question.task].empty_means)  # 非上述类型 is legal and never listed
    outside = int(bool(question.choices and label) and label not in legal)
    return Structured(_SAME.get(label, label) if question.task == "CHIP-STS" else label, outside=outside)


def _text(text: str, question: Question) -> Structured:
    return Structured(text.strip())


def _report(text: str, question: Question) -> Structured:
    lines = text.strip().split("\n")[1:]
    report = {
        section: line.strip().split(f"{section}：")[-1].strip()
        for section in _SECTIONS
        for line in lines  # the last of repeated sections stays
        if line.startswith(f"{section}：")
    }
    heads = tuple(f"{section}：" for section in _SECTIONS)
    return Structured(report, unread=sum(not line.startswith(heads) for line in lines if line.strip()))


_READERS: dict[suite.Kind, Callable[[str, Question], Structured]] = {
    "entities": _entities,
    "relations": _relations,
    "terms": _terms,
    "events": _events,
    "attributes": _attributes,
    "label": _label,
    "text": _text,
    "report": _report,
    "causal": lambda text, question: Structured(*nested_answers.causal_triples(text)),
    "tree": lambda text, question: Structured(*nested_answers.tree_nodes(text)),
}
