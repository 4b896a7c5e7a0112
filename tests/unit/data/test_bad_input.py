"""Malformed files: each ends in a line of the report or in an error of one line; nothing is lost without a word."""

from __future__ import annotations

import gzip
import io
import json
import os
import subprocess
import sys
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from account_cases import check_account, quarantine_of, report_of, text, write
from data_cases import Prepare

from tasks.errors import DataError

_ROOT = Path(__file__).parents[3]
_LONG = 20 << 20


def ad(i: int) -> dict[str, str]:
    return {"content": text(i), "summary": text(i, "r")}


def line(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False) + "\n"


GOOD = "".join(line(ad(i)) for i in range(6))
ARRAY = json.dumps([ad(i) for i in range(6)], ensure_ascii=False, indent=1)
CSV = "content,summary\n" + "".join(f"{text(i)},{text(i, 'r')}\n" for i in range(6))
DEEP = '{"content":' + "[" * 100_000 + "]" * 100_000 + ',"summary":"x"}'
PACKED = gzip.compress("".join(line(ad(i)) for i in range(400)).encode(), mtime=0)


def zipped(*members: tuple[str, str], encrypted: bool = False) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members:
            archive.writestr(name, content)
    packed = bytearray(file.getvalue())
    for header, flags in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        place = packed.find(header)
        while encrypted and place >= 0:
            packed[place + flags] |= 1
            place = packed.find(header, place + 1)
    return bytes(packed)


#: file, content, what is dropped (reason -> records, line of the first); six good records are kept
ACCOUNTED: list[tuple[str, str | bytes, dict[str, int], int]] = [
    ("trunc.json", ARRAY + "the rest", {"broken JSON": 1}, 26),
    ("trunc_array.json", ARRAY[:-2].rstrip("]\n") + ',\n {"content": "类', {"broken JSON": 1}, 26),
    ("trunc.jsonl", GOOD + '{"content": "类', {"broken JSON": 1}, 7),
    ("null.jsonl", GOOD + "null\n", {"not an object": 1}, 7),
    ("scalars.jsonl", GOOD + '1\n"a"\n[]\n', {"not an object": 3}, 7),
    ("duplicate_keys.jsonl", GOOD + '{"content":"a","content":"b","summary":"c"}\n', {"duplicate key": 1}, 7),
    ("nan.jsonl", GOOD + '{"content":"a","summary":"c","x":NaN}\n', {"broken JSON": 1}, 7),
    ("infinite.jsonl", GOOD + '{"content":"a","summary":"c","x":1e999}\n', {"broken JSON": 1}, 7),
    ("digits.jsonl", GOOD + '{"content":"a","summary":"c","x":' + "9" * 5000 + "}\n", {"broken JSON": 1}, 7),
    ("surrogate.jsonl", GOOD + '{"content":"a\\ud800","summary":"c"}\n', {"broken characters": 1}, 7),
    ("deep.jsonl", GOOD + DEEP + "\n", {"broken JSON": 1}, 7),
    ("deep.json", ARRAY[:-2] + ",\n " + DEEP + "]", {"broken JSON": 1}, 26),
    ("odd_utf16.jsonl", (GOOD + "{}").encode("utf-16-le")[:-1], {"broken JSON": 1}, 7),
    ("mid_bom.jsonl", GOOD + "\ufeff" + line({"content": "", "summary": "x"}), {"empty prompt": 1}, 7),
    ("ragged.csv", CSV + "a\na,b,c,d\n", {"broken CSV": 2}, 8),
    ("quote.csv", CSV + '"never closed,x\n', {"broken CSV": 1}, 8),
    ("long.jsonl", GOOD + '{"content":"' + "a" * _LONG + '","summary":"b"}\n', {"broken JSON": 1}, 7),
    (
        "long.json",
        "[" + GOOD.strip().replace("\n", ",\n") + ',\n{"content":"' + "a" * _LONG + '","summary":"b"}]',
        {"broken JSON": 1},
        7,
    ),
    ("long.csv", CSV + "a" * _LONG + ",b\n", {"broken CSV": 1}, 8),
    ("kinds.jsonl", GOOD + line({"content": 1, "summary": "x"}) + line({}), {"not a text": 1, "no such columns": 1}, 7),
]


