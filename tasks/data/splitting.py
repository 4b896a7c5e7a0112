"""Divides the entries of all files into train, validation and test: duplicates, leakage, held-out shares, caps.

Works on groups of equal prompts, so that no prompt is ever in two splits. Drops nothing without a reason.
"""

from __future__ import annotations

import hashlib
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace

from tasks.conversation import Row
from tasks.data.source import SPLITS, Entry, SourceConfig, Split

DUPLICATE = "duplicate row"
LEAK = "leak: prompt is in {split}"
OVER_CAP = "over data.max_rows"


def divide(entries: Sequence[Entry], config: SourceConfig) -> dict[str, str]:
    """Set the split of every entry that has a row, or drop it; returns where each split came from."""
    drop_duplicates(entries)
    drop_leaks(entries, winner="test", losers=("train", "validation"))
    drop_leaks(entries, winner="validation", losers=("train",))
    origin = hold_out(entries, config)
    for split in SPLITS:
        cap(entries, split, getattr(config.max_rows, split), config.split_seed)
    share_references(entries)
    return origin


def prompt_key(row: Row) -> str:
    """Equal for prompts that differ in whitespace or in compatibility forms (full-width letters) only."""
    text = "\n".join(f"{message.role}:{message.content}" for message in row.prompt)
    text = "".join(unicodedata.normalize("NFKC", text).split())
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


def drop_duplicates(entries: Iterable[Entry]) -> None:
    """Keep the first of equal dialogues within a split."""
    seen = set()
    for entry in entries:
        if entry.row is None:
            continue
        key = (entry.split, entry.row.task, entry.row.messages)
        if key in seen:
            entry.drop(DUPLICATE)
        seen.add(key)


def drop_leaks(entries: Iterable[Entry], *, winner: Split, losers: tuple[Split, ...]) -> None:
    """Drop rows of ``losers`` whose prompt occurs in ``winner``."""
    entries = list(entries)
    held = {prompt_key(entry.row) for entry in entries if entry.row is not None and entry.split == winner}
    for entry in entries if held else ():
        if entry.row is not None and entry.split in losers and prompt_key(entry.row) in held:
            entry.drop(LEAK.format(split=winner))


def hold_out(entries: Sequence[Entry], config: SourceConfig) -> dict[str, str]:
    """Move prompts from train to the splits that have no usable row of their own.

    A prompt's place is a seeded hash of it, so rows added later never move the earlier ones.
    """
    rows = Counter(entry.split for entry in entries if entry.row is not None)
    had_file = {entry.split for entry in entries}
    groups: defaultdict[str, list[Entry]] = defaultdict(list)
    for entry in entries:
        if entry.row is not None and entry.split == "train":
            groups[prompt_key(entry.row)].append(entry)
    ordered = sorted(groups, key=lambda key: unit_hash(config.split_seed, key))
    origin = {"train": "file"}
    taken, low = 0, 0.0
    shares: tuple[tuple[Split, float], ...] = (
        ("test", config.test_share),
        ("validation", config.validation_share),
    )
    for split, share in shares:
        why = "the file has no usable row" if split in had_file else "there is no file"
        if rows[split]:
            origin[split] = "file"
        elif share == 0:
            origin[split] = f"empty: {why} and data.{split}_share=0"
        elif len(ordered) - taken < 2:
            origin[split] = f"empty: {why} and there are too few prompts to hold out"
        else:
            # At least one prompt, however small the share, so that a split is never empty by chance.
            below = [key for key in ordered[taken:] if unit_hash(config.split_seed, key) < low + share]
            held = below[: len(ordered) - taken - 1] or ordered[taken : taken + 1]
            for key in held:
                for entry in groups[key]:
                    entry.split = split
            origin[split] = f"held out of train: {why}, {share:g} of the prompts"
            taken, low = taken + len(held), low + share
    return origin


def unit_hash(seed: int, key: str) -> float:
    """A number in [0, 1) that depends on the seed and the key only."""
    return int.from_bytes(hashlib.sha256(f"{seed}:{key}".encode()).digest()[:6], "big") / 2**48


def cap(entries: Iterable[Entry], split: Split, rows: int | None, seed: int) -> None:
    """Drop rows of a split over ``rows``, a seeded choice within each task."""
    by_task: defaultdict[str, list[Entry]] = defaultdict(list)
    for entry in entries:
        if entry.row is not None and entry.split == split:
            by_task[entry.task].append(entry)
    if rows is None or sum(map(len, by_task.values())) <= rows:
        return
    quota = allocate({task: len(found) for task, found in by_task.items()}, rows)
    for task, found in by_task.items():
        for entry in sorted(found, key=lambda e: (unit_hash(seed, e.id), e.id))[quota[task] :]:
            entry.drop(OVER_CAP)


def allocate(counts: dict[str, int], total: int) -> dict[str, int]:
    """Share ``total`` out in proportion to ``counts``, at least one to each (to the largest, if it is too small)."""
    exact = {name: total * count / sum(counts.values()) for name, count in counts.items()}
    given = {name: max(1, int(share)) for name, share in exact.items()}
    while sum(given.values()) > total:
        over = max(given, key=lambda name: (given[name] > 1, given[name] - exact[name], name))
        given[over] -= 1
    while sum(given.values()) < total:
        short = max(given, key=lambda name: (given[name] < counts[name], exact[name] - given[name], name))
        given[short] += 1
    return given


def share_references(entries: Iterable[Entry]) -> None:
    """Rows of validation and test with the same prompt get all its replies as references (free text only)."""
    groups: defaultdict[tuple[str, str], list[Entry]] = defaultdict(list)
    for entry in entries:
        if entry.row is not None and entry.split != "train" and entry.row.metric in ("generation", "chat"):
            groups[entry.split, prompt_key(entry.row)].append(entry)
    for group in groups.values():
        found = [entry.row for entry in group if entry.row is not None]
        replies = [text for row in found for text in (row.reference, *row.fields.get("references", ()))]
        every = list(dict.fromkeys(replies))
        for entry, row in zip(group, found, strict=True):
            if len(every) > 1:
                entry.row = replace(row, fields={**row.fields, "references": every})
