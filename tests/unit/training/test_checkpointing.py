"""Checkpoints on disk: what a kill, damage, a full disk or a second attempt leaves, which are kept, which are used."""

from __future__ import annotations

import errno
import json
import logging
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tasks.errors import ConfigError, ResourceError, StageError
from tasks.training import checkpointing

IDENTITY = {"training": {"seed": 1, "batch_size": 16}, "method": {"name": "lora"}, "tokens": "f" * 8}


def save(root: Path, step: int, **options: Any) -> None:
    """A point whose weights and state are short texts."""

    def write(folder: Path) -> None:
        (folder / "w.safetensors").write_text(f"{folder.parent.name} of {step}", encoding="utf-8")

    checkpointing.save(
        root,
        step,
        **{"weights": write, "state": write, "run": {"step": step}, "identity": IDENTITY, "keep": 3, **options},
    )


def resume(root: Path, how: str | int = "auto") -> int | None:
    return checkpointing.resume_point(root, how, IDENTITY)


def there(root: Path, kind: str) -> list[str]:
    """Names below state/ or checkpoints/, without the numbers that time gave them."""
    return sorted(re.sub(r"-\d{12,}$", "", p.name) for p in (root / kind).iterdir() if p.is_dir())


# --- going on -----------------------------------------------------------------------------------------------------


def test_the_newest_point_is_resumed_from_with_its_own_numbers(tmp_path: Path) -> None:
    assert resume(tmp_path) is None
    save(tmp_path, 5)
    save(tmp_path, 10, run={"step": 10, "skipped": [7]})
    assert resume(tmp_path) == 10
    assert checkpointing.load_run(tmp_path, 10) == {"step": 10, "skipped": [7]}
    assert json.loads((tmp_path / "state" / "LATEST").read_text(encoding="utf-8"))["step"] == 10


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def cut(file: Path) -> None:
    os.truncate(file, file.stat().st_size - 1)


def other_version(folder: Path) -> None:
    manifest = json.loads((folder / "MANIFEST.json").read_text(encoding="utf-8"))
    (folder / "MANIFEST.json").write_text(json.dumps({**manifest, "schema": 99}), encoding="utf-8")


def swap(one: Path, other: Path) -> None:
    kept = one.read_bytes()
    one.write_bytes(other.read_bytes())
    other.write_bytes(kept)


def outside(folder: Path) -> None:
    manifest = json.loads((folder / "MANIFEST.json").read_text(encoding="utf-8"))
    manifest["files"]["../../secret"] = manifest["files"].popitem()[1]
    (folder / "MANIFEST.json").write_text(json.dumps(manifest), encoding="utf-8")


