"""The artifact store: identity, atomic publish, reuse, damage, locks."""

from __future__ import annotations

import json
import multiprocessing
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from tasks.artifacts import Dataset
from tasks.errors import CorruptArtifact
from tasks.store import Store, canonical, digest

FACTS = {"source": "s", "rows": {}, "splits": {}, "tasks": {}}


def filled(calls: list[Path] | None = None) -> Callable[[Path], Mapping[str, Any]]:
    def work(folder: Path) -> Mapping[str, Any]:
        (folder / "a.txt").write_text("content", encoding="utf-8")
        if calls is not None:
            calls.append(folder)
        return FACTS

    return work


def publish(store: Store, work: Callable[[Path], Mapping[str, Any]], **changes: Any) -> Dataset:
    identity: dict[str, Any] = {"revision": 1, "config": {"x": {"y": 1}}, "inputs": {"train": "abc"}}
    return store.publish(Dataset, name="n", work=work, **{**identity, **changes})


def test_canonical_json_is_the_same_for_equal_values_and_refuses_others() -> None:
    assert canonical({"b": 1, "a": [None, "中"]}) == '{"a":[null,"中"],"b":1}'
    # sha256 of {"a":1}, from coreutils' sha256sum
    assert digest({"a": 1}) == "015abd7f5cc57a2dd94b7590f04ad8084273905ee33ec5cebeae62276a97f862"
    with pytest.raises(TypeError):
        canonical({"a": Path("x")})
    with pytest.raises(ValueError):
        canonical({"a": float("nan")})


def test_second_publish_reuses_and_does_no_work(tmp_path: Path) -> None:
    calls: list[Path] = []
    first = publish(Store(tmp_path), filled(calls))
    second = publish(Store(tmp_path), filled(calls))
    assert (first.reused, second.reused, len(calls)) == (False, True, 1)
    assert second.path == first.path and second.fingerprint == first.fingerprint
    assert first.path.name == f"n-{first.fingerprint[:12]}"


@pytest.mark.parametrize(
    "change", [{"revision": 2}, {"config": {"x": {"y": 2}}}, {"inputs": {"train": "abd"}}, {"inputs": {"test": "abc"}}]
)
def test_any_part_of_the_identity_makes_another_artifact(tmp_path: Path, change: dict[str, Any]) -> None:
    first = publish(Store(tmp_path), filled())
    assert publish(Store(tmp_path), filled(), **change).fingerprint != first.fingerprint


def test_name_and_execution_are_not_identity(tmp_path: Path) -> None:
    first = publish(Store(tmp_path), filled())
    assert publish(Store(tmp_path), filled(), execution={"device": "cuda"}).reused
    assert first.fingerprint == digest(
        {"stage": "prepare", "revision": 1, "config": {"x": {"y": 1}}, "inputs": {"train": "abc"}}
    )


def test_log_names_the_field_that_made_the_difference(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    publish(Store(tmp_path), filled())
    with caplog.at_level("INFO", logger="tasks.store"):
        publish(Store(tmp_path), filled(), config={"x": {"y": 2}})
    assert "config.x.y 1 -> 2" in caplog.text


def test_failed_work_leaves_no_artifact_and_is_done_again_from_an_empty_folder(tmp_path: Path) -> None:
    def fails(folder: Path) -> Mapping[str, Any]:
        (folder / "half").write_text("x", encoding="utf-8")
        raise RuntimeError("disk")

    store = Store(tmp_path)
    with pytest.raises(RuntimeError):
        publish(store, fails)
    assert store.artifacts("prepare") == []
    made = publish(store, filled())
    assert not made.reused and not (made.path / "half").exists()


def test_resumable_work_finds_what_an_earlier_attempt_left(tmp_path: Path) -> None:
    def fails(folder: Path) -> Mapping[str, Any]:
        (folder / "half").write_text("x", encoding="utf-8")
        raise RuntimeError("killed")

    with pytest.raises(RuntimeError):
        publish(Store(tmp_path), fails)
    seen: list[bool] = []

    def resumes(folder: Path) -> Mapping[str, Any]:
        seen.append((folder / "half").exists())
        return FACTS

    publish(Store(tmp_path), resumes, resumable=True)
    assert seen == [True]


@pytest.mark.parametrize("damage", ["truncate", "delete", "record"])
def test_damaged_artifact_is_set_aside_and_made_again(tmp_path: Path, damage: str) -> None:
    store = Store(tmp_path)
    made = publish(store, filled())
    if damage == "truncate":
        (made.path / "a.txt").write_text("con", encoding="utf-8")
    elif damage == "delete":
        (made.path / "a.txt").unlink()
    else:
        (made.path / "artifact.json").unlink()
    again = publish(store, filled())
    assert not again.reused
    assert (again.path / "a.txt").read_text(encoding="utf-8") == "content"
    assert len(list(made.path.parent.glob("*.corrupt-*"))) == 1


def test_changed_byte_is_found_when_hashes_are_checked(tmp_path: Path) -> None:
    store = Store(tmp_path)
    made = publish(store, filled())
    (made.path / "a.txt").write_text("cOntent", encoding="utf-8")
    store.load(Dataset, made.path)  # same size: not noticed without hashes
    with pytest.raises(CorruptArtifact, match="sha256"):
        store.load(Dataset, made.path, hashes=True)


def test_file_digest_is_remembered_until_the_file_changes(tmp_path: Path) -> None:
    file = tmp_path / "data.json"
    file.write_bytes(b"abc")
    store = Store(tmp_path / "root")
    # sha256 of "abc": FIPS 180-2, appendix B.1
    assert store.file_digest(file) == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    memory = json.loads((tmp_path / "root" / ".digests.json").read_text(encoding="utf-8"))
    memory[str(file.resolve())][3] = "remembered"
    (tmp_path / "root" / ".digests.json").write_text(json.dumps(memory), encoding="utf-8")
    assert store.file_digest(file) == "remembered"
    file.write_bytes(b"abcd")
    assert store.file_digest(file).startswith("88d4266fd4e6338d")  # sha256sum of abcd


def _publish_slowly(root: str, started: Any, go: Any) -> None:
    def work(folder: Path) -> Mapping[str, Any]:
        started.set()
        go.wait(30)
        return filled()(folder)

    publish(Store(Path(root)), work)


def test_two_processes_make_an_artifact_once(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    started, go = context.Event(), context.Event()
    other = context.Process(target=_publish_slowly, args=(str(tmp_path), started, go))
    other.start()
    assert started.wait(30)
    go.set()
    mine = publish(Store(tmp_path), filled())  # waits for the other's lock
    other.join()
    assert mine.reused


def test_lock_of_a_killed_process_is_free(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    started, go = context.Event(), context.Event()
    other = context.Process(target=_publish_slowly, args=(str(tmp_path), started, go))
    other.start()
    assert started.wait(30)
    assert other.pid is not None
    os.kill(other.pid, 9)
    other.join()
    assert not publish(Store(tmp_path), filled()).reused


def test_unreadable_record_of_another_artifact_does_not_stop_the_stage(tmp_path: Path) -> None:
    store = Store(tmp_path)
    made = publish(store, filled())
    (made.path / "artifact.json").write_text("{", encoding="utf-8")
    assert not publish(store, filled()).reused
    assert not publish(store, filled(), revision=2).reused
