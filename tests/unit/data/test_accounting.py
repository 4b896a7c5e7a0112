"""What holds whatever is fed in: every record is accounted for, and the same input makes the same bytes."""

from __future__ import annotations

import csv
import io
import json
import os
import random
import resource
import select
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from account_cases import check_account, files_of, quarantine_of, report_of, text, write
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from flows.cli import composed
from tasks.artifacts import Dataset
from tasks.config import parse
from tasks.data import source
from tasks.data.stage import prepare
from tasks.errors import ConfigError
from tasks.store import Store

_ROOT = Path(__file__).parents[3]


def _few(examples: int) -> settings:
    """The same examples every time, and no search for smaller ones: an example takes half a second."""
    every = list(HealthCheck)
    return settings(
        max_examples=examples, deadline=None, derandomize=True, suppress_health_check=every, phases=[Phase.generate]
    )


_CAPS = st.none() | st.integers(1, 4)

# --- one good record of every row format, and what breaks a record --------------------------------------------------


def _turns(i: int, role: str = "role", content: str = "content", names: str = "user assistant") -> list[dict[str, str]]:
    asks, answers = names.split()
    return [{role: asks, content: text(i)}, {role: answers, content: text(i, "r")}]


GOOD: dict[str, Callable[[int], dict[str, Any]]] = {
    "advertisegen": lambda i: {"content": text(i), "summary": text(i, "r")},
    "alpaca": lambda i: {"instruction": text(i), "input": "", "output": text(i, "r")},
    "conversations": lambda i: {"conversations": _turns(i)},
    "messages": lambda i: {"messages": _turns(i)},
    "prompt_response": lambda i: {"prompt": text(i), "response": text(i, "r")},
    "promptcblue": lambda i: {
        "input": text(i),
        "target": text(i, "r"),
        "task_type": "cls",
        "task_dataset": ("KUAKE-QIC", "KUAKE-QQR")[i % 2],
        "sample_id": f"s{i}",
        "answer_choices": [text(i, "r")],
    },
    "sharegpt": lambda i: {"conversations": _turns(i, "from", "value", "human gpt")},
    "triples": lambda i: {"text": text(i), "answer": f"{text(i)[:3]}_部件故障_{text(i)[4:8]}"},
}
#: Each is one record, and none can be used.
BROKEN = (
    "null",
    "17",
    '"text"',
    "[]",
    "{}",
    '{"other": 1}',
    '{"a": NaN}',
    '{"a": 1, "a": 2}',
    r'{"a": "\ud800"}',
    '{"a":' + "[" * 300 + "]" * 300 + "}",
)
#: These cannot stand in an array: what ends such a record there is for the reader to guess.
BROKEN_LINES = ("{", "}", '{"a": ', "\ufeff{x", "no JSON", '{"a": 1} {"b": 2}')
BLANK = ("", " ", "\t")


