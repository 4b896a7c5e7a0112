"""Finds out which source fits a user's files (``data.source=auto``), and says what it saw.

Looks at the first records and at the layout of folders; every source module says itself what it recognises. Does not
know formats.
"""

from __future__ import annotations

import stat
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from types import ModuleType
from typing import Any

from pydantic import ValidationError

from tasks import plugins
from tasks.data import files, reading
from tasks.data.source import PACKAGE, SPLITS, Claim, DataFile, Found, SourceConfig
from tasks.data.sources.auto import LEFT_TO_THE_SOURCE
from tasks.errors import ConfigError, DataError

#: Records that are looked at: enough that a few odd ones at a file's head do not decide.
LOOKED_AT = 50
_LONGEST_NAME = 24
#: A source that goes by its folders' layout -> the source whose form its files have; people rewrite system messages.
_FORMS = {"chat_export": "conversations"}
_ANY_COLUMNS = (
    "data.source=prompt_response data.prompt_column=... data.response_column=... takes any two columns, "
    "data.source=NAME any source"
)


@dataclass(frozen=True)
class Fit:
    """A source that recognised ``count`` records; ``why`` is what shows it, ``strength`` their mean (1-9)."""

    source: str
    count: int
    strength: float
    why: str


def resolve(config: SourceConfig) -> tuple[SourceConfig, str]:
    """The configuration of the source that fits, and one line on what was found; any other than auto as it is.

    Raises:
        ConfigError: no files are named, or a value is not one for the source that was found.
        DataError: the files are missing, or no source or more than one fits.
    """
    if config.source != "auto":
        return config, ""
    if config.path is None and all(getattr(config, split) is None for split in SPLITS):
        raise ConfigError("data.source=auto: no files to look at; set data.path=FILE_OR_FOLDER")
    try:
        fit, seen = _best(files.find(config), config)
    except DataError as error:
        return _by_layout(config, error)
    return _chosen(config, fit.source), f"{fit.source}: {fit.count} of {seen} records fit ({fit.why})"


def fits(records: Sequence[dict[str, Any]]) -> list[Fit]:
    """What each source recognises among the records, the best first: those that fit most of them, by strength."""
    claims: defaultdict[str, list[Claim]] = defaultdict(list)
    for name, module in _modules("recognise"):
        claims[name] += filter(None, map(module.recognise, records))
    result = []
    for name, of_source in claims.items():
        if of_source:
            whys = [claim.why for claim in of_source]
            strength = sum(claim.strength for claim in of_source) / len(of_source)
            result.append(Fit(name, len(of_source), strength, max(whys, key=whys.count)))
    return sorted(result, key=lambda fit: (-(2 * fit.count > len(records)), -fit.strength, -fit.count, fit.source))


def _best(found: Found, config: SourceConfig) -> tuple[Fit, int]:
    """The one source that fits most of the first records, and how many they are."""
    records = _first_records(found.files)
    where = f"data.source=auto: {_first(found.files).name}"
    if not records:
        raise DataError(f"{where}: {_nothing_read(found.files)}")
    fitting = fits(records)
    most = [fit for fit in fitting if 2 * fit.count > len(records)]
    if not most and fitting:
        shares = ", ".join(f"{fit.source} {fit.count}" for fit in fitting)
        raise DataError(f"{where}: mixed: of {len(records)} records fit {shares}; divide the file, or {_ANY_COLUMNS}")
    if not most:
        if config.prompt_column not in (None, "auto") and config.response_column not in (None, "auto"):
            return Fit("prompt_response", len(records), 1, "the two columns that are given"), len(records)
        raise DataError(f"{where}: no source fits; columns: {_columns(records)}; known: {_known()}; {_ANY_COLUMNS}")
    if len(most) > 1 and (most[0].strength, most[0].count) == (most[1].strength, most[1].count):
        raise DataError(f"{where}: {most[0].source} and {most[1].source} fit equally; set data.source to one of them")
    return most[0], len(records)


