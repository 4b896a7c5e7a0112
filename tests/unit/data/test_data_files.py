"""Which files a configuration means: folders, archives, splits by name, and what is refused by name."""

from __future__ import annotations

import os
import random
import zipfile
from pathlib import Path
from typing import Any

import pytest

from tasks.data import files, reading
from tasks.data.files import find, members, split_of
from tasks.data.source import DataFile, SourceConfig
from tasks.errors import DataError


def config(**values: Any) -> SourceConfig:
    return SourceConfig(**{"source": "advertisegen", **values})


def touch(folder: Path, *names: str, text: str = '{"a": 1}') -> Path:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return folder


def archive(path: Path, *names: str, text: str = '{"a": 1}') -> Path:
    with zipfile.ZipFile(path, "w") as file:
        for name in names:
            file.writestr(zipfile.ZipInfo(name), text)
    return path


def found(**values: Any) -> dict[str, str]:
    return {file.name: file.split for file in find(config(**values)).files}


def skipped(**values: Any) -> dict[str, str]:
    return {file.name: file.reason for file in find(config(**values)).skipped}


def error(**values: Any) -> str:
    with pytest.raises(DataError) as caught:
        find(config(**values))
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("train.json", "train"),
        ("spo_train.json", "train"),
        ("Train-part.JSONL", "train"),
        ("spo_train.json.gz", "train"),
        ("dev.csv.gz", "validation"),
        ("valid.txt", "validation"),
        ("test_a.jsonl", "test"),
        ("in/train/part1.json", None),
        ("retrain.json", None),
        ("data.json.gz", None),
    ],
)
def test_the_first_or_last_word_of_a_name_is_its_split(name: str, split: str | None) -> None:
    assert split_of(name) == split


def test_a_folder_gives_its_data_files_by_split_and_name(tmp_path: Path) -> None:
    touch(tmp_path, "b_train.json", "a_train.jsonl.gz", "dev.csv", "dev_structured.json", "test.ndjson", "x.json")
    touch(tmp_path, "README.md", "notes.txt", "train.txt", "sub/train.json", "LICENSE", "model.gz")
    # train.txt is the plainest name of the training files
    assert list(found(path=tmp_path).items()) == [
        ("train.txt", "train"),
        ("dev.csv", "validation"),
        ("test.ndjson", "test"),
    ]
    assert skipped(path=tmp_path) == {
        "a_train.jsonl.gz": "a plainer name is there",
        "b_train.json": "a plainer name is there",
        "dev_structured.json": "a plainer name is there",
        "x.json": "its name speaks of no split",
    }
    (tmp_path / "train.txt").unlink()
    assert list(found(path=tmp_path))[:2] == ["a_train.jsonl.gz", "b_train.json"]


def test_a_folder_whose_names_speak_of_no_split_is_for_training(tmp_path: Path) -> None:
    names = ["2.json", "1.json", "10.json", "内科.csv"]
    touch(tmp_path, *names, "notes.txt")
    assert list(found(path=tmp_path).items()) == [(name, "train") for name in sorted(names)]


def test_a_text_file_counts_where_it_is_named(tmp_path: Path) -> None:
    touch(tmp_path, "notes.txt")
    assert found(path=tmp_path / "notes.txt") == {"notes.txt": "train"}
    assert found(test=tmp_path / "notes.txt") == {"notes.txt": "test"}
    assert "no data file in this folder" in error(path=tmp_path)


def test_splits_that_are_named_override_those_of_the_folder(tmp_path: Path) -> None:
    touch(tmp_path, "in/train.json", "in/dev.json", "other/a.json", "other/b.json")
    assert found(path=tmp_path / "in", validation=tmp_path / "other") == {
        "train.json": "train",
        "a.json": "validation",
        "b.json": "validation",
    }


def test_a_training_file_may_be_named_beside_a_folder_without_one(tmp_path: Path) -> None:
    touch(tmp_path, "in/dev.json", "in/test.json", "mine.json")
    assert "no training file among dev.json, test.json; name it with data.train=FILE" in error(path=tmp_path / "in")
    assert found(path=tmp_path / "in", train=tmp_path / "mine.json") == {
        "dev.json": "validation",
        "test.json": "test",
        "mine.json": "train",
    }


