"""Whatever ends a run, and wherever: started again it comes to the same weights and the same log, bit by bit.

The worker is killed by its own process at an event that an uninterrupted run was seen to meet: before or after a
backward pass, an update of the weights, each write, sync and rename of a save. Dropout, packing and accumulation are
on. Needs fork and /proc: Linux.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from tiny import write_dataset

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="forks workers and reads /proc")

TRAINING, TOKENISING = "tasks.training.worker", "tasks.models.tokenizing"
STEPS, SAVES = 16, (5, 10, 15, 16)
POINTS = 20
#: Points of the twenty that CI tries: in an accumulation, at an update, and two in saves.
QUICK = (0, 6, 12, 17)


class Preloaded:
    """Workers without their imports' ten seconds; see tests/workers/preloaded.py."""

    def __init__(self) -> None:
        environment = {
            **os.environ,
            "PYTHONPATH": str(Path(__file__).parents[2]),
            "CUDA_VISIBLE_DEVICES": "",
            "OMP_NUM_THREADS": "1",
            "HF_HUB_OFFLINE": "1",
            "TOKENIZERS_PARALLELISM": "false",
        }
        script = Path(__file__).parents[1] / "workers" / "preloaded.py"
        self._process = subprocess.Popen(
            [sys.executable, str(script), TRAINING, "peft", "tasks.methods.lora"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
            text=True,
        )

    def __call__(self, module: str, folder: Path, job: dict[str, Any], **options: Any) -> dict[str, Any]:
        """Run a job in ``folder`` to its end, whatever that is."""
        (folder / "job.json").write_text(json.dumps(job), encoding="utf-8")
        (folder / "error.json").unlink(missing_ok=True)
        assert self._process.stdin and self._process.stdout
        request = {"module": module, "folder": str(folder), **options}
        print(json.dumps(request), file=self._process.stdin, flush=True)
        return dict(json.loads(self._process.stdout.readline()))

    def close(self) -> None:
        assert self._process.stdin
        self._process.stdin.close()
        self._process.wait(timeout=30)


@pytest.fixture(scope="module")
def start() -> Iterator[Preloaded]:
    preloaded = Preloaded()
    yield preloaded
    preloaded.close()


@pytest.fixture(scope="module")
def tokenising(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    dataset = tmp_path_factory.mktemp("dataset")
    write_dataset(dataset)
    limits = {"max_prompt_tokens": 64, "max_reply_tokens": 32, "overlong": "truncate"}
    return {"dataset": str(dataset), "model": str(tiny_base), "processes": 1, **limits}


@pytest.fixture(scope="module")
def tokens(start: Preloaded, tokenising: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokens")
    assert start(TOKENISING, folder, tokenising)["codes"] == [0], log_of(folder)
    return folder


@pytest.fixture(scope="module")
def job(tiny_base: Path, tokens: Path) -> Callable[..., dict[str, Any]]:
    def make(**training: Any) -> dict[str, Any]:
        from tasks.methods import lora
        from tasks.training.config import TrainingConfig

        settings = {
            "max_steps": STEPS,
            "batch_size": 10,
            "micro_batch_size": 2,
            "packing": "on",
            "learning_rate": 1e-2,
            "save_steps": 5,
            "logging_steps": 2,
            **training,
        }
        return {
            "model": str(tiny_base),
            "base_fingerprint": "0" * 64,
            "tokens": str(tokens),
            "method": lora.Config(name="lora", lora_dropout=0.1).model_dump(mode="json"),
            "training": TrainingConfig(**settings).model_dump(mode="json"),
            "identity": {"training": {"seed": 42}},
            "device": "cpu",
            "precision": "fp32",
        }

    return make


class Whole(NamedTuple):
    """An uninterrupted run: what it left, and what each of its processes did."""

    folder: Path
    events: dict[int, list[str]]


@pytest.fixture(scope="module")
def whole(
    start: Preloaded, job: Callable[..., dict[str, Any]], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[int], Whole]:
    made: dict[int, Whole] = {}

    def get(ranks: int) -> Whole:
        if ranks not in made:
            folder = tmp_path_factory.mktemp(f"whole-{ranks}")
            done = start(TRAINING, folder, job(), ranks=ranks)
            assert done["codes"] == [0] * ranks, log_of(folder)
            made[ranks] = Whole(folder, {int(rank): events for rank, events in done["events"].items()})
        return made[ranks]

    return get


def log_of(folder: Path) -> str:
    return (folder / "worker.log").read_text(encoding="utf-8", errors="replace")[-3000:]


def digests(folder: Path, kind: str = "checkpoints") -> dict[str, str]:
    files = sorted(path for path in (folder / kind).rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def losses(folder: Path) -> list[dict[str, Any]]:
    """The loss log without what a clock or the machine's memory decided."""
    lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    measured = re.compile("per_second|mfu|memory|seconds")
    return [{k: v for k, v in json.loads(line).items() if not measured.search(k)} for line in lines]


def same(one: Path, other: Path) -> None:
    """Both runs ended with the same bytes in every checkpoint, and the same log."""
    assert digests(one) == digests(other)
    assert losses(one) == losses(other)
    assert not (one / "state").exists()


class Point(NamedTuple):
    rank: int
    event: int
    alone_s: float


def points(events: dict[int, list[str]], seed: int = 5) -> list[Point]:
    """Twenty events of an uninterrupted run, of every kind; whose process dies at it, and whether the others live on.

    In order: 5 in accumulations, 4 at updates of the weights, 10 in saves, 1 after the last one.
    """
    chance = random.Random(seed)
    chosen: list[Point] = []

    def choose(count: int, belongs: Callable[[list[str], int], bool]) -> None:
        for number in range(count):
            rank = chance.choice(sorted(events))
            found = [i for i in range(len(events[rank])) if belongs(events[rank], i)]
            if not found:  # the first process does most of a save
                rank = 0
                found = [i for i in range(len(events[rank])) if belongs(events[rank], i)]
            # spread over the run
            part = found[number * len(found) // count : (number + 1) * len(found) // count]
            chosen.append(Point(rank, chance.choice(part), chance.choice([0.0, 1.0])))

    def saving(of: list[str], i: int) -> bool:
        return bool(re.search(r"(checkpoints|state)/", of[i]))

    last = {rank: max((i for i in range(len(of)) if saving(of, i)), default=0) for rank, of in events.items()}
    choose(5, lambda of, i: of[i].endswith("backward"))
    choose(4, lambda of, i: of[i].endswith("update"))
    choose(10, saving)
    choose(1, lambda of, i: i > last[0] if of is events[0] else False)
    return chosen


def test_the_points_are_of_every_kind(whole: Callable[[int], Whole]) -> None:
    events = whole(1).events[0]
    told = [events[point.event] for point in points(whole(1).events)]
    assert len(told) == len(set(told)) or len(told) == POINTS
    assert sum(event.endswith("backward") for event in told) == 5
    assert sum(event.endswith("update") for event in told) == 4
    assert len({event.split(" ")[1] for event in told if "/" in event}) >= 3  # writes, syncs, renames
    # 5 micro-batches and one for the rehearsal; every file of every save is written, synced and put in place
    assert events.count("before backward") == 5 * STEPS + 1
    assert events.count("before update") == STEPS
    for step in SAVES:
        of = [re.sub(r"\.step-\d+\.[^/]*\.tmp", f"step-{step:06d}", e) for e in events if f"step-{step:06d}" in e]
        for file in ("checkpoints/step-{}/adapter_model.safetensors", "state/step-{}/optimizer.safetensors"):
            name = file.format(f"{step:06d}")
            assert f"after write {name}" in of and f"after fsync {name}" in of


@pytest.mark.parametrize(
    "number", [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in range(POINTS)]
)
@pytest.mark.parametrize("ranks", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_a_run_that_is_killed_anywhere_ends_with_the_same_bytes(
    ranks: int,
    number: int,
    start: Preloaded,
    job: Callable[..., dict[str, Any]],
    whole: Callable[[int], Whole],
    tmp_path: Path,
) -> None:
    point = points(whole(ranks).events)[number]
    faults = {str(point.rank): {"kill_at": point.event}}
    killed = start(TRAINING, tmp_path, job(), ranks=ranks, faults=faults, alone_s=point.alone_s)
    assert killed["codes"][point.rank] == -9, log_of(tmp_path)

    done = start(TRAINING, tmp_path, job(), ranks=ranks)

    assert done["codes"] == [0] * ranks, log_of(tmp_path)
    same(tmp_path, whole(ranks).folder)
    if ranks == 1:  # of two, the other may have come further
        assert resumed_after(tmp_path) == committed(whole(1).events[0][: point.event + 1])


def committed(events: list[str]) -> list[int]:
    """The newest step whose state was put in place; none once the run had ended (a stage takes its result)."""
    if "before rmdir state" in events:
        return []
    done = (re.fullmatch(r"after replace state/\.step-(\d+)\.[^/]*\.tmp", event) for event in events)
    return [int(found[1]) for found in done if found][-1:]


def resumed_after(folder: Path) -> list[int]:
    return [int(step) for step in re.findall(r"resumes after step (\d+)", (folder / "worker.log").read_text("utf-8"))]


# --- the comparison can fail ------------------------------------------------------------------------------------------


def test_a_run_that_forgets_its_optimiser_is_told_apart(
    start: Preloaded, job: Callable[..., dict[str, Any]], whole: Callable[[int], Whole], tmp_path: Path
) -> None:
    updates = [i for i, event in enumerate(whole(1).events[0]) if event == "before update"]
    killed = start(TRAINING, tmp_path, job(), faults={"0": {"kill_at": updates[12]}})
    assert killed["codes"] == [-9]
    assert start(TRAINING, tmp_path, job(), faults={"0": {"forget": True}})["codes"] == [0]
    assert resumed_after(tmp_path) == [10]
    ended, other = digests(tmp_path), digests(whole(1).folder)
    step = "checkpoints/step-000010/adapter_model.safetensors"
    assert ended.keys() == other.keys() and ended[step] == other[step]
    with pytest.raises(AssertionError):
        same(tmp_path, whole(1).folder)


# --- tokenising -------------------------------------------------------------------------------------------------------

SHARDS = {"0": {"patch": {f"{TOKENISING}:SHARD_ROWS": 16, f"{TOKENISING}:_BATCH_ROWS": 16}}}


@pytest.fixture(scope="module")
def tokenised(start: Preloaded, tokenising: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Whole:
    """The rows in shards of 16."""
    folder = tmp_path_factory.mktemp("shards")
    done = start(TOKENISING, folder, tokenising, faults=SHARDS)
    assert done["codes"] == [0], log_of(folder)
    return Whole(folder, {0: done["events"]["0"]})


@pytest.mark.parametrize("part", [0.5, *(pytest.param(p, marks=pytest.mark.slow) for p in (0.1, 0.3, 0.7, 0.9))])
def test_tokenising_that_is_killed_ends_with_the_same_shards(
    part: float, start: Preloaded, tokenising: dict[str, Any], tokenised: Whole, tmp_path: Path
) -> None:
    events = tokenised.events[0]
    writes = [i for i, event in enumerate(events) if re.search(r"(train|validation)/", event)]
    assert len(writes) > 20
    kill_at = writes[int(part * len(writes))]
    killed = start(TOKENISING, tmp_path, tokenising, faults={"0": {**SHARDS["0"], "kill_at": kill_at}})
    assert killed["codes"] == [-9]
    assert start(TOKENISING, tmp_path, tokenising, faults=SHARDS)["codes"] == [0], log_of(tmp_path)
    for split in ("train", "validation"):
        assert digests(tmp_path, split) == digests(tokenised.folder, split)
    assert len(digests(tmp_path, "train")) == 7  # 100 rows
    results = [json.loads((folder / "result.json").read_bytes()) for folder in (tmp_path, tokenised.folder)]
    assert results[0] == results[1]


# --- damage -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def interrupted(
    start: Preloaded,
    job: Callable[..., dict[str, Any]],
    whole: Callable[[int], Whole],
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """A run that was killed at step 16: points after 10 and 15, weights of 5."""
    folder = tmp_path_factory.mktemp("interrupted")
    last = [i for i, event in enumerate(whole(1).events[0]) if event == "before update"][-1]
    assert start(TRAINING, folder, job(), faults={"0": {"kill_at": last}})["codes"] == [-9]
    return folder


def flip(file: Path, _: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def cut(file: Path, _: Path) -> None:
    os.truncate(file, file.stat().st_size // 2)


def delete(file: Path, _: Path) -> None:
    file.unlink()


def swap(file: Path, other: Path) -> None:
    """With the file of that name in the point before."""
    kept = file.read_bytes()
    file.write_bytes(other.read_bytes())
    other.write_bytes(kept)


DAMAGES = (flip, cut, delete, swap)


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda d: d.__name__)
def test_damage_to_any_file_of_a_real_point_is_noticed_before_it_is_loaded(
    damage: Callable[[Path, Path], None], interrupted: Path, tmp_path: Path
) -> None:
    from tasks.training import checkpointing

    identity = {"training": {"seed": 42}}
    files = sorted(path.relative_to(interrupted) for path in interrupted.glob("*/step-000015/*"))
    assert {file.name for file in files} >= {"adapter_model.safetensors", "optimizer.safetensors", "run.json"}
    for number, name in enumerate(files):
        root = tmp_path / str(number)
        shutil.copytree(interrupted, root)
        before = root / name.parts[0] / "step-000010" / name.name
        unlike = before.read_bytes() != (root / name).read_bytes()
        damage(root / name, before)
        # a file that is the same in both points can be swapped; one that differs spoils both
        expected = 10 if damage is not swap else None if unlike else 15
        assert checkpointing.resume_point(root, "auto", identity) == expected, name


@pytest.mark.parametrize(
    "name",
    [
        "checkpoints/step-000015/adapter_model.safetensors",
        pytest.param("state/step-000015/optimizer.safetensors", marks=pytest.mark.slow),
        pytest.param("state/step-000015/run.json", marks=pytest.mark.slow),
    ],
)
def test_a_run_whose_newest_point_is_damaged_goes_on_from_the_one_before(
    name: str,
    start: Preloaded,
    job: Callable[..., dict[str, Any]],
    whole: Callable[[int], Whole],
    interrupted: Path,
    tmp_path: Path,
) -> None:
    root = tmp_path / "run"
    shutil.copytree(interrupted, root)
    flip(root / name, root)
    assert start(TRAINING, root, job())["codes"] == [0], log_of(root)
    assert resumed_after(root) == [10]
    assert f"{name}: its content is not what was written" in log_of(root)
    same(root, whole(1).folder)


def test_a_run_without_any_whole_point_starts_anew_and_says_so(
    start: Preloaded,
    job: Callable[..., dict[str, Any]],
    whole: Callable[[int], Whole],
    interrupted: Path,
    tmp_path: Path,
) -> None:
    root = tmp_path / "run"
    shutil.copytree(interrupted, root)
    for state in root.glob("state/step-*/optimizer.safetensors"):
        cut(state, root)
    assert start(TRAINING, root, job())["codes"] == [0], log_of(root)
    assert resumed_after(root) == []
    assert "no checkpoint can be resumed from: training starts anew" in (root / "worker.log").read_text("utf-8")
    same(root, whole(1).folder)


# --- a full disk, a long run ------------------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "disk"
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(folder)], check=False).returncode:
        pytest.skip("needs the right to mount a small file system")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_full_disk_stops_the_run_and_with_room_it_goes_on(
    start: Preloaded, job: Callable[..., dict[str, Any]], whole: Callable[[int], Whole], small_disk: Path
) -> None:
    root = small_disk / "run"
    root.mkdir()
    last = [i for i, event in enumerate(whole(1).events[0]) if event == "before update"][11]
    assert start(TRAINING, root, job(), faults={"0": {"kill_at": last}})["codes"] == [-9]
    free = shutil.disk_usage(root).free
    (small_disk / "other").write_bytes(bytes(free - (96 << 10)))  # not enough for one more point
    assert start(TRAINING, root, job())["codes"] == [1], log_of(root)
    error = json.loads((root / "error.json").read_text(encoding="utf-8"))
    assert error["kind"] == "ResourceError"
    assert f"step 15 was not saved: {root}: No space left on device (at least" in error["message"]
    assert "step 10 is intact" in error["message"] and "Traceback" not in log_of(root)
    (small_disk / "other").unlink()
    assert start(TRAINING, root, job())["codes"] == [0], log_of(root)
    assert resumed_after(root) == [10, 10]
    same(root, whole(1).folder)


@pytest.mark.slow
def test_memory_does_not_grow_with_the_steps(
    start: Preloaded, job: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    """Rows of 10 to 90 tokens in ever new orders; the seeds' trainers grew until they ran out."""
    done = start(TRAINING, tmp_path, job(max_steps=300, save_steps=50), faults={"0": {"memory": True}})
    assert done["codes"] == [0], log_of(tmp_path)
    resident = done["resident"]["0"]
    assert len(resident) == 300
    grown = max(resident[150:]) - max(resident[50:150])
    print(f"grown by {grown} bytes: {[r >> 10 for r in resident[::50]]} KiB")
    assert grown < 4 << 20
