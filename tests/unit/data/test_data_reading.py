"""Encodings, line ends and shapes of files, packed or not; a broken record costs only itself."""

from __future__ import annotations

import csv
import gzip
import io
import json
import pickle
import tempfile
import tracemalloc
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tasks.data import reading
from tasks.data.reading import Record, archives, chunks, csv_stream, encoding, json_stream, parse, records, stream
from tasks.data.reading.parsing import value_of
from tasks.data.source import DataFile
from tasks.errors import DataError

ROWS = [{"content": "类型#裙*颜色#白色", "summary": "白色\u2028的裙子"}, {"content": "b", "summary": "乙乙"}]
SHAPES = {
    "jsonl": "\n".join(json.dumps(row, ensure_ascii=False) for row in ROWS),
    "jsonl_escaped": "\n".join(json.dumps(row) for row in ROWS) + "\n\n",
    "array": json.dumps(ROWS, ensure_ascii=False),
    "array_pretty": "\n " + json.dumps(ROWS, ensure_ascii=False, indent=4) + "\n",
    "concatenated": "\n".join(json.dumps(row, ensure_ascii=False, indent=2) for row in ROWS),
    "csv": "content,summary\n类型#裙*颜色#白色,白色\u2028的裙子\nb,乙乙\n",
}


def read(tmp_path: Path, data: str | bytes, name: str = "file.json") -> list[Record]:
    path = tmp_path / name
    path.write_bytes(data.encode("utf-8") if isinstance(data, str) else data)
    return list(records(data_file(path)))


def data_file(path: Path, member: str = "") -> DataFile:
    return DataFile(path, path.name, "train", member)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "gb18030"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("shape", SHAPES)
def test_every_encoding_line_end_and_shape_gives_the_same_rows(
    tmp_path: Path, shape: str, end: str, encoding: str
) -> None:
    data = SHAPES[shape].replace("\n", end).encode(encoding)
    found = read(tmp_path, data, "file.csv" if shape == "csv" else "file.json")
    assert [(record.value, record.problem) for record in found] == [(row, "") for row in ROWS]


def test_a_json_file_is_recognised_whatever_its_suffix(tmp_path: Path) -> None:
    assert [record.value for record in read(tmp_path, SHAPES["array"], "rows.csv")] == ROWS


def test_line_numbers_are_those_an_editor_shows(tmp_path: Path) -> None:
    assert [r.line for r in read(tmp_path, '{"a": 1}\r\n\r\n{"a": 2}\r{"a": 3}')] == [1, 3, 4]
    assert [r.line for r in read(tmp_path, '[\n {"a":\n 1},\n {"a": 2}\n]')] == [2, 4]
    assert [r.line for r in read(tmp_path, 'a\n"x\ny"\nz\n', "file.csv")] == [2, 4]


def test_a_broken_line_costs_only_itself(tmp_path: Path) -> None:
    found = read(tmp_path, '{"a": "x "y" z"}\n{"a": 1}\ngarbage\n{"a": 2\n{"a": 3} tail\n{"a": 4}\n')
    assert [(r.line, r.value, r.problem) for r in found] == [
        (1, None, "broken JSON"),
        (2, {"a": 1}, ""),
        (3, None, "broken JSON"),
        (4, None, "broken JSON"),
        (5, None, "broken JSON"),
        (6, {"a": 4}, ""),
    ]


def test_a_broken_object_of_a_pretty_printed_file_costs_only_itself(tmp_path: Path) -> None:
    objects = '{\n  "a": 1\n}\n{\n  "a": "x" "y",\n  "b": {\n    "c": 1\n  }\n}\n{\n  "a": 3\n}\n'
    found = read(tmp_path, objects)
    assert [(r.line, r.value, r.problem) for r in found] == [
        (1, {"a": 1}, ""),
        (4, None, "broken JSON"),
        (10, {"a": 3}, ""),
    ]
    inside = read(tmp_path, '[\n  {\n    "a": [{"n": 1 2}]\n  },\n  {\n    "a": 2\n  }\n]')
    assert [(r.line, r.problem) for r in inside] == [(2, "broken JSON"), (5, "")]


