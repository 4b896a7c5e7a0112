"""Encodings, line ends and shapes of files; a broken record costs only itself."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tasks.data.reading import Record, records
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
    return list(records(path))


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "gb18030"])
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
