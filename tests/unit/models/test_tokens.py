"""The token files: what is written is read back, mapped and not loaded; a damaged or missing file is named."""

from __future__ import annotations

import json
import mmap
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from tasks.errors import CorruptArtifact, ResourceError
from tasks.models.tokens import Shard, TokenRows, Tokens, shard_file, write_shard

#: Two shards of (ids, learn) by row.
ROWS = [[([5, 6, 7], [0, 0, 1]), ([8], [1])], [([9, 10], [1, 1])]]


def tokens(rows: list[tuple[list[int], list[int]]]) -> Tokens:
    ids, learn = [i for row, _ in rows for i in row], [i for _, row in rows for i in row]
    return Tokens(np.array(ids, np.int32), np.array(learn, np.uint8), np.array([len(row) for row, _ in rows], np.int64))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "train").mkdir()
    for number, rows in enumerate(ROWS):
        parts = [tokens([row]) for row in rows]
        write_shard(shard_file(tmp_path, "train", number), parts, shards=2, settings="s", facts={"b": 1, "a": "文"})
    return tmp_path


def test_rows_come_back_as_they_were_written(folder: Path) -> None:
    rows = TokenRows(folder, "train")
    rows.verify()
    assert len(rows) == 3
    assert [tuple(part.tolist() for part in rows.row(i)) for i in range(3)] == [row for shard in ROWS for row in shard]
    assert rows.lengths.tolist() == [3, 1, 2]
    assert rows.targets.tolist() == [1, 0, 1]  # the first token of a row is never a target
    assert rows.lengths.dtype == rows.targets.dtype == np.int64
    ids, learn = rows.row(0)
    assert [part.dtype.name for part in (ids, learn)] == ["int32", "uint8"]
    for beyond in (-1, 3):
        with pytest.raises(IndexError, match=f"row {beyond} of 3"):
            rows.row(beyond)


def test_rows_are_views_of_mapped_files(folder: Path) -> None:
    rows = TokenRows(folder, "train")
    for part in (*rows.row(0), *rows.row(2)):
        base: Any = part
        while isinstance(base, np.ndarray):
            base = base.base
        assert isinstance(base, mmap.mmap)
        assert not part.flags.writeable


def test_the_files_are_safetensors_files(folder: Path) -> None:
    made = load_file(shard_file(folder, "train", 0))
    assert {name: array.tolist() for name, array in made.items()} == {
        "ids": [5, 6, 7, 8],
        "learn": [0, 0, 1, 1],
        "offsets": [0, 3, 4],
    }
    assert Shard(shard_file(folder, "train", 0)).facts == {"a": "文", "b": 1}


def test_the_same_rows_give_the_same_bytes_however_they_come(folder: Path, tmp_path: Path) -> None:
    whole = tmp_path / "whole.safetensors"
    write_shard(whole, [tokens(ROWS[0])], shards=2, settings="s", facts={"a": "文", "b": 1})
    assert whole.read_bytes() == shard_file(folder, "train", 0).read_bytes()


def test_a_split_without_rows_is_a_file_too(tmp_path: Path) -> None:
    with pytest.raises(CorruptArtifact, match=r"validation/shard-00000\.safetensors: cannot be read"):
        TokenRows(tmp_path, "validation")
    (tmp_path / "validation").mkdir()
    write_shard(shard_file(tmp_path, "validation", 0), [], shards=1, settings="s", facts={})
    rows = TokenRows(tmp_path, "validation")
    assert len(rows) == len(rows.lengths) == len(rows.targets) == 0


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def huge_header(path: Path) -> None:
    path.write_bytes(struct.pack("<Q", 1 << 60) + path.read_bytes()[8:])


def no_header(path: Path) -> None:
    path.write_bytes(path.read_bytes().replace(b'{"__meta', b'["__meta'))


def other_file(path: Path) -> None:
    text = json.dumps({"weight": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + bytes(4))


def rows_that_overlap(path: Path) -> None:
    path.write_bytes(path.read_bytes().replace(struct.pack("<2q", 0, 2), struct.pack("<2q", 2, 2)))


def ids_that_lack(path: Path) -> None:
    path.write_bytes(path.read_bytes().replace(struct.pack("<2q", 0, 2), struct.pack("<2q", 0, 1)))


def odd_marks(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1] + b"\x07")


def of_other_settings(path: Path) -> None:
    write_shard(path, [tokens(ROWS[1])], shards=2, settings="t", facts={})


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (Path.unlink, "cannot be read: No such file"),
        (empty, "cannot be read"),
        (cut, r"\d+ bytes where its header says"),
        (huge_header, "a header of"),
        (no_header, "not a token file"),
        (other_file, "not a token file"),
        (rows_that_overlap, "rows do not follow each other"),
        (ids_that_lack, "rows of 1 tokens, 2 ids, 2 marks"),
        (odd_marks, "marks other than 0 and 1"),
        (of_other_settings, r"does not belong to shard-00000\.safetensors"),
    ],
)
def test_a_damaged_or_missing_shard_is_named(damage: Callable[[Path], None], says: str, folder: Path) -> None:
    damage(shard_file(folder, "train", 1))
    with pytest.raises(CorruptArtifact, match=rf"train/shard-00001\.safetensors: .*({says}).*delete {folder} and run"):
        TokenRows(folder, "train")


def test_a_changed_id_is_found_by_the_shards_own_hash(folder: Path) -> None:
    path = shard_file(folder, "train", 1)
    path.write_bytes(path.read_bytes().replace(struct.pack("<2i", 9, 10), struct.pack("<2i", 9, 11)))
    rows = TokenRows(folder, "train")
    with pytest.raises(CorruptArtifact, match=r"shard-00001\.safetensors: its sha256.*delete"):
        rows.verify()


def test_a_file_that_cannot_be_written_is_one_line_and_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "shard").mkdir()  # a folder where the file is to be
    with pytest.raises(ResourceError, match="shard: cannot be written"):
        write_shard(tmp_path / "shard", [tokens(ROWS[0])], shards=1, settings="s", facts={})
    assert [entry.name for entry in tmp_path.iterdir()] == ["shard"]
