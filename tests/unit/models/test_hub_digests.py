"""Stated sha256 values: lists beside the files, the hub's records; and what a downloaded folder lacks."""

from __future__ import annotations

from pathlib import Path

import pytest

from tasks.errors import ModelError
from tasks.models.hub import expected_sha256
from tasks.models.hub.selection import lacking, select

A, B = "a" * 64, "b" * 64


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("one.bin", "two words.bin"):
        (tmp_path / name).write_bytes(b"x")
    return tmp_path


@pytest.mark.parametrize("name", ["SHA256SUMS", "sha256sums.txt", "sha256sum.txt"])
def test_a_list_of_sha256sum_is_read_in_both_its_forms(folder: Path, name: str) -> None:
    text = f"# hashes\n{A.upper()}  ./one.bin\n\nSHA256 (two words.bin) = {B}\n{B} *absent.bin\n"
    (folder / name).write_text(text, encoding="utf-8")
    assert expected_sha256(folder) == {"one.bin": A, "two words.bin": B}


@pytest.mark.parametrize("text", [A, f"{A}  one.bin\n", f"{A} *one.bin"])
def test_a_file_named_after_its_own_holds_one_hash(folder: Path, text: str) -> None:
    (folder / "one.bin.sha256").write_text(text, encoding="utf-8")
    assert expected_sha256(folder) == {"one.bin": A}


def test_what_is_no_hash_is_an_error_with_its_line(folder: Path) -> None:
    (folder / "SHA256SUMS").write_text(f"{A}  one.bin\nabc  two words.bin\n", encoding="utf-8")
    with pytest.raises(ModelError, match=r"SHA256SUMS:2: 'abc  two words.bin': expected a sha256"):
        expected_sha256(folder)


def test_a_folder_of_hf_download_states_large_files_hashes(folder: Path) -> None:
    records = folder / ".cache" / "huggingface" / "download"
    records.mkdir(parents=True)
    (records / "one.bin.metadata").write_text(f"{'c' * 40}\n{A}\n1700000000.0\n", encoding="utf-8")
    (records / "two words.bin.metadata").write_text(f"{'c' * 40}\n{'d' * 40}\n1700000000.0\n", encoding="utf-8")
    assert expected_sha256(folder) == {"one.bin": A}  # 40 digits are a git hash


def test_a_link_into_the_cache_states_the_hash_that_is_the_blobs_name(tmp_path: Path) -> None:
    for name, blob in (("model.safetensors", A), ("config.json", "d" * 40)):
        (tmp_path / "blobs").mkdir(exist_ok=True)
        (tmp_path / "blobs" / blob).write_bytes(b"x")
        link = tmp_path / "snapshots" / ("c" * 40) / name
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(Path("..") / ".." / "blobs" / blob)
    assert expected_sha256(tmp_path / "snapshots" / ("c" * 40)) == {"model.safetensors": A}


def test_nothing_stated_is_nothing_expected(folder: Path) -> None:
    assert expected_sha256(folder) == {}


def test_the_smallest_complete_sharding_is_taken_where_no_index_tells() -> None:
    names = [
        *(f"model-0000{i}-of-00003.safetensors" for i in (1, 2, 3)),
        *(f"model-0000{i}-of-00002.safetensors" for i in (1, 2)),
        "model-00001-of-00004.safetensors",
        *(f"pytorch_model-0000{i}-of-00002.bin" for i in (1, 2)),
    ]
    assert select(names, lambda _: set()).weights == [f"model-0000{i}-of-00002.safetensors" for i in (1, 2)]
    assert select(names[-2:], lambda _: set()).weights == names[-2:]
    assert select(names[-1:], lambda _: set()).weights == []


def test_the_index_of_the_weights_that_are_not_taken_does_not_come() -> None:
    names = ["model.safetensors.index.json", "pytorch_model.bin.index.json", "config.json", "sub/config.json"]
    chosen = select(names, {"model.safetensors.index.json": {"m.safetensors"}}.__getitem__)
    assert chosen.texts == ["config.json", "model.safetensors.index.json"] and chosen.weights == ["m.safetensors"]


def test_a_folder_lacks_what_its_index_lists(tmp_path: Path) -> None:
    assert lacking(tmp_path) == ["config.json"]
    (tmp_path / "config.json").write_text("{}", encoding="utf-8")
    assert lacking(tmp_path) == ["the weights", "the tokenizer"]
    (tmp_path / "ice_text.model").write_bytes(b"x")
    index = tmp_path / "pytorch_model.bin.index.json"
    index.write_text('{"weight_map": {"a": "one.bin", "b": "two.bin"}}', encoding="utf-8")
    (tmp_path / "two.bin").write_bytes(b"x")
    assert lacking(tmp_path) == ["one.bin"]
    (tmp_path / "one.bin").write_bytes(b"x")
    assert lacking(tmp_path) == []


@pytest.mark.parametrize("text", ["{}", "[]", "not json", '{"weight_map": {"a": "../../one.bin"}}'])
def test_an_index_that_is_none_or_leads_elsewhere_is_an_error(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.json").write_text("{}", encoding="utf-8")
    (tmp_path / "model.safetensors.index.json").write_text(text, encoding="utf-8")
    with pytest.raises(ModelError, match="model.safetensors.index.json"):
        lacking(tmp_path)
