"""The files of a tokenised split: their format, writing a shard, and reading all of them memory-mapped.

``<split>/shard-00000.safetensors`` ... hold ``ids`` (int32, the shard's rows end to end), ``learn`` (uint8, same
length, 1 where the token is learned) and ``offsets`` (int64, rows + 1). They are safetensors files and not Arrow
files because training runs on bare hosts without pyarrow, and because flat arrays behind a short header are mapped by
numpy alone, without a copy. The header's own metadata (all values text) says ``shards``, how many files the split has;
``sha256``, of everything behind the header; and ``settings`` and ``facts``, which are the writer's. So a shard needs no
second file that could differ from it: it is there as a whole, and right, or it is not.

Needs numpy and the standard library only.
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tasks.errors import CorruptArtifact, ResourceError
from tasks.files import write_atomic_bytes

#: Name, type and safetensors' name of the type, in the order of the file: the widest first, so that all are aligned.
_ARRAYS = (("offsets", np.int64, "I64"), ("ids", np.int32, "I32"), ("learn", np.uint8, "U8"))
#: A header longer than this is not one of ours.
_MOST_HEADER_BYTES = 1 << 24


def shard_file(folder: Path, split: str, shard: int) -> Path:
    return folder / split / f"shard-{shard:05d}.safetensors"


@dataclass(frozen=True)
class Tokens:
    """Some rows in a row.

    Attributes:
        ids: int32 [t], learn: uint8 [t], for t tokens of all rows.
        lengths: int64 [rows], tokens of each.
    """

    ids: NDArray[np.int32]
    learn: NDArray[np.uint8]
    lengths: NDArray[np.int64]


def write_shard(path: Path, parts: Sequence[Tokens], *, shards: int, settings: str, facts: Any) -> None:
    """Write the rows of ``parts`` as one shard, whole or not at all; the same rows give the same bytes.

    Args:
        shards: how many files the split has.
        settings: names what made the rows; facts: JSON about them. Both are given back by :class:`Shard`.

    Raises:
        ResourceError: it cannot be written, as on a full disk.
    """
    lengths = np.concatenate([np.zeros(1, np.int64), *(part.lengths for part in parts)])
    columns: tuple[list[NDArray[Any]], ...] = (
        [np.cumsum(lengths, dtype=np.int64)],
        [np.ascontiguousarray(part.ids, np.int32) for part in parts],
        [np.ascontiguousarray(part.learn, np.uint8) for part in parts],
    )
    digest, header, end = hashlib.sha256(), {}, 0
    for (name, _, kind), arrays in zip(_ARRAYS, columns, strict=True):
        start, end = end, end + sum(array.nbytes for array in arrays)
        header[name] = {"dtype": kind, "shape": [sum(len(a) for a in arrays)], "data_offsets": [start, end]}
        for array in arrays:
            digest.update(array.data)
    told = {
        "shards": str(shards),
        "sha256": digest.hexdigest(),
        "settings": settings,
        "facts": json.dumps(facts, ensure_ascii=False, sort_keys=True),
    }
    text = json.dumps({"__metadata__": told, **header}, ensure_ascii=False).encode("utf-8")
    text += b" " * (-len(text) % 8)
    try:
        write_atomic_bytes(path, [struct.pack("<Q", len(text)), text, *(a.data for arrays in columns for a in arrays)])
    except OSError as error:
        raise ResourceError(f"{path}: cannot be written ({error.strerror or error})") from error


class Shard:
    """One file, memory-mapped and read-only.

    Attributes:
        ids, learn, offsets: its arrays; nothing is read before it is looked at.
        shards: how many files its split has.
        settings, facts: what its writer said.
    """

    def __init__(self, path: Path) -> None:
        """Open a file.

        Raises:
            CorruptArtifact: it is missing or is not a whole shard; names it.
        """
        self.path = path
        try:
            # one mapping of bytes: numpy cannot map an array of no elements, which an empty split has
            self._bytes = np.asarray(np.memmap(path, np.uint8, "r"))
        except (OSError, ValueError) as error:
            raise self.damaged(f"cannot be read: {getattr(error, 'strerror', None) or error}") from error
        try:
            self._start, header = self._header()
            told = header["__metadata__"]
            self.shards, self.settings, self._sha256 = int(told["shards"]), str(told["settings"]), str(told["sha256"])
            self.facts: Any = json.loads(told["facts"])
            self.offsets: NDArray[np.int64] = self._array(header, 0)
            self.ids: NDArray[np.int32] = self._array(header, 1)
            self.learn: NDArray[np.uint8] = self._array(header, 2)
        except (KeyError, TypeError, ValueError, IndexError, struct.error) as error:
            raise self.damaged(f"not a token file: {error}") from error
        if not len(self.offsets) or self.offsets[0] != 0 or (np.diff(self.offsets) <= 0).any():
            raise self.damaged("its rows do not follow each other")
        if not self.offsets[-1] == len(self.ids) == len(self.learn):
            raise self.damaged(f"rows of {self.offsets[-1]} tokens, {len(self.ids)} ids, {len(self.learn)} marks")

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def targets(self) -> NDArray[np.int64]:
        """Tokens of each row that are learned; its first is predicted from nothing, so it never counts."""
        if not len(self):
            return np.zeros(0, np.int64)
        if self.learn.max() > 1:
            raise self.damaged("marks other than 0 and 1")
        starts = self.offsets[:-1]
        learned: NDArray[np.int64] = np.add.reduceat(self.learn, starts, dtype=np.int64)
        return learned - self.learn[starts]

    def verify(self) -> None:
        """Read it all and compare it with its own sha256.

        Raises:
            CorruptArtifact: it differs.
        """
        if hashlib.sha256(self._bytes[self._start :].data).hexdigest() != self._sha256:
            raise self.damaged("its sha256 is not the one that it states")

    def damaged(self, why: str) -> CorruptArtifact:
        return CorruptArtifact(f"{self.path}: {why}")

    def _header(self) -> tuple[int, dict[str, Any]]:
        """Where the arrays start, and the header's JSON."""
        (length,) = struct.unpack("<Q", self._bytes[:8].tobytes())
        if length > min(_MOST_HEADER_BYTES, len(self._bytes) - 8):
            raise ValueError(f"a header of {length} bytes in a file of {len(self._bytes)}")
        return 8 + length, json.loads(self._bytes[8 : 8 + length].tobytes())

    def _array(self, header: dict[str, Any], number: int) -> NDArray[Any]:
        name, dtype, kind = _ARRAYS[number]
        start, end = header[name]["data_offsets"]
        if header[name]["dtype"] != kind:
            raise ValueError(f"{name} is {header[name]['dtype']} and not {kind}")
        if self._start + end > len(self._bytes) or (
            number == len(_ARRAYS) - 1 and self._start + end < len(self._bytes)
        ):
            raise ValueError(f"{len(self._bytes)} bytes where its header says {self._start + end}")
        return self._bytes[self._start + start : self._start + end].view(dtype)