@pytest.mark.parametrize(("name", "content", "dropped", "first"), ACCOUNTED, ids=[case[0] for case in ACCOUNTED])
def test_what_cannot_be_read_is_dropped_with_its_line_and_the_rest_is_kept(
    run: Prepare, tmp_path: Path, name: str, content: str | bytes, dropped: dict[str, int], first: int
) -> None:
    dataset = run("advertisegen", path=write(tmp_path / name, content))
    check_account(dataset, {name: 6 + sum(dropped.values())})
    assert (dataset.rows["kept"], dataset.rows["dropped"]) == (6, dropped)
    lost = quarantine_of(dataset)[0]
    assert (lost["file"], lost["line"]) == (name, first)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("utf16.json", ARRAY.encode("utf-16")),
        ("utf16_no_bom.jsonl", GOOD.encode("utf-16-be")),
        ("gbk.json", ARRAY.encode("gb18030")),
        ("boms.jsonl", "\ufeff" + GOOD.replace("\n", "\n\ufeff")),
        ("json_in.csv", GOOD),
        ("crcrlf.jsonl", GOOD.replace("\n", "\r\r\n")),
        ("column_without_a_name.csv", "content,,summary\n" + "".join(f"{text(i)},,b{i}\n" for i in range(6))),
        ("same_member.zip", zipped(("a.json", GOOD), ("../train.json", GOOD), ("/abs.json", GOOD))),
        ("\udcff name\n.json", GOOD),
    ],
)
def test_odd_but_sound_files_lose_nothing(run: Prepare, tmp_path: Path, name: str, content: str | bytes) -> None:
    dataset = run("auto", path=write(tmp_path / name, content).parent)
    check_account(dataset)
    assert dataset.rows == {"read": 6, "kept": 6, "dropped": {}}


def test_unsafe_members_are_named_in_the_report(run: Prepare, tmp_path: Path) -> None:
    members = [(name, GOOD) for name in ("../train.json", "/etc/train.json", "C:\\train.json", "a/../../train.json")]
    dataset = run("auto", path=write(tmp_path / "in.zip", zipped(("a.json", GOOD), *members)))
    assert sorted(report_of(dataset)["skipped_files"].values()) == ["unsafe path in the archive"] * 4
    assert dataset.rows["read"] == 6
    assert {path.name for path in tmp_path.iterdir()} == {"in.zip", "store"}


REFUSED: list[tuple[str, str | bytes, str]] = [
    ("zero.json", "", r"no rows in the file\(s\)"),
    ("bom.json", "\ufeff", r"no rows in the file\(s\)"),
    ("blank.jsonl", " \n\n\t\n", r"no rows in the file\(s\)"),
    ("empty.json", "[]", r"no rows in the file\(s\)"),
    ("header.csv", "content,summary\n", r"no rows in the file\(s\)"),
    ("null.json", "null", r"null\.json:1: not an object \(a JSON null\)"),
    ("scalar.json", "\n42", r"scalar\.json:2: not an object \(a JSON number\)"),
    ("nested.json", "[[]]", r"nested\.json:1: not an object \(a JSON array\)"),
    ("deep.json", "[" * 100_000, r"deep\.json:1: broken JSON \(nested too deeply"),
    ("deep_object.json", '{"a":' * 100_000, r"deep_object\.json:1: broken JSON \(nested too deeply"),
    ("page.json", "<html><body>404</body></html>", r"page\.json:1: broken JSON \(Expecting value, column 1\)"),
    ("csv.json", CSV, r"csv\.json:1: broken JSON \(Expecting value, column 1\)"),
    ("noise.json", bytes(range(128, 256)) * 40, "noise.json: unknown encoding"),
    ("mixed.jsonl", line(ad(1)).encode() + line(ad(2)).encode("gbk"), "mixed.jsonl: unknown encoding"),
    ("cut.json.gz", PACKED[:12], r"cut\.json\.gz:1: broken gzip \(the packed data ends early\)"),
    ("columns.csv", "content,content,summary\na,b,c\n", r"columns\.csv:1: column names occur more than once: content"),
    ("workbook.csv", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(3000), "workbook.csv: unknown encoding"),
    ("workbook2.csv", zipped(("xl/workbook.xml", "<x/>")), "no data file in this archive"),
    ("cut.zip", zipped(("train.json", GOOD))[:-30], "cut.zip: a broken zip archive"),
    ("start.zip", "PK\3\4", "start.zip: a broken zip archive"),
    ("none.zip", zipped(), "no data file in this archive"),
    ("up.zip", zipped(("../../etc/train.json", GOOD)), "unsafe path in the archive"),
    ("absolute.zip", zipped(("/etc/train.json", GOOD)), "unsafe path in the archive"),
    ("secret.zip", zipped(("train.json", GOOD), encrypted=True), r"secret\.zip/train\.json \(encrypted\)"),
    ("archive.zip", zipped(("a.zip", "PK")), "an archive within an archive"),
]


