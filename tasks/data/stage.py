"""The prepare stage: files of one source to a published Dataset."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tasks.artifacts import Dataset
from tasks.conversation import write_rows
from tasks.data import files, report, source, splitting
from tasks.data.source import SPLITS, DataFile, Entry, Found, SourceConfig
from tasks.errors import DataError
from tasks.schema import identity
from tasks.store import Store, digest

log = logging.getLogger(__name__)

#: Raise when this stage's code changes what it makes of the same input.
REVISION = 1


def prepare(config: SourceConfig, *, store: Store) -> Dataset:
    """Read, check, divide and publish the rows of a source.

    Raises:
        DataError: a file is missing or unreadable, or too few rows are usable.
    """
    module = source.load(config.source)
    found: Found = getattr(module, "find", files.find)(config)
    if all(getattr(config, key) is None for key in ("path", *SPLITS)):
        log.info("prepare: no data.path: reads the shipped %s sample", config.source)
    return store.publish(
        Dataset,
        name=config.source,
        revision=REVISION,
        config=identity(config),
        inputs=_digests(found.files, store),
        work=lambda folder: _write(folder, read(module, found, config), found, config),
    )


def inputs(config: SourceConfig) -> dict[str, list[str]]:
    """The files that :func:`prepare` would read, by split.

    Raises:
        DataError: a file is missing.
    """
    found: Found = getattr(source.load(config.source), "find", files.find)(config)
    names: dict[str, list[str]] = {}
    for file in found.files:
        names.setdefault(file.split, []).append(file.name)
    return names


def read(module: source.Source, found: Found, config: SourceConfig) -> list[Entry]:
    """The entries of all files, in the order of the files.

    Raises:
        DataError: with ``data.strict``, at the first unusable record.
    """
    entries = []
    for file in found.files:
        for entry in module.read(file, config):
            if entry.row is None and config.strict:
                raise DataError(f"{file.path}:{entry.line}: {_why(entry)} (data.strict=true)")
            entries.append(entry)
    return entries


def _digests(found: Sequence[DataFile], store: Store) -> dict[str, str]:
    """One digest a split over the names and contents of its files."""
    try:
        hashes = store.file_digests([file.path for file in found])
    except OSError as error:
        raise DataError(f"{error.filename}: cannot be read ({error.strerror})") from error
    by_split: dict[str, dict[str, str]] = {}
    for file, content in zip(found, hashes, strict=True):
        by_split.setdefault(file.split, {})[file.name] = content
    return {split: digest(names) for split, names in by_split.items()}


def _write(folder: Path, entries: list[Entry], found: Found, config: SourceConfig) -> Mapping[str, Any]:
    origin = splitting.divide(entries, config)
    _check(entries, config)
    splits = {
        split: write_rows(folder / f"{split}.jsonl", (e.row for e in entries if e.row is not None and e.split == split))
        for split in SPLITS
    }
    with (folder / "dropped.jsonl").open("w", encoding="utf-8", newline="\n") as file:
        for entry in entries:
            if entry.row is None:
                file.write(json.dumps(_dropped_json(entry), ensure_ascii=False) + "\n")
    summary = report.report(entries, found, origin)
    text = json.dumps(summary, ensure_ascii=False, indent=1)
    (folder / "report.json").write_text(text + "\n", encoding="utf-8", newline="\n")
    tasks = {task: count["kept"] for task, count in summary["tasks"].items() if count["kept"]}
    assert sum(splits.values()) == summary["rows"]["kept"]
    return {"source": config.source, "rows": summary["rows"], "splits": splits, "tasks": tasks}


def _dropped_json(entry: Entry) -> dict[str, Any]:
    names = ("file", "line", "id", "split", "reason", "detail")
    return {name: value for name in names if (value := getattr(entry, name)) != ""}


def _check(entries: list[Entry], config: SourceConfig) -> None:
    """Refuse a data set of which too little is left.

    Raises:
        DataError: nothing was read, nothing is left to train on, or data.max_dropped_share is exceeded.
    """
    rows = report.account(entries)
    dropped = {reason: n for reason, n in rows["dropped"].items() if reason != splitting.OVER_CAP}
    reasons = "; ".join(f"{n} {reason}" for reason, n in list(dropped.items())[:5])
    first = next((e for e in entries if e.row is None and e.reason != splitting.OVER_CAP), None)
    where = f"; the first: {first.file}:{first.line}: {_why(first)}" if first else ""
    if not rows["read"]:
        raise DataError(f"{_shown(config)}: no rows in the file(s)")
    if not rows["kept"]:
        raise DataError(f"{_shown(config)}: none of {rows['read']} rows is usable: {reasons}{where}")
    trains = any(e.split == "train" for e in entries)
    if trains and not any(e.split == "train" and e.row is not None for e in entries):
        raise DataError(f"{_shown(config)}: no row is left to train on: {reasons}{where}")
    share = sum(dropped.values()) / rows["read"]
    if share > config.max_dropped_share:
        raise DataError(
            f"{_shown(config)}: {share:.0%} of {rows['read']} rows dropped, "
            f"more than data.max_dropped_share={config.max_dropped_share:g}: {reasons}{where}"
        )


def _why(entry: Entry) -> str:
    return f"{entry.reason} ({entry.detail})" if entry.detail else entry.reason


def _shown(config: SourceConfig) -> str:
    paths = {key: getattr(config, key) for key in ("path", *SPLITS)}
    return (
        ", ".join(f"data.{key}={path}" for key, path in paths.items() if path is not None)
        or f"the shipped {config.source} sample"
    )
