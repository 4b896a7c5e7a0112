"""From text to structure for the two tasks whose answers nest: CMedCausal and Text2DT.

The official program ends with an exception on a malformed line; here it is left out and counted. It also hands
Text2DT's triples to ``eval``; here they are read as literals only.

Source: michael-wzhu/PromptCBLUE, post_generate_process.py at HEAD.
"""

from __future__ import annotations

import ast
import warnings
from collections.abc import Sized
from typing import Any

_CAUSAL_HEADERS = {"因果关系三元组如下": "因果关系", "条件关系三元组": "条件关系", "上下位关系": "上下位关系"}
_NO_CAUSAL = "给定的文本没有指定关系的三元组"
_TREE_LEAD_IN = "根据给定的指南文本抽取的诊疗决策树"
_LITERAL_LIMIT = 10_000  # characters; a real node has some hundred


def _after(text: str, mark: str) -> str | None:
    """What stands behind ``mark``, up to its next occurrence; None without it."""
    parts = text.split(mark, 2)
    return parts[1] if len(parts) > 1 else None


def _between(text: str | None, start: str, end: str) -> str | None:
    found = None if text is None else _after(text, start)
    return None if found is None else found.split(end, 1)[0]


def causal_triples(text: str) -> tuple[list[dict[str, Any]], int]:
    """CMedCausal's triples, those of a condition with a triple as their object; and how many lines gave none."""
    found: list[dict[str, Any]] = []
    relation: str | None = None
    unread = 0
    for line in map(str.strip, text.split("\n")):
        header = next((name for mark, name in _CAUSAL_HEADERS.items() if mark in line), None)
        if header:
            relation = header
        elif _NO_CAUSAL in line:
            break
        elif line:
            triple = _causal_triple(line, relation)
            found += [triple] if triple else []
            unread += not triple
    return found, unread


def _causal_triple(line: str, relation: str | None) -> dict[str, Any] | None:
    # The head of a conditional line ends in "；尾三元组：", as the official conversion has it.
    head = _between(line, "头实体：", "；尾实体：")
    tail: Any
    if relation != "条件关系":
        tail = _after(line, "；尾实体：")
    else:
        inner = _after(line, "；尾三元组：")
        tail = {
            "predicate": _between(inner, "；关系：", "；关系："),
            "subject": _between(inner, "头实体：", "；尾实体："),
            "object": _between(inner, "；尾实体：", "；关系："),
        }
        if tail["predicate"] != "因果关系" or None in tail.values():
            return None
    return None if head is None or tail is None else {"predicate": relation, "subject": head, "object": tail}


def tree_nodes(text: str) -> tuple[list[dict[str, Any]], int]:
    """Text2DT's nodes, at least one, in pre-order; and how many lines lacked a role or readable triples."""
    nodes: list[dict[str, Any]] = []
    unread = 0
    for line in text.split("\n"):
        if not line.strip() or _TREE_LEAD_IN in line:
            continue
        role = _between(line, "：role=", "；logical_rel=")
        triples = _triples(_after(line, "；triples="))
        unread += role is None or triples is None
        if role is not None:
            relation = _between(line, "；logical_rel=", "；triples=")
            relation = "null" if relation is None else relation
            nodes.append({"role": role, "logical_rel": relation, "triples": triples or []})
    return nodes or [{"role": "D", "logical_rel": "null", "triples": []}], unread


def _triples(literal: str | None) -> list[list[str]] | None:
    """The triples of a list's literal, what is not of length 3 left out; None where it cannot be read as such."""
    if literal is None or len(literal) > _LITERAL_LIMIT:
        return None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # "\d" in a model's text is no concern of ours
            values = ast.literal_eval(literal)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return None
    if not isinstance(values, list) or not all(isinstance(value, Sized) for value in values):
        return None
    return [list(value) for value in values if is_triple(value)]


def is_triple(value: Any) -> bool:
    """Whether a value is three texts."""
    # A text of three characters passes too, as it does in the official program.
    return isinstance(value, str | list | tuple) and len(value) == 3 and all(isinstance(part, str) for part in value)