def _by_layout(config: SourceConfig, plain: DataError) -> tuple[SourceConfig, str]:
    """The source that knows a folder's layout, where its plain train, dev and test files are none or unknown.

    Only a source that also recognises the records is believed: contacts' chats and medical tasks lie in folders with
    the same kind of names.
    """
    if config.path is None or not files.is_of(stat.S_ISDIR, config.path):
        raise plain
    for name, module in _modules("find"):
        try:
            chosen = _chosen(config, name)
            found = module.find(chosen)
            records = _first_records(found.files)
        except (DataError, ConfigError):
            continue
        count = sum(_recognises(name, module, record) for record in records)
        if 2 * count > len(records):
            counts = {split: sum(file.split == split for file in found.files) for split in SPLITS}
            listed = ", ".join(f"{n} {split}" for split, n in counts.items() if n)
            return chosen, f"{name}: its layout of folders ({listed} files), {count} of {len(records)} records fit"
    raise plain


def _recognises(name: str, module: ModuleType, record: dict[str, Any]) -> bool:
    """Whether a record is one of the source that knows the layout, or of the form that its files are in."""
    form = plugins.load(PACKAGE, _FORMS[name], key="data.source") if name in _FORMS else module
    return any(each.recognise(record) is not None for each in (module, form) if hasattr(each, "recognise"))


def _modules(function: str) -> Iterable[tuple[str, ModuleType]]:
    """The source modules that have a function of that name."""
    for name in plugins.names(PACKAGE):
        module = plugins.load(PACKAGE, name, key="data.source")
        if hasattr(module, function):
            yield name, module


def _first_records(found: Sequence[DataFile]) -> list[dict[str, Any]]:
    """The first readable records of the training files; a contact's export may be empty, so of more than one."""
    read = chain.from_iterable(islice(reading.records(file), LOOKED_AT) for file in _training(found))
    return list(islice((record.value for record in read if not record.problem), LOOKED_AT))


def _nothing_read(found: Sequence[DataFile]) -> str:
    """Why no record of the training files can be looked at, with the place of the first."""
    for file in _training(found):
        for record in reading.records(file):
            place = f"{file.name}:{record.line}: {record.problem}{f' ({record.detail})' if record.detail else ''}"
            return (
                f"none of the first {LOOKED_AT} records can be read; "
                f"name the source if those behind them are sound, else mend the file; the first: {place}"
            )
    return "no rows in the file(s)"


def _training(found: Sequence[DataFile]) -> list[DataFile]:
    return [file for file in found if file.split == "train"] or list(found)


def _first(found: Sequence[DataFile]) -> DataFile:
    return _training(found)[0]


def _chosen(config: SourceConfig, name: str) -> SourceConfig:
    """The found source's configuration with the values given to auto."""
    values = {key: getattr(config, key) for key in SourceConfig.model_fields if key != "source"}
    given = {key: value for key, value in values.items() if value is not None or key not in LEFT_TO_THE_SOURCE}
    kind: type[SourceConfig] = plugins.load(PACKAGE, name, key="data.source").Config
    try:
        return kind(source=name, **given)
    except ValidationError as error:
        keys = ", ".join(f"data.{'.'.join(map(str, problem['loc']))}: {problem['msg']}" for problem in error.errors())
        raise ConfigError(f"data.source=auto found {name}, which does not take {keys}") from error


def _columns(records: Sequence[dict[str, Any]]) -> str:
    """The columns of the records, each once. Long ones are told by their length only: a file without a header has
    somebody's words in their place."""
    keys = dict.fromkeys(str(key) for record in records for key in record)
    shown = [key if len(key) <= _LONGEST_NAME else f"({len(key)} characters: no header?)" for key in keys]
    return ", ".join(shown[:12]) or "none"


def _known() -> str:
    return ", ".join(name for name in plugins.names(PACKAGE) if name not in ("auto", "mixture"))
