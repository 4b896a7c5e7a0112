"""LoRA checkpoints on the tiny model, and a data set of two tasks."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import tiny as tiny_model

from tasks.conversation import Row


@pytest.fixture(scope="session")
def tiny(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with ``base`` and ``checkpoints/step-000001``, ``step-000002``."""
    folder = tmp_path_factory.mktemp("tiny-with-checkpoints")
    shutil.copytree(tiny_base, folder / "base")
    for step in (1, 2):
        tiny_model.build_checkpoint(folder / "base", folder / "checkpoints" / f"step-{step:06d}", step)
    return folder


@pytest.fixture(scope="session")
def make_row() -> Callable[[int], Row]:
    return tiny_model.make_row


@pytest.fixture(scope="session")
def dataset_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A prepared data set: 30 training, 10 validation and 18 test rows."""
    folder = tmp_path_factory.mktemp("dataset")
    tiny_model.write_dataset(folder, train=range(100, 130))
    return folder
