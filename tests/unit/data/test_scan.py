"""The final scan, the labelled set that it is measured on, and the measures."""

from __future__ import annotations

import importlib.util
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tasks.data.personal_data.quality import false_hits, left_over, load_cases, measure, table
from tasks.data.personal_data.redaction import KINDS
from tasks.data.personal_data.scan import Finding, scan

GOLDEN = Path(__file__).parents[2] / "golden"
CASES = GOLDEN / "redaction.jsonl"


@pytest.fixture(scope="module")
def cases() -> list[dict[str, Any]]:
    return load_cases(CASES)


@pytest.fixture(scope="module")
def generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_redaction", GOLDEN / "make_redaction.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def kinds(*messages: str, names: Sequence[str] = (), allow: Sequence[str] = ()) -> list[str]:
    return [finding.kind for finding in scan(messages, names, allow)]


# -- the labelled set
def test_the_labelled_set_is_what_its_generator_makes(cases: list[dict[str, Any]], generator: ModuleType) -> None:
    assert list(generator.cases()) == cases


def test_every_span_lies_inside_its_message_and_begins_and_ends_with_the_value(cases: list[dict[str, Any]]) -> None:
    for case in cases:
        for gold in case["gold"]:
            message = case["messages"][gold["message"]]
            assert 0 <= gold["start"] < gold["end"] <= len(message), case["id"]
            value = message[gold["start"] : gold["end"]]
            assert value == value.strip() and not set("，。：「」") & {value[0], value[-1]}, case["id"]


def test_the_set_is_large_enough_for_every_kind_and_two_fifths_have_no_personal_data(
    cases: list[dict[str, Any]],
) -> None:
    count = Counter(gold["kind"] for case in cases for gold in case["gold"])
    assert set(count) == set(KINDS) and min(count.values()) >= 30
    assert count["id_card"] >= 80 and count["bank_card"] >= 80
    assert len(cases) >= 700
    assert 0.38 <= sum(not case["gold"] for case in cases) / len(cases) <= 0.45


def test_check_digits_of_the_generator_agree_with_published_examples(generator: ModuleType) -> None:
    assert generator.identity_check("11010519491231002") == "X"  # the example in GB 11643-1999
    assert generator.identity_check("44052418800101001") == "4"  # its other example
    assert generator.luhn_check("7992739871") == "3"  # the usual worked example of the Luhn test


# -- the scan on it
@pytest.mark.parametrize("kind", ["id_card", "bank_card", "mobile", "email"])
def test_clear_kinds_are_found_in_the_labelled_set(kind: str) -> None:
    row = measure(CASES, scan)["kinds"][kind]
    assert row["recall"] >= 0.99 and row["precision"] >= 0.99


def test_nothing_without_personal_data_is_reported() -> None:
    assert measure(CASES, scan)["false"] == []


# -- the scan by itself
def test_a_finding_gives_the_place_in_its_message() -> None:
    assert scan(["你好", "号码是１３８－００１３　８０００。"]) == [Finding("mobile", 1, 3, 16)]


def test_a_number_that_goes_on_in_the_next_message_is_found_in_both() -> None:
    assert scan(["先记1380013", "8000，回头打"]) == [Finding("mobile", 0, 2, 9), Finding("mobile", 1, 0, 4)]
    assert kinds("共1380013例", "8000例") == []


def test_a_card_told_in_two_messages_is_found_in_both() -> None:
    assert scan(["前14位是11010519491231", "嗯", "后四位0021"]) == []
    assert scan(["前14位是11010519491231", "嗯", "后4位002X"]) == []  # a letter as the last piece is the redaction's
    assert kinds("前12位是110101199003", "嗯", "后6位071014") == ["id_card", "id_card"]
    assert kinds("先发前半段6222020200", "后半段112345679你拼一下") == ["bank_card", "bank_card"]
    assert kinds("订单号6222020200", "后半段112345679") == []


def test_placeholders_are_never_reported() -> None:
    words = ("手机号", "微信号", "QQ号", "姓名", "邮箱", "IP地址", "地址", "身份证号")
    assert kinds("，".join(f"{word}[{word}:kdqfwx]" for word in words)) == []
    assert kinds("微信：[微信号:kdqfwx]", "[手机号:abcdef]12345") == []


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("身份证11010519491231002x", "id_card"),
        ("１１０１０５　１９４９１２３１　００２Ｘ", "id_card"),
        ("卡号4111 1111 1111 1111", "bank_card"),
        ("٠ 卡4111111111111111", "bank_card"),
        ("①打13800138000", "mobile"),
        ("①13800138000", "mobile"),
        ("138 0013 8000 139 0013 9000", "mobile mobile"),
        ("打+86 138 0013 8000", "mobile"),
        ("转到622202 02001 123456 79就行", "bank_card"),
        ("【622 202-02001 12 34-56 79】", "bank_card"),
        ("信箱a.b@example.com。", "email"),
        ("2001:db8:85a3::8a2e:370:7334上线", "ip"),
    ],
)
def test_clear_forms_are_reported(text: str, kind: str) -> None:
    assert kinds(text) == kind.split()