@pytest.mark.parametrize("name", ["advertisegen", "auto"])
@pytest.mark.parametrize(("file", "content", "message"), REFUSED, ids=[case[0] for case in REFUSED])
def test_a_file_without_any_usable_record_is_an_error_of_one_line(
    run: Prepare, tmp_path: Path, name: str, file: str, content: str | bytes, message: str
) -> None:
    with pytest.raises(DataError, match=message) as caught:
        run(name, path=write(tmp_path / file, content))
    assert "\n" not in str(caught.value)
    assert file in str(caught.value)
    assert not list(tmp_path.glob("store/prepare/*/artifact.json"))


@pytest.mark.parametrize("kind", ["json", "csv", "gz"])
def test_a_small_file_that_unpacks_to_a_large_one_takes_little_memory(run: Prepare, tmp_path: Path, kind: str) -> None:
    size = 200 << 20
    packed = {
        "json": lambda: zipped(("train.json", '{"content": "' + "a" * size)),
        "csv": lambda: zipped(("train.csv", 'content,summary\n"' + "a" * size)),
        "gz": lambda: gzip.compress(bytes(size), 1),
    }[kind]()
    path = write(tmp_path / ("in.json.gz" if kind == "gz" else "in.zip"), packed)
    tracemalloc.start()
    with pytest.raises(DataError, match="none of 1 rows is usable: 1 broken"):
        run("advertisegen", path=path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1.5 * size  # a value is held up to its limit of 64 MiB, and again while it is looked at


# --- what the file system has -------------------------------------------------------------------------------------


def _folder(path: Path) -> None:
    path.mkdir()


def _loop(path: Path) -> None:
    path.symlink_to(path.name)


def _dangling(path: Path) -> None:
    path.symlink_to("nowhere")


def _unreadable(path: Path) -> None:
    path.symlink_to("/proc/self/mem")  # permissions stop nobody who is root


def _pipe(path: Path) -> None:
    os.mkfifo(path)


@pytest.mark.parametrize("source", ["advertisegen", "auto", "chat_messages", "chat_export"])
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (_folder, r"data\.path=.*x_train\.json: no "),
        (_loop, r"x_train\.json: cannot be read \(Too many levels of symbolic links\)"),
        (_dangling, r"data\.path=.*x_train\.json: a link to a file that does not exist"),
        (_unreadable, r"x_train\.json: cannot be read \(Input/output error\)"),
        (_pipe, r"data\.path=.*x_train\.json: neither a file nor a folder"),
    ],
)
@pytest.mark.skipif(sys.platform != "linux", reason="other systems have other words for it")
def test_what_is_no_readable_file_is_an_error_of_one_line(
    run: Prepare, tmp_path: Path, source: str, make: Callable[[Path], None], message: str
) -> None:
    make(tmp_path / "x_train.json")
    with pytest.raises(DataError, match=message) as caught:
        run(source, path=tmp_path / "x_train.json")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("source", ["advertisegen", "auto", "chat_messages", "chat_export"])
@pytest.mark.parametrize("path", ["a" * 5000, "a\0b"])
def test_a_path_that_cannot_be_one_is_told(run: Prepare, source: str, path: str) -> None:
    with pytest.raises(DataError, match=r"^data\.path="):
        run(source, path=path)


@pytest.mark.parametrize(("make", "message"), [(_loop, "x.json: "), (_dangling, "x.json: "), (_unreadable, "x.json")])
def test_a_link_that_leads_nowhere_in_a_folder_is_told(
    run: Prepare, tmp_path: Path, make: Callable[[Path], None], message: str
) -> None:
    write(tmp_path / "in/y.json", GOOD)
    make(tmp_path / "in/x.json")
    with pytest.raises(DataError, match=message + r".*cannot be read|cannot be read"):
        run("advertisegen", path=tmp_path / "in")


def test_folders_named_like_files_and_pipes_are_left_alone(run: Prepare, tmp_path: Path) -> None:
    write(tmp_path / "in/y.json", GOOD)
    (tmp_path / "in/x.json").mkdir()
    os.mkfifo(tmp_path / "in/train.json")
    assert run("auto", path=tmp_path / "in").rows["read"] == 6


# --- splits that are not what they say ----------------------------------------------------------------------------


def test_train_and_dev_swapped_still_leave_no_prompt_in_both(run: Prepare, tmp_path: Path) -> None:
    """The larger file is called dev and has the smaller one within it: train has no row of its own."""
    write(tmp_path / "in/dev.json", "".join(line(ad(i)) for i in range(30)))
    write(tmp_path / "in/train.json", GOOD)
    with pytest.raises(DataError, match="no row is left to train on: 6 leak: prompt is in validation"):
        run("advertisegen", path=tmp_path / "in", min_keep_ratio=0)
    write(tmp_path / "in/train.json", GOOD + line(ad(50)))
    dataset = run("advertisegen", path=tmp_path / "in", min_keep_ratio=0, test_share=0)
    check_account(dataset, {"train.json": 7, "dev.json": 30})
    assert dataset.splits == {"train": 1, "validation": 30, "test": 0}


