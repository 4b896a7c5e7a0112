"""Fixtures of the data tests: a store in a temporary folder, the real files where they are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from data_cases import Prepare

from tasks.artifacts import Dataset
from tasks.data import source
from tasks.data.stage import prepare
from tasks.store import Store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


@pytest.fixture
def run(store: Store) -> Prepare:
    """run("triples", path=..., ...) prepares with that source's configuration."""

    def run(name: str, **values: Any) -> Dataset:
        return prepare(source.load(name).Config(**values), store=store)

    return run
