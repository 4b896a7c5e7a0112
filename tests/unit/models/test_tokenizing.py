"""Tokenising in shards: one result whatever the processes, the row groups, the kills and the stops."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa
import pytest
from pyarrow import parquet
from tiny import make_row

from tasks import schema
from tasks.data.processing import ROW_SCHEMA, row_columns
from tasks.errors import Stopped
from tasks.launch import command, run_worker
from tasks.models import tokenizing
from tasks.models.config import TokenizationConfig
from tasks.models.tokens import TokenRows
from tasks.worker import Job

ROOT = Path(__file__).parents[3]
#: Four shards of training rows, the last one short; one of validation rows.
ROWS = {"train": 3 * tokenizing.SHARD_ROWS + 700, "validation": 300}


@pytest.fixture(scope="module")
def datasets(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The same rows in one row group and in groups whose borders are not those of shards."""
    folders = tmp_path_factory.mktemp("one"), tmp_path_factory.mktemp("many")
    for split, count in ROWS.items():
        rows = [make_row(i) for i in range(count)]
        columns = [*row_columns(rows), pa.array(["t.json"] * count), pa.array(range(count), pa.int32())]
        table = pa.Table.from_arrays(columns, schema=ROW_SCHEMA)
        for folder, group in zip(folders, (1 << 20, 3000), strict=True):
            parquet.write_table(table, folder / f"{split}.parquet", row_group_size=group)
    return folders


@pytest.fixture(scope="module")
def values(tiny_base: Path, datasets: tuple[Path, Path]) -> dict[str, Any]:
    limits = {"max_prompt_tokens": 24, "max_reply_tokens": 32, "overlong": "truncate", "labels": "assistant"}
    return {"dataset": str(datasets[1]), "model": str(tiny_base), "inputs": {"dataset": "d"}, "processes": 1, **limits}


@pytest.fixture(scope="module")
def whole(values: dict[str, Any], datasets: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Made at one go by one process."""
    folder = tmp_path_factory.mktemp("whole")
    run(folder, {**values, "dataset": str(datasets[0])})
    return folder


def run(folder: Path, values: dict[str, Any], kind: type[Job] = Job) -> dict[str, Any]:
    (folder / "job.json").write_text(json.dumps(values), encoding="utf-8")
    return dict(tokenizing.run(kind(folder)))


def made(folder: Path) -> dict[str, bytes]:
    files = (path for split in ROWS for path in (folder / split).iterdir())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def marks(folder: Path) -> dict[str, tuple[int, int]]:
    """What changes when a file is written anew."""
    files = (folder / "train").glob("shard-*.safetensors")
    return {path.name: (path.stat().st_ino, path.stat().st_mtime_ns) for path in files}


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert process.poll() is None, "the worker ended before the test could interrupt it"
        assert time.monotonic() < deadline
        time.sleep(0.001)


def test_shards_hold_the_rows_in_order(whole: Path) -> None:
    assert sorted(made(whole)) == [
        *(f"train/shard-0000{i}.safetensors" for i in range(4)),
        "validation/shard-00000.safetensors",
    ]
    rows = TokenRows(whole, "train")
    rows.verify()
    assert len(rows) == ROWS["train"]
    # 发动机_部件故障_水温高 for every third row, 治疗 or 病因 for the others; a newline before, the end token after
    replies = [12 + 2 if i % 3 == 0 else 4 for i in range(len(rows))]
    assert rows.targets.tolist() == replies
    assert [int(rows.row(i)[1].sum()) for i in range(0, len(rows), 997)] == replies[::997]


def test_a_worker_killed_at_work_leaves_whole_shards_that_are_not_made_again(
    values: dict[str, Any], whole: Path, tmp_path: Path
) -> None:
    values = {**values, "processes": 2}
    (tmp_path / "job.json").write_text(json.dumps(values), encoding="utf-8")
    with (tmp_path / "worker.log").open("ab") as log:
        process = subprocess.Popen(command("tasks.models.tokenizing", tmp_path, 1), stdout=log, stderr=log, cwd=ROOT)
    wait_for((tmp_path / "train" / "shard-00000.safetensors").exists, process)
    process.send_signal(signal.SIGSTOP)  # so that what it has made and started can be looked at
    kept = marks(tmp_path)
    children = psutil.Process(process.pid).children(recursive=True)
    process.kill()
    process.wait()
    assert 1 <= len(kept) < 4
    assert len(children) == 2
    assert psutil.wait_procs(children, timeout=60)[1] == []

    facts = run_worker("tasks.models.tokenizing", tmp_path, values, label="tokenize")

    assert made(tmp_path) == made(whole)
    assert {name: mark for name, mark in marks(tmp_path).items() if name in kept} == kept
    assert facts["rows"] == ROWS
    assert facts == run(whole, values)  # nothing is left to make there: what is told comes from the files


class Halting(Job):
    """A job that is asked to stop in its second shard."""

    def progress(self, done: int, total: int, **numbers: float) -> None:
        self.stopping = done > tokenizing.SHARD_ROWS


def test_a_stopped_worker_says_what_is_made_and_goes_on_from_there(
    values: dict[str, Any], whole: Path, tmp_path: Path
) -> None:
    with pytest.raises(Stopped, match="stopped with 1 of 5 shards"):
        run(tmp_path, values, Halting)
    kept = marks(tmp_path)
    assert list(kept) == ["shard-00000.safetensors"]
    run(tmp_path, values)
    assert marks(tmp_path).items() > kept.items()
    assert made(tmp_path) == made(whole)


def test_only_a_damaged_shard_is_made_again_and_what_is_no_shard_goes(
    values: dict[str, Any], whole: Path, tmp_path: Path
) -> None:
    for name, content in made(whole).items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(content)
    damaged = tmp_path / "train" / "shard-00001.safetensors"
    flipped = bytearray(damaged.read_bytes())
    flipped[-1] ^= 1
    damaged.write_bytes(flipped)
    (tmp_path / "train" / ".shard-00002.safetensors.77.tmp").write_bytes(b"half")
    before = marks(tmp_path)
    run(tmp_path, values)
    assert made(tmp_path) == made(whole)
    after = marks(tmp_path)
    assert [name for name in sorted(before) if before[name] != after[name]] == ["shard-00001.safetensors"]


def test_every_identity_field_decides_whether_a_shard_is_taken() -> None:
    assert set(schema.identity(TokenizationConfig())) <= set(tokenizing.DECISIVE)


def test_shards_of_other_settings_are_never_taken(values: dict[str, Any], whole: Path, tmp_path: Path) -> None:
    for change in ({"max_reply_tokens": 3}, {"inputs": {"dataset": "e"}}):
        for name, content in made(whole).items():
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).write_bytes(content)
        before = marks(tmp_path)
        run(tmp_path, {**values, **change})
        assert not marks(tmp_path).items() & before.items()


def test_large_splits_get_longer_shards_and_not_more() -> None:
    for rows, shards, longest in ((0, 1, 0), (1, 1, 1), (4096, 1, 4096), (4097, 2, 4096), (10_000_000, 128, 78_336)):
        split = tokenizing.Split("train", Path("x"), rows, 0)
        counts = [split.rows_in(shard) for shard in range(split.shards)]
        assert (len(counts), max(counts), sum(counts)) == (shards, longest, rows)
        assert min(counts) >= min(rows, 1)
