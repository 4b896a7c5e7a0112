"""The prepare stage: files of any known form to a published Dataset.

read -> convert -> clean -> redact -> spool       several processes, in order, in bounded memory
     -> duplicates -> leaks -> splits -> caps     on the rows' keys
     -> Parquet, report, quarantine -> final scan
"""

from __future__ import annotations

import json
import logging
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from tasks import parallel
from tasks.artifacts import Dataset
from tasks.conversation import Row, read_rows
from tasks.data import duplicates, exporting, reading, splitting, writing
from tasks.data.parts import Input, resolve
from tasks.data.personal_data.protection import Protection, final_scan, hidden, protection, with_names
from tasks.data.processing import Batch, Prepared, Processor, Setup, redactor, shown_name
from tasks.data.reporting import account, page, plots, preview
from tasks.data.source import SPLITS, DataFile, SourceConfig
from tasks.data.spool import Spool
from tasks.errors import DataError
from tasks.files import write_atomic
from tasks.store import Store, digest

log = logging.getLogger(__name__)

#: Raise when this stage's code changes what it makes of the same input.
REVISION = 3
_BATCH_ENTRIES = 2000
#: Below this size the work is done before other processes have started.
_PARALLEL_BYTES = 16 << 20
_LINE_EVERY_S = 15.0
#: Rows a split that the preview chooses from.
_PREVIEW_ROWS = 50


def prepare(config: SourceConfig, *, store: Store) -> Dataset:
    """Read, check, protect, divide and publish the rows of a source.

    Raises:
        DataError: a file is missing or unreadable, too few rows are usable, or personal data is left.
    """
    given = resolve(config)
    if given.detected:
        log.info("prepare: data.source=auto found %s", given.detected)
    if config.source != "mixture" and all(getattr(config, key) is None for key in ("path", *SPLITS)):
        log.info("prepare: no data.path: reads the shipped %s sample", config.source)
    protected = protection(given, store.root)
    identity = hidden(given.identity(), protected)
    if protected.key is not None:
        identity = {**identity, "redaction_key": protected.key_id}
    return store.publish(
        Dataset,
        name=given.config.source,
        revision=REVISION,
        config=identity,
        inputs=_digests(given, store),
        work=lambda folder: Preparation(folder, given, with_names(protected, given)).work(),
    )


def inputs(config: SourceConfig) -> dict[str, list[str]]:
    """The files that :func:`prepare` would read, by split.

    Raises:
        DataError: a file is missing, or no format fits.
    """
    names: dict[str, list[str]] = {}
    for _, file in resolve(config).files():
        names.setdefault(file.split, []).append(file.name)
    return names


def _digests(given: Input, store: Store) -> dict[str, str]:
    """One digest a split over the names and contents of its files, one over other files that decide the rows."""
    found: list[tuple[str, str, Path]] = [(file.split, file.name, file.path) for _, file in given.files()]
    found += [("other", path.name, path) for path in given.other_files()]
    try:
        hashes = store.file_digests([path for _, _, path in found])
    except OSError as error:
        # reading, unlike opening, tells no file name
        where = error.filename or ", ".join(sorted({name for _, name, _ in found}))
        raise DataError(f"{where}: cannot be read ({error.strerror})") from error
    by_role: dict[str, dict[str, str]] = {}
    for (role, name, _), content in zip(found, hashes, strict=True):
        by_role.setdefault(role, {})[name] = content
    return {role: digest(names) for role, names in by_role.items()}