def test_a_truncated_array_keeps_what_is_whole(tmp_path: Path) -> None:
    found = read(tmp_path, '[\n{"a": 1},\n{"a": 2},\n{"a": ')
    assert [r.value for r in found] == [{"a": 1}, {"a": 2}, None]
    assert [r.detail for r in read(tmp_path, '[{"a": 1}')][1:] == ["the array has no end"]


@pytest.mark.parametrize(
    ("line", "problem", "detail"),
    [
        ("null", "not an object", "null"),
        ("12", "not an object", "number"),
        ('["a"]', "not an object", "array"),
        ('{"a": NaN}', "broken JSON", "NaN"),
        ('{"a": "\\ud800"}', "broken characters", "surrogate"),
        ('{"a": ' * 100_000, "broken JSON", "nested"),
    ],
)
def test_values_that_are_no_row_are_named(tmp_path: Path, line: str, problem: str, detail: str) -> None:
    bad, good = read(tmp_path, f'{{"a": 0}}\n{line}\n')[::-1]
    assert (bad.problem, good.value) == (problem, {"a": 0})
    assert detail in bad.detail


def test_an_emoji_in_escapes_is_no_broken_character(tmp_path: Path) -> None:
    assert read(tmp_path, r'{"a": "😀"}')[0].value == {"a": "😀"}


def test_csv_keeps_commas_and_new_lines_within_quotes(tmp_path: Path) -> None:
    found = read(tmp_path, 'ask,answer\r\n"头痛,发热","一\n二"\r\n只有一格\r\n好,吗\r\n'.encode("gb18030"), "qa.csv")
    assert [r.value for r in found] == [
        {"ask": "头痛,发热", "answer": "一\n二"},
        None,
        {"ask": "好", "answer": "吗"},
    ]
    assert found[1].detail == "1 cells under 2 column names"


def test_a_bad_byte_in_a_utf8_file_costs_one_row_and_not_its_encoding(tmp_path: Path) -> None:
    lines = [json.dumps({"a": f"第{i}行文字都是汉字"}, ensure_ascii=False).encode() for i in range(20)]
    lines[7] = lines[7].replace("都".encode(), b"\xff")
    found = read(tmp_path, b"\n".join(lines))
    assert [r.number for r in found if r.problem] == [8]
    assert found[7].problem == "broken characters"
    assert found[8].value == {"a": "第8行文字都是汉字"}


@pytest.mark.parametrize("data", [bytes(range(1, 256)) * 8, '{"a": "текст"}'.encode("koi8-r"), b"\x89PNG\0\0\xff\xfe"])
def test_an_unknown_encoding_is_one_line_that_says_what_to_do(tmp_path: Path, data: bytes) -> None:
    with pytest.raises(DataError, match=r"file\.json: unknown encoding: .*save it as UTF-8") as caught:
        read(tmp_path, data)
    assert "\n" not in str(caught.value)


def test_an_empty_file_has_no_records(tmp_path: Path) -> None:
    assert (
        read(tmp_path, b"") == [] == read(tmp_path, b"\xef\xbb\xbf") == read(tmp_path, b"[]") == read(tmp_path, b" \n")
    )


# --- blocks: boundaries may fall anywhere ---


@contextmanager
def block_size(size: int) -> Iterator[None]:
    before, archives.BLOCK = archives.BLOCK, size
    try:
        yield
    finally:
        archives.BLOCK = before


TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12) | st.sampled_from(
    ['"', "\\", '\\"', "a\r\nb", "\u2028", "\x85\x0b", "头痛，发热", "😀", "{", "}]", '":', "\ufeff", ",", " "]
)
VALUE: st.SearchStrategy[Any] = st.recursive(
    TEXT | st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=6,
)
OBJECTS = st.lists(st.dictionaries(TEXT, VALUE, max_size=4), min_size=1, max_size=6)
ENDS = st.sampled_from(["\n", "\r\n", "\r"])
MARKED = st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "utf-32"])


