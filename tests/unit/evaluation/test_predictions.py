"""The predictions file: complete, appended to, and mended after a kill."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tasks.conversation import Row
from tasks.evaluation import baselines, predictions, selection
from tasks.evaluation.predictions import Prediction

MakeRow = Callable[[int], Row]


def some(make_row: MakeRow, count: int) -> list[Prediction]:
    return [predictions.answer(make_row(i), f"答\n{i}\u2028", tokens=i) for i in range(count)]


def test_predictions_come_back_as_they_were_written(make_row: MakeRow, tmp_path: Path) -> None:
    every = some(make_row, 5)
    predictions.append(tmp_path / "p.jsonl", every[:2])
    predictions.append(tmp_path / "p.jsonl", every[2:])
    assert predictions.read(tmp_path / "p.jsonl") == every
    assert every[1].prompt == make_row(1).messages[0].content


@pytest.mark.parametrize("torn", [b'{"id": "r9", "ta', b'{"id": "r9"}\n', b"\x00" * 40, "半".encode()[:2]])
def test_a_torn_end_is_cut_off_and_appending_goes_on(make_row: MakeRow, tmp_path: Path, torn: bytes) -> None:
    path, every = tmp_path / "p.jsonl", some(make_row, 3)
    predictions.append(path, every[:2])
    with path.open("ab") as file:
        file.write(torn)
    assert predictions.recover(path) == every[:2]
    predictions.append(path, every[2:])
    assert predictions.read(path) == every


def test_nothing_to_recover_is_no_error(tmp_path: Path) -> None:
    assert predictions.recover(tmp_path / "none.jsonl") == []


def test_baselines_answer_by_task(make_row: MakeRow) -> None:
    rows = [make_row(i) for i in range(6)]
    training = [make_row(i) for i in (100, 101, 103, 102)]  # labels 治疗, 病因, 病因; one triples row
    by_task = {p.task: p.prediction for p in baselines.majority(training, rows)}
    assert by_task == {"CHIP-CTC": "病因", "triples": "发动机_部件故障_水温高"}
    assert baselines.majority([], rows)[0].prediction == ""
    assert [p.prediction for p in baselines.copy(rows)] == [row.messages[0].content for row in rows]


def test_a_row_cap_is_even_over_tasks_and_keeps_the_order(make_row: MakeRow) -> None:
    rows = [make_row(i) for i in range(30)]  # 10 triples, 20 CHIP-CTC
    kept = selection.rows(rows, 12, seed=1)
    assert [row.task for row in kept].count("triples") == 6
    assert kept == sorted(kept, key=lambda row: row.id)
    assert kept == selection.rows(rows, 12, seed=1) != selection.rows(rows, 12, seed=2)
    assert selection.rows(rows, None, seed=1) == selection.rows(rows, 30, seed=1) == rows
    assert [row.task for row in selection.rows(rows, 25, seed=1)].count("triples") == 10


@pytest.mark.parametrize(("wanted", "steps"), [("all", [5, 10, 20]), ("last", [20]), (2, [10, 20]), (9, [5, 10, 20])])
def test_candidates_are_the_newest_checkpoints(wanted: str | int, steps: list[int]) -> None:
    assert selection.candidates([20, 5, 10], wanted) == steps
