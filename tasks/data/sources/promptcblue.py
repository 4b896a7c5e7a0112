"""PromptCBLUE rows: {"input", "target", "answer_choices", "task_type", "task_dataset", "sample_id"}.

A row's task is its ``task_dataset``, and it is scored as the official scorer does; ``sample_id`` is unique only within
a task, so both are kept. Texts are kept as they are, edge spaces and entities included.

Source: the files of michael-wzhu/PromptCBLUE (toy_examples) and their documentation, which calls task_type "type".
"""

from __future__ import annotations

import ast
import json
from typing import Any, Literal

from tasks.conversation import Row
from tasks.data import columns
from tasks.data.answers import LABEL_TASKS, TEXT_TASKS
from tasks.data.source import Claim, Draft, SourceConfig, Unusable, single_turn
from tasks.schema import Field

_LIST_TASKS = (
    "CMeEE-V2",
    "CMeEE",
    "CMeIE",
    "CMeIE-V2",
    "CHIP-CDN",
    "CHIP-CDEE",
    "CHIP-MDCFNPC",
    "IMCS-V2-NER",
    "IMCS-V2-SR",
    "CMedCausal",
    "Text2DT",
)
TASKS = frozenset((*LABEL_TASKS, *_LIST_TASKS, *TEXT_TASKS))
METRIC = "promptcblue"


class Config(SourceConfig):
    """PromptCBLUE's instruction rows."""

    source: Literal["promptcblue"] = "promptcblue"
    prompt_column: str = Field("input", doc="Column of the whole prompt, options included.")
    response_column: str = Field("target", doc="Column of the answer.")


def convert(record: dict[str, Any], row_id: str, config: Config) -> Draft:
    """The row of a record; without a known task, a prompt or an answer there is none."""
    task = record.get("task_dataset")
    if not isinstance(task, str) or not task:
        raise Unusable("no task_dataset")
    if task not in TASKS:
        raise Unusable("unknown task_dataset", detail=f"known: {', '.join(sorted(TASKS))}", task=task[:40])
    try:
        prompt, (answer, *_) = columns.pair(record, config)
    except Unusable as error:
        raise Unusable(error.reason, detail=error.detail, task=task) from error
    if not prompt.strip():
        raise Unusable("empty prompt", task=task)
    if not answer.strip():
        raise Unusable("empty target", task=task)
    fields = {
        "answer_choices": _choices(record.get("answer_choices"), task),
        "sample_id": record.get("sample_id"),
        "task_type": record.get("task_type", record.get("type")),
    }
    if isinstance(record.get("unseen_entities"), bool):
        fields["unseen_entities"] = record["unseen_entities"]
    kept = {name: value for name, value in fields.items() if value is not None}
    return Draft(Row(row_id, single_turn(prompt, answer), task, METRIC, kept))


def recognise(record: dict[str, Any]) -> Claim | None:
    """Claims records that name a known task and have its prompt and answer."""
    task = record.get("task_dataset")
    if isinstance(task, str) and task in TASKS and "input" in record and "target" in record:
        return Claim(8, f"task_dataset {task} with input and target")
    return None


def _choices(value: Any, task: str) -> list[str] | None:
    """The options as a list; some copies hold the list as text, in JSON's or in Python's way."""
    if isinstance(value, str):
        value = _parsed(value, task) if value.strip() else None
    if not value:
        return None
    if not isinstance(value, list) or not all(isinstance(choice, str) for choice in value):
        raise Unusable("answer_choices is not a list", task=task)
    return value


def _parsed(text: str, task: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        pass
    try:
        return ast.literal_eval(text.strip())
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        raise Unusable("answer_choices is not a list", task=task) from None
