"""The account of a data set: what was read, kept and dropped, by file, task and split, and what the texts look like.

Holds counts only, never content.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from tasks.conversation import Row
from tasks.data.source import SPLITS, Entry, Found


def account(entries: Iterable[Entry]) -> dict[str, Any]:
    """{"read", "kept", "dropped": {reason: n}} with read = kept + all dropped, which is asserted."""
    entries = list(entries)
    dropped = Counter(entry.reason for entry in entries if entry.row is None)
    kept = sum(entry.row is not None for entry in entries)
    assert all(dropped), "an entry was dropped without a reason"
    assert len(entries) == kept + dropped.total(), f"{len(entries)} read, {kept} kept, {dropped} dropped"
    by_count = sorted(dropped.items(), key=lambda item: (-item[1], item[0]))
    return {"read": len(entries), "kept": kept, "dropped": dict(by_count)}


def report(entries: Sequence[Entry], found: Found, origin: dict[str, str]) -> dict[str, Any]:
    """The whole report as JSON values, in a stable order."""
    rows = {split: [e.row for e in entries if e.row is not None and e.split == split] for split in SPLITS}
    notes = Counter(entry.note for entry in entries if entry.row is not None and entry.note)
    by_file = by(entries, lambda entry: entry.file)
    return {
        "rows": account(entries),
        "files": {file.name: {"split": file.split, **by_file.get(file.name, account([]))} for file in found.files},
        "skipped_files": {skipped.name: skipped.reason for skipped in found.skipped},
        "tasks": by(entries, lambda entry: entry.task or "(unreadable)"),
        "splits": {split: {"origin": origin[split], **text_statistics(rows[split])} for split in SPLITS},
        "notes": dict(sorted(notes.items())),
        "unseen_entities": unseen_entities(rows["test"]),
    }


def by(entries: Iterable[Entry], key: Callable[[Entry], str]) -> dict[str, Any]:
    """One account for each value of ``key``, sorted."""
    groups: defaultdict[str, list[Entry]] = defaultdict(list)
    for entry in entries:
        groups[key(entry)].append(entry)
    return {name: account(group) for name, group in sorted(groups.items())}


def text_statistics(rows: Sequence[Row]) -> dict[str, Any]:
    """Rows, rows per task, and characters of prompts and replies."""
    return {
        "rows": len(rows),
        "tasks": dict(sorted(Counter(row.task for row in rows).items())),
        "prompt_characters": _spread([sum(len(m.content) for m in row.prompt) for row in rows]),
        "reply_characters": _spread([len(row.reference) for row in rows]),
        "distinct_replies": len({row.reference for row in rows}),
    }


def unseen_entities(rows: Sequence[Row]) -> dict[str, int] | None:
    """Test rows whose entities do not occur in train, where the rows say so themselves."""
    marks = Counter(row.fields["unseen_entities"] for row in rows if "unseen_entities" in row.fields)
    return {"unseen": marks[True], "seen": marks[False]} if marks else None


def _spread(values: list[int]) -> dict[str, int]:
    if not values:
        return {}
    ordered = sorted(values)
    at = {"smallest": 0.0, "median": 0.5, "p95": 0.95, "largest": 1.0}
    return {name: ordered[round(place * (len(ordered) - 1))] for name, place in at.items()}