class TokenRows:
    """A tokenised split, memory-mapped: only lengths, targets and what is looked at take memory.

    Attributes:
        lengths: int64 [rows], tokens of each row.
        targets: int64 [rows], learned tokens of each row, its first token left out.
    """

    def __init__(self, folder: Path, split: str) -> None:
        """Open the shards of a split.

        Raises:
            CorruptArtifact: one is missing or damaged; names it.
        """
        self._folder = folder
        with self._named():
            first = Shard(shard_file(folder, split, 0))
            self._shards = [first, *(Shard(shard_file(folder, split, i)) for i in range(1, first.shards))]
            for shard in self._shards[1:]:
                if (shard.shards, shard.settings) != (first.shards, first.settings):
                    raise shard.damaged(f"does not belong to {first.path.name}")
            self.lengths = _joined(np.diff(shard.offsets) for shard in self._shards)
            self.targets = _joined(shard.targets for shard in self._shards)
        self._starts = np.cumsum([0, *map(len, self._shards)], dtype=np.int64)

    def __len__(self) -> int:
        return len(self.lengths)

    def row(self, index: int) -> tuple[NDArray[np.int32], NDArray[np.uint8]]:
        """Token ids and learn mask of a row, both [s]: read-only views of the file."""
        if not 0 <= index < len(self):
            raise IndexError(f"row {index} of {len(self)}")
        number = int(np.searchsorted(self._starts, index, side="right")) - 1
        shard = self._shards[number]
        place = int(index - self._starts[number])
        span = slice(int(shard.offsets[place]), int(shard.offsets[place + 1]))
        return shard.ids[span], shard.learn[span]

    def verify(self) -> None:
        """Compare every shard with its own sha256: reads them all.

        Raises:
            CorruptArtifact: names the first that differs.
        """
        with self._named():
            for shard in self._shards:
                shard.verify()

    @contextmanager
    def _named(self) -> Iterator[None]:
        try:
            yield
        except CorruptArtifact as error:
            raise CorruptArtifact(f"{error}; delete {self._folder} and run again to tokenise anew") from error


def _joined(parts: Iterable[NDArray[np.int64]]) -> NDArray[np.int64]:
    return np.concatenate([np.zeros(0, np.int64), *parts])