@pytest.mark.parametrize("kind", ["checkpoints", "state"])
@pytest.mark.parametrize(
    ("damage", "named"),
    [
        (lambda f: flip(f / "w.safetensors"), "w.safetensors: its content"),
        (lambda f: cut(f / "w.safetensors"), "w.safetensors: "),
        (lambda f: (f / "w.safetensors").unlink(), "w.safetensors: No such file"),
        (lambda f: flip(f / "MANIFEST.json"), ""),
        (lambda f: cut(f / "MANIFEST.json"), "MANIFEST.json cannot be read"),
        (lambda f: (f / "MANIFEST.json").unlink(), "MANIFEST.json cannot be read"),
        (lambda f: (f / "MANIFEST.json").write_text("[]", encoding="utf-8"), "MANIFEST.json cannot be read"),
        (other_version, "schema 99, this version of the program reads 1"),
        (outside, "lies outside the folder"),
        (lambda f: swap(f / "w.safetensors", f / "MANIFEST.json"), "MANIFEST.json cannot be read"),
    ],
)
def test_a_damaged_point_is_set_aside_with_its_reason_and_the_one_before_is_used(
    kind: str, damage: Callable[[Path], None], named: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    save(tmp_path, 5)
    save(tmp_path, 10)
    damage(tmp_path / kind / "step-000010")
    assert resume(tmp_path) == 5
    for home in ("checkpoints", "state"):
        assert there(tmp_path, home) == ["corrupt-step-000010", "step-000005"]
        reason = next((tmp_path / home).glob("corrupt-*/REASON.txt")).read_text(encoding="utf-8")
        assert reason.startswith(kind if "belongs to other weights" not in reason else "step 10") and named in reason
    assert "step-000010 is not used" in caplog.text and named in caplog.text


def test_state_that_belongs_to_other_weights_is_not_resumed_from(tmp_path: Path) -> None:
    save(tmp_path, 5)
    save(tmp_path, 10)
    manifest = tmp_path / "checkpoints" / "step-000010" / checkpointing.MANIFEST
    manifest.write_text(manifest.read_text(encoding="utf-8") + " ", encoding="utf-8")
    assert resume(tmp_path) == 5


def test_swapped_folders_and_swapped_files_of_two_points_are_noticed(tmp_path: Path) -> None:
    for step in (5, 10, 15):
        save(tmp_path, step, every=5)
    ten, fifteen = (tmp_path / "state" / f"step-{step:06d}" for step in (10, 15))
    swap(ten / "w.safetensors", fifteen / "w.safetensors")
    with pytest.raises(ConfigError, match="steps that can be resumed from: none"):
        resume(tmp_path, 15)
    swap(ten / "w.safetensors", fifteen / "w.safetensors")
    assert resume(tmp_path, 15) == 15
    for kind in ("checkpoints", "state"):
        ten, fifteen = (tmp_path / kind / f"step-{step:06d}" for step in (10, 15))
        ten.rename(tmp_path / "x")
        fifteen.rename(ten)
        (tmp_path / "x").rename(fifteen)
    assert resume(tmp_path) is None


def test_with_no_usable_point_left_the_run_starts_anew_and_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    save(tmp_path, 5)
    flip(tmp_path / "state" / "step-000005" / "run.json")
    assert resume(tmp_path) is None
    assert "no checkpoint can be resumed from: training starts anew" in caplog.text
    assert there(tmp_path, "checkpoints") == there(tmp_path, "state") == ["corrupt-step-000005"]


def test_damaged_weights_that_were_kept_for_later_are_set_aside(tmp_path: Path) -> None:
    for step in (5, 10, 15):
        save(tmp_path, step, every=5)
    flip(tmp_path / "checkpoints" / "step-000005" / "w.safetensors")
    assert resume(tmp_path) == 15
    assert checkpointing.steps(tmp_path) == [10, 15]


def test_a_number_resumes_exactly_there_and_later_points_cannot_be_taken_for_newer(tmp_path: Path) -> None:
    for step in (5, 10, 15):
        save(tmp_path, step, every=5)
    assert resume(tmp_path, "10") == 10
    assert there(tmp_path, "state") == ["later-step-000015", "step-000010"]
    assert resume(tmp_path) == 10
    save(tmp_path, 15, every=5)
    assert resume(tmp_path, 15) == 15


def test_a_number_without_its_point_is_an_error_that_names_those_there_are(tmp_path: Path) -> None:
    for step in (5, 10, 15):
        save(tmp_path, step, every=5)
    flip(tmp_path / "state" / "step-000015" / "run.json")
    with pytest.raises(ConfigError, match=r"training.resume=5: step 5 is not there; .*resumed from: 10\."):
        resume(tmp_path, 5)
    with pytest.raises(ConfigError, match=r"training.resume=15: state/step-000015/run.json: its content.*from: 10\."):
        resume(tmp_path, 15)
    assert there(tmp_path, "state") == ["step-000010", "step-000015"]


def test_never_discards_what_is_there(tmp_path: Path) -> None:
    save(tmp_path, 5)
    assert resume(tmp_path, "never") is None
    assert there(tmp_path, "state") == there(tmp_path, "checkpoints") == []
    assert resume(tmp_path) is None


@pytest.mark.parametrize("how", ["last", "true", "-5", "1.5", ""])
def test_any_other_word_is_an_error(how: str, tmp_path: Path) -> None:
    save(tmp_path, 5)
    with pytest.raises(ConfigError, match=re.escape(f"training.resume={how}: allowed are auto, never")):
        resume(tmp_path, how)


@pytest.mark.parametrize("how", ["auto", "10"])
def test_a_changed_identity_is_refused_with_the_field_and_both_values(how: str, tmp_path: Path) -> None:
    save(tmp_path, 10)
    changed = {"training": {"seed": 2, "batch_size": 16, "fresh": None}, "method": {"name": "full"}, "tokens": "f" * 8}
    with pytest.raises(ConfigError) as refused:
        checkpointing.resume_point(tmp_path, how, changed)
    end = "; set it back to go on, or training.resume=never to start anew"
    assert refused.value.problems == [
        'method.name="full": the checkpoint of step 10 was made with "lora"' + end,
        "training.fresh=null: the checkpoint of step 10 was made with (not set)" + end,
        "training.seed=2: the checkpoint of step 10 was made with 1" + end,
    ]
    assert resume(tmp_path) == 10  # a refusal changes nothing
    assert checkpointing.resume_point(tmp_path, "never", changed) is None


# --- kills --------------------------------------------------------------------------------------------------------

DIES = """
import os, signal, sys
from pathlib import Path
sys.path[:0] = [{tests!r}]
import test_checkpointing as t
count = 0
def dying(call):
    def wrapped(*args, **kwargs):
        global count
        count += 1
        if count == {at}:
            os.kill(os.getpid(), signal.SIGKILL)
        return call(*args, **kwargs)
    return wrapped
for name in ("fsync", "replace", "rename", "open", "mkdir", "rmdir", "unlink"):
    setattr(os, name, dying(getattr(os, name)))
for step in (15, 20):
    t.save(Path({root!r}), step, every=5, keep=2, best=10)
print(count)
"""


def run_dying(root: Path, at: int) -> subprocess.CompletedProcess[str]:
    code = DIES.format(tests=str(Path(__file__).parent), at=at, root=str(root))
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


@pytest.mark.skipif(os.name == "nt", reason="SIGKILL")
def test_a_kill_at_any_call_to_the_system_leaves_a_whole_point_and_no_other_end(tmp_path: Path) -> None:
    """Every ninth call; afterwards the run goes on to the same checkpoints."""

    def prepared(name: str) -> Path:
        for step in (5, 10):
            save(tmp_path / name, step, every=5, keep=2, best=step)
        return tmp_path / name

    whole = prepared("whole")
    done = run_dying(whole, at=0)
    calls = int(done.stdout)
    assert calls > 40, done.stderr
    for at in range(1, calls + 1, 9):
        root = prepared(f"kill-{at}")
        assert run_dying(root, at).returncode == -9
        point = resume(root)
        assert point in (10, 15, 20), at
        assert not list(root.glob("*/.step-*.tmp"))
        for step in (15, 20):
            if step > point:
                save(root, step, every=5, keep=2, best=10)
        assert checkpointing.settle(root, keep=2, every=5, best=10) == [10, 15, 20]
        assert there(root, "checkpoints") == there(whole, "checkpoints"), at
        assert there(root, "state")[-2:] == there(whole, "state"), at


def test_a_run_that_was_stopped_before_its_first_step_starts_anew(tmp_path: Path) -> None:
    save(tmp_path, 0)
    assert resume(tmp_path) is None
    for step in (5, 10):
        save(tmp_path, step, keep=5, every=5)
    assert checkpointing.settle(tmp_path, keep=5, every=5) == [5, 10]


def test_a_point_is_not_written_twice(tmp_path: Path) -> None:
    save(tmp_path, 5)

    def fails(folder: Path) -> None:
        raise AssertionError("written again")

    save(tmp_path, 5, weights=fails)  # resumed from it, and stopped before the next step
    assert resume(tmp_path) == 5


def test_weights_without_their_state_are_no_point(tmp_path: Path) -> None:
    save(tmp_path, 5)
    save(tmp_path, 10)
    shutil.rmtree(tmp_path / "state" / "step-000010")  # killed between the two renames
    assert resume(tmp_path) == 5
    assert checkpointing.steps(tmp_path) == [5]
    save(tmp_path, 10)
    assert resume(tmp_path) == 10


# --- disks --------------------------------------------------------------------------------------------------------


def test_a_failed_write_leaves_the_former_point_and_names_folder_and_room(tmp_path: Path) -> None:
    save(tmp_path, 5)

    def fails(folder: Path) -> None:
        (folder / "w.safetensors").write_text("half", encoding="utf-8")
        raise OSError(errno.ENOSPC, "No space left on device")

    for part in ("weights", "state"):
        with pytest.raises(ResourceError) as refused:
            save(tmp_path, 10, **{part: fails})
        assert re.fullmatch(
            rf"step 10 was not saved: {tmp_path}: No space left on device \(at least 0\.0 MiB needed, [\d.]+ .iB free; "
            r"step 5 is intact\); mend it and run the same command again",
            str(refused.value),
        )
        assert there(tmp_path, "checkpoints") == there(tmp_path, "state") == ["step-000005"]
    assert resume(tmp_path) == 5


def test_a_fault_of_the_program_is_not_taken_for_the_disks(tmp_path: Path) -> None:
    def fails(folder: Path) -> None:
        (folder / "w.safetensors").write_text("half", encoding="utf-8")
        raise KeyError("lora_A")

    with pytest.raises(KeyError):
        save(tmp_path, 5, state=fails)
    assert there(tmp_path, "checkpoints") == there(tmp_path, "state") == []


def test_weights_are_no_point_when_the_state_cannot_follow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seal = checkpointing.manifests.seal

    def second_fails(temporary: Path, *rest: Any) -> str:
        if temporary.parent.name == "state":
            raise OSError(errno.EIO, "Input/output error")
        return seal(temporary, *rest)

    monkeypatch.setattr(checkpointing.manifests, "seal", second_fails)
    with pytest.raises(ResourceError, match=r"Input/output error .*nothing was saved before"):
        save(tmp_path, 5)
    assert there(tmp_path, "checkpoints") == there(tmp_path, "state") == []


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 4 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(folder)]
    if sys.platform != "linux" or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("needs the right to mount a small file system")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def tensors(count: int) -> Callable[[Path], None]:
    """Writes ``count`` MiB as the real thing is written."""

    def write(folder: Path) -> None:
        import torch
        from safetensors.torch import save_file

        save_file({"w": torch.ones(count << 18)}, folder / "w.safetensors")

    return write