def damaged(record: dict[str, Any], how: int) -> dict[str, Any]:
    """The record with one of its values made useless, or without it."""
    key = sorted(record)[how % len(record)]
    values: tuple[Any, ...] = (None, "", "  ", [], {}, [None], 3.5, True)
    value = values[how // len(record) % (len(values) + 1) - 1]
    rest = {name: kept for name, kept in record.items() if name != key}
    return rest if how // len(record) % (len(values) + 1) == 0 else {**rest, key: value}


_ITEM = st.one_of(
    st.integers(0, 14).map(lambda i: ("good", i)),
    st.integers(0, 14).map(lambda i: ("good", i)),
    st.integers(0, 80).map(lambda how: ("damaged", how)),
    st.sampled_from(BROKEN).map(lambda t: ("text", t)),
    st.sampled_from(BROKEN_LINES).map(lambda t: ("line", t)),
    st.sampled_from(BLANK).map(lambda t: ("blank", t)),
)
_FILES = st.fixed_dictionaries(
    {"train.jsonl": st.lists(_ITEM, max_size=20)},
    optional={"dev.json": st.lists(_ITEM, max_size=8), "test.json": st.lists(_ITEM, max_size=8)},
)
_OPTIONS = st.fixed_dictionaries(
    {
        "near_duplicates": st.sampled_from([None, 0.6, 0.9, 1.0]),
        "validation_share": st.sampled_from([0, 0.1, 0.5]),
        "test_share": st.sampled_from([0, 0.1, 0.4]),
        "max_rows": st.fixed_dictionaries({"train": _CAPS, "validation": _CAPS, "test": _CAPS}),
        "redact": st.booleans(),
        "split_seed": st.integers(0, 3),
        "export_format": st.sampled_from([None, "messages"]),
    }
)


def _lines(name: str, items: list[tuple[str, Any]]) -> tuple[list[str], int]:
    """The lines of a file, and how many of them are records."""
    found = []
    for kind, value in items:
        record = GOOD[name](value) if kind == "good" else damaged(GOOD[name](5), value) if kind == "damaged" else None
        found.append(value if record is None else json.dumps(record, ensure_ascii=False))
    return found, sum(kind != "blank" for kind, _ in items)


def _written(folder: Path, name: str, files: dict[str, list[tuple[str, Any]]], array: bool, end: str) -> dict[str, int]:
    """Write the files; returns the records of each. Training always has rows that no other file has."""
    counts = {}
    for file, items in files.items():
        # the first line tells the form of a file, so it is sound
        sure = range(100, 104) if file.startswith("train") else [200 + len(file)]
        items = [("good", i) for i in sure] + items
        if array:
            items = [item for item in items if item[0] not in ("line", "blank")]
        lines, counts[file] = _lines(name, items)
        body = "[" + f",{end}".join(lines) + "]" if array else "".join(line + end for line in lines)
        write(folder / file, body)
    return counts


@pytest.mark.parametrize("name", sorted(GOOD))
@_few(3)
@given(files=_FILES, options=_OPTIONS, array=st.booleans(), end=st.sampled_from(["\n", "\r\n", "\r"]))
def test_every_record_of_every_row_format_is_accounted_for(
    name: str, files: dict[str, list[tuple[str, Any]]], options: dict[str, Any], array: bool, end: str
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        counts = _written(Path(folder) / "in", name, files, array, end)
        config = source.load(name).Config(path=Path(folder) / "in", min_keep_ratio=0, **options)
        dataset = prepare(config, store=Store(Path(folder) / "store"))
        check_account(dataset, counts)
        caps = options["max_rows"]
        assert all(caps[split] is None or rows <= caps[split] for split, rows in dataset.splits.items())
        lost = [line["id"] for line in quarantine_of(dataset)]
        assert len(lost) == len(set(lost)) == sum(dataset.rows["dropped"].values())


@_few(4)
@given(
    rows=st.lists(st.tuples(st.integers(0, 12), st.sampled_from(["", ",", "x", '"'])), max_size=15),
    redact=st.booleans(),
    near=st.sampled_from([None, 0.8]),
)
def test_every_row_of_a_csv_file_is_accounted_for(
    rows: list[tuple[int, str]], redact: bool, near: float | None
) -> None:
    """The odd characters behind a row: none, a column too many, a longer text, a quote in the middle of a text."""
    with tempfile.TemporaryDirectory() as folder:
        plain = [(100 + i, "") for i in range(4)]
        lines = [f"d,{text(i)},{text(i, 'a')},{text(i, 'r')}{odd}\n" for i, odd in plain + rows]
        path = write(Path(folder) / "qa.csv", "department,title,ask,answer\n" + "".join(lines))
        config = source.load("medical_qa_csv").Config(path=path, redact=redact, near_duplicates=near, min_keep_ratio=0)
        dataset = prepare(config, store=Store(Path(folder) / "store"))
        check_account(dataset, {"qa.csv": len(lines)})
        broken = sum(odd == "," for _, odd in rows)
        assert dataset.rows["dropped"].get("broken CSV", 0) == broken


_MESSAGES = st.lists(
    st.tuples(
        st.integers(-90, 400),  # seconds since the message before: clocks go backwards
        st.integers(0, 1),  # who sent it
        st.sampled_from(["1", "1", "1", "3", "49", "10000", ""]),  # kind
        st.integers(0, 2),  # with whom
        st.sampled_from([None, None, None, "", "[图片]", "电话13912345678", "<msg>x</msg>"]),
    ),
    max_size=40,
)
_CHAT_OPTIONS = st.fixed_dictionaries(
    {
        "near_duplicates": st.sampled_from([None, 0.9]),
        "redact": st.booleans(),
        "media": st.sampled_from(["drop", "keep"]),
        "empty_messages": st.sampled_from(["keep", "drop"]),
        "order": st.sampled_from(["time", "file"]),
        "assistant": st.sampled_from(["me", "contact"]),
        "gap_s": st.sampled_from([0, 60, 500]),
        "shuffle_seed": st.sampled_from([None, 1]),
        "group_by": st.sampled_from([None, "contact"]),
        "max_rows": st.fixed_dictionaries({"train": _CAPS, "validation": _CAPS, "test": _CAPS}),
        "validation_share": st.sampled_from([0, 0.2]),
    }
)
_HEADER = ["TalkerId", "Type", "IsSender", "CreateTime", "StrContent", "Remark", "NickName", "Sender"]


def _chat(messages: list[tuple[int, int, str, int, str | None]], start: int) -> tuple[str, int]:
    """A MemoTrace log with four dialogues of two messages before the messages, and how many it has."""
    sure = [(9000, 0, "1", 7, None), (5, 1, "1", 7, None)] * 4
    file, time = io.StringIO(), 1_700_000_000
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(_HEADER)
    for number, (pause, sent, kind, talker, words) in enumerate([*sure, *messages]):
        time += pause
        who = f"友{talker}"
        body = text(start + number) if words is None else words
        writer.writerow([talker, kind, sent, time, body, who, who, f"wxid_{talker}"])
    return file.getvalue(), len(sure) + len(messages)


@_few(8)
@given(first=_MESSAGES, second=_MESSAGES, broken=st.integers(0, 3), options=_CHAT_OPTIONS)
def test_every_message_of_a_chat_log_is_accounted_for(
    first: list[Any], second: list[Any], broken: int, options: dict[str, Any]
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        counts = {}
        for name, messages, start in (("a.csv", first, 0), ("b.csv", second, 500)):
            log, counts[name] = _chat(messages, start)
            write(Path(folder) / "in" / name, log + "1,2\n" * broken)
            counts[name] += broken
        config = source.load("chat_messages").Config(path=Path(folder) / "in", min_keep_ratio=0, **options)
        dataset = prepare(config, store=Store(Path(folder) / "store"))
        check_account(dataset)
        files = report_of(dataset)["files"]
        assert sorted(file["read"] for file in files.values()) == sorted(counts.values())
        assert dataset.rows["dropped"].get("broken CSV", 0) == 2 * broken


# --- the same input makes the same bytes ----------------------------------------------------------------------------


def _mixed(folder: Path, order: int) -> Path:
    """Folders of the same files, created in another order."""
    random_rows = random.Random(5)
    files = {
        name: [("good", random_rows.randrange(400)) for _ in range(300)] + [("text", broken) for broken in BROKEN]
        for name in ("a.jsonl", "b.jsonl", "c.jsonl")
    }
    for name in sorted(files, reverse=bool(order)):
        lines, _ = _lines("advertisegen", files[name])
        write(folder / name, "".join(line + "\n" for line in lines))
    return folder


def _prepared(folder: Path, store: str, **values: Any) -> Dataset:
    return prepare(source.load("advertisegen").Config(**values), store=Store(folder / store))


def test_the_same_input_makes_the_same_bytes_whatever_the_processes_and_the_order_on_disk(tmp_path: Path) -> None:
    options = {"near_duplicates": 0.8, "max_rows": {"train": 200}, "min_keep_ratio": 0}
    first = _prepared(tmp_path, "1", path=_mixed(tmp_path / "in", 0), processes=1, **options)
    again = _prepared(tmp_path, "2", path=_mixed(tmp_path / "else/where/in", 1), processes=2, **options)
    assert first.fingerprint == again.fingerprint and not again.reused
    assert {"train.parquet", "report.json", "quarantine.jsonl", "preview.md"} < set(files_of(first))
    assert any(name.endswith(".png") for name in files_of(first))
    assert files_of(first) == files_of(again)
    check_account(first)


# --- mixtures -------------------------------------------------------------------------------------------------------


def _parts(folder: Path, **first: Any) -> list[dict[str, Any]]:
    sizes = {"advertisegen": 60, "alpaca": 30}
    parts = []
    for name, count in sizes.items():
        path = write(folder / name / "rows.jsonl", "".join(json.dumps(GOOD[name](i)) + "\n" for i in range(count)))
        parts.append({"source": name, "path": str(path)})
    parts[0] |= first
    return parts


def _mixture(folder: Path, parts: list[dict[str, Any]], store: str = "store", **values: Any) -> Dataset:
    values = {"min_keep_ratio": 0, "near_duplicates": None, "validation_share": 0, "test_share": 0, **values}
    return prepare(source.load("mixture").Config(parts=parts, **values), store=Store(folder / store))


def test_weights_and_caps_of_a_mixture_are_accounted_for(tmp_path: Path) -> None:
    parts = _parts(tmp_path)
    parts[1]["path"] = str(
        write(tmp_path / "b.jsonl", "".join(json.dumps(GOOD["alpaca"](500 + i)) + "\n" for i in range(30)))
    )
    weighed = _mixture(tmp_path, [{**part, "weight": weight} for part, weight in zip(parts, (1, 3), strict=True)])
    check_account(weighed)
    assert weighed.tasks == {"advertisegen": 10, "alpaca": 30}
    assert weighed.rows["dropped"] == {"over its weight in the mixture": 50}
    capped = _mixture(tmp_path, [{**parts[0], "max_rows": {"train": 7}}, parts[1]], max_rows={"train": 20})
    check_account(capped)
    assert capped.rows == {"read": 90, "kept": 20, "dropped": {"over data.max_rows": 70}}


def test_parts_with_the_same_prompts_have_them_in_the_same_split(tmp_path: Path) -> None:
    dataset = _mixture(tmp_path, _parts(tmp_path), validation_share=0.2, test_share=0.3)
    check_account(dataset)
    assert all(dataset.splits.values())


def test_the_same_file_twice_in_a_mixture_is_read_twice_and_kept_once(tmp_path: Path) -> None:
    part = _parts(tmp_path)[0]
    dataset = _mixture(tmp_path, [part, part])
    check_account(dataset, {"1-advertisegen/rows.jsonl": 60, "2-advertisegen/rows.jsonl": 60})
    assert dataset.rows == {"read": 120, "kept": 60, "dropped": {"duplicate row": 60}}


def test_the_order_of_the_files_on_disk_decides_nothing_in_a_mixture(tmp_path: Path) -> None:
    made = []
    for place, order in (("x", 0), ("y", 1)):
        folder = tmp_path / place
        parts = [{"source": "advertisegen", "path": str(_mixed(folder / "in", order)), "weight": 2}]
        parts.append({**_parts(folder)[1], "weight": 1})
        made.append(_mixture(folder, parts, test_share=0.1, processes=1 + order))
    assert made[0].fingerprint == made[1].fingerprint
    assert files_of(made[0]) == files_of(made[1])


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ("[{source: alpaca, gap_s: 3}]", "parts[0].gap_s"),
        ("[{source: alpaca}, {source: nonesuch}]", "parts[1]: data.source='nonesuch': unknown"),
        ("[{source: alpaca, weight: 1}, {source: triples}]", "either every part has a weight or none"),
        ("[{source: alpaca, weight: 0}]", "parts[0].weight=0: must be a number above 0"),
        ("[{source: alpaca, max_rows: {train: 0}}]", "parts[0].max_rows.train"),
        ("[{path: x.json}]", "parts[0].source=None"),
        ("[{source: mixture}]", "parts[0].source='mixture'"),
        ("[]", "data.parts"),
        ("x", "data.parts"),
    ],
)
def test_what_is_wrong_in_a_part_is_told_with_its_place(tmp_path: Path, parts: str, message: str) -> None:
    values = composed("full", ["data=mixture", f"data.parts={parts}", f"paths.root={tmp_path}"])
    with pytest.raises(ConfigError) as caught:
        parse(values)
    assert message in str(caught.value)


# --- interrupted and full --------------------------------------------------------------------------------------------


def _command(path: Path, root: Path, *more: str) -> list[str]:
    fixed = ["data=advertisegen", "orchestrator=none", "output=json", "tracking.tracker=none"]
    return [sys.executable, "-m", "flows.prepare", *fixed, f"data.path={path}", f"paths.root={root}", *more]


def _rows(path: Path, count: int) -> Path:
    return write(path, "".join(json.dumps(GOOD["advertisegen"](i)) + "\n" for i in range(count)))


def _json(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    assert done.returncode == 0, done.stderr
    value: dict[str, Any] = json.loads(done.stdout)
    return value


def _run(command: list[str], **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=_ROOT, capture_output=True, text=True, encoding="utf-8", check=False, **options)


def _bytes(result: dict[str, Any]) -> dict[str, bytes]:
    return files_of(Dataset(path=Path(result["path"]), fingerprint="", source="", rows={}, splits={}, tasks={}))


def _children(pid: int) -> list[int]:
    found = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        found += [int(child) for child in (task / "children").read_text().split()]
    return found


@pytest.mark.skipif(not hasattr(os, "pidfd_open") or not Path("/proc/self/task").is_dir(), reason="Linux only")
def test_a_killed_run_leaves_no_process_and_the_next_one_is_as_if_nothing_had_been(tmp_path: Path) -> None:
    path = _rows(tmp_path / "rows.jsonl", 40_000)
    command = _command(path, tmp_path / "killed", "data.processes=2")
    with subprocess.Popen(command, cwd=_ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        line = next(line for line in process.stderr if "starts" in line)
        assert line
        with suppress(subprocess.TimeoutExpired):
            process.wait(random.uniform(0.1, 0.8))  # any moment will do
        workers = [os.pidfd_open(pid) for pid in _children(process.pid)] if process.poll() is None else []
        process.kill()
    for worker in workers:
        assert select.select([worker], [], [], 30)[0], "a worker process is left behind"
        os.close(worker)
    assert not list((tmp_path / "killed").glob("prepare/*/artifact.json"))
    again, whole = _json(_run(command)), _json(_run(_command(path, tmp_path / "whole", "data.processes=1")))
    assert again["fingerprint"] == whole["fingerprint"] and not again["reused"]
    assert _bytes(again) == _bytes(whole)
    assert not list((tmp_path / "killed").glob("prepare/*.partial"))


@pytest.mark.parametrize("limit", [30_000, 400_000])
def test_a_full_disk_is_one_line_and_publishes_nothing(tmp_path: Path, limit: int) -> None:
    path = _rows(tmp_path / "rows.jsonl", 5000)
    command = _command(path, tmp_path / "root")
    full = _run(command, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)))
    errors = [line for line in full.stderr.splitlines() if line.startswith("error: ")]
    assert full.returncode != 0 and len(errors) == 1 and "Traceback" not in full.stderr, full.stderr
    assert not list((tmp_path / "root").glob("prepare/*/artifact.json"))
    assert _json(_run(command))["rows"]["read"] == 5000
