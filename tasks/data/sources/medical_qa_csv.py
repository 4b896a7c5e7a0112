"""Questions of patients and answers of doctors: CSV (often GBK) or JSON with department, title, ask and answer.

A question given as 无 ("none") or left empty is replaced by its title.

Source: Toyhom/Chinese-medical-dialogue-data.
"""

from __future__ import annotations

from typing import Any, Literal

from tasks.conversation import Row
from tasks.data import columns
from tasks.data.source import Claim, Draft, SourceConfig, Unusable, single_turn
from tasks.schema import Field

TASK = "medical_qa"
TITLE_FOR_QUESTION = "no question: the title is the prompt"
QUESTION_FOR_TITLE = "no title: the question is the prompt"


class Config(SourceConfig):
    """Medical questions and answers by department."""

    source: Literal["medical_qa_csv"] = "medical_qa_csv"
    prompt_column: str = Field("auto", doc="Columns of the prompt, joined by '+'; auto: as data.prompt says.")
    response_column: str = Field("answer", doc="Column of the doctor's answer.")
    prompt: Literal["ask", "title", "both"] = Field(
        "ask", doc="ask: the patient's question; title: its title; both: the title, then the question on a new line."
    )


def convert(record: dict[str, Any], row_id: str, config: Config) -> Draft:
    """The question, by ``config.prompt``, and the answer; the department is kept as a field."""
    try:
        if config.prompt_column == "auto":
            prompt, notes = _prompt(record, config)
            replies = [columns.text(record, config.response_column)]
        else:
            notes = ()
            prompt, replies = columns.pair(record, config)
    except Unusable as error:
        raise Unusable(error.reason, detail=error.detail, task=TASK) from error
    fields = {"department": department} if isinstance(department := record.get("department"), str) else {}
    return Draft(Row(row_id, single_turn(prompt, replies[0]), TASK, "generation", fields), notes)


def recognise(record: dict[str, Any]) -> Claim | None:
    """title, ask and answer, mostly with department."""
    if all(isinstance(record.get(name), str) for name in ("title", "ask", "answer")):
        return Claim(8, f"{'department, ' if 'department' in record else ''}title, ask and answer")
    return None


def _prompt(record: dict[str, Any], config: Config) -> tuple[str, tuple[str, ...]]:
    """The prompt, and a note where it is not what was asked for."""
    if "ask" not in record and "title" not in record:
        raise Unusable("no such columns", detail=f"neither ask nor title; {columns.have(record)}")
    ask, title = _stated(record, "ask"), _stated(record, "title")
    if config.prompt == "both" and ask and title:
        return (ask if ask.strip() == title.strip() else f"{title}\n{ask}"), ()
    if config.prompt == "title":
        return (title, ()) if title or not ask else (ask, (QUESTION_FOR_TITLE,))
    return (ask, ()) if ask or not title else (title, (TITLE_FOR_QUESTION,))


def _stated(record: dict[str, Any], column: str) -> str:
    """The text of a column that may be missing; empty where it says that there is none."""
    text = columns.text(record, column) if column in record else ""
    return "" if text.strip() in ("", "无") else text
