"""Finds the files that a configuration means, members of zip archives included, and which split each belongs to.

Reads no records (see ``reading``).
"""

from __future__ import annotations

import re
import stat
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from tasks.data.reading import archives
from tasks.data.source import SPLITS, DataFile, Found, Skipped, SourceConfig, Split
from tasks.errors import DataError

#: Suffixes of files that hold data; each may have .gz behind it.
SUFFIXES = (".json", ".jsonl", ".ndjson", ".csv", ".tsv")
#: Most .txt files are notes: they count where the user names one, or where their name speaks of a split.
TEXT = ".txt"
SAMPLES = Path(__file__).parent / "samples"
#: A folder that holds this file is an artifact of this project: our own output is never taken for input.
RECORD = "artifact.json"
_WORDS: dict[str, Split] = {
    "train": "train",
    "training": "train",
    "dev": "validation",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "test": "test",
}


@dataclass(frozen=True)
class _Candidate:
    """A file that may be read; ``split`` is the one that its name speaks of."""

    path: Path
    name: str
    member: str = ""
    split: Split | None = None

    def of(self, split: Split) -> DataFile:
        return DataFile(self.path, self.name, split, self.member)


def find(config: SourceConfig) -> Found:
    """The files of ``data.path`` and of ``data.train/validation/test``, which override it split by split.

    Raises:
        DataError: a path does not exist, cannot be read or holds no data.
    """
    explicit = {split: getattr(config, split) for split in SPLITS if getattr(config, split) is not None}
    path = config.path
    if path is None and not explicit:
        path = SAMPLES / config.source
        if not path.is_dir():
            raise DataError(f"data.path: must be set (source {config.source} ships no sample)")
    found = (
        _of_path(existing(path, "data.path"), needs_train="train" not in explicit) if path is not None else Found(())
    )
    files = [file for file in found.files if file.split not in explicit]
    skipped = list(found.skipped)
    for split, given in explicit.items():
        inside, left_out = _of_split(existing(given, f"data.{split}"), f"data.{split}")
        files += [candidate.of(split) for candidate in inside]
        skipped += left_out
    return Found(_with_unique_names(files), tuple(skipped))


