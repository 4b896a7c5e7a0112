"""The imported run as a primary configuration, and as a table for people."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from tasks.training.importing.account import Account, Line

_GROUPS = ("data", "model", "method", "hardware")
_SECTIONS = ("data", "model", "method", "tokenization", "training", "hardware", "evaluation")
_PLAIN = re.compile(r"[A-Za-z_./][\w./-]*")
_WORDS = {"null", "true", "false", "yes", "no", "on", "off", "y", "n", "nan", "inf"}
_COLUMN = 34


def yaml_text(account: Account, name: str, command: str) -> str:
    """A primary configuration named ``name`` that ``command`` made."""
    head = [
        f"{name}: imported from {account.program or 'an older program'}.",
        f"  python -m flows.full --config-name {name}",
        f"  python -m flows.full --config-name {name} training.max_steps=10 # a trial",
        f"Made by: {command}",
        f"Hardware and time: python -m flows.plan --config-name {name} tells both before anything starts.",
        *(f"Told: {text}" for text in account.told),
        *(f"Not taken over: {one.old}={_short(one.value)} ({one.note})" for one in _lost(account)),
    ]
    lines = [f"# {line}".replace("\n", " ") for line in head]
    options = {group: account.groups[group] for group in _GROUPS} | {"evaluation": "default", "serving": "transformers"}
    lines += ["defaults:", *(f"  - {group}: {option}" for group, option in options.items()), "  - _self_"]
    origin = {line.new: line for line in account.lines if line.new}
    for section in _SECTIONS:
        keys = {k.partition(".")[2]: v for k, v in account.values.items() if k.startswith(f"{section}.")}
        if keys:
            lines += ["", f"{section}:"]
            lines += [_entry(key, value, origin.get(f"{section}.{key}")) for key, value in keys.items()]
    serving = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") or "imported"
    return "\n".join([*lines, "", "serving:", f"  model_name: {scalar(serving)}", ""])


def table(result: Mapping[str, Any]) -> str:
    """The mapping for people: every old key with what became of it, then what is to be known."""
    rows = [("old", "value", "new", "value", "note")]
    for kind in ("mapped", "default"):
        for line in result[kind]:
            old = line["old"] if kind == "mapped" else f"{line['old']} (its default)"
            rows.append((old, _short(line["value"]), line["new"], _short(line["becomes"]), line["note"]))
    widths = [max(len(row[i]) for row in rows) for i in range(4)]
    text = [
        "  ".join([*(cell.ljust(w) for cell, w in zip(row, widths, strict=False)), row[4]]).rstrip() for row in rows
    ]
    for kind, title in (("dropped", "dropped"), ("unknown", "unknown: look at these")):
        if result[kind]:
            text += ["", f"{title}:"]
            text += [f"  {one['old']}={_short(one['value'])}: {one['note']}" for one in result[kind]]
    if result["told"]:
        text += ["", "to be known:", *(f"  {line}" for line in result["told"])]
    return "\n".join([*text, "", f"written: {result['out']}"])


def scalar(value: Any) -> str:
    """A value as YAML that every reader takes for the same."""
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    if isinstance(value, float):
        text = f"{value:.10g}"
        mantissa, e, exponent = text.partition("e")
        if e:  # YAML 1.1 takes 5e-05 for a text
            return f"{mantissa if '.' in mantissa else f'{mantissa}.0'}e{exponent}"
        return text if "." in text else f"{text}.0"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, list | tuple):
        return f"[{', '.join(scalar(part) for part in value)}]"
    text = str(value)
    if _PLAIN.fullmatch(text) and text.lower() not in _WORDS:
        return text
    return json.dumps(text.replace("${", "\\${"), ensure_ascii=False)


def _entry(key: str, value: Any, line: Line | None) -> str:
    text = f"  {key}: {scalar(value)}"
    if line is None:
        return text
    was = f"default of {line.old}" if line.kind == "default" else line.old
    note = f"{was}: {line.note}" if line.note else was
    return f"{text.ljust(_COLUMN)}  # {note}".replace("\n", " ")


def _lost(account: Account) -> list[Line]:
    return [line for line in account.lines if line.kind == "unknown"]


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 60 else f"{text[:57]}..."