def pieces(objects: list[Any], shape: str, escaped: bool) -> list[str]:
    """The texts of a file with one record each, all but the first with what is between it and the one before."""
    indent = 2 if "pretty" in shape else None
    texts = [json.dumps(value, ensure_ascii=escaped, indent=indent) for value in objects]
    if shape == "jsonl":
        return [texts[0]] + ["\n" + text for text in texts[1:]]
    if "array" in shape:
        between = ",\n" if "pretty" in shape else ", "
        return ["[" + texts[0]] + [between + text for text in texts[1:]] + ["]"]
    return [texts[0]] + ["\n\n" + text for text in texts[1:]]


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    objects=OBJECTS,
    shape=st.sampled_from(["jsonl", "array", "array_pretty", "concatenated_pretty"]),
    end=ENDS,
    charset=MARKED,
    escaped=st.booleans(),
    block=st.integers(1, 40),
)
def test_reading_gives_back_exactly_what_was_written(
    objects: list[Any], shape: str, end: str, charset: str, escaped: bool, block: int
) -> None:
    parts = pieces(objects, shape, escaped)
    expected, line = [], 1
    for number, (part, value) in enumerate(zip(parts, objects, strict=False), start=1):
        start = len(part) - len(part.lstrip("\n, "))
        expected.append(Record(line + part[:start].count("\n"), number, value))
        line += part.count("\n")
    with tempfile.TemporaryDirectory() as folder, block_size(block):
        path = Path(folder, "file.json")
        path.write_bytes("".join(parts).replace("\n", end).encode(charset))
        assert list(records(data_file(path))) == expected


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    cells=st.lists(st.tuples(TEXT, TEXT), min_size=1, max_size=5),
    end=ENDS,
    charset=MARKED,
    block=st.integers(1, 40),
    delimiter=st.sampled_from([",", "\t"]),
)
def test_csv_gives_back_exactly_what_was_written(
    cells: list[tuple[str, str]], end: str, charset: str, block: int, delimiter: str
) -> None:
    text = io.StringIO(newline="")
    writer = csv.writer(text, delimiter=delimiter, lineterminator=end, quoting=csv.QUOTE_ALL)
    writer.writerow(["ask", "answer"])
    expected = []
    for number, row in enumerate(cells, start=1):
        line = 1 + len(text.getvalue().replace("\r\n", "\n").replace("\r", "\n").split("\n")) - 1
        expected.append(Record(line, number, dict(zip(("ask", "answer"), row, strict=True))))
        writer.writerow(row)
    with tempfile.TemporaryDirectory() as folder, block_size(block):
        path = Path(folder, "file.csv" if delimiter == "," else "file.tsv")
        path.write_bytes(text.getvalue().encode(charset))
        assert list(records(data_file(path))) == expected


BROKEN = st.sampled_from(
    [
        b'"',
        b"{",
        b"}",
        b"[",
        b"]",
        b",",
        b":",
        b"\n",
        b"\r",
        b"\xff",
        b"\xe4\xb8",
        b"\\",
        b"\\u12",
        b"NaN",
        b"-",
        b"\0",
        b"",
    ]
)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    shape=st.sampled_from(sorted(SHAPES)),
    end=ENDS,
    changes=st.lists(st.tuples(st.integers(0, 300), BROKEN), min_size=1, max_size=4),
    cut=st.integers(0, 300),
    block=st.integers(1, 40),
)
def test_broken_files_read_the_same_in_blocks_of_any_size(
    shape: str, end: str, changes: list[tuple[int, bytes]], cut: int, block: int
) -> None:
    data = SHAPES[shape].replace("\n", end).encode()
    for position, text in changes:
        data = data[: position % len(data)] + text + data[position % len(data) + 1 :]
    data = data[: max(1, len(data) - cut)]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "file.csv" if shape == "csv" else "file.json")
        path.write_bytes(data)
        outcomes: list[Any] = []
        for size in (1 << 20, block):
            with block_size(size):
                try:
                    outcomes.append(list(records(data_file(path))))
                except DataError as error:
                    outcomes.append(str(error))
    assert outcomes[0] == outcomes[1]
    if isinstance(outcomes[0], list):
        assert [record.number for record in outcomes[0]] == list(range(1, len(outcomes[0]) + 1))
        assert [record.line for record in outcomes[0]] == sorted(record.line for record in outcomes[0])


