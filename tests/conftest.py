"""What tests share: a tiny model (tests/tiny.py) and the place of the reference data."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def shared() -> Path:
    """The reference data beside the project; tests that need it are skipped without it."""
    folder = os.environ.get("WEITIAO_SHARED")
    if not folder:
        pytest.skip("WEITIAO_SHARED is not set: the reference data is not at hand")
    return Path(folder)


def build(folder: Path, **options: bool) -> Path:
    """The tiny model, built in its own process, so that pytest's needs no torch."""
    code = f"import tiny, pathlib; tiny.build_base(pathlib.Path({str(folder)!r}), **{options!r})"
    subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parent, check=True)
    return folder


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("tiny") / "base")


@pytest.fixture(scope="session")
def readable_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model that a server can be smoke-tested with."""
    return build(tmp_path_factory.mktemp("readable") / "base", readable=True)