def test_files_of_one_name_are_told_apart_by_their_split(tmp_path: Path) -> None:
    touch(tmp_path, "a/data.json", "b/data.json", "test.json")
    explicit = {"train": tmp_path / "a", "validation": tmp_path / "b/data.json", "test": tmp_path / "test.json"}
    assert found(**explicit) == {
        "train/data.json": "train",
        "validation/data.json": "validation",
        "test.json": "test",
    }


def test_a_folder_with_data_only_below_it_names_the_folders(tmp_path: Path) -> None:
    touch(tmp_path, "CMeEE/train.json", "CTC/a.csv.gz", "docs/readme.md", "run/artifact.json", "run/train.jsonl")
    message = error(path=tmp_path)
    assert "CMeEE, CTC: name one of them" in message
    assert "docs" not in message
    assert "run" not in message.removeprefix(f"data.path={tmp_path}")


def test_an_empty_folder_says_what_is_looked_for(tmp_path: Path) -> None:
    for key in ("path", "validation"):
        assert error(**{key: tmp_path}).startswith(
            f"data.{key}={tmp_path}: no data file in this folder (files named *.json"
        )


def test_our_own_output_is_refused(tmp_path: Path) -> None:
    touch(tmp_path, "artifact.json", "train.jsonl")
    for key in ("path", "train"):
        assert "an artifact of this project" in error(**{key: tmp_path})


def test_a_source_without_a_sample_needs_a_path() -> None:
    assert error(source="auto") == "data.path: must be set (source auto ships no sample)"
    assert {file.path.parent for file in find(config()).files} == {files.SAMPLES / "advertisegen"}


def test_links_that_lead_nowhere_are_named(tmp_path: Path) -> None:
    (tmp_path / "loop.json").symlink_to(tmp_path / "loop.json")
    (tmp_path / "gone.json").symlink_to(tmp_path / "nothing")
    assert error(path=tmp_path / "none") == f"data.path={tmp_path / 'none'}: no such file or folder"
    assert error(path=tmp_path / "gone.json").endswith("gone.json: a link to a file that does not exist")
    assert "loop.json: cannot be read (" in error(train=tmp_path / "loop.json")
    # within a folder, too: train.json must not be missed in silence
    assert "gone.json: cannot be read (" in error(path=tmp_path)
    (tmp_path / "gone.json").unlink()
    assert "loop.json: cannot be read (" in error(path=tmp_path)
    (tmp_path / "loop.json").rename(tmp_path / "loop.md")
    touch(tmp_path, "a.json")
    assert found(path=tmp_path) == {"a.json": "train"}


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes here")
def test_what_is_no_file_is_refused_instead_of_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "train.json")
    assert "neither a file nor a folder" in error(path=tmp_path / "train.json")
    assert "no data file in this folder" in error(path=tmp_path)


# --- archives ---


def test_members_of_an_archive_are_files_of_their_own(tmp_path: Path) -> None:
    path = archive(tmp_path / "train_all.zip", "AdGen/dev.json", "AdGen/train.json", "AdGen/x.json", "AdGen/", "a.md")
    assert list(found(path=path).items()) == [
        ("train_all.zip/AdGen/train.json", "train"),
        ("train_all.zip/AdGen/dev.json", "validation"),
    ]
    assert skipped(path=path) == {"train_all.zip/AdGen/x.json": "its name speaks of no split"}
    assert [r.value for file in find(config(path=path)).files for r in reading.records(file)] == [{"a": 1}] * 2


def test_folders_in_an_archive_speak_of_splits(tmp_path: Path) -> None:
    path = archive(tmp_path / "all.zip", "train/1.json", "train/2.json", "x/test/1.json")
    assert list(found(path=path).values()) == ["train", "train", "test"]


def test_archives_in_a_folder_are_looked_into(tmp_path: Path) -> None:
    archive(tmp_path / "b.zip", "dev.json", "notes.txt")
    archive(tmp_path / "train.zip", "rows.csv")
    touch(tmp_path, "my_train.json")
    assert found(path=tmp_path) == {
        "my_train.json": "train",
        "train.zip/rows.csv": "train",
        "b.zip/dev.json": "validation",
    }
    assert found(test=tmp_path / "b.zip") == {"b.zip/dev.json": "test"}