def test_an_empty_training_file_is_told_and_an_empty_dev_file_is_replaced(run: Prepare, tmp_path: Path) -> None:
    write(tmp_path / "a/train.json", "")
    write(tmp_path / "a/dev.json", GOOD)
    with pytest.raises(DataError, match=r"no row is left to train on: no rows in the training file\(s\)$"):
        run("advertisegen", path=tmp_path / "a")
    write(tmp_path / "b/train.json", GOOD)
    write(tmp_path / "b/dev.json", "")
    dataset = run("advertisegen", path=tmp_path / "b")
    assert report_of(dataset)["files"]["dev.json"]["read"] == 0
    assert report_of(dataset)["splits"]["validation"]["origin"].startswith("held out of train: the file has no usable")


def test_clocks_that_go_backwards_lose_no_message(run: Prepare, tmp_path: Path) -> None:
    header = "TalkerId,Type,IsSender,CreateTime,StrContent,Remark,NickName,Sender\n"
    times = [100, 110, 50, 60, 9000, 8000, 20_000, 20_001, -5, 1e400, "later"]
    body = "".join(f"1,1,{i % 2},{time},{text(i)},x,x,y\n" for i, time in enumerate(times))
    for order in ("time", "file"):
        dataset = run("chat_messages", path=write(tmp_path / "log.csv", header + body), order=order)
        check_account(dataset)
        assert dataset.rows["read"] == len(times)
        assert dataset.rows["dropped"]["time not understood"] == 3


# --- real files, and the command line -----------------------------------------------------------------------------


def test_every_malformed_copy_that_was_found_is_accounted_for(run: Prepare, shared: Path) -> None:
    folder = shared / "data/advertisegen/variants"
    found = {}
    for path in sorted(folder.iterdir()):
        try:
            dataset = run("auto", path=path)
        except DataError as error:
            assert "\n" not in str(error) and path.name in str(error)
            found[path.name] = "error"
        else:
            check_account(dataset)
            found[path.name] = f"{dataset.rows['read']} {sum(dataset.rows['dropped'].values())}"
    assert found == VARIANTS


#: Records read and dropped; what is dropped are equal and nearly equal rows.
VARIANTS = {
    "bobcn_dev.json": "9 0",
    "chibinjiang_dev.json": "1070 5",
    "gongfuchang_own_dev.json": "25 2",
    "ljf_dev.json": "20 0",
    "ljf_train.json": "30 0",
    "pr1227_AdvertiseGen2_dev.json": "200 0",
    "pr1227_AdvertiseGen2_train.json": "200 1",
    "saikumo_dev.json": "1 0",
    "train_prettyprinted_mhsbz.json": "1240 6",
    "wangxian_dev.json": "5 1",
}


@pytest.fixture(scope="module")
def commands(tmp_path_factory: pytest.TempPathFactory) -> dict[str, subprocess.CompletedProcess[str]]:
    """The real command on several files at once."""
    folder = tmp_path_factory.mktemp("commands")
    files: dict[str, str | bytes] = {
        "good.jsonl": GOOD + "null\n",
        "null.json": "null",
        "cut.zip": zipped(("train.json", GOOD))[:-30],
        "deep.json": "[" * 100_000,
    }
    started = {}
    for name, content in files.items():
        fixed = ["data=auto", "orchestrator=none", "output=json", "tracking.tracker=none", f"paths.root={folder}/store"]
        command = [sys.executable, "-m", "flows.prepare", *fixed, f"data.path={write(folder / name, content)}"]
        pipes: Any = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "encoding": "utf-8"}
        started[name] = subprocess.Popen(command, cwd=_ROOT, **pipes)
    result = {}
    for name, process in started.items():
        out, error = process.communicate()
        result[name] = subprocess.CompletedProcess(process.args, process.returncode, out, error)
    return result


def test_the_command_prints_the_account(commands: dict[str, subprocess.CompletedProcess[str]]) -> None:
    done = commands["good.jsonl"]
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["rows"] == {"read": 7, "kept": 6, "dropped": {"not an object": 1}}


@pytest.mark.parametrize(
    ("name", "place"), [("null.json", "null.json:1: "), ("cut.zip", "cut.zip: "), ("deep.json", "deep.json:1: ")]
)
def test_the_command_ends_with_one_line_and_code_2(
    commands: dict[str, subprocess.CompletedProcess[str]], name: str, place: str
) -> None:
    done = commands[name]
    (error,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert (done.returncode, done.stdout) == (2, "")
    assert place in error and "Traceback" not in done.stderr
