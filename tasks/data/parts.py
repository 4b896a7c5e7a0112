"""What a configuration reads: its source resolved (``auto``), its parts (``mixture``), their files.

A plain source is a mixture of one part. Opens files only to recognise their format.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tasks.data import detect, files, source
from tasks.data.source import DataFile, Found, Skipped, SourceConfig
from tasks.schema import identity


@dataclass(frozen=True)
class Part:
    """One source's files and how to read them."""

    config: SourceConfig
    found: Found
    weight: float | None = None

    @property
    def module(self) -> Any:
        return source.load(self.config.source)


@dataclass(frozen=True)
class Input:
    """All that is read; ``config`` rules what concerns all rows, a part's own what concerns one."""

    config: SourceConfig
    parts: tuple[Part, ...]
    detected: str = ""

    def files(self) -> Iterator[tuple[int, DataFile]]:
        """Every file with the number of its part."""
        for number, part in enumerate(self.parts):
            for file in part.found.files:
                yield number, file

    def other_files(self) -> list[Path]:
        """Files beside the data that decide the rows: a source's templates, for instance."""
        return [path for part in self.parts for path in getattr(part.module, "inputs", lambda _: ())(part.config)]

    @property
    def skipped(self) -> list[Skipped]:
        return [skipped for part in self.parts for skipped in part.found.skipped]

    def identity(self) -> dict[str, Any]:
        """What decides the rows, the files' content apart."""
        if len(self.parts) == 1 and self.parts[0].config is self.config:
            return identity(self.config)
        parts = [{"weight": part.weight, **identity(part.config)} for part in self.parts]
        return {**identity(self.config), "parts": parts}


def resolve(config: SourceConfig) -> Input:
    """Find the files of a configuration.

    Raises:
        DataError: a path does not exist or holds no data, or no format fits.
    """
    given = getattr(config, "parts", None)
    if given is None:
        config, why = detect.resolve(config) if config.source == "auto" else (config, "")
        return Input(config, (Part(config, _find(config)),), why)
    parts, found_by = [], []
    for number, (part, weight) in enumerate(config.resolved(), start=1):  # type: ignore[attr-defined]
        part, why = detect.resolve(part) if part.source == "auto" else (part, "")
        label = f"{number}-{part.source}"
        parts.append(Part(part, _labelled(_find(part), label), weight))
        found_by += [f"{label}: {why}"] if why else []
    return Input(config, tuple(parts), "; ".join(found_by))


def _find(config: SourceConfig) -> Found:
    find = getattr(source.load(config.source), "find", files.find)
    found: Found = find(config)
    return found


def _labelled(found: Found, label: str) -> Found:
    """The files with the part's label in front of their names: two parts may have files of the same name."""
    return Found(
        tuple(replace(file, name=f"{label}/{file.name}") for file in found.files),
        tuple(replace(skipped, name=f"{label}/{skipped.name}") for skipped in found.skipped),
    )
