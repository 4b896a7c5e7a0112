"""The prepare stage: accounts computed by hand, identity, errors that a user can mend."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from data_cases import Prepare, write_lines

from tasks.artifacts import Dataset
from tasks.conversation import read_rows
from tasks.errors import DataError


def ad(i: int, summary: str | None = None) -> dict[str, str]:
    return {"content": f"类型#上衣*编号#{i}", "summary": f"第{i}件上衣。" if summary is None else summary}


def report(dataset: Dataset) -> dict[str, Any]:
    value: dict[str, Any] = json.loads((dataset.path / "report.json").read_text(encoding="utf-8"))
    return value


def rows(dataset: Dataset, split: str) -> list[str]:
    return [row.messages[-1].content for row in read_rows(dataset.rows_file(split))]


def test_every_record_is_in_a_split_or_in_dropped(run: Prepare, tmp_path: Path) -> None:
    train = [ad(1), "{broken", ad(2), ad(2), ad(3, ""), ad(4), "null", {"other": 1}, ad(5), ad(6), ad(7)]
    write_lines(tmp_path / "in/train.json", train, end="\r\n")
    write_lines(tmp_path / "in/dev.json", [ad(4, "别的。"), ad(11), ad(12)])
    write_lines(tmp_path / "in/test.jsonl", [ad(21), ad(22)])
    dataset = run("advertisegen", path=tmp_path / "in")
    # read 11 + 3 + 2; dropped: broken, null, no columns, empty summary, duplicate, content 4 in dev
    assert dataset.rows == {
        "read": 16,
        "kept": 10,
        "dropped": {
            "broken JSON": 1,
            "duplicate row": 1,
            "empty reply": 1,
            "leak: prompt is in validation": 1,
            "no such columns": 1,
            "not an object": 1,
        },
    }
    assert dataset.splits == {"train": 5, "validation": 3, "test": 2}
    assert dataset.tasks == {"advertisegen": 10}
    assert rows(dataset, "train") == [f"第{i}件上衣。" for i in (1, 2, 5, 6, 7)]
    dropped = [
        json.loads(line) for line in (dataset.path / "quarantine.jsonl").read_text(encoding="utf-8").splitlines()
    ]
    assert [(d["file"], d["line"], d["reason"]) for d in dropped] == [
        ("train.json", 2, "broken JSON"),
        ("train.json", 5, "empty reply"),
        ("train.json", 7, "not an object"),
        ("train.json", 8, "no such columns"),
        ("train.json", 4, "duplicate row"),
        ("train.json", 6, "leak: prompt is in validation"),
    ]
    assert "上衣" not in (dataset.path / "quarantine.jsonl").read_text(encoding="utf-8")
    files = report(dataset)["files"]
    assert [(name, f["split"], f["read"], f["kept"]) for name, f in files.items()] == [
        ("train.json", "train", 11, 5),
        ("dev.json", "validation", 3, 3),
        ("test.jsonl", "test", 2, 2),
    ]


def test_ids_are_unique_and_name_file_and_ordinal(run: Prepare, tmp_path: Path) -> None:
    (tmp_path / "rows.json").write_text(json.dumps([ad(i) for i in range(30)]), encoding="utf-8")
    dataset = run("advertisegen", path=tmp_path / "rows.json")
    ids = [row.id for split in dataset.splits for row in read_rows(dataset.rows_file(split))]
    assert sorted(ids) == sorted(f"rows.json#{i}" for i in range(1, 31))


def test_the_same_content_elsewhere_is_reused_and_other_content_is_not(run: Prepare, tmp_path: Path) -> None:
    first = run("advertisegen", path=write_lines(tmp_path / "a/x.json", [ad(i) for i in range(9)]))
    moved = run("advertisegen", path=write_lines(tmp_path / "b/x.json", [ad(i) for i in range(9)]))
    other = run("advertisegen", path=write_lines(tmp_path / "c/x.json", [ad(i) for i in range(10)]))
    renamed = run("advertisegen", train=write_lines(tmp_path / "d/y.json", [ad(i) for i in range(9)]))
    assert (first.reused, moved.reused, other.reused, renamed.reused) == (False, True, False, False)
    assert moved.fingerprint == first.fingerprint
    assert run("advertisegen", path=tmp_path / "a/x.json", test_share=0.2).reused is False


@pytest.mark.parametrize(
    ("names", "splits", "skipped"),
    [
        (["train.json", "dev.json", "test.json"], ["train", "validation", "test"], []),
        (["spo_train.json", "my-valid.jsonl"], ["train", "validation"], []),
        (["train_CHIP-CTC.json", "dev_CHIP-CTC.json"], ["train", "validation"], []),
        (["train.csv", "val.csv", "notes.json"], ["train", "validation"], ["notes.json"]),
        (["train.json", "dev.json", "dev_structured.json"], ["train", "validation"], ["dev_structured.json"]),
        (["CTC-822.json", "STS_2000.json"], ["train", "train"], []),
        (["training.json", "Validation.JSON", "readme.md"], ["train", "validation"], []),
    ],
)
def test_names_of_files_in_a_folder(tmp_path: Path, names: list[str], splits: list[str], skipped: list[str]) -> None:
    from tasks.data.files import find
    from tasks.data.source import SourceConfig

    for name in names:
        (tmp_path / name).touch()
    found = find(SourceConfig(source="advertisegen", path=tmp_path))
    used = {file.name: file.split for file in found.files}
    assert [used[name] for name in names if name in used] == splits
    assert [file.name for file in found.skipped] == skipped


def test_explicit_files_override_what_the_folder_has(run: Prepare, tmp_path: Path) -> None:
    write_lines(tmp_path / "in/train.json", [ad(i) for i in range(5)])
    write_lines(tmp_path / "in/test.json", [ad(50)])
    own = write_lines(tmp_path / "own.json", [ad(60), ad(61)])
    dataset = run("advertisegen", path=tmp_path / "in", test=own, validation_share=0)
    assert rows(dataset, "test") == ["第60件上衣。", "第61件上衣。"]
    assert dataset.splits["validation"] == 0
    assert report(dataset)["splits"]["validation"]["origin"] == "empty: there is no file and data.validation_share=0"


def test_a_test_file_without_answers_is_replaced_by_held_out_rows_and_told(run: Prepare, tmp_path: Path) -> None:
    write_lines(tmp_path / "in/train.json", [ad(i) for i in range(40)])
    write_lines(tmp_path / "in/test.json", [ad(i, "") for i in range(100, 105)])
    dataset = run("advertisegen", path=tmp_path / "in")
    assert dataset.splits["test"] > 0
    assert report(dataset)["splits"]["test"]["origin"].startswith("held out of train: the file has no usable row")
    assert dataset.rows["dropped"] == {"empty reply": 5}


def test_caps_are_accounted_for_and_are_no_losses(run: Prepare, tmp_path: Path) -> None:
    path = write_lines(tmp_path / "rows.json", [ad(i) for i in range(100)])
    dataset = run("advertisegen", path=path, max_rows={"train": 10, "validation": 2, "test": 2}, min_keep_ratio=1)
    assert dataset.splits == {"train": 10, "validation": 2, "test": 2}
    assert dataset.rows == {"read": 100, "kept": 14, "dropped": {"over data.max_rows": 86}}


@pytest.mark.parametrize(
    ("content", "values", "message"),
    [
        (None, {}, r"^data\.path=.*rows\.json: no such file or folder$"),
        ([], {}, r"^data\.path=.*rows\.json: no rows in the file\(s\)$"),
        (
            ["x", "y"],
            {},
            r"none of 2 rows is usable: 2 broken JSON; the first: rows\.json:1: broken JSON \(.*column 1\)",
        ),
        ([ad(1), ad(2), "x", "x", "x"], {}, r"40% of 5 rows kept, less than data\.min_keep_ratio=0\.5: 3 broken"),
        ([ad(1), "{x", ad(2)], {"strict": True}, r"rows\.json:2: broken JSON .*\(data\.strict=true\)$"),
    ],
)
def test_errors_are_one_line_with_the_key_the_place_and_the_reason(
    run: Prepare, tmp_path: Path, content: list[Any] | None, values: dict[str, Any], message: str
) -> None:
    path = tmp_path / "rows.json"
    if content is not None:
        write_lines(path, content)
    with pytest.raises(DataError, match=message) as caught:
        run("advertisegen", path=path, **values)
    assert "\n" not in str(caught.value)


def test_train_that_equals_dev_is_an_error_and_not_a_good_score(run: Prepare, tmp_path: Path) -> None:
    for name in ("train.json", "dev.json"):
        write_lines(tmp_path / name, [ad(i) for i in range(20)])
    with pytest.raises(DataError, match=r"no row is left to train on: 20 leak: prompt is in validation"):
        run("advertisegen", path=tmp_path)


def test_missing_explicit_file_and_empty_or_nameless_folders(run: Prepare, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"^data\.test=.*none\.json: no such file or folder$"):
        run("advertisegen", test=tmp_path / "none.json")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"^data\.path=.*empty: no data file in this folder"):
        run("advertisegen", path=tmp_path / "empty")
    write_lines(tmp_path / "only/dev.json", [ad(1)])
    with pytest.raises(DataError, match=r"no training file among dev\.json; name it with data\.train=FILE"):
        run("advertisegen", path=tmp_path / "only")


def test_a_prepared_data_set_is_not_taken_for_input(run: Prepare, tmp_path: Path) -> None:
    dataset = run("advertisegen", path=write_lines(tmp_path / "x.json", [ad(i) for i in range(9)]))
    with pytest.raises(DataError, match="an artifact of this project"):
        run("advertisegen", path=dataset.path)


# --- chat exports ------------------------------------------------------------------------------------------------


def chat(text: str) -> dict[str, Any]:
    roles = ("system", "user", "assistant")
    return {"conversations": [{"role": r, "content": c} for r, c in zip(roles, ("你是小舟", text, "好"), strict=True)]}


def test_chat_exports_go_by_their_names_and_the_rest_is_named(run: Prepare, tmp_path: Path) -> None:
    def write(name: str, value: Any, encoding: str = "utf-8") -> None:
        path = tmp_path / "in" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(value, ensure_ascii=False, indent=4), encoding=encoding)

    write("甲/甲_train.json", [chat(f"甲{i}") for i in range(6)])
    write("甲/甲_dev.json", [chat("甲98")], "utf-8-sig")
    write("乙/train.json", [chat(f"乙{i}") for i in range(4)])
    write("乙/dev.json", [])
    write("乙/retrain.json", [chat("不读")])
    write("config.json", {"a": 1})
    write("丙/丙_train.json", {"说明": "顶层是字典"})
    write("旧/artifact.json", {})
    write("旧/train.json", [chat("自己的产物")])
    dataset = run("chat_export", path=tmp_path / "in", test_share=0)
    assert dataset.splits == {"train": 10, "validation": 1, "test": 0}
    assert dataset.rows == {"read": 12, "kept": 11, "dropped": {"no list 'conversations'": 1}}
    found = report(dataset)
    assert set(found["skipped_files"]) == {"config.json", "乙/dev.json", "乙/retrain.json", "旧"}
    assert found["skipped_files"]["乙/dev.json"].startswith("an empty export")
    (row,) = read_rows(dataset.rows_file("validation"))
    assert [message.content for message in row.messages] == ["你是小舟", "甲98", "好"]
    assert (row.task, row.metric, row.id) == ("chat", "chat", "甲/甲_dev.json#1")


def test_a_folder_without_exports_is_an_error(run: Prepare, tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text("[]", encoding="utf-8")
    with pytest.raises(DataError, match=r"no \*_train\.json or \*_dev\.json below this folder"):
        run("chat_export", path=tmp_path)
