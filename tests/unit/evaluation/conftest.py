"""A tiny random GLM with a character tokenizer, a LoRA checkpoint on it, and a data set whose rows it answers."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tasks.conversation import Message, Row, write_rows

_TINY_MODEL = Path(__file__).with_name("tiny_model.py")
#: Short and long prompts of two tasks, so that batches have padding and a mixed table.
LABELS = ("治疗", "病因")


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with ``base`` and ``checkpoints/step-000001``, ``step-000002`` (built in a process of its own)."""
    folder = tmp_path_factory.mktemp("tiny")
    subprocess.run([sys.executable, str(_TINY_MODEL), str(folder)], check=True)
    return folder


def make_row(index: int) -> Row:
    label = LABELS[index % 2]
    if index % 3 == 0:
        text, reply, task, metric = "水温高" * (1 + index % 5), "发动机_部件故障_水温高", "triples", "triples"
    else:
        text, reply, task, metric = f"问{index}：" + label * (index % 7), label, "CHIP-CTC", "classification"
    return Row(
        id=f"r{index:03d}",
        messages=(Message("user", text), Message("assistant", reply)),
        task=task,
        metric=metric,
        fields={"unseen_entities": index % 4 == 0},
    )


@pytest.fixture
def dataset_folder(tmp_path: Path) -> Path:
    """A prepared data set: 30 training, 10 validation and 18 test rows."""
    folder = tmp_path / "dataset"
    folder.mkdir()
    write_rows(folder / "train.jsonl", map(make_row, range(100, 130)))
    write_rows(folder / "validation.jsonl", map(make_row, range(50, 60)))
    write_rows(folder / "test.jsonl", map(make_row, range(18)))
    (folder / "artifact.json").write_text(json.dumps({}), encoding="utf-8")
    return folder
