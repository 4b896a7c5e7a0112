"""Content of a report.json for the tests of what is made of it."""

from __future__ import annotations

import copy
from typing import Any

LENGTHS = {"smallest": 1, "median": 20, "p95": 90, "largest": 1200}


def split(rows: int, origin: str = "the files named", **tasks: int) -> dict[str, Any]:
    lengths = LENGTHS if rows else {}
    histogram = [[50, rows], [100, 0]] if rows else []
    return {
        "origin": origin,
        "rows": rows,
        "tasks": tasks,
        "prompt_characters": lengths,
        "reply_characters": lengths,
        "distinct_replies": rows,
        "histogram": {"prompt": histogram, "reply": histogram},
    }


def account(read: int, kept: int, **dropped: int) -> dict[str, Any]:
    return {"read": read, "kept": kept, "dropped": {reason.replace("_", " "): n for reason, n in dropped.items()}}


def summary(**changes: Any) -> dict[str, Any]:
    """12,345 records of two files and tasks; 345 of them are dropped."""
    content = {
        "source": "promptcblue",
        "detected": None,
        "records": "rows",
        "rows": account(12345, 12000, duplicate=300, empty_reply=45),
        "made": 12000,
        "steps": [
            {"name": "read", "records": 12345},
            {"name": "clean", "records": 12300},
            {"name": "without duplicates", "records": 12000},
            {"name": "kept", "records": 12000},
        ],
        "files": {
            "train.json": {
                "split": "train",
                "encoding": "utf-8",
                **account(11345, 11000, duplicate=300, empty_reply=45),
            },
            "dev.json": {"split": "validation", "encoding": "gb18030", **account(1000, 1000)},
        },
        "skipped_files": {},
        "tasks": {"CTC": account(345, 0, duplicate=300, empty_reply=45), "QIC": account(12000, 12000)},
        "splits": {"train": split(11000, QIC=11000), "validation": split(1000, QIC=1000), "test": split(0, "none")},
        "labels": {},
        "notes": {},
        "redaction": {"on": False, "key": "", "rows": 0, "hits": {}, "final_scan": "off"},
        "unseen_entities": None,
    }
    return copy.deepcopy(content | changes)
