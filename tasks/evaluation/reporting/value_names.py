"""How values are named: ``f1`` of a whole task, ``f1[部件故障]`` of one label (a relation, a type, a turn)."""

from __future__ import annotations

from collections.abc import Iterable


def split(name: str) -> tuple[str, str]:
    """("f1", "部件故障") of ``f1[部件故障]``; ("f1", "") of ``f1``."""
    value, bracket, label = name.partition("[")
    return (value, label[:-1]) if bracket and label.endswith("]") else (name, "")


def labelled(names: Iterable[str]) -> dict[str, dict[str, str]]:
    """{value: {label: full name}} of the names that have a label, in their order."""
    found: dict[str, dict[str, str]] = {}
    for name in names:
        value, label = split(name)
        if label:
            found.setdefault(value, {})[label] = name
    return found
