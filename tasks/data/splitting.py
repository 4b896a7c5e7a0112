"""Divides the rows of all files into train, validation and test: duplicates, leakage, held-out shares, caps.

Works on the rows' keys alone, so a million rows take a second. Drops nothing without a reason.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tasks.data.hashing import Array, mix
from tasks.data.source import SPLITS, MaxRows, SourceConfig, Split
from tasks.data.spool import Keys

DUPLICATE = "duplicate row"
NEAR_DUPLICATE = "nearly the same as an earlier row"
LEAK = "leak: prompt is in {split}"
GROUP_LEAK = "leak: its group is in {split}"
NEAR_LEAK = "leak: nearly the same row is in {split}"
OVER_WEIGHT = "over its weight in the mixture"
OVER_CAP = "over data.max_rows"
#: Rows that were good but are more than was asked for; they do not count as losses.
BY_CHOICE = (OVER_CAP, OVER_WEIGHT)


@dataclass(frozen=True)
class Division:
    """Where each split came from, and how many source records were left after each step."""

    origin: dict[str, str]
    steps: dict[str, int]


def divide(
    keys: Keys,
    config: SourceConfig,
    near: Array,
    *,
    files: Sequence[Split],
    caps: Sequence[MaxRows] = (),
    weights: Sequence[float] = (),
) -> Division:
    """Set the split of every row, or drop it.

    Args:
        near: pairs of near duplicates, int64 [pairs, 2], first < second.
        files: the splits that have a file.
        caps: a mixture's parts' own caps; weights: their weights.
    """
    steps = {}
    drop_duplicates(keys, near)
    steps["without duplicates"] = _records(keys)
    drop_leaks(keys, near)
    origin = hold_out(keys, config, files)
    drop_leaks(keys, near)  # rows that are near a held-out one
    steps["without leaks"] = _records(keys)
    for part, own in enumerate(caps):
        for split in SPLITS:
            cap(keys, split, getattr(own, split), config.split_seed, keys.part == part)
    weigh(keys, weights, config.split_seed)
    for split in SPLITS:
        cap(keys, split, getattr(config.max_rows, split), config.split_seed)
    steps["kept"] = _records(keys)
    return Division(origin, steps)


def _records(keys: Keys) -> int:
    return int(keys.records[keys.alive].sum())


def drop_duplicates(keys: Keys, near: Array) -> None:
    """Keep the first of equal, and of nearly equal, training rows."""
    train = np.flatnonzero(keys.of("train"))
    _, first = np.unique(keys.exact[train], return_index=True)
    keys.drop(np.delete(train, first), DUPLICATE)
    keys.drop(_later(near[keys.of("train")[near].all(axis=1)]), NEAR_DUPLICATE)


def _later(pairs: Array) -> Array:
    """The second row of each pair whose first row stays."""
    dropped: set[int] = set()
    for first, second in pairs[np.lexsort((pairs[:, 0], pairs[:, 1]))].tolist():
        if first not in dropped:
            dropped.add(second)
    return np.array(sorted(dropped), np.int64)


def drop_leaks(keys: Keys, near: Array) -> None:
    """Drop training rows that are in validation or test, and validation rows that are in test."""
    order: tuple[tuple[Split, tuple[Split, ...]], ...] = (
        ("test", ("train", "validation")),
        ("validation", ("train",)),
    )
    for winner, losers in order:
        held = keys.of(winner)
        if not held.any():
            continue
        for loser in losers:
            for name, reason in (("prompt", LEAK), ("group", GROUP_LEAK)):
                values = getattr(keys, name)
                keys.drop(keys.of(loser) & np.isin(values, values[held]), reason.format(split=winner))
            lost = keys.of(loser)
            first, second = near[:, 0], near[:, 1]
            pairs = np.concatenate([first[lost[first] & held[second]], second[lost[second] & held[first]]])
            keys.drop(pairs, NEAR_LEAK.format(split=winner))


def hold_out(keys: Keys, config: SourceConfig, files: Sequence[Split]) -> dict[str, str]:
    """Move groups from train to the splits that have no usable row of their own.

    A group's place is a seeded hash of it, so rows added later never move the earlier ones.
    """
    train = np.flatnonzero(keys.of("train"))
    groups, member = np.unique(keys.group[train], return_inverse=True)
    place = unit_hash(config.split_seed, groups)
    order = np.argsort(place, kind="stable")
    origin = {"train": "file"}
    taken, low = 0, 0.0
    shares: tuple[tuple[Split, float], ...] = (
        ("test", config.test_share),
        ("validation", config.validation_share),
    )
    what = "prompts" if config.group_by is None else "groups"
    for split, share in shares:
        why = "the file has no usable row" if split in files else "there is no file"
        left = len(groups) - taken
        if keys.of(split).any():
            origin[split] = "file"
        elif share == 0:
            origin[split] = f"empty: {why} and data.{split}_share=0"
        elif left < 2:
            origin[split] = f"empty: {why} and there are too few {what} to hold out"
        else:
            # At least one group, however small the share, so that a split is never empty by chance.
            below = int((place[order[taken:]] < low + share).sum())
            count = min(max(below, 1), left - 1)
            held = np.isin(member, order[taken : taken + count])
            keys.split[train[held]] = SPLITS.index(split)
            origin[split] = f"held out of train: {why}, {share:g} of the {what}"
            taken, low = taken + count, low + share
    return origin


def unit_hash(seed: int, values: Array) -> Array:
    """Numbers in [0, 1) that depend on the seed and the values (uint64) only."""
    return np.asarray((mix(values + mix(np.array([seed + 1], np.uint64))) >> np.uint64(11)) / 2**53)


def weigh(keys: Keys, weights: Sequence[float], seed: int) -> None:
    """Drop training rows of a mixture's parts until the parts stand in the proportion of their weights."""
    if not weights:
        return
    rows = [np.flatnonzero(keys.of("train") & (keys.part == part)) for part in range(len(weights))]
    held = [len(found) / weight for found, weight in zip(rows, weights, strict=True) if len(found)]
    scale = min(held, default=0.0)  # a part that has files for other splits only decides nothing
    for found, weight in zip(rows, weights, strict=True):
        keys.drop(_over(keys, found, max(1, round(weight * scale)), seed), OVER_WEIGHT)


def cap(keys: Keys, split: Split, rows: int | None, seed: int, among: Array | None = None) -> None:
    """Drop rows of a split over ``rows``, a seeded choice within each task."""
    found = keys.of(split) if among is None else keys.of(split) & among
    if rows is None or found.sum() <= rows:
        return
    counts = np.bincount(keys.task[found], minlength=len(keys.tasks))
    quota = allocate({task: int(n) for task, n in enumerate(counts) if n}, rows)
    for task, most in quota.items():
        keys.drop(_over(keys, np.flatnonzero(found & (keys.task == task)), most, seed), OVER_CAP)


def _over(keys: Keys, rows: Array, most: int, seed: int) -> Array:
    """The rows beyond ``most``, in an order that depends on their content and the seed only."""
    return rows[np.argsort(unit_hash(seed, keys.exact[rows]), kind="stable")][most:]


def allocate(counts: dict[int, int], total: int) -> dict[int, int]:
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
