"""Which allocator CPU workers get: mimalloc where its wheel is, and never over what a user preloads."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tasks import allocator, launch


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    library = tmp_path / "cmeel.prefix" / "lib" / "libmimalloc.so"
    library.parent.mkdir(parents=True)
    library.touch()
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.delenv("LD_PRELOAD", raising=False)
    return library


def test_an_installed_one_is_preloaded_on_a_cpu_only(installed: Path) -> None:
    assert allocator.name() == "mimalloc"
    assert launch._settings("cpu", 1, None)["LD_PRELOAD"] == str(installed)
    assert "LD_PRELOAD" not in launch._settings("cuda", 1, None)


def test_without_it_the_systems_own_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    monkeypatch.delenv("LD_PRELOAD", raising=False)
    assert (allocator.name(), allocator.variables()) == ("system", {})


def test_what_a_user_preloads_stays(installed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LD_PRELOAD", "/usr/lib/libjemalloc.so.2")
    assert (allocator.name(), allocator.variables()) == ("system", {})
    monkeypatch.setenv("LD_PRELOAD", "/opt/libmimalloc.so")
    assert (allocator.name(), allocator.variables()) == ("mimalloc", {})
