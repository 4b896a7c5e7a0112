"""Writes the shipped sample data: ``python -m tasks.data.samples.generate [FOLDER]`` (default: this folder).

The same bytes every time. Into the plain rows it puts the quirks of real files, which the sources must survive; each
is named where it is made. Not a data source itself.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Any

from tasks.data.samples import automotive, chats, garments, medical

SEED = "weitiao sample 1"


def main(folder: Path) -> None:
    """Write all samples below ``folder``."""
    _promptcblue(folder / "promptcblue")
    _triples(folder / "triples")
    _advertisegen(folder / "advertisegen")
    _chat_export(folder / "chat_export")
    _write(folder / "chat_messages" / "messages.csv", [chats.log(_rng("chat_messages"))], end="", start="\ufeff")
    _held_out(folder / "conversations", chats.conversations(_rng("conversations")))
    _held_out(folder / "messages", chats.messages(_rng("messages")))


def _promptcblue(folder: Path) -> None:
    splits = medical.splits(_rng("promptcblue"))
    train = splits["train"]
    for row in [r for r in train if r["task_dataset"] == "CHIP-CTC"][:12]:
        row["answer_choices"] = None
    for row in [r for r in train if r["task_dataset"] == "CHIP-STS"][:12]:
        row["answer_choices"] = str(row["answer_choices"])  # the list as text
    for row in train:
        row["input"] = row["input"].replace(">", "&gt;")  # as in CBLUE's raw texts
    train[3]["input"] = train[3]["input"][:8] + "\ufeff" + train[3]["input"][8:]
    lines = [_line(row) for row in train]
    empty = {**train[7], "target": "", "sample_id": "train-empty"}
    lines[100:100] = [lines[20], _line(empty), lines[30][:60]]  # a duplicate, an empty target, a broken line
    _write(folder / "train.json", lines)
    _write(folder / "dev.json", [_line(row) for row in splits["dev"]], end="\r\n")
    _write(folder / "test.json", [_line(row) for row in splits["test"]])


def _triples(folder: Path) -> None:
    splits = automotive.splits(_rng("triples"))
    other_form = [{"text": row["input"], "answer": row["output"]} for row in splits["train"][400:]]
    _write(folder / "spo_train.json", [_line(row) for row in splits["train"][:400]])
    _write(folder / "text_answer_train.json", [_line(row) for row in other_form])
    _write(folder / "spo_dev.json", [_line(row) for row in splits["dev"]])
    _write(folder / "spo_test.json", [_line(row) for row in splits["test"]])


def _advertisegen(folder: Path) -> None:
    rng = _rng("advertisegen")
    rows = garments.rows(rng, 440, replies=2)
    cut = next(i for i, row in enumerate(rows) if i >= 460 and row["content"] != rows[i - 1]["content"])
    train, dev = rows[:cut], rows[cut:]
    train[5]["summary"] = train[5]["summary"].replace("，", "，<UNK>，", 1)
    lines = [_line(row) for row in train]
    lines[50:50] = [lines[10]]  # an exact duplicate
    lines[-20:] = [_line({"prompt": r["content"], "response": r["summary"]}) for r in train[-20:]]
    _write(folder / "train.json", lines)
    _write(folder / "dev.json", [_line(row) for row in dev])


def _chat_export(folder: Path) -> None:
    rng = _rng("chat_export")
    for contact, count in (("阿杰", 130), ("林姐", 90)):
        dialogues = chats.exports(rng, contact, count)
        dev = count // 5
        bom = "\ufeff" if contact == "林姐" else ""  # a file that went through a Windows editor
        _write(folder / contact / f"{contact}_train.json", [_array(dialogues[dev:])], end="", start=bom)
        _write(folder / contact / f"{contact}_dev.json", [_array(dialogues[:dev])], end="")
    for part in ("train", "dev"):  # a contact whom the owner never answered
        _write(folder / "快递通知" / f"快递通知_{part}.json", ["[]"], end="")
    _write(folder / "阿杰" / "retrain.json", [_array([{"note": "不是导出文件"}])], end="")


def _held_out(folder: Path, rows: Sequence[Any]) -> None:
    _write(folder / "train.jsonl", [_line(row) for row in rows[8:]])
    _write(folder / "dev.jsonl", [_line(row) for row in rows[:8]])


def _rng(name: str) -> Random:
    return Random(f"{SEED}: {name}")


def _line(row: Any) -> str:
    return json.dumps(row, ensure_ascii=False)


def _array(rows: Sequence[Any]) -> str:
    return json.dumps(rows, ensure_ascii=False, indent=4)


def _write(path: Path, lines: Sequence[str], *, end: str = "\n", start: str = "") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes((start + "".join(line + end for line in lines)).encode("utf-8"))


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent)
