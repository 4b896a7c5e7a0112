"""What the tests of the account share: texts that are like no others, and the checks that hold for every data set."""

from __future__ import annotations

import hashlib
import json
import unicodedata
from collections import Counter
from pathlib import Path
from typing import Any

from tasks.artifacts import Dataset
from tasks.conversation import Row, read_rows


def text(i: int, salt: str = "") -> str:
    """Sixteen Chinese characters that depend on the number; no two numbers have nearly the same."""
    drawn = hashlib.sha256(f"{salt}{i}".encode()).digest()
    return "".join(chr(0x4E00 + a * 64 + b % 64) for a, b in zip(drawn[::2], drawn[1::2], strict=True))


def report_of(dataset: Dataset) -> dict[str, Any]:
    value: dict[str, Any] = json.loads((dataset.path / "report.json").read_text(encoding="utf-8"))
    return value


def quarantine_of(dataset: Dataset) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (dataset.path / "quarantine.jsonl").read_text(encoding="utf-8").splitlines()]


def files_of(dataset: Dataset) -> dict[str, bytes]:
    """All files but the record, which has the time in it."""
    found = (path for path in sorted(dataset.path.rglob("*")) if path.is_file() and path.name != "artifact.json")
    return {path.relative_to(dataset.path).as_posix(): path.read_bytes() for path in found}


def prompt_of(row: Row) -> str:
    return "".join(unicodedata.normalize("NFKC", "\0".join(m.role + m.content for m in row.prompt)).split())


def check_account(dataset: Dataset, read: dict[str, int] | None = None) -> None:
    """Every record read is in the rows or among the dropped, in all places that say so.

    Args:
        read: records by file name, as the test itself counted them.
    """
    report = report_of(dataset)
    accounts = [report["rows"], *report["files"].values(), *report["tasks"].values()]
    assert all(account["read"] == account["kept"] + sum(account["dropped"].values()) for account in accounts)
    if read is not None:
        assert {name: account["read"] for name, account in report["files"].items()} == read
    for part in ("files", "tasks"):
        for key in ("read", "kept"):
            assert sum(account[key] for account in report[part].values()) == report["rows"][key], (part, key)
    assert dataset.rows == report["rows"]

    lost: Counter[tuple[str, str]] = Counter()
    for line in quarantine_of(dataset):
        lost[line["file"], line["reason"]] += line.get("records", 1)
    dropped = {(name, why): n for name, file in report["files"].items() for why, n in file["dropped"].items()}
    assert dict(lost) == dropped

    rows = {split: list(read_rows(dataset.rows_file(split))) for split in dataset.splits}
    assert {split: len(found) for split, found in rows.items()} == dataset.splits
    assert {split: len(found) for split, found in rows.items()} == {s: v["rows"] for s, v in report["splits"].items()}
    assert report["made"] == sum(dataset.splits.values()) == sum(dataset.tasks.values())
    ids = [row.id for found in rows.values() for row in found]
    assert len(ids) == len(set(ids))
    assert not set(ids) & {line["id"] for line in quarantine_of(dataset)}
    prompts = [{prompt_of(row) for row in found} for found in rows.values()]
    assert sum(map(len, prompts)) == len(set.union(*prompts)), "a prompt is in two splits"


def write(path: Path, content: bytes | str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8", "surrogatepass"))
    return path