@pytest.mark.parametrize(
    "text",
    [
        "身份证110105194912310021",  # wrong check digit
        "身份证110105194913310021",  # month 13
        "卡号4111 1111 1111 1112",
        "3.13800138000",
        "A13800138000B",
        "113800138000",
        "运单号13800138000",
        "12:30:45:10",
        "std::vector::push_back",
        "@张三 明天见",
        "pip install a@1.2.3",
        "国药准字H20153130",
        "在新华路上走了15号",
        "检查继电器电路85号86号线路，10号室",
        "642 134.1782 495 1674 1383 8847 9474 420 138 1234 5678 99",
        "171.6259\n2928",
        '"grad_norm": 1.4586433172225952,',
        "bind 127.0.0.1:8002",
        "版本 10.12.200.1",
        "微信android版",
        "订单号622202 02001 123456 79",
        "转到622202 02001 123456 70就行",
        "合同编号HT-2023-0571-87654321盖章后寄回",
        "No.13800138000",
        "快递已到 13800138000",
        "价格 6222020200112345679元",
    ],
)
def test_look_alikes_are_not_reported(text: str) -> None:
    assert kinds(text) == []


def test_names_are_whole_words_when_they_are_latin() -> None:
    assert kinds("Tom说Tomorrow再来", names=["Tom"]) == ["name"]
    many = [f"无此人{i}" for i in range(50)]
    assert kinds("林晚秋说好", names=[*many, "林晚秋"]) == ["name"]
    assert kinds("大家说好", names=[*many, "林晚秋"]) == []


def test_an_allowed_value_is_not_reported_however_it_is_written() -> None:
    text = "打１３８－００１３－８０００或13900139000"
    assert kinds(text, allow=["138 0013 8000"]) == ["mobile"]
    assert kinds(text) == ["mobile", "mobile"]


@pytest.mark.parametrize(
    "text",
    [
        "1\u200b" * 50_000,
        "1 " * 5_000,
        "1." * 5_000,
        "@" * 50_000,
        ":" * 50_000,
        "a:" * 20_000,
        "[" * 50_000,
        "微信:" * 20_000,
        "路1号" * 5_000,
        "\ud800138\udfff0013",
        "\x1e\x1f\x00",
    ],
)
def test_hostile_texts_come_to_an_end_without_a_finding(text: str) -> None:
    assert kinds(text, text[:10], names=[""]) == []


def test_real_medical_text_gives_no_finding(shared: Path) -> None:
    texts = []
    for path in sorted((shared / "data/promptcblue/labelled").glob("*.json")):
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
        texts += [f"{row['input']}\n{row['target']}" for row in rows]
    assert len(texts) == 19425
    assert false_hits(texts, scan) == {}


# -- the measures
def test_what_a_detector_misses_is_left_over_for_the_scan(tmp_path: Path) -> None:
    case = {"id": "a", "messages": ["13800138000或a@b.com"], "names": [], "gold": [], "note": "n"}
    path = tmp_path / "cases.jsonl"
    path.write_text(json.dumps(case), encoding="utf-8")
    assert left_over(path, lambda messages, names: [Finding("mobile", 0, 0, 11)]) == [
        {"kind": "email", "id": "a", "note": "n"}
    ]
    assert left_over(path, scan) == []


def test_measures_count_by_hand(tmp_path: Path) -> None:
    gold = [{"kind": "mobile", "message": 0, "start": 0, "end": 4}, {"kind": "qq", "message": 1, "start": 2, "end": 6}]
    lines = [
        {"id": "a", "messages": ["1234", "ab5678"], "names": [], "gold": gold, "note": "n"},
        {"id": "b", "messages": ["1234"], "names": [], "gold": [], "note": "none"},
    ]
    path = tmp_path / "cases.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")

    def detector(messages: Sequence[str], names: Sequence[str]) -> list[Finding]:
        """One span whole but of another kind, in two hits; the other span in part."""
        spans = [Finding("qq", 0, 0, 2), Finding("qq", 0, 2, 4), Finding("qq", 1, 2, 5)]
        return spans if len(messages) == 2 else [Finding("plate", 0, 0, 1)]

    result = measure(path, detector)
    assert result["kinds"]["mobile"] | {"recall": 1.0} == {
        "gold": 1, "found": 1, "same_kind": 0, "hits": 0, "right": 0, "false": 0, "recall": 1.0, "precision": None,
    }  # fmt: skip
    assert result["kinds"]["qq"]["recall"] == 0 and result["kinds"]["qq"]["precision"] == 1
    assert result["missed"] == [{"kind": "qq", "id": "a", "note": "n"}]
    assert result["false"] == [{"kind": "plate", "id": "b", "note": "none"}]
    assert (result["cases"], result["negatives"]) == (2, 1)
    assert "plate" in table(result)
    assert false_hits(["1"] * 4, lambda messages, names: [Finding("ip", 0, 0, 1)]) == {"ip": 1000.0}
