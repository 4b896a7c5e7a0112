"""Checkpoints on disk: which are kept, which can be resumed from, what a finished run leaves."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tasks.training import checkpointing


def save(root: Path, step: int) -> None:
    def write(folder: Path) -> None:
        (folder / "w.safetensors").write_text(f"weights of {step}", encoding="utf-8")

    digest = checkpointing.commit(checkpointing.step_folder(root, "checkpoints", step), write, {"step": step})
    state = checkpointing.step_folder(root, "state", step)
    checkpointing.commit(state, write, {"step": step, "weights": digest})


@pytest.mark.parametrize("interruptions", [[], [173], [160, 173, 199], [20, 60, 120, 201]])
def test_an_interrupted_run_ends_with_the_same_checkpoints(interruptions: list[int], tmp_path: Path) -> None:
    for step in sorted({50, 100, 150, 200, 210, *interruptions}):
        save(tmp_path, step)
        checkpointing.rotate(tmp_path, keep=3, every=50)
    assert checkpointing.steps(tmp_path) == [150, 200, 210]
    assert len(list((tmp_path / "state").iterdir())) == 2


def test_state_that_belongs_to_other_weights_is_not_resumed_from(tmp_path: Path) -> None:
    save(tmp_path, 5)
    save(tmp_path, 10)
    manifest = tmp_path / "checkpoints" / "step-000010" / checkpointing.MANIFEST
    manifest.write_text(manifest.read_text(encoding="utf-8") + " ", encoding="utf-8")
    assert checkpointing.newest(tmp_path) == 5
    assert [p.name.split("-")[0] for p in (tmp_path / "state").iterdir() if "000010" in p.name] == ["corrupt"]


def test_half_written_checkpoint_is_no_checkpoint(tmp_path: Path) -> None:
    save(tmp_path, 5)

    def fails(folder: Path) -> None:
        (folder / "w.safetensors").write_text("half", encoding="utf-8")
        raise OSError("No space left on device")

    with pytest.raises(OSError, match="space"):
        checkpointing.commit(checkpointing.step_folder(tmp_path, "checkpoints", 10), fails, {})
    assert checkpointing.steps(tmp_path) == [5] and checkpointing.newest(tmp_path) == 5


def test_result_of_a_run_that_was_not_published_counts_only_with_whole_weights(tmp_path: Path) -> None:
    assert checkpointing.finished(tmp_path) is None
    save(tmp_path, 5)
    checkpointing.finish(tmp_path)
    (tmp_path / "result.json").write_text(json.dumps({"steps": [5]}), encoding="utf-8")
    assert checkpointing.finished(tmp_path) == {"steps": [5]}
    (tmp_path / "checkpoints" / "step-000005" / "w.safetensors").write_text("damaged", encoding="utf-8")
    assert checkpointing.finished(tmp_path) is None
