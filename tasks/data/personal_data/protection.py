"""Personal data over a whole data set: the names that its files tell of, and the last look at what was written."""

from __future__ import annotations

import hmac
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tasks.conversation import read_rows
from tasks.data import reading
from tasks.data.parts import Input
from tasks.data.personal_data.redaction import KINDS, load_key, usable_names
from tasks.data.personal_data.scan import scan
from tasks.data.source import SPLITS, SourceConfig, Unusable
from tasks.errors import DataError
from tasks.store import canonical

#: Settings that may hold names and numbers of people.
_PERSONAL_SETTINGS = ("redact_names", "redact_allow", "owner_name", "system_template", "system_prompt")
_TEXTS = (".json", ".jsonl", ".md", ".csv")


@dataclass(frozen=True)
class Protection:
    """What redaction needs; ``key`` is None where no part redacts."""

    key: bytes | None = None
    key_id: str = ""
    names: tuple[str, ...] = ()


def protection(given: Input, root: Path) -> Protection:
    """The key of the pseudonyms, where any part redacts; names are gathered later, by :func:`with_names`."""
    if not any(part.config.redact for part in given.parts):
        return Protection()
    return Protection(*load_key(root))


def with_names(protected: Protection, given: Input) -> Protection:
    """The same with the names of all people that the redacted parts tell of.

    They are gathered before anything is replaced: whoever appears in one chat's metadata may be spoken of in another.
    """
    return protected if protected.key is None else replace(protected, names=tuple(sorted(set(_names(given)))))


def hidden(identity: Any, protected: Protection) -> Any:
    """The identity for the artifact's record, in which personal settings are keyed hashes."""
    if protected.key is None:
        return identity
    if isinstance(identity, list):
        return [hidden(item, protected) for item in identity]
    if not isinstance(identity, dict):
        return identity
    return {
        name: _hash(value, protected.key) if name in _PERSONAL_SETTINGS and value else hidden(value, protected)
        for name, value in identity.items()
    }


def _hash(value: Any, key: bytes) -> str:
    return hmac.new(key, canonical(value).encode("utf-8"), "sha256").hexdigest()[:16]


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


@dataclass(frozen=True)
class _Rules:
    """What one part replaces: no kinds where it replaces nothing."""

    kinds: frozenset[str]
    allow: tuple[str, ...]

    @staticmethod
    def of(config: SourceConfig) -> _Rules:
        kinds = frozenset(config.redact_kinds or KINDS) if config.redact else frozenset()
        return _Rules(kinds, tuple(config.redact_allow))


def final_scan(folder: Path, given: Input, protected: Protection) -> None:
    """Look for personal data in everything that was written, with detectors that are not the redaction's own.

    Raises:
        DataError: something is left; nothing is published then.
    """
    if protected.key is None:
        return
    names = usable_names(protected.names)
    parts = [_Rules.of(part.config) for part in given.parts]
    found: Counter[str] = Counter()
    first = ""

    def look(where: str, texts: Sequence[str], rules: _Rules) -> None:
        nonlocal first
        hits = [finding.kind for finding in scan(texts, names, rules.allow) if finding.kind in rules.kinds]
        found.update(hits)
        first = first or (where if hits else "")

    for split in SPLITS:
        for row in read_rows(folder / f"{split}.parquet"):
            rules = parts[0] if len(parts) == 1 else parts[int(row.id.partition("-")[0]) - 1]
            if rules.kinds:
                where = f"{split} row {row.id}"
                look(where, [message.content for message in row.messages], rules)
                rest = (row.id, row.task, *(message.metadata for message in row.messages), *_strings(row.fields))
                for text in rest:
                    look(where, [text], rules)
    if all(rules.kinds for rules in parts):
        # these texts hold lines of all parts: what every part replaces must not be in them
        every = _Rules(frozenset.intersection(*(r.kinds for r in parts)), tuple(t for r in parts for t in r.allow))
        for path in sorted(folder.rglob("*")):
            if path.suffix in _TEXTS:
                with path.open(encoding="utf-8") as file:
                    for line in file:
                        # Markdown's backslashes hide placeholders, and where names end
                        look(path.name, [line.replace("\\", "") if path.suffix == ".md" else line], every)
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
