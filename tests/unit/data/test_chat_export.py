"""MemoTrace's exports: which files go where, what is named and skipped, whose names are redacted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import pytest

from tasks.data.source import SPLITS, Unusable
from tasks.data.sources.chat_export import EMPTY, SAME, TWICE, Config, convert, find, recognise, split_of
from tasks.errors import DataError

SYSTEM = "你是小舟，一个聪明、热情、善良的人，后面的对话来自你的朋友，你要认真地回答他"


def dialogue(question: str = "在吗") -> dict[str, Any]:
    texts = {"system": SYSTEM, "user": question, "assistant": "在"}
    return {"conversations": [{"role": role, "content": content} for role, content in texts.items()]}


def write(path: Path, value: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False), encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("train.json", "train"),
        ("阿杰_train.json", "train"),
        ("阿杰_TRAIN.JSON", "train"),
        ("dev.json", "validation"),
        ("a_b_dev.json", "validation"),
        ("retrain.json", None),
        ("config.json", None),
        ("阿杰.json", None),
        ("train.json.bak", None),
        ("train.jsonl", None),
    ],
)
def test_only_an_exports_own_names_mean_a_split(name: str, split: str | None) -> None:
    assert split_of(name) == split


def test_contacts_below_a_folder_and_what_is_no_export(tmp_path: Path) -> None:
    write(tmp_path / "阿杰" / "阿杰_train.json", [dialogue("一")])
    write(tmp_path / "阿杰" / "阿杰_dev.json", [dialogue("二")])
    write(tmp_path / "朋友" / "林姐(wxid_lin)_train.json", [dialogue("三")])
    write(tmp_path / "阿杰" / "retrain.json", [dialogue("四")])
    write(tmp_path / "config.json", {"a": 1})
    write(tmp_path / "notes.txt", "x")
    found = find(Config(path=tmp_path))
    assert [(file.name, file.split, file.names) for file in found.files] == [
        ("朋友/林姐(wxid_lin)_train.json", "train", ("林姐", "wxid_lin", "阿杰")),
        ("阿杰/阿杰_dev.json", "validation", ("阿杰",)),
        ("阿杰/阿杰_train.json", "train", ("阿杰",)),
    ]
    reason = "not an export: its name is neither *_train.json nor *_dev.json"
    assert [(skip.name, skip.reason) for skip in found.skipped] == [
        ("config.json", reason),
        ("阿杰/retrain.json", reason),
    ]


def test_files_named_by_the_user_keep_their_splits_and_their_contacts_name(tmp_path: Path) -> None:
    path = write(tmp_path / "阿杰_train.json", [dialogue()])
    assert [(f.split, f.names) for f in find(Config(path=path)).files] == [("train", ("阿杰",))]
    assert [(f.split, f.names) for f in find(Config(validation=path, train=path)).files] == [
        ("train", ("阿杰",)),
        ("validation", ("阿杰",)),
    ]


def test_own_artifacts_and_links_are_never_entered(tmp_path: Path) -> None:
    write(tmp_path / "a" / "a_train.json", [dialogue()])
    write(tmp_path / "runs" / "prepare" / "x" / "artifact.json", {})
    write(tmp_path / "runs" / "prepare" / "x" / "train.json", [dialogue("own")])
    write(tmp_path / "runs" / "prepare" / "y.partial" / "train.json", [dialogue("own too")])
    (tmp_path / "a" / "loop").symlink_to(tmp_path, target_is_directory=True)
    (tmp_path / "a" / "gone_train.json").symlink_to(tmp_path / "nowhere.json")
    found = find(Config(path=tmp_path))
    assert [file.name for file in found.files] == ["a/a_train.json"]
    assert {skip.name: skip.reason for skip in found.skipped} == {
        "a/loop": "a link to a folder, not followed",
        "a/gone_train.json": "a broken link",
        "runs/prepare/x": "an artifact of this project",
        "runs/prepare/y.partial": "an unfinished artifact of this project",
    }


@pytest.mark.parametrize("content", ["[]", "\ufeff[ ]\r\n", "\n[\n]\n"])
def test_an_empty_export_is_named(tmp_path: Path, content: str) -> None:
    write(tmp_path / "群" / "群_train.json", content)
    with pytest.raises(DataError, match=r"all 1 exports below this folder are empty.*chat_messages"):
        find(Config(path=tmp_path))
    write(tmp_path / "阿杰" / "阿杰_train.json", [dialogue()])
    found = find(Config(path=tmp_path))
    assert [file.name for file in found.files] == ["阿杰/阿杰_train.json"]
    assert [(skip.name, skip.reason) for skip in found.skipped] == [("群/群_train.json", EMPTY)]


def test_contacts_with_an_empty_export_are_told_for_redaction(tmp_path: Path) -> None:
    write(tmp_path / "阿杰" / "阿杰_train.json", [dialogue()])
    write(tmp_path / "林姐" / "林姐_train.json", "[]")
    (file,) = find(Config(path=tmp_path)).files
    assert file.names == ("阿杰", "林姐")


def test_a_file_of_no_bytes_is_not_an_empty_export(tmp_path: Path) -> None:
    write(tmp_path / "a_train.json", "")
    assert [file.name for file in find(Config(path=tmp_path)).files] == ["a_train.json"]


def test_the_same_bytes_under_two_names_are_read_once(tmp_path: Path) -> None:
    write(tmp_path / "a" / "阿杰_train.json", [dialogue("一")])
    write(tmp_path / "b" / "大杰_train.json", [dialogue("一")])
    write(tmp_path / "c" / "林姐_train.json", [dialogue("二")])  # as long, but other bytes
    found = find(Config(path=tmp_path))
    assert [file.name for file in found.files] == ["a/阿杰_train.json", "c/林姐_train.json"]
    assert [(skip.name, skip.reason) for skip in found.skipped] == [("b/大杰_train.json", SAME)]


def test_one_contact_in_two_folders_is_read_and_said(tmp_path: Path) -> None:
    for folder, question in (("2023", "一"), ("2024", "二二")):
        write(tmp_path / folder / "阿杰" / "阿杰_train.json", [dialogue(question)])
    write(tmp_path / "2024" / "阿杰" / "阿杰_dev.json", [dialogue("三三三")])
    found = find(Config(path=tmp_path))
    assert len(found.files) == 3
    assert [(skip.name, skip.reason) for skip in found.skipped] == [
        ("2024/阿杰/阿杰_dev.json", TWICE),
        ("2024/阿杰/阿杰_train.json", TWICE),
    ]


@pytest.mark.parametrize("inside_a_folder", [True, False])
def test_an_archive_of_exports_is_read_like_its_folder(tmp_path: Path, inside_a_folder: bool) -> None:
    with ZipFile(tmp_path / "chats.zip", "w") as archive:
        archive.writestr("阿杰/阿杰_train.json", json.dumps([dialogue("一")]))
        archive.writestr("阿杰/copy_train.json", json.dumps([dialogue("一")]))
        archive.writestr("阿杰/阿杰_dev.json", "[]")
        archive.writestr("../evil_train.json", json.dumps([dialogue("二")]))
    path = tmp_path if inside_a_folder else tmp_path / "chats.zip"
    found = find(Config(path=path))
    names = [(file.name, file.member, file.split, file.names) for file in found.files]
    assert names == [("chats.zip/阿杰/copy_train.json", "阿杰/copy_train.json", "train", ("copy", "阿杰"))]
    assert {skip.name: skip.reason for skip in found.skipped} == {
        "chats.zip/../evil_train.json": "unsafe path in the archive",
        "chats.zip/阿杰/阿杰_dev.json": EMPTY,
        "chats.zip/阿杰/阿杰_train.json": SAME,
    }


def test_a_folder_without_exports_is_an_error(tmp_path: Path) -> None:
    write(tmp_path / "a.json", [])
    with pytest.raises(DataError, match=r"no \*_train.json or \*_dev.json"):
        find(Config(path=tmp_path))
    with pytest.raises(DataError, match="no such file or folder"):
        find(Config(path=tmp_path / "nowhere"))


def test_a_dialogue_keeps_its_turns_and_names_its_owner() -> None:
    draft = convert(dialogue("在吗"), "阿杰/阿杰_train.json#3", Config())
    assert [(m.role, m.content) for m in draft.row.messages] == [
        ("system", SYSTEM),
        ("user", "在吗"),
        ("assistant", "在"),
    ]
    assert (draft.row.id, draft.row.task, draft.row.metric) == ("阿杰/阿杰_train.json#3", "chat", "chat")
    assert draft.names == ("小舟",)
    assert draft.group == ""


def test_train_and_dev_of_one_contact_are_one_group_when_asked_for() -> None:
    config = Config(group_by="contact")
    ids = ["a/阿杰_train.json#3", "b/阿杰_dev.json#1", "林姐/train.json#1", "林姐/dev.json#1", "train.json#1"]
    groups = [convert(dialogue(), row_id, config).group for row_id in ids]
    assert groups == ["阿杰", "阿杰", "林姐", "林姐", "train.json"]


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        ({"阿杰": []}, "no list 'conversations'"),
        ({"conversations": []}, "empty dialogue"),
        ({"conversations": ["你好"]}, "a turn is not an object"),
        ({"conversations": [{"role": "friend", "content": "a"}]}, "unknown role"),
        ({"conversations": [{"role": "user", "content": 3}]}, "a content is not a text"),
    ],
)
def test_a_record_that_is_no_dialogue_has_a_reason(record: dict[str, Any], reason: str) -> None:
    with pytest.raises(Unusable) as caught:
        convert(record, "a_train.json#1", Config())
    assert (caught.value.reason, caught.value.task) == (reason, "chat")


def test_only_the_exporters_own_system_message_is_recognised() -> None:
    claim = recognise(dialogue())
    assert claim is not None
    assert claim.strength == 8
    other = dialogue()
    other["conversations"][0]["content"] = "你是校园问路助手。"
    assert recognise(other) is None
    assert recognise({"conversations": []}) is None
    assert recognise({"messages": dialogue()["conversations"]}) is None


def test_the_defaults_protect_and_hold_out() -> None:
    config = Config()
    assert (config.redact, config.min_keep_ratio, config.test_share, config.group_by) == (True, 0.1, 0.2, None)


def test_the_sample_names_its_empty_exports_and_its_stray_file() -> None:
    found = find(Config())
    assert [file.name for file in found.files] == [
        f"{c}/{c}_{part}.json" for c in ("林姐", "阿杰") for part in ("dev", "train")
    ]
    assert {file.split for file in found.files} == set(SPLITS[:2])
    assert {skip.name for skip in found.skipped} == {
        "快递通知/快递通知_dev.json",
        "快递通知/快递通知_train.json",
        "阿杰/retrain.json",
    }