def existing(path: Path, key: str) -> Path:
    """The path with ``~`` expanded.

    Raises:
        DataError: nothing is there, or nothing that can be read.
    """
    path = path.expanduser()
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        what = "a link to a file that does not exist" if path.is_symlink() else "no such file or folder"
        raise DataError(f"{key}={path}: {what}") from None
    except OSError as error:
        raise DataError(f"{key}={path}: cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise DataError(f"{key}={str(path)!r}: not a path ({error})") from error
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
        raise DataError(f"{key}={path}: neither a file nor a folder")
    return path


def is_of(kind: Callable[[int], bool], path: Path) -> bool:
    """Whether a path is of a kind (``stat.S_ISREG``); False where nothing can be said (see :func:`existing`)."""
    try:
        return kind(path.expanduser().stat().st_mode)
    except (OSError, ValueError):
        return False


def members(path: Path, name: str) -> tuple[list[tuple[str, str]], list[Skipped]]:
    """The data files in a zip archive, sorted, each as (``name/member`` to be shown, the member's key), and those left
    out: with an unsafe path, encrypted, archives themselves, artifacts of this project.

    Raises:
        DataError: the archive cannot be read.
    """
    found: list[tuple[str, str]] = []
    skipped: list[Skipped] = []
    listed = [member for member in archives.zip_members(path) if "__MACOSX" not in member.shown.split("/")]
    artifacts = [PurePosixPath(m.shown).parent for m in listed if PurePosixPath(m.shown).name == RECORD]
    for member in listed:
        shown = f"{name}/{member.shown}"
        own = any(PurePosixPath(member.shown).is_relative_to(folder) for folder in artifacts)
        if member.shown.lower().endswith(".zip"):
            skipped.append(Skipped(shown, member.problem or "an archive within an archive"))
        elif own and PurePosixPath(member.shown).name == RECORD:
            skipped.append(Skipped(shown, "an artifact of this project"))
        elif _is_data(member.shown) and not own:
            if member.problem:
                skipped.append(Skipped(shown, member.problem))
            else:
                found.append((shown, member.key))
    return found, skipped


def split_of(name: str) -> Split | None:
    """The split that a file name speaks of in its first or last word: train.json, spo_train.json.gz, test_a.jsonl."""
    words = re.split(r"[-_. ]+", _stem(name))
    return _WORDS.get(words[-1]) or _WORDS.get(words[0])


def _stem(name: str) -> str:
    base = PurePosixPath(name).name.lower()
    return PurePosixPath(base.removesuffix(".gz")).stem


def _is_data(name: str) -> bool:
    suffix = PurePosixPath(name.lower().removesuffix(".gz")).suffix
    return suffix in SUFFIXES or (suffix == TEXT and split_of(name) is not None)


def _of_path(path: Path, *, needs_train: bool) -> Found:
    if path.is_file() and not _is_archive(path):
        return Found((DataFile(path, path.name, "train"),))
    inside, skipped = _inside(path, "data.path")
    named = {split: [c for c in inside if c.split == split] for split in SPLITS}
    if not any(named.values()):
        return Found(tuple(candidate.of("train") for candidate in inside), tuple(skipped))
    if needs_train and not named["train"]:
        others = ", ".join(candidate.name for candidate in inside[:5])
        raise DataError(f"data.path={path}: no training file among {others}; name it with data.train=FILE")
    chosen = {split: _plainest(candidates) for split, candidates in named.items()}
    used = {candidate.name for candidates in chosen.values() for candidate in candidates}
    for candidate in inside:
        if candidate.name not in used:
            why = "its name speaks of no split" if candidate.split is None else "a plainer name is there"
            skipped.append(Skipped(candidate.name, why))
    files = [candidate.of(split) for split in SPLITS for candidate in chosen[split]]
    return Found(tuple(files), tuple(sorted(skipped, key=lambda s: (s.name, s.reason))))


def _is_archive(path: Path) -> bool:
    return path.suffix.lower() == ".zip" or archives.is_zip(path)


def _of_split(path: Path, key: str) -> tuple[list[_Candidate], list[Skipped]]:
    if path.is_file() and not _is_archive(path):
        return [_Candidate(path, path.name)], []
    return _inside(path, key)


def _inside(path: Path, key: str) -> tuple[list[_Candidate], list[Skipped]]:
    """The data files of an archive, or of a folder and the archives in it, sorted by name; at least one.

    Raises:
        DataError: there is none, or one cannot be read.
    """
    skipped: list[Skipped] = []
    archive = path.is_file()
    found = list(_of_archive(path, skipped, own_name=False) if archive else _of_folder(path, key, skipped))
    if not found:
        raise DataError(f"{key}={path}: no data file in this {_nothing(path, skipped)}")
    return sorted(found, key=lambda candidate: candidate.name), skipped


def _of_folder(folder: Path, key: str, skipped: list[Skipped]) -> Iterator[_Candidate]:
    for path in _entries(folder, key):
        zipped = path.suffix.lower() == ".zip"
        if not zipped and not _is_data(path.name):
            continue
        try:
            regular = stat.S_ISREG(path.stat().st_mode)
        except OSError as error:
            raise archives.unreadable(path, error) from error
        if regular and zipped:
            yield from _of_archive(path, skipped, own_name=True)
        elif regular:
            yield _Candidate(path, path.name, split=split_of(path.name))


def _entries(folder: Path, key: str) -> list[Path]:
    try:
        entries = sorted(folder.iterdir(), key=lambda path: path.name)
    except OSError as error:
        raise DataError(f"{key}={folder}: cannot be read ({error.strerror})") from error
    if any(path.name == RECORD for path in entries):
        raise DataError(f"{key}={folder}: an artifact of this project, not input: name the files it was made from")
    return entries


def _of_archive(path: Path, skipped: list[Skipped], *, own_name: bool) -> Iterator[_Candidate]:
    """Members; where a member's name speaks of no split, the folders around it may, and at last the archive's own."""
    found, left_out = members(path, path.name)
    skipped += left_out
    for shown, member in found:
        parts = PurePosixPath(shown).parts if own_name else PurePosixPath(shown).parts[1:]
        split = next((split for part in reversed(parts) if (split := split_of(part))), None)
        yield _Candidate(path, shown, member, split)


def _plainest(candidates: list[_Candidate]) -> list[_Candidate]:
    """Where ``dev.json`` lies beside ``dev_structured.json``, the plain name is meant; else all of them."""
    return [candidate for candidate in candidates if _stem(candidate.name) in _WORDS] or candidates


def _with_unique_names(files: Sequence[DataFile]) -> tuple[DataFile, ...]:
    """Names are part of the rows' ids: where two splits have a file of one name, each gets its split's before it."""
    counts = Counter(file.name for file in files)
    return tuple(replace(file, name=f"{file.split}/{file.name}") if counts[file.name] > 1 else file for file in files)


def _nothing(path: Path, skipped: list[Skipped]) -> str:
    """What is said of a folder or archive without data: what to name instead."""
    if skipped:
        first = skipped[0]
        return f"{'archive' if path.is_file() else 'folder'} can be used; left out: {first.name} ({first.reason})"
    if path.is_file():
        return f"archive ({_allowed()})"
    below = [folder.name for folder in sorted(path.iterdir()) if _has_data(folder)]
    if below:
        more = f" and {len(below) - 5} more" if len(below) > 5 else ""
        return f"folder, only in its subfolders {', '.join(below[:5])}{more}: name one of them, as {path / below[0]}"
    return f"folder ({_allowed()}); subfolders are not searched"


def _has_data(folder: Path) -> bool:
    try:
        names = [path.name for path in folder.iterdir() if path.is_file()] if folder.is_dir() else []
    except OSError:
        return False
    return RECORD not in names and any(_is_data(name) or name.lower().endswith(".zip") for name in names)


def _allowed() -> str:
    return f"files named {', '.join('*' + suffix for suffix in SUFFIXES)}, also with .gz or in a .zip"