@pytest.mark.parametrize(
    "name", ["../evil.json", "a/../../evil.json", "/etc/evil.json", "C:/evil.json", "a\\..\\evil.json"]
)
def test_members_that_would_leave_the_archive_are_left_out(tmp_path: Path, name: str) -> None:
    path = archive(tmp_path / "a.zip", name, "train.json")
    assert skipped(path=path) == {f"a.zip/{name}": "unsafe path in the archive"}
    assert found(path=path) == {"a.zip/train.json": "train"}
    alone = archive(tmp_path / "b.zip", name)
    assert "b.zip/" in error(path=alone)
    assert "unsafe path in the archive" in error(path=alone)


def test_what_else_an_archive_may_hold_is_left_out(tmp_path: Path) -> None:
    path = archive(tmp_path / "a.zip", "train.json", "in/more.zip", "__MACOSX/._train.json", "run/artifact.json")
    with pytest.warns(UserWarning, match="Duplicate name"), zipfile.ZipFile(path, "a") as file:
        file.writestr("train.json", '{"a": 2}')
        file.writestr("run/train/old.jsonl", "{}")
        file.writestr("x.json", "{}", zipfile.ZIP_BZIP2)
    assert members(path, "in/a.zip")[0] == [("in/a.zip/train.json", "train.json")]
    assert [(s.name, s.reason) for s in members(path, "a.zip")[1]] == [
        ("a.zip/in/more.zip", "an archive within an archive"),
        ("a.zip/run/artifact.json", "an artifact of this project"),
        ("a.zip/train.json", "the archive has another file of this name"),
        ("a.zip/x.json", "packed by another method than deflate"),
    ]
    assert [r.value for r in reading.records(find(config(path=path)).files[0])] == [{"a": 2}]


def test_an_encrypted_member_is_named(tmp_path: Path) -> None:
    path = archive(tmp_path / "a.zip", "train.json")
    data = bytearray(path.read_bytes())
    data[6] |= 1  # the flags in the local header
    data[data.index(b"PK\x01\x02") + 8] |= 1  # and in the archive's index
    path.write_bytes(data)
    assert skipped(path=archive(tmp_path / "b.zip", "train.json")) == {}
    assert "a.zip/train.json (encrypted)" in error(path=path)
    with pytest.raises(DataError, match=r"a\.zip: member train\.json cannot be read \(encrypted\)"):
        list(reading.records(DataFile(path, "a.zip/train.json", "train", "train.json")))


def test_chinese_names_of_old_archives_are_shown_as_meant(tmp_path: Path) -> None:
    path = archive(tmp_path / "a.zip", "XXXX_train.json")
    path.write_bytes(path.read_bytes().replace(b"XXXX", "病历".encode("gb18030")))
    (file,) = find(config(path=path)).files
    assert (file.name, file.split) == ("a.zip/病历_train.json", "train")
    assert [r.value for r in reading.records(file)] == [{"a": 1}]


def test_names_with_control_characters_are_left_out_in_one_line(tmp_path: Path) -> None:
    path = archive(tmp_path / "a.zip", "a\ntrain.json", "一　二_train.json")
    assert skipped(path=path) == {"a.zip/a?train.json": "its name has control characters"}
    assert found(path=path) == {"a.zip/一　二_train.json": "train"}


@pytest.mark.parametrize("seed", range(40))
def test_a_damaged_archive_is_an_error_or_a_problem_and_never_a_traceback(tmp_path: Path, seed: int) -> None:
    path = archive(tmp_path / "a.zip", "train.json", "病/dev.jsonl", "", text='{"a": 1}\n{"a": 2}\n')
    chance = random.Random(seed)
    for _ in range(50):
        data = bytearray(path.read_bytes())
        for _ in range(chance.randint(1, 3)):
            data[chance.randrange(len(data))] = chance.choice([0, 255, chance.randrange(256)])
        damaged = tmp_path / "b.zip"
        damaged.write_bytes(data)
        try:
            for file in find(config(path=damaged)).files:
                list(reading.records(file))
        except DataError as caught:
            assert "\n" not in str(caught)


def test_an_archive_that_is_none_is_one_line(tmp_path: Path) -> None:
    touch(tmp_path, "a.zip", text="not an archive")
    assert "a.zip: a broken zip archive (" in error(path=tmp_path / "a.zip")
    cut = archive(tmp_path / "b.json", "train.json")
    cut.write_bytes(cut.read_bytes()[:-30])
    assert "b.json: a broken zip archive (" in error(path=cut)
    assert "no data file in this archive (files named *.json" in error(path=archive(tmp_path / "c.zip"))