@pytest.mark.parametrize("full", ["while writing", "before writing"])
def test_a_full_disk_stops_the_save_and_the_former_point_is_resumed_from(full: str, small_disk: Path) -> None:
    root = small_disk / "run"
    save(root, 5, weights=tensors(1), state=tensors(int(full == "before writing")))
    with pytest.raises(
        ResourceError, match=r"No space left on device \(at least \d\.\d MiB needed, \d\.\d MiB free; step 5 is"
    ):
        save(root, 10, weights=tensors(2), state=tensors(2))
    assert there(root, "checkpoints") == there(root, "state") == ["step-000005"]
    assert resume(root) == 5
    if full == "while writing":
        save(root, 10)
        assert resume(root) == 10


def test_what_was_set_aside_makes_room(small_disk: Path) -> None:
    root = small_disk / "run"
    save(root, 5, weights=tensors(1))
    save(root, 10, weights=tensors(1))
    flip(root / "state" / "step-000010" / "run.json")
    assert resume(root) == 5
    (small_disk / "other").write_bytes(bytes(1 << 20))
    save(root, 10, weights=tensors(1))
    assert there(root, "checkpoints") == ["step-000005", "step-000010"]


def test_a_read_only_folder_is_named(small_disk: Path) -> None:
    root = small_disk / "run"
    save(root, 5)
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    with pytest.raises(ResourceError, match=r"run: the run's folder cannot be written: Read-only file system"):
        checkpointing.claim(root)
    with pytest.raises(ResourceError, match=r"step 10 was not saved: .*Read-only file system .*step 5 is intact"):
        save(root, 10)


