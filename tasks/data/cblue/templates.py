"""Instruction templates with placeholders, in the form of PromptCBLUE's templates file, and how a prompt is filled in.

The form: one JSON object of task names, each with a list of texts. Lines are parted by new lines or by the two
characters backslash and n (the official file has both). Does not know labels or records.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from tasks.errors import DataError

SHIPPED = Path(__file__).parent / "templates.json"
#: Most prompts of PromptCBLUE end with this line, others leave it out.
ANSWER_LINE = "\n答："
_PLACEHOLDER = re.compile(r"\[(INPUT_TEXT|INPUT_TEXT_1|INPUT_TEXT_2|LIST_LABELS|LIST_MENTIONS)\]")
#: Options that a template spells out itself: a line such as ``选项：是的，不是``.
_SPELLED = re.compile(r"(?:选项|选择)[：:] *([^\[\]，\n]+)，([^\[\]，\n]+)(?:\n|$)")
_FORM = 'one JSON object like {"CHIP-CTC": ["[INPUT_TEXT]\\n选项：[LIST_LABELS]\\n答：", ...], ...}'
#: Names under which different editions of the file hold one task.
_ALIASES = {"CMeEE-V2": ("CMeEE",), "CMeIE": ("CMeIE-V2",)}


def stamp(path: Path) -> tuple[int, int]:
    """What changes when a file does; part of the key under which its content is remembered."""
    try:
        facts = path.stat()
    except OSError:
        return 0, 0
    return facts.st_size, facts.st_mtime_ns


def load(path: Path | None) -> Mapping[str, tuple[str, ...]]:
    """The templates of a file (None: the shipped ones) by task, backslash-n turned into new lines.

    Raises:
        DataError: it cannot be read or has another form.
    """
    path = (path or SHIPPED).expanduser()
    return _load(path, stamp(path))


@lru_cache(maxsize=8)
def _load(path: Path, _: tuple[int, int]) -> Mapping[str, tuple[str, ...]]:
    try:
        value: Any = json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise DataError(f"data.templates={path}: cannot be read ({error.strerror})") from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"data.templates={path}: not JSON; allowed: {_FORM}") from error
    if not isinstance(value, dict) or not value:
        raise DataError(f"data.templates={path}: not an object of tasks; allowed: {_FORM}")
    for task, texts in value.items():
        if not isinstance(texts, list) or not texts or not all(isinstance(text, str) and text for text in texts):
            raise DataError(f"data.templates={path}: task {task[:40]!r} has no list of texts; allowed: {_FORM}")
    return {task: tuple(text.replace("\\n", "\n") for text in texts) for task, texts in value.items()}


def of_task(path: Path | None, task: str, texts: tuple[str, ...], *, yes_no: bool = False) -> tuple[str, ...]:
    """The templates of a task, each with the placeholders ``texts`` and LIST_LABELS.

    With ``yes_no``, a template may spell out its two options itself instead of LIST_LABELS.

    Raises:
        DataError: the file has none, or one of them cannot be filled in.
    """
    path = (path or SHIPPED).expanduser()
    return _of_task(path, stamp(path), task, texts, yes_no)


@lru_cache(maxsize=32)
def _of_task(path: Path, stamp: tuple[int, int], task: str, texts: tuple[str, ...], yes_no: bool) -> tuple[str, ...]:
    found = _load(path, stamp)
    name = next((name for name in (task, *_ALIASES.get(task, ())) if name in found), None)
    if name is None:
        raise DataError(f"data.templates={path}: no templates for {task}; it has {', '.join(sorted(found))}")
    for number, text in enumerate(found[name], start=1):
        has = set(_PLACEHOLDER.findall(text))
        if has != {*texts, "LIST_LABELS"} and not (yes_no and has == set(texts) and spelled_options(text)):
            wanted = " ".join(f"[{mark}]" for mark in (*texts, "LIST_LABELS"))
            instead = " (or two options in its own words, 选项：是的，不是)" if yes_no else ""
            raise DataError(
                f"data.templates={path}: template {number} of {name}: its placeholders are not {wanted}{instead}"
            )
    return found[name]


def spelled_options(template: str) -> tuple[str, str] | None:
    """The two options that a template lists in its own words, the first for "yes"; None where it lists none."""
    found = _SPELLED.search(template)
    return (found[1].strip(), found[2].strip()) if found else None


def fill(template: str, texts: Sequence[str], options: Sequence[str], *, answer_line: bool = True) -> str:
    """The prompt of a template; one pass, so that a text which looks like a placeholder stays as it is.

    ``answer_line`` false leaves out the last line that asks for the answer, where the template has it.
    """
    if not answer_line:
        template = template.removesuffix(ANSWER_LINE)
    values = {"LIST_LABELS": "，".join(options)}
    if len(texts) == 1:
        values["INPUT_TEXT"] = texts[0]
    else:
        values |= {f"INPUT_TEXT_{number}": text for number, text in enumerate(texts, start=1)}
    return _PLACEHOLDER.sub(lambda mark: values.get(mark[1], mark[0]), template)
