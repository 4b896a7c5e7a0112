"""Redaction through the whole stage: nothing personal in anything that is written, whatever holds it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from data_cases import Prepare, write_lines

from tasks.artifacts import Dataset
from tasks.conversation import read_rows
from tasks.data import source
from tasks.data.personal_data import protection
from tasks.data.personal_data.scan import Finding
from tasks.data.stage import prepare
from tasks.errors import DataError
from tasks.store import Store

NUMBER = "13812345678"


def everything(folder: Path) -> str:
    """All text below a folder, that of Parquet files included; not the key."""
    texts = [
        path.read_text(encoding="utf-8") for path in folder.rglob("*") if path.suffix in (".json", ".jsonl", ".md")
    ]
    tables = [pq.read_table(path).to_pylist() for path in folder.rglob("*.parquet")]
    names = [path.name for path in folder.rglob("*")]
    return "\n".join([*texts, json.dumps(tables, ensure_ascii=False), *names])


def dialogue(text: str, reply: str = "好的", **more: Any) -> dict[str, Any]:
    turns = [{"role": "user", "content": text}, {"role": "assistant", "content": reply, **more}]
    return {"conversations": turns}


@pytest.mark.parametrize("name", ["Alice", "Alice Wong", "O'Neil", "wxid_abcdefg12", "王小明"])
def test_contacts_names_are_nowhere_in_what_is_written(run: Prepare, tmp_path: Path, name: str) -> None:
    path = tmp_path / f"in/{name}/{name}_train.json"
    path.parent.mkdir(parents=True)
    rows = [dialogue(f"{name}说第{i}件事怎么样了") for i in range(30)]
    path.write_text(json.dumps(rows, ensure_ascii=False), encoding="utf-8")
    dataset = run("chat_export", path=tmp_path / "in")
    assert dataset.rows["kept"] == 30
    written = everything(dataset.path)
    assert name not in written and name.replace("_", "\\_") not in written


def test_what_stands_beside_the_words_is_replaced_too(run: Prepare, tmp_path: Path) -> None:
    rows: list[Any] = [dialogue(f"第{i}个问题") for i in range(20)]
    rows.append(dialogue(f"打{NUMBER}给我"))
    rows.append(dialogue("天气", "```python\ntool_call(city='北京')\n```", metadata=f"打{NUMBER}"))
    rows.append({NUMBER: "x"})
    path = write_lines(tmp_path / "train.json", rows)
    dataset = run("conversations", path=path, redact=True, redact_names=["王小明"], redact_allow=["10086"])
    assert dataset.rows["kept"] == 22
    written = everything(dataset.path)
    assert NUMBER not in written and "王小明" not in written
    assert written.count("[手机号:") >= 3  # the message, the metadata, the column named after a number


def test_a_value_that_a_message_gives_away_is_replaced_in_the_fields(run: Prepare, tmp_path: Path) -> None:
    base = {"task_dataset": "CHIP-CDN", "task_type": "normalization", "target": "甲"}
    rows = [{**base, "input": f"第{i}个", "answer_choices": ["甲"], "sample_id": f"{i}"} for i in range(20)]
    rows.append({**base, "input": "我的QQ号是283746512", "answer_choices": ["甲", "283746512"], "sample_id": 283746512})
    dataset = run("promptcblue", path=write_lines(tmp_path / "train.json", rows), redact=True)
    assert dataset.rows["kept"] == 21
    assert "283746512" not in everything(dataset.path)


def test_another_key_gives_other_pseudonyms_and_the_same_splits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for contact in ("张三丰", "李四光", "赵子龙", "陈圆圆", "周星星"):
        path = tmp_path / f"in/{contact}/{contact}_train.json"
        path.parent.mkdir(parents=True)
        rows = [dialogue(f"{contact}问第{i}件事") for i in range(9)]
        path.write_text(json.dumps(rows, ensure_ascii=False), encoding="utf-8")

    def made(key: str, store: Path) -> Dataset:
        monkeypatch.setenv("WEITIAO_REDACTION_KEY", key)
        kind = source.load("chat_export").Config
        return prepare(kind(path=tmp_path / "in", group_by="contact", test_share=0.3), store=Store(store))

    one, other = made("0123456789abcdef", tmp_path / "a"), made("fedcba9876543210", tmp_path / "b")

    def lines(dataset: Dataset) -> list[str]:
        return sorted(row.messages[0].content.partition("问")[2] for row in read_rows(dataset.rows_file("test")))

    assert one.splits == other.splits and lines(one) == lines(other)
    assert everything(one.path) != everything(other.path)


def test_a_finding_of_the_final_scan_publishes_nothing_and_leaves_nothing(
    run: Prepare, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_lines(tmp_path / "train.json", [dialogue(f"第{i}个问题") for i in range(20)])
    # a detector that the redaction has not: what it fires on is left in the text
    monkeypatch.setattr(
        protection, "scan", lambda texts, *_: [Finding("mobile", 0, 0, 1)] if "第7个问题" in texts[0] else []
    )
    with pytest.raises(DataError, match=r"^final scan: .*mobile.*Nothing was published"):
        run("conversations", path=path, redact=True)
    left = [file for file in (store.root / "prepare").rglob("*") if file.is_file()]
    assert left == []


def test_of_a_mixture_each_part_is_held_to_its_own_rules(run: Prepare, tmp_path: Path) -> None:
    mails = write_lines(tmp_path / "a.json", [dialogue(f"写信到 li{i}@example.com 第{i}封") for i in range(30)])
    phones = write_lines(tmp_path / "b.json", [dialogue(f"打1381234{5000 + i}，第{i}次") for i in range(30)])
    parts = [
        {"source": "conversations", "path": mails, "redact": True, "redact_kinds": ["mobile"]},
        {"source": "conversations", "path": phones, "redact": True},
    ]
    dataset = run("mixture", parts=parts)
    assert dataset.rows["kept"] == 60
    written = everything(dataset.path)
    assert "li7@example.com" in written and "13812345007" not in written
