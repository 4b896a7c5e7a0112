"""Personal data over a whole data set: the names that its files tell of, and the last look at what was written."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tasks.conversation import read_rows
from tasks.data import reading
from tasks.data.parts import Input
from tasks.data.personal_data.redaction import KINDS, load_key, usable_names
from tasks.data.personal_data.scan import scan
from tasks.data.source import SPLITS, Unusable
from tasks.errors import DataError

_TEXTS = (".json", ".jsonl", ".md", ".csv")


@dataclass(frozen=True)
class Protection:
    """What redaction needs; ``key`` is None where no part redacts."""

    key: bytes | None = None
    key_id: str = ""
    names: tuple[str, ...] = ()


def protection(given: Input, root: Path) -> Protection:
    """The key of the pseudonyms and the names of all people that the redacted parts tell of.

    Names are gathered before anything is replaced: whoever appears in one chat's metadata may be spoken of in another.
    """
    if not any(part.config.redact for part in given.parts):
        return Protection()
    key, key_id = load_key(root)
    return Protection(key, key_id, tuple(sorted(set(_names(given)))))


def _names(given: Input) -> Iterator[str]:
    for part in given.parts:
        if not part.config.redact:
            continue
        yield from part.config.redact_names
        module = part.module
        for file in part.found.files:
            yield from file.names
            if hasattr(module, "read"):
                for entry in module.read(file, part.config):
                    yield from entry.draft.names if entry.draft else ()
            elif getattr(module, "NAMES_IN_RECORDS", False):
                for record in reading.records(file):
                    try:
                        yield from () if record.problem else module.convert(record.value, "", part.config).names
                    except Unusable:
                        continue


def final_scan(folder: Path, given: Input, protected: Protection) -> None:
    """Look for personal data in everything that was written, with detectors that are not the redaction's own.

    Raises:
        DataError: something is left; nothing is published then.
    """
    if protected.key is None:
        return
    kinds = {kind for part in given.parts if part.config.redact for kind in part.config.redact_kinds or KINDS}
    allow = [text for part in given.parts for text in part.config.redact_allow]
    redacted = [f"{number}-" for number, part in enumerate(given.parts, start=1) if part.config.redact]
    everything = len(redacted) == len(given.parts)
    names = usable_names(protected.names)
    found: Counter[str] = Counter()
    first = ""

    def look(where: str, messages: Sequence[str]) -> None:
        nonlocal first
        hits = [finding.kind for finding in scan(messages, names, allow) if finding.kind in kinds]
        found.update(hits)
        first = first or (where if hits else "")

    for split in SPLITS:
        for row in read_rows(folder / f"{split}.parquet"):
            if everything or row.id.startswith(tuple(redacted)):
                look(f"{split} row {row.id}", [*(message.content for message in row.messages), *_strings(row.fields)])
    for path in sorted(folder.rglob("*")) if everything else ():
        if path.suffix in _TEXTS:
            with path.open(encoding="utf-8") as file:
                for line in file:
                    look(path.name, [line])
    if found:
        shown = ", ".join(f"{kind} {count}" for kind, count in found.most_common())
        raise DataError(
            f"final scan: {found.total()} place(s) still look like personal data after redaction ({shown}); the first: "
            f"{first}. Nothing was published. Put what is none into data.redact_allow, or leave its kind out of "
            "data.redact_kinds"
        )


def _strings(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from _strings(item)
    elif isinstance(value, list):
        for item in value:
            yield from _strings(item)