class Preparation:
    """One run of the stage in one folder."""

    def __init__(self, folder: Path, given: Input, protected: Protection) -> None:
        self.folder, self.given, self.config, self.protected = folder, given, given.config, protected
        self.files: list[tuple[int, DataFile]] = list(given.files())
        redactors = [redactor(part.config, protected.key, protected.names) for part in given.parts]
        self.shown = _distinct([shown_name(file, redactors[part]) for part, file in self.files])
        self.skipped = {
            shown_name(skipped, redact): skipped.reason
            for part, redact in zip(given.parts, redactors, strict=True)
            for skipped in part.found.skipped
        }
        self.account = account.Account()
        self.first_loss = ""
        size = sum(path.stat().st_size for path in {file.path for _, file in self.files})
        self.processes = self.config.processes or (parallel.default_processes() if size > _PARALLEL_BYTES else 1)

    def work(self) -> Mapping[str, Any]:
        """Fill the folder; returns the record's facts."""
        with (self.folder / "quarantine.jsonl").open("w", encoding="utf-8", newline="\n") as file:
            quarantine = writing.Quarantine(file)
            spool = self.spooled(quarantine)
            division = self.divided(spool)
            written = writing.write(spool, self.folder, quarantine)
        spool.path.unlink()
        facts = [
            {"name": name, "split": file.split, "encoding": reading.encoding(file)}
            for name, (_, file) in zip(self.shown, self.files, strict=True)
        ]
        summary = {
            "source": self.config.source,
            "detected": self.given.detected or None,
            "records": self._what_is_counted(),
            **account.report(self.account, spool.keys, division, written, facts),
            "skipped_files": self.skipped,
            "redaction": self._redaction(),
        }
        self._write_report(summary)
        splits = {split: summary["splits"][split]["rows"] for split in SPLITS}
        assert splits == dict(writing.kept_rows(self.folder))
        tasks: dict[str, int] = {}
        for split in SPLITS:
            for task, count in summary["splits"][split]["tasks"].items():
                tasks[task] = tasks.get(task, 0) + count
        return {"source": self.config.source, "rows": summary["rows"], "splits": splits, "tasks": tasks}

    def _what_is_counted(self) -> str:
        names = {getattr(part.module, "RECORDS", "rows") for part in self.given.parts}
        return names.pop() if len(names) == 1 else "records"

    # --- reading ---------------------------------------------------------------------------------------------

    def spooled(self, quarantine: writing.Quarantine) -> Spool:
        configs = tuple(part.config for part in self.given.parts)
        setup = Setup(configs, self.protected.key, self.protected.names)
        told = time.monotonic()
        with Spool(self.folder / "spool.arrow") as spool:
            for prepared in parallel.in_order(Processor, setup, self._batches(), self.processes):
                number = prepared.file_number
                part, file = self.files[number]
                self._told(prepared, quarantine)
                self.account.add(number, prepared)
                spool.add(prepared.rows, number, part, file.split)
                if time.monotonic() - told > _LINE_EVERY_S:
                    told = time.monotonic()
                    log.info("prepare: %s records read", f"{self.account.read.total():,}")
        return spool

    def _batches(self) -> Iterator[Batch]:
        """All records in batches; counts what is read, apart from what becomes of it."""
        for number, (part, file) in enumerate(self.files):
            self.account.read[number] += 0
            module, config = self.given.parts[part].module, self.given.parts[part].config
            if hasattr(module, "read"):
                entries = []
                for entry in module.read(file, config):
                    self.account.read[number] += entry.records
                    entries.append(entry)
                    if len(entries) == _BATCH_ENTRIES:
                        yield Batch(number, file, self.shown[number], part, entries)
                        entries = []
                yield Batch(number, file, self.shown[number], part, entries)
            else:
                for chunk in reading.chunks(file):
                    self.account.read[number] += chunk.count
                    yield Batch(number, file, self.shown[number], part, chunk)

    def _told(self, prepared: Prepared, quarantine: writing.Quarantine) -> None:
        """Put the records that made no row into the quarantine.

        Raises:
            DataError: with ``data.strict``, at the first of them.
        """
        if not prepared.rejected:
            return
        number = prepared.file_number
        part, file = self.files[number]
        first = prepared.rejected[0]
        where = f"{first.line}: {first.reason}{f' ({first.detail})' if first.detail else ''}"
        if self.given.parts[part].config.strict or self.config.strict:
            path = f"{file.path}/{file.member}" if file.member else str(file.path)
            named = self.shown[number] if self.given.parts[part].config.redact else path
            raise DataError(f"{named}:{where} (data.strict=true)")
        self.first_loss = self.first_loss or f"{self.shown[number]}:{where}"
        quarantine.rejected(self.shown[number], file.split, prepared.rejected)

    # --- dividing --------------------------------------------------------------------------------------------

    def divided(self, spool: Spool) -> splitting.Division:
        keys = spool.keys
        near = np.zeros((0, 2), np.int64)
        if self.config.near_duplicates is not None:
            near = duplicates.near_pairs(spool, self.config.near_duplicates, self.folder, self.processes)
        parts = self.given.parts
        division = splitting.divide(
            keys,
            self.config,
            near,
            files=[file.split for _, file in self.files],
            caps=[part.config.max_rows for part in parts] if parts[0].config is not self.config else (),
            weights=[part.weight for part in parts if part.weight is not None],
        )
        self.account.close(keys)
        self._check(spool)
        return division

    def _check(self, spool: Spool) -> None:
        """Refuse a data set of which too little is left.

        Raises:
            DataError: nothing was read, nothing is left to train on, or less than data.min_keep_ratio.
        """
        rows = self.account.rows()
        lost = {reason: n for reason, n in rows["dropped"].items() if reason not in splitting.BY_CHOICE}
        reasons = "; ".join(f"{n} {reason}" for reason, n in list(lost.items())[:5])
        where = f"; the first: {self.first_loss}" if self.first_loss else ""
        what = _shown(self.given.config)
        if not rows["read"]:
            raise DataError(f"{what}: no rows in the file(s)")
        if not rows["kept"]:
            raise DataError(f"{what}: none of {rows['read']} rows is usable: {reasons}{where}")
        if any(file.split == "train" for _, file in self.files) and not spool.keys.of("train").any():
            reasons = reasons or "no rows in the training file(s)"
            raise DataError(f"{what}: no row is left to train on: {reasons}{where}")
        share = 1 - sum(lost.values()) / rows["read"]
        if share < self.config.min_keep_ratio:
            raise DataError(
                f"{what}: {share:.0%} of {rows['read']} rows kept, "
                f"less than data.min_keep_ratio={self.config.min_keep_ratio:g}: {reasons}{where}"
            )

    # --- reporting -------------------------------------------------------------------------------------------

    def _redaction(self) -> dict[str, Any]:
        return {
            "on": self.protected.key is not None,
            "key": self.protected.key_id,
            "rows": self.account.redacted_rows,
            "hits": dict(self.account.hits.most_common()),
            "final_scan": "clean" if self.protected.key else "off",
        }

    def _write_report(self, summary: dict[str, Any]) -> None:
        text = json.dumps(summary, ensure_ascii=False, indent=1)
        write_atomic(self.folder / "report.json", text + "\n")
        write_atomic(self.folder / "report.md", page.page(summary))
        write_atomic(self.folder / "preview.md", preview.preview(self._first_rows()))
        plots.draw(summary, self.folder)
        self._export()
        try:
            final_scan(self.folder, self.given, self.protected)
        except DataError:
            for path in self.folder.rglob("*"):
                if path.is_file():
                    path.unlink()  # what was found does not stay on disk
            raise

    def _export(self) -> None:
        if self.config.export_format is not None:
            for split in SPLITS:
                path = self.folder / "export" / f"{split}{exporting.SUFFIX}"
                path.parent.mkdir(exist_ok=True)
                rows = read_rows(self.folder / f"{split}.parquet")
                for reason, count in exporting.write(path, rows, self.config.export_format).skipped.items():
                    log.warning("prepare: export: %d %s rows left out: %s", count, split, reason)

    def _first_rows(self) -> dict[str, list[Row]]:
        return {split: list(islice(read_rows(self.folder / f"{split}.parquet"), _PREVIEW_ROWS)) for split in SPLITS}


def _distinct(names: Sequence[str]) -> list[str]:
    """The names, numbered where two are the same: two spellings of a number have one pseudonym."""
    seen: Counter[str] = Counter()
    result = []
    for name in names:
        seen[name] += 1
        result.append(name if seen[name] == 1 else f"{name}~{seen[name]}")
    return result


def _shown(config: SourceConfig) -> str:
    paths = {key: getattr(config, key) for key in ("path", *SPLITS)}
    return ", ".join(f"data.{key}={path}" for key, path in paths.items() if path is not None) or (
        "data.parts" if config.source == "mixture" else f"the shipped {config.source} sample"
    )
