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


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model's folder; built in its own process, so that pytest's needs no torch."""
    folder = tmp_path_factory.mktemp("tiny") / "base"
    code = f"import tiny, pathlib; tiny.build_base(pathlib.Path({str(folder)!r}))"
    subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parent, check=True)
    return folder
