"""Finds the files that a configuration means, and which split each belongs to. Reads none of them."""

from __future__ import annotations

import re
from pathlib import Path

from tasks.data.source import SPLITS, DataFile, Found, Skipped, SourceConfig, Split
from tasks.errors import DataError

SUFFIXES = (".json", ".jsonl", ".ndjson", ".csv", ".tsv")
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


def find(config: SourceConfig) -> Found:
    """The files of ``data.path`` and of ``data.train/validation/test``, which override it split by split.

    Raises:
        DataError: a path does not exist or holds no data.
    """
    explicit = {split: getattr(config, split) for split in SPLITS if getattr(config, split) is not None}
    path = config.path
    if path is None and not explicit:
        path = SAMPLES / config.source
    found = _of_path(existing(path, "data.path")) if path is not None else Found(())
    files = [file for file in found.files if file.split not in explicit]
    for split, given in explicit.items():
        given = existing(given, f"data.{split}")
        inside = [given] if given.is_file() else data_files(given)
        if not inside:
            raise DataError(f"data.{split}={given}: no data file in this folder ({_allowed()})")
        files += [DataFile(file, file.name, split) for file in inside]
    return Found(tuple(files), found.skipped)


def existing(path: Path, key: str) -> Path:
    """The path with ``~`` expanded.

    Raises:
        DataError: nothing is there.
    """
    path = path.expanduser()
    if not path.exists():
        raise DataError(f"{key}={path}: no such file or folder")
    return path


def data_files(folder: Path) -> list[Path]:
    """Files of a folder (not of its subfolders) that may hold data, sorted by name."""
    if (folder / RECORD).is_file():
        raise DataError(f"{folder}: an artifact of this project, not input: name the files it was made from")
    return sorted(f for f in folder.iterdir() if f.is_file() and f.suffix.lower() in SUFFIXES)


def split_of(name: str) -> Split | None:
    """The split that a file name speaks of in its first or last word: train.json, spo_train.json, test_a.jsonl."""
    words = re.split(r"[-_. ]+", Path(name).stem.lower())
    return _WORDS.get(words[-1]) or _WORDS.get(words[0])


def _of_path(path: Path) -> Found:
    if path.is_file():
        return Found((DataFile(path, path.name, "train"),))
    inside = data_files(path)
    if not inside:
        raise DataError(f"data.path={path}: no data file in this folder ({_allowed()}); subfolders are not searched")
    named = {split: [f for f in inside if split_of(f.name) == split] for split in SPLITS}
    if not any(named.values()):
        return Found(tuple(DataFile(file, file.name, "train") for file in inside))
    if not named["train"]:
        others = ", ".join(f.name for f in inside[:5])
        raise DataError(f"data.path={path}: no training file among {others}; name it with data.train=FILE")
    chosen = {split: _plainest(files) for split, files in named.items()}
    used = {file for files in chosen.values() for file in files}
    skipped = [
        Skipped(
            file.name,
            "its name speaks of no split" if split_of(file.name) is None else "a plainer name is there",
        )
        for file in inside
        if file not in used
    ]
    files = [DataFile(file, file.name, split) for split in SPLITS for file in chosen[split]]
    return Found(tuple(files), tuple(skipped))


def _plainest(files: list[Path]) -> list[Path]:
    """Where ``dev.json`` lies beside ``dev_structured.json``, the plain name is meant; else all of them."""
    return [file for file in files if file.stem.lower() in _WORDS] or files


def _allowed() -> str:
    return f"files named {', '.join('*' + suffix for suffix in SUFFIXES)}"