@settings(max_examples=500, deadline=None)
@given(
    pairs=st.lists(st.tuples(st.sampled_from("abc"), VALUE | TEXT.map(lambda text: text + "\\")), max_size=5),
    inner=st.lists(st.tuples(st.sampled_from(['"', "b", "\\"]), TEXT), max_size=3),
    blank=st.sampled_from(["", " ", "\t"]),
    escaped=st.booleans(),
)
def test_keys_that_occur_twice_are_always_found_and_others_never(
    pairs: list[tuple[str, Any]],
    inner: list[tuple[str, str]],
    blank: str,
    escaped: bool,
) -> None:
    def written(items: list[tuple[str, str]]) -> str:
        return "{" + ",".join(f"{json.dumps(key)}{blank}:{blank}{value}" for key, value in items) + "}"

    nested = written([(key, json.dumps(value)) for key, value in inner])
    text = written([*((key, json.dumps(value, ensure_ascii=escaped)) for key, value in pairs), ("d", f"[{nested}]")])
    twice = any(len({key for key, _ in items}) < len(items) for items in (pairs, inner))
    value, problem, _ = value_of(text.encode())
    assert problem == ("duplicate key" if twice else "")
    assert value == (None if twice else json.loads(text))
    assert value_of(text) == value_of(text.encode())


@pytest.mark.parametrize("block", [1, 2, 3, 7, 64])
@pytest.mark.parametrize("shape", SHAPES)
def test_gbk_does_not_depend_on_block_bounds(tmp_path: Path, shape: str, block: int) -> None:
    with block_size(block):
        found = read(tmp_path, SHAPES[shape].replace("\n", "\r\n").encode("gb18030"), f"f.{shape[:3]}")
    assert [(record.value, record.problem) for record in found] == [(row, "") for row in ROWS]