# --- several processes, several attempts --------------------------------------------------------------------------


class Member:
    """One of two processes, played by a thread."""

    def __init__(self, rank: int, meeting: threading.Barrier, values: list[float]) -> None:
        self.rank, self._meeting, self._values = rank, meeting, values

    def barrier(self) -> None:
        self._meeting.wait(20)

    def sum(self, value: float) -> float:
        self._values[self.rank] = value
        self._meeting.wait(20)
        total = sum(self._values)
        self._meeting.wait(20)
        return total


def together(work: Callable[[Member], Any]) -> list[Any]:
    """What two processes return or raise."""
    meeting, values, results = threading.Barrier(2), [0.0, 0.0], [None, None]

    def one(rank: int) -> None:
        try:
            results[rank] = work(Member(rank, meeting, values))
        except Exception as error:
            results[rank] = error

    threads = [threading.Thread(target=one, args=(rank,)) for rank in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


def test_every_process_writes_its_state_and_one_commits(tmp_path: Path) -> None:
    def work(group: Member) -> int | None:
        attempt = checkpointing.claim(tmp_path, group)
        assert attempt.still_mine()

        def state(folder: Path) -> None:
            (folder / f"rank-{group.rank}").write_text("s", encoding="utf-8")

        save(tmp_path, 5, state=state, group=group, attempt=attempt)
        return checkpointing.resume_point(tmp_path, "auto", IDENTITY, group)

    assert together(work) == [5, 5]
    names = sorted(p.name for p in (tmp_path / "state" / "step-000005").iterdir())
    assert names == ["MANIFEST.json", "rank-0", "rank-1", "run.json"]


@pytest.mark.parametrize("failing", [0, 1])
def test_when_one_process_cannot_write_none_commits_and_all_say_why(failing: int, tmp_path: Path) -> None:
    def work(group: Member) -> None:
        def state(folder: Path) -> None:
            (folder / f"rank-{group.rank}").write_text("s", encoding="utf-8")
            if group.rank == failing:
                raise OSError(errno.ENOSPC, "No space left on device")

        save(tmp_path, 5, state=state, group=group)

    errors = together(work)
    assert [type(error) for error in errors] == [ResourceError, ResourceError]
    assert "No space left on device" in str(errors[failing])
    assert "another process could not write its part" in str(errors[1 - failing])
    assert there(tmp_path, "checkpoints") == there(tmp_path, "state") == []


def test_all_processes_refuse_with_the_same_words(tmp_path: Path) -> None:
    save(tmp_path, 5)
    first, second = together(lambda group: checkpointing.resume_point(tmp_path, 7, IDENTITY, group))
    assert isinstance(first, ConfigError) and str(first) == str(second)


def test_an_attempt_that_was_superseded_commits_nothing(tmp_path: Path) -> None:
    mine = checkpointing.claim(tmp_path)
    save(tmp_path, 5, attempt=mine)
    newer: list[checkpointing.Attempt] = []

    def state(folder: Path) -> None:
        (folder / "w.safetensors").write_text("mine", encoding="utf-8")
        newer.append(checkpointing.claim(tmp_path))  # while this one was writing
        save(tmp_path, 10, attempt=newer[0])

    with pytest.raises(StageError, match="a newer attempt works in this folder"):
        save(tmp_path, 10, state=state, attempt=mine)
    assert there(tmp_path, "checkpoints") == there(tmp_path, "state") == ["step-000005", "step-000010"]
    assert (tmp_path / "state" / "step-000010" / "w.safetensors").read_text(encoding="utf-8") == "state of 10"
    with pytest.raises(StageError, match="newer attempt"):
        checkpointing.finish(tmp_path, {"steps": [5]}, mine)
    assert resume(tmp_path) == 10


# --- which stay ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("interruptions", [[], [173], [160, 173, 199], [20, 60, 120, 201]])
def test_an_interrupted_run_ends_with_the_same_checkpoints(interruptions: list[int], tmp_path: Path) -> None:
    for step in sorted({50, 100, 150, 200, 210, *interruptions}):
        save(tmp_path, step, keep=3, every=50, best=50)
        assert len(there(tmp_path, "state")) == min(2, len(range(0, step, 50)) + len(interruptions)) or step < 100
        assert resume(tmp_path) == step
    assert checkpointing.settle(tmp_path, keep=3, every=50, best=50) == [50, 150, 200, 210]
    assert checkpointing.steps(tmp_path) == [50, 150, 200, 210]
    assert len(there(tmp_path, "state")) == 2


def test_with_one_to_keep_there_are_two_to_resume_from_until_the_end(tmp_path: Path) -> None:
    for step in (5, 10, 15):
        save(tmp_path, step, keep=1, every=5)
    flip(tmp_path / "state" / "step-000015" / "run.json")
    assert resume(tmp_path) == 10
    save(tmp_path, 15, keep=1, every=5)
    assert checkpointing.settle(tmp_path, keep=1, every=5) == [15]


def test_the_best_outlives_rotation_and_also_the_best_that_an_earlier_point_knows(tmp_path: Path) -> None:
    for step, best in ((5, 5), (10, 5), (15, 5), (20, 20)):
        save(tmp_path, step, keep=1, every=5, best=best)
    assert checkpointing.steps(tmp_path) == [5, 15, 20]  # going on from 15 would need 5
    save(tmp_path, 25, keep=1, every=5, best=20)
    assert checkpointing.steps(tmp_path) == [20, 25]


def test_result_of_a_run_that_was_not_published_counts_only_with_whole_weights(tmp_path: Path) -> None:
    assert checkpointing.finished(tmp_path) is None
    save(tmp_path, 5)
    assert checkpointing.finished(tmp_path) is None
    (tmp_path / "result.json").write_text(json.dumps({"steps": [5]}), encoding="utf-8")
    assert checkpointing.finished(tmp_path) == {"steps": [5]}
    assert not (tmp_path / "state").exists()  # a kill before this was done
    (tmp_path / "checkpoints" / "step-000005" / "w.safetensors").write_text("damaged", encoding="utf-8")
    assert checkpointing.finished(tmp_path) is None


def test_finishing_leaves_the_weights_and_the_result(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    for step in (5, 10):
        save(tmp_path, step)
    flip(tmp_path / "state" / "step-000010" / "run.json")
    resume(tmp_path)
    checkpointing.finish(tmp_path, {"steps": [5]})
    assert sorted(p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*") if p.is_file()) == [
        "checkpoints/step-000005/MANIFEST.json",
        "checkpoints/step-000005/w.safetensors",
        "result.json",
    ]


def test_an_optimisers_state_comes_back_exactly(tmp_path: Path) -> None:
    import torch

    def made() -> tuple[torch.nn.Linear, torch.optim.AdamW]:
        torch.manual_seed(0)
        layer = torch.nn.Linear(3, 2)
        return layer, torch.optim.AdamW(layer.parameters(), lr=0.1)

    def step(layer: torch.nn.Linear, optimizer: torch.optim.AdamW) -> None:
        layer(torch.arange(3.0)).sum().backward()
        optimizer.step()
        optimizer.zero_grad()

    layer, optimizer = made()
    step(layer, optimizer)
    checkpointing.save_optimizer(tmp_path, optimizer, {p: n for n, p in layer.named_parameters()})
    weights = {k: v.clone() for k, v in layer.state_dict().items()}
    step(layer, optimizer)
    other, restored = made()
    other.load_state_dict(weights)
    checkpointing.load_optimizer(tmp_path, restored, {p: n for n, p in other.named_parameters()})
    step(other, restored)
    assert all(torch.equal(a, b) for a, b in zip(layer.parameters(), other.parameters(), strict=True))
    with pytest.raises(StageError, match="holds the state of weight, which is no trainable parameter"):
        checkpointing.load_optimizer(tmp_path, restored, {layer.bias: "bias"})