@pytest.mark.parametrize("size", [1, 2, 3, 10])
def test_chunks_cut_the_records_without_losing_or_renumbering_any(tmp_path: Path, size: int) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"a": 1}\n\n{"a": 2}\n{\n{"a": 4}\n', encoding="utf-8")
    made: list[reading.Chunk] = pickle.loads(pickle.dumps(list(chunks(data_file(path), size))))
    assert [len(chunk.items) for chunk in made] == [size] * (4 // size) + [4 % size] * bool(4 % size)
    found = [record for chunk in made for record in parse(chunk)]
    assert [(r.line, r.number, r.value) for r in found] == [
        (1, 1, {"a": 1}),
        (3, 2, {"a": 2}),
        (4, 3, None),
        (5, 4, {"a": 4}),
    ]


def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    row = json.dumps({"content": "类型#裙" * 20, "summary": "一" * 400}, ensure_ascii=False)
    files = {
        "lines.jsonl": "\n".join([row] * 20_000),
        "array.json": "[" + ", ".join([row] * 20_000) + "]",
        "table.csv": "ask,answer\n" + ('头痛,"' + "一" * 450 + '\n二"\n') * 20_000,
    }
    for name, text in files.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
        assert (tmp_path / name).stat().st_size > 25 << 20
    del files, text
    for name in ("lines.jsonl", "array.json", "table.csv"):
        tracemalloc.start()
        count = sum(len(chunk.items) for chunk in chunks(data_file(tmp_path / name)))
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert count >= 20_000
        assert peak < 24 << 20, name


# --- what the detected encoding is, and what it costs to be wrong ---


@pytest.mark.parametrize(
    ("charset", "name"),
    [("utf-8", "utf-8"), ("utf-8-sig", "utf-8"), ("utf-16-be", "utf-16-be"), ("gbk", "gb18030")],
)
def test_the_encoding_has_a_name(tmp_path: Path, charset: str, name: str) -> None:
    (tmp_path / "a.json").write_bytes('{"a": "头痛，发热三天"}'.encode(charset))
    assert encoding(data_file(tmp_path / "a.json")) == name


def test_a_gbk_byte_after_megabytes_of_utf8_costs_one_record(tmp_path: Path) -> None:
    line = json.dumps({"a": "汉字" * 50}, ensure_ascii=False).encode()
    found = read(tmp_path, b"\n".join([line] * 10_000 + [b'{"a": "\xba\xba"}', line]))
    assert [(r.line, r.problem) for r in found if r.problem] == [(10_001, "broken characters")]
    assert len(found) == 10_002


def test_one_bad_byte_does_not_cost_a_file_in_ascii(tmp_path: Path) -> None:
    lines = [b'{"a": "plain text"}'] * 1000
    lines[500] = b'{"a": "plain \xff text"}'
    assert [(r.line, r.problem) for r in read(tmp_path, b"\n".join(lines)) if r.problem] == [(501, "broken characters")]


def test_half_of_a_pair_in_utf16_is_lost_and_not_replaced(tmp_path: Path) -> None:
    text = '{"a": "好"}\n{"a": "X"}\n{"a": "😀"}'.encode("utf-16").replace(b"X\0", b"\x00\xd8")
    assert [(r.value, r.problem) for r in read(tmp_path, text)] == [
        ({"a": "好"}, ""),
        (None, "broken characters"),
        ({"a": "😀"}, ""),
    ]


# --- JSON that a parser would take, and should not ---


@pytest.mark.parametrize(
    "text",
    [
        '{"a": 1, "a": 2}',
        '{"a":1,"a":1}',
        '{"a" :1,"a":2}',
        '{"a": {"b": [{"c": 1, "c": "x"}]}}',
        '{"a": "\\"", "\\u0061": 2}',
        # backslashes before closing quotes look like escaped quotes: as many as the lost key and text have
        '{"x":"p\\\\","y":"q\\\\","c":1,"c":2}',
        '{"a":"x\\":","b":1,"b":1}',
    ],
)
@pytest.mark.parametrize("shape", ["%s", "[%s]", "[\n%s\n]", " %s {}"])
def test_a_key_that_occurs_twice_is_a_problem(tmp_path: Path, text: str, shape: str) -> None:
    found = read(tmp_path, shape % text)
    assert (found[0].value, found[0].problem) == (None, "duplicate key")
    assert found[0].detail.endswith("occurs 2 times")


@pytest.mark.parametrize(
    "text",
    ['{"a":"\\":\\":","b":"\\\\"}', '{"a" : "b : c" , "b":{"a":[{"a":"\\""}]}}', '{"":"","a":{}, "b":[[]]}', "{}"],
)
def test_keys_that_differ_are_none(tmp_path: Path, text: str) -> None:
    assert read(tmp_path, text) == [Record(1, 1, json.loads(text))]


@pytest.mark.parametrize(
    ("text", "problem", "detail"),
    [
        ('{"a": 1e999}', "broken JSON", "range"),
        ('{"a": [-Infinity]}', "broken JSON", "-Infinity is not JSON"),
        ('{"a": "x\ty"}', "broken JSON", "Invalid control character at, column 9"),
        ('{"a": "x" y}', "broken JSON", "Expecting ',' delimiter, column 11"),
        ('{"a": ' + "9" * 5000 + "}", "broken JSON", "5000 digits"),
        ('{"a": "\\udc00\\ud800"}', "broken characters", "surrogate"),
        ('{"a": ' + "[" * 300 + "]" * 300 + "}", "broken JSON", "nested too deeply"),
    ],
)
@pytest.mark.parametrize("shape", ['{"a": 0}\n%s\n{"a": 1}', '[{"a": 0},\n%s,\n{"a": 1}]'])
def test_values_that_cannot_be_kept_are_named(tmp_path: Path, shape: str, text: str, problem: str, detail: str) -> None:
    first, bad, last = read(tmp_path, shape % text)
    assert (bad.line, bad.value, bad.problem) == (2, None, problem)
    assert detail in bad.detail
    assert (first.value, last.value, last.line) == ({"a": 0}, {"a": 1}, 3)


def test_whole_numbers_stay_exact(tmp_path: Path) -> None:
    assert read(tmp_path, '{"id": 123456789012345678901234567890}')[0].value == {"id": 123456789012345678901234567890}


@pytest.mark.parametrize("shape", ["%s", "[%s]", "[\n%s\n]", '{"a": 1}\n%s'])
@pytest.mark.parametrize("deep", ['{"a":' * 100_000, "[" * 100_000, '{"a":[' * 100_000 + "]}" * 100_000])
def test_depth_without_end_is_a_problem_and_no_crash(tmp_path: Path, shape: str, deep: str) -> None:
    found = read(tmp_path, shape % deep)
    assert {r.problem for r in found if r.value is None} == {"broken JSON"}
    assert any("nested too deeply" in r.detail for r in found)


@pytest.mark.parametrize(
    "text", ["null", "12", '"text"', "true", '{"data": [{"a": 1}]}', '{\n "data": [\n{"a": 1}]\n}']
)
def test_a_top_level_that_is_no_list_of_rows_is_one_record(tmp_path: Path, text: str) -> None:
    value = json.loads(text)
    (found,) = read(tmp_path, text)
    assert (found.value, found.problem) == ((value, "") if isinstance(value, dict) else (None, "not an object"))


def test_files_that_were_put_behind_each_other_are_read_whole(tmp_path: Path) -> None:
    found = read(tmp_path, '[{"a": 1}]\n\n[{"a": 2},\n{"a": 3}]\n{"a": 4}')
    assert [(r.line, r.value, r.problem) for r in found] == [
        (1, {"a": 1}, ""),
        (3, {"a": 2}, ""),
        (4, {"a": 3}, ""),
        (5, {"a": 4}, ""),
    ]


def test_text_behind_an_array_is_named(tmp_path: Path) -> None:
    found = read(tmp_path, '[{"a": 1}]\n\nthe end')
    assert [(r.line, r.value, r.detail) for r in found] == [(1, {"a": 1}, ""), (3, None, "text behind the array's end")]


def test_objects_with_commas_but_no_brackets_are_all_read(tmp_path: Path) -> None:
    assert [r.value for r in read(tmp_path, '{"a": 1},\n{"a": 2},\n')] == [{"a": 1}, {"a": 2}]


def test_a_record_without_end_takes_no_memory_without_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_stream, "LONGEST", 1000)
    monkeypatch.setattr(stream, "LONGEST_LINE", 1000)
    long = json.dumps({"a": "x" * 5000})
    with block_size(64):
        array = read(tmp_path, f'[\n{{"a": 1}},\n{long},\n{{"a": 3}}]')
        lines = read(tmp_path, f'{{"a": 1}}\n{long}\n{{"a": 3}}\n{long}')
    assert [(r.line, r.value) for r in array] == [(2, {"a": 1}), (3, None), (4, {"a": 3})]
    assert array[1].detail == "longer than 1,000 characters"
    assert [(r.line, r.value) for r in lines] == [(1, {"a": 1}), (2, None), (3, {"a": 3}), (4, None)]
    assert lines[1].detail == "a line longer than 1,000 bytes"


# --- CSV ---


def test_a_quote_that_is_never_closed_costs_its_own_row(tmp_path: Path) -> None:
    rows = "".join(f"问{i},答{i}\n" for i in range(3, 100))
    found = read(tmp_path, f'ask,answer\n问1,答1\n问2,"答2\n{rows}', "a.csv")
    assert [(r.line, r.problem) for r in found if r.problem] == [(3, "broken CSV")]
    assert [r.value["ask"] for r in found if not r.problem] == ["问1", *(f"问{i}" for i in range(3, 100))]
    assert [r.line for r in found] == list(range(2, 101))


def test_a_quote_that_the_next_quoted_row_closes_swallows_no_rows(tmp_path: Path) -> None:
    found = read(tmp_path, 'ask,answer\na,"b\nc,d\ne,f\n"g","h"\ni,"j\nk"\n', "a.csv")
    assert [(r.line, r.value and list(r.value.values())) for r in found] == [
        (2, None),
        (3, ["c", "d"]),
        (4, ["e", "f"]),
        (5, ["g", "h"]),
        (6, ["i", "j\nk"]),
    ]


def test_a_broken_row_of_several_lines_is_one_record(tmp_path: Path) -> None:
    found = read(tmp_path, 'ask,answer\na,"first\nsecond\nthird" tail\nb,c\n', "a.csv")
    assert [(r.line, r.problem) for r in found] == [(2, "broken CSV"), (5, "")]


def test_long_cells_are_read_and_endless_ones_are_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = read(tmp_path, f"ask,answer\na,{'长' * 200_000}\nb,c\n", "a.csv")
    assert [len(r.value["answer"]) for r in found] == [200_000, 1]
    monkeypatch.setattr(csv_stream, "LONGEST_CELL", 1000)
    monkeypatch.setattr(csv_stream, "LONGEST_LINE", 2000)
    with block_size(64):
        found = read(tmp_path, f"ask,answer\na,{'长' * 5000}\nb,c\n", "a.csv")
    assert [(r.line, r.problem) for r in found] == [(2, "broken CSV"), (3, "")]


@pytest.mark.parametrize(("header", "why"), [("ask,ask", "more than once: ask"), ('"a"b,c', "column names is broken")])
def test_a_header_that_cannot_be_used_is_an_error_with_its_line(tmp_path: Path, header: str, why: str) -> None:
    with pytest.raises(DataError, match=rf"a\.csv:2: .*{why}"):
        read(tmp_path, f"\n{header}\n1,2\n", "a.csv")


def test_a_text_file_is_a_table_or_json_by_its_content(tmp_path: Path) -> None:
    assert read(tmp_path, "ask\tanswer\n1,5\t2\n", "a.txt")[0].value == {"ask": "1,5", "answer": "2"}
    assert read(tmp_path, "ask,answer\n1,2\n", "a.txt")[0].value == {"ask": "1", "answer": "2"}
    assert read(tmp_path, '{"a": 1}\n', "a.txt")[0].value == {"a": 1}
    assert read(tmp_path, "null\n", "a.txt")[0].problem == "not an object"


# --- packed files ---


def packed(tmp_path: Path, kind: str, data: bytes, name: str) -> DataFile:
    if kind == "gzip":
        path = tmp_path / f"{name}.gz"
        path.write_bytes(gzip.compress(data))
        return data_file(path)
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED if kind == "deflated" else zipfile.ZIP_STORED) as archive:
        archive.writestr("other.json", "[]")
        archive.writestr(f"in/{name}", data)
    return data_file(path, f"in/{name}")


@pytest.mark.parametrize("kind", ["gzip", "deflated", "stored"])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("block", [1, 7, 1 << 20])
def test_packed_files_are_read_like_plain_ones(tmp_path: Path, kind: str, shape: str, block: int) -> None:
    file = packed(tmp_path, kind, SHAPES[shape].encode("gb18030"), "file.csv" if shape == "csv" else "file.json")
    with block_size(block):
        assert [record.value for record in records(file)] == ROWS


def test_gzip_is_known_by_its_bytes_and_may_have_several_members(tmp_path: Path) -> None:
    data = gzip.compress(b'{"a": 1}\n{"a"') + gzip.compress(b": 2}\n") + b"\0" * 512
    assert [r.value for r in read(tmp_path, data)] == [{"a": 1}, {"a": 2}]


@pytest.mark.parametrize("kind", ["gzip", "deflated", "stored"])
@pytest.mark.parametrize("shape", ["jsonl", "array", "csv"])
def test_what_comes_before_damage_is_kept(tmp_path: Path, kind: str, shape: str) -> None:
    rows = [{"a": f"{i * 7919 % 10007}", "b": f"第{i}行"} for i in range(2000)]
    text = {
        "jsonl": "".join(json.dumps(row) + "\n" for row in rows),
        "array": json.dumps(rows, indent=0),
        "csv": "a,b\n" + "".join(f"{row['a']},{row['b']}\n" for row in rows),
    }[shape]
    file = packed(tmp_path, kind, text.encode(), "file.csv" if shape == "csv" else "file.json")
    data = bytearray(file.path.read_bytes())
    if kind == "gzip":
        del data[len(data) // 2 :]
    else:
        data[len(data) // 2] ^= 0xFF
    file.path.write_bytes(data)
    *kept, last = list(records(file))
    assert (last.problem, last.number) == ("broken gzip" if kind == "gzip" else "broken zip", len(kept) + 1)
    assert [r.value for r in kept[:800]] == rows[:800]
    if kind == "gzip":  # cut off: nothing wrong before; a byte that is wrong in a zip may unpack to anything
        assert [r.value for r in kept] == rows[: len(kept)]
        assert last.line >= kept[-1].line


def test_a_wrong_checksum_keeps_every_record(tmp_path: Path) -> None:
    data = bytearray(gzip.compress(b'{"a": 1}\n{"a": 2}\n'))
    data[-8] ^= 1
    assert [(r.line, r.value, r.problem) for r in read(tmp_path, bytes(data))] == [
        (1, {"a": 1}, ""),
        (2, {"a": 2}, ""),
        (2, None, "broken gzip"),
    ]


def test_a_gzip_file_that_ends_within_its_first_record_is_one_problem(tmp_path: Path) -> None:
    found = read(tmp_path, gzip.compress(b'{"a": 1}')[:10])
    assert [(r.line, r.number, r.problem) for r in found] == [(1, 1, "broken gzip")]


def test_a_packed_file_is_unpacked_in_bounded_memory(tmp_path: Path) -> None:
    file = packed(tmp_path, "gzip", (b'{"a": "' + b"x" * 100_000 + b'"}\n') * 600, "bomb.json")
    assert file.path.stat().st_size < 1 << 20
    tracemalloc.start()
    count = sum(chunk.count for chunk in chunks(file))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count == 600
    assert peak < 24 << 20


def test_files_that_cannot_be_opened_are_one_line(tmp_path: Path) -> None:
    (tmp_path / "loop.json").symlink_to(tmp_path / "loop.json")
    (tmp_path / "a.zip").write_bytes(b"PK\x03\x04" + b"\0" * 100)
    for file in (data_file(tmp_path / "loop.json"), data_file(tmp_path), data_file(tmp_path / "none.json")):
        with pytest.raises(DataError, match=r"cannot be read \(\w.*\)$"):
            list(records(file))
    with pytest.raises(DataError, match=r"a\.zip: a broken zip archive \(.*\)$"):
        list(records(data_file(tmp_path / "a.zip", "b.json")))


# --- real files ---


def test_counts_of_real_files(shared: Path) -> None:
    """Records and problems, as counted with a plain json.loads a line (or json.load, csv.DictReader)."""
    expected = {
        "advertisegen/dev.json": (1070, 0),
        "advertisegen/train_subset_caixiaomao.json": (5000, 0),
        "promptcblue/labelled/CHIP-CDN-2000.json": (2000, 0),
        "promptcblue/labelled/CHIP-CTC-822.json": (821, 0),
        "promptcblue/official_test_inputs/test_inputs.json": (10320, 0),
        "triples/spo_train.json": (1441, 0),
        "medical/toyhom/样例_内科5000-6000.csv": (7644, 0),
    }
    found = {}
    for name in expected:
        read_records = list(records(data_file(shared / "data" / name)))
        found[name] = (len(read_records), sum(bool(record.problem) for record in read_records))
    assert found == expected
