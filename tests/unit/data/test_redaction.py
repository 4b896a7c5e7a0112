"""Personal data: what is found where, what is left alone, and that pseudonyms are steady. All data here is made up."""

from __future__ import annotations

import json
import re
import stat
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.data.personal_data.detectors.folding import Dialogue, fold
from tasks.data.personal_data.detectors.hint import HINT
from tasks.data.personal_data.redaction import (
    KEY_FILE,
    KEY_VARIABLE,
    KINDS,
    PLACEHOLDER,
    Hit,
    Redactor,
    load_key,
    usable_names,
)
from tasks.errors import ConfigError

KEY = b"a key of the tests, thirty-two b"
REDACTOR = Redactor(KEY)


def found(text: str, redactor: Redactor = REDACTOR) -> list[tuple[str, str]]:
    """(kind, the original text of the span) of each hit in a single message."""
    return [(hit.kind, text[hit.start : hit.end]) for hit in redactor.find([text])]


# Each text marks what must be found with 【】; check digits were computed by hand or are the standards' own examples.
POSITIVE = [
    ("mobile", "打我【13800138000】"),
    ("mobile", "我手机是【１３８００１３８０００】哦"),
    ("mobile", "【138.0013.8000】"),
    ("mobile", "【138—0013—8000】"),
    ("mobile", "【1 3 8 0 0 1 3 8 0 0 0】"),
    ("mobile", "【１３８　００１３　８０００】"),
    ("mobile", "【138\u200b0013\u200b8000】"),
    ("mobile", "【（+86）13800138000】"),
    ("mobile", "【0086-13800138000】"),
    ("mobile", "【+86 138 0013 8000】"),
    ("mobile", "【幺三八零零幺三八零零零】记一下"),
    ("mobile", "【一三八，零零一三，八零零零】"),
    ("mobile", "【1️⃣3800138000】"),
    ("mobile", "tel:【13800138000】"),
    ("mobile", "【13800138000】VX同号"),
    ("mobile", "1.【13800138000】是我妈的"),
    ("mobile", "快递小哥【13800138000】"),
    ("mobile", "订单有问题打【13800138000】"),
    ("mobile", "【138\n00138000】"),
    ("mobile", "联系方式【13 80 01 38 000】"),
    ("landline", "【010-62345678】"),
    ("landline", "【(0571)87654321转801】"),
    ("landline", "座机【02162345678】"),
    ("landline", "办公室电话 【62345678】"),
    ("landline", "【０２１－６２３４５６７８】"),
    ("landline", "【+86 10 6234 5678】"),
    ("landline", "【0 1 0 6 2 3 4 5 6 7 8】"),
    ("id_card", "身份证：【11010519491231002X】"),
    ("id_card", "【110105 19491231 002x】"),
    ("id_card", "【１１０１０５１９４９１２３１００２Ｘ】"),
    ("id_card", "身份证号【110105491231002】"),
    ("id_card", "【一一零一零五一九四九一二三一零零二X】"),
    ("bank_card", "卡号【6222 0200 0000 0000 000】"),
    ("bank_card", "【4111-1111-1111-1111】"),
    ("bank_card", "工行【６２２２０２０００００００００００００】"),
    ("email", "发到【abc@qq.com】吧"),
    ("email", "【ａｂｃ＠１６３．ｃｏｍ】"),
    ("email", "【zhang.san_88@mail.example.edu.cn】"),
    ("email", "【abc at qq dot com】"),
    ("email", "【abc#qq.com】"),
    ("qq", "QQ【12345678】"),
    ("qq", "ＱＱ号是：【１２３４５６７】"),
    ("qq", "加我Q 【12345678】"),
    ("qq", "【12345678】是我QQ"),
    ("qq", "扣扣换了，新的是【12345678】"),
    ("wechat", "微信号：【zhangsan_88】"),
    ("wechat", "加vx 【abc12345】"),
    ("wechat", "微信搜【ｌｉｓｉ９５２７】"),
    ("wechat", "【wxid_abc123def456gh】"),
    ("wechat", "微信【12345678】"),
    ("plate", "车牌【京A12345】"),
    ("plate", "【粤B·D12345】"),
    ("plate", "【浙Ａ·８Ｋ６６６】"),
    ("plate", "【粤Z1234港】"),
    ("passport", "护照【E12345678】"),
    ("passport", "【EA1234567】"),
    ("passport", "通行证【C12345678】"),
    ("ip", "登录IP：【192.168.1.100】"),
    ("ip", "【１９２．１６８．１．１】"),
    ("ip", "【fe80::1ff:fe23:4567:890a】"),
    ("address", "我住在【北京市朝阳区建国路88号】"),
    ("address", "【浙江省杭州市西湖区文三路123号华星大厦A座1203室】"),
    ("address", "家住【阳光花园3栋2单元501】"),
    ("address", "【长安街一号】"),
    ("address", "【五一路168號3樓】"),
    ("address", "【国贸三期B座2105】"),
    ("ip", "连不上【47.98.12.5】"),
    ("landline", "電話：【87654321】"),
    ("address", "【李家村１２号】"),
    ("bank_card", "工资卡【4111.1111.1111.1111】"),
    ("bank_card", "【6222·0200·0000·0000·000】"),
    ("bank_card", "【6222／0200／0000／0000／000】"),
    ("bank_card", "【4111：1111：1111：1111】"),
    ("ip", "IP【fe80::1】"),
    ("ip", "换成ＩＰ【２４０８：８２０７::9】就行"),
    ("ip", "路由器的【240e:3a1:2:3:4:5:6:7】断了"),
    ("ip", "IPv6:【2409:8a00:1::】"),
    ("ip", "日志里是【::ffff:10.20.30.40】呢"),
    ("ip", "ping 【fe80::a:1%eth0】不通"),
    ("ip", "从IPv4【172.16.254.3】连过来"),
    ("mobile", "前面是【166205】，后面【71384】"),
    ("qq", "【87654321】这是我的QQ号"),
    ("qq", "记这个 【23456789】（QQ）"),
    ("qq", "【23456789】，我的QQ"),
    ("wechat", "【li_lei99】 这是我微信"),
    ("wechat", "【hanmei-2001】（微信）"),
    ("wechat", "【xiaoliu777】，加我vx"),
    ("plate", "新车牌【新B20815】"),
    ("plate", "门口那台【新B·20815】"),
    ("plate", "【新B6Q815】停这里"),
    ("bank_card", "转到【622202 02001 123456 79】就行"),
    ("bank_card", "【622 202-02001 12 34-56 79】收到回我"),
    ("bank_card", "我记的是【621700-1-2345-67893】，对吗"),
    ("address", "到【青岛市市南区香港中路88号】取"),
    ("address", "到【渝中区民生路8号附2号】 取"),
]
NEGATIVE = {
    "an order number": "订单号13800138000",
    "a courier's number": "快递单号 1380013800012，运单：SF1380013800012",
    "a record's number": "住院号：13800138000，编号18612345678，id: 13912345678",
    "a dose": "每次0.5mg，口服阿莫西林0.25g*24粒",
    "an amount": "一共13800元，13800138000.00元",
    "a time": "2023-11-12 13:45:56，1699999999999",
    "years": "2010-2020年",
    "laboratory values": "白细胞 13.8 10.0 12，血压138 80",
    "a diagnosis code": "ICD J45.901，T1N0M0，V2导联",
    "references": "PMID 12345678，doi:10.1002/13800138000，NCT01234567",
    "a link": "www.abc.com/13800138000.html",
    "a drug's approval number": "国药准字H20013456",
    "a version": "版本1.2.3.4，v10.0.19041.1",
    "a wrong check digit": "身份证110105194912310021",
    "an impossible date": "身份证11010519491331002X",
    "a card number that fails Luhn": "卡号6222020000000000001",
    "a longer number": "12345678901234567890",
    "music, not an account": "QQ音乐 2023，qq飞车10000，QQ空间2019年",
    "WeChat's own products": "微信支付100，微信公众号健康，微信 Android",
    "a company": "京东A12345，400-820-8820",
    "a town": "北京市朝阳区，上海市浦东新区",
    "numbered groups": "第3组第2号，糖尿病组12号患者",
    "a day": "回村8号走，上街8号见",
    "a new diagnosis, with its code": "新C50900，乳腺新D24.100，新S82001骨折",
    "an identity card with a wrong check digit, in groups": "320106 19971231 002X，320106-1997-1231-0021",
    "a card with a wrong check digit, in groups": "6217 0531 8765 4321 009，6217-0210-6234-5678",
    "a wrong identity card's number that a bank could have given": "卡号620102199001011008，62010219900101 1008",
    "a reference": "Lancet，2006，130：1466-1466",
    "a time, a ratio, a namespace": "12:30:45，1:2:3，std::vector，a::b，比例1::2",
    "a MAC address": "设备00:1A:2B:3C:4D:5E",
    "what is done with an app": "abc_123发到QQ音乐，12345678 QQ空间，v2_final 微信群",
    "halves of something else": "订单前面是166205，后面71384；买了138斤，后面又买12345678斤",
    "a card in uneven groups with a wrong check digit": "转到622202 02001 123456 70就行",
    "an order in uneven groups": "订单号622202 02001 123456 79",
    "values whose digits could be a card's": "62 22 02 02 00 11 23 45 679",
    "numbered things": "地铁3号线，3号楼，第3病区12床，尿路1号，消化道2号",
}


@pytest.mark.parametrize(("kind", "marked"), POSITIVE)
def test_personal_data_is_found_at_its_original_place(kind: str, marked: str) -> None:
    expected = re.findall("【(.*?)】", marked, re.DOTALL)
    assert found(marked.replace("【", "").replace("】", "")) == [(kind, text) for text in expected]


@pytest.mark.parametrize("text", NEGATIVE.values(), ids=NEGATIVE.keys())
def test_what_only_looks_like_personal_data_stays(text: str) -> None:
    assert found(text) == []


def test_every_kind_has_an_example() -> None:
    assert {kind for kind, _ in POSITIVE} | {"name"} == set(KINDS)


@pytest.mark.parametrize(
    ("messages", "pieces", "kind", "value"),
    [
        (["我的号是138", "12345678"], ["138", "12345678"], "mobile", "13812345678"),
        (["1381234 ", "５６７８，记一下"], ["1381234", "５６７８"], "mobile", "13812345678"),
        (["号码", "138", "1234", "5678哈"], ["138", "1234", "5678"], "mobile", "13812345678"),
        (["110105", "19491231002", "x"], ["110105", "19491231002", "x"], "id_card", "11010519491231002X"),
        (["6222020000", "000000000"], ["6222020000", "000000000"], "bank_card", "6222020000000000000"),
        (["我QQ是1234", "5678"], ["1234", "5678"], "qq", "12345678"),
        (["发我邮箱zhangsan@", "qq.com"], ["zhangsan@", "qq.com"], "email", "zhangsan@qq.com"),
        (["0571", "87654321"], ["0571", "87654321"], "landline", "057187654321"),
        (["166205", "71384"], ["166205", "71384"], "mobile", "16620571384"),
        (["前面是166205", "后面71384"], ["166205", "71384"], "mobile", "16620571384"),
        (["先记166205啊", "后5位是71384，别忘了"], ["166205", "71384"], "mobile", "16620571384"),
        (["23456789", "这是我QQ"], ["23456789"], "qq", "23456789"),
        (["li_lei99", "我的微信"], ["li_lei99"], "wechat", "li_lei99"),
        (["前14位是11010519491231", "后四位002X"], ["11010519491231", "002X"], "id_card", "11010519491231002X"),
        (
            ["证件号：110105194912", "嗯", "剩下的 31002x哦"],
            ["110105194912", "31002x"],
            "id_card",
            "11010519491231002X",
        ),
        (["我分2段发 110105 19491231002", "最后1位是X"], ["110105 19491231002", "X"], "id_card", "11010519491231002X"),
        (
            ["先发前半段6222020200", "后半段112345679你拼一下"],
            ["6222020200", "112345679"],
            "bank_card",
            "6222020200112345679",
        ),
        (
            ["卡是622202020011234啊", "嗯嗯", "后4位5679"],
            ["622202020011234", "5679"],
            "bank_card",
            "6222020200112345679",
        ),
    ],
)
def test_a_number_split_over_messages_gives_a_hit_in_each(
    messages: list[str], pieces: list[str], kind: str, value: str
) -> None:
    hits = REDACTOR.find(messages)
    assert [messages[h.message][h.start : h.end] for h in hits] == pieces
    assert {(h.kind, h.value) for h in hits} == {(kind, value)}


def test_the_first_piece_becomes_the_placeholder_and_no_message_is_left_empty() -> None:
    mark = REDACTOR.placeholder("mobile", "13812345678")
    texts, counts = REDACTOR.redact(["号是138", "1234", "5678，记一下"])
    assert texts == [f"号是{mark}", mark, "，记一下"]
    assert counts == {"mobile": 1}


def test_an_account_is_found_in_the_answer_to_the_question_for_it() -> None:
    assert REDACTOR.find(["你QQ多少", "12345678"]) == [Hit("qq", 1, 0, 8, "12345678")]
    assert REDACTOR.find(["微信号发我", "lisi_9527"]) == [Hit("wechat", 1, 0, 9, "lisi_9527")]
    assert REDACTOR.find(["考了多少", "12345678"]) == []


def test_a_wrong_identity_card_split_over_messages_is_no_phone_number() -> None:
    assert REDACTOR.find(["320106", "19971231", "002X"]) == []
    assert [hit.value for hit in REDACTOR.find(["310000", "0571-87654321"])] == ["057187654321"]


def test_the_words_between_two_told_halves_stay() -> None:
    mark = REDACTOR.placeholder("mobile", "16620571384")
    texts, _ = REDACTOR.redact(["前面是166205", "后面71384"])
    assert texts == [f"前面是{mark}", f"后面{mark}"]


@pytest.mark.parametrize(
    "messages",
    [
        ["前14位是11010519491231", "后四位0021"],
        ["前14位是11010519491231", "嗯", "好的", "后四位002X"],
        ["先发前半段6222020200", "后半段112345670"],
        ["订单号6222020200", "后半段112345679"],
        ["一共6222020200", "又来112345679"],
        ["先发前半段622202020011234", "后来花了5679元"],
    ],
)
def test_pieces_that_are_no_card_stay(messages: list[str]) -> None:
    assert REDACTOR.find(messages) == []


def test_the_words_around_a_card_told_in_pieces_stay() -> None:
    mark = REDACTOR.placeholder("id_card", "11010519491231002X")
    texts, _ = REDACTOR.redact(["前14位是11010519491231", "嗯", "后四位002X"])
    assert texts == [f"前14位是{mark}", "嗯", f"后四位{mark}"]


def test_placeholders_of_another_tool_stay() -> None:
    texts = ["加我[微信号:kdqfwx]，[QQ号:aeiouv]", "手机[手机号:ABCDEF]吗，[姓名:annabc]"]
    assert Redactor(KEY, names=["annabc"]).redact(texts) == (texts, {})


def test_two_whole_numbers_in_neighbouring_messages_are_two() -> None:
    values = [hit.value for hit in REDACTOR.find(["13800138000", "13900139000", "1"])]
    assert values == ["13800138000", "13900139000"]


def test_offsets_survive_characters_that_grow_or_vanish() -> None:
    text = "㈱\u200b½①：[手机号:bcdfgh]﷽13800138000"  # NFKC: (株), nothing, 1⁄2, 1, 18 characters
    assert found(text) == [("mobile", "13800138000")]
    dialogue = Dialogue(["ab", "㈱x"])
    (piece,) = dialogue.pieces(dialogue.text.index("x"), dialogue.text.index("x") + 1)
    assert (piece.message, piece.start, piece.end) == (1, 1, 2)


def test_equal_values_in_different_writing_share_a_placeholder() -> None:
    texts, _ = REDACTOR.redact(["13800138000", "＋８６ １３８-００１３-８０００", "一三八零零一三八零零零"])
    assert len(set(texts)) == 1 and PLACEHOLDER.fullmatch(texts[0])


def test_placeholders_depend_on_the_key_the_kind_and_the_value() -> None:
    marks = {Redactor(key).placeholder("mobile", "13800138000") for key in (KEY, b"another")}
    assert len(marks) == 2
    assert REDACTOR.placeholder("qq", "12345678")[-7:] != REDACTOR.placeholder("wechat", "12345678")[-7:]
    assert REDACTOR.placeholder("mobile", "13800138000") != REDACTOR.placeholder("mobile", "13800138001")


def test_only_the_kinds_asked_for_are_replaced() -> None:
    text = "13800138000，abc@qq.com"
    assert found(text, Redactor(KEY, kinds=["email"])) == [("email", "abc@qq.com")]
    assert found(text, Redactor(KEY, kinds=[])) == []
    with pytest.raises(ConfigError, match="redact_kinds.*'phone'.*mobile"):
        Redactor(KEY, kinds=["phone"])


def test_allowed_texts_stay_however_they_are_written() -> None:
    redactor = Redactor(KEY, names=["王小明"], allow=["010-62345678", "ＡＢＣ@qq.com", "王小明"])
    assert found("(010)6234 5678，abc@qq.com，王小明，010-62345679", redactor) == [("landline", "010-62345679")]


def test_names_are_found_as_written_in_the_contacts() -> None:
    redactor = Redactor(KEY, names=["王小明", "Alice Wong"])
    assert found("@王小明你好，小明", redactor) == [("name", "王小明")]
    assert found("ask ＡＬＩＣＥ wong", redactor) == [("name", "ＡＬＩＣＥ wong")]
    assert found("Malice Wongs", redactor) == []
    texts, counts = redactor.redact(["Alice Wong", "alice wong，李四"], names=["李四"])
    assert texts[1].startswith(texts[0]) and counts == {"name": 3}


def test_a_name_in_traditional_characters_is_found_and_keeps_its_form() -> None:
    assert usable_names(["王東雲"]) == ["王東雲"]
    assert found("找王東雲", Redactor(KEY, names=["王東雲"])) == [("name", "王東雲")]
    assert found("找王東雲", Redactor(KEY, names=["王东云"])) == [("name", "王東雲")]


def test_a_name_with_emoji_is_one_value_with_and_without_them() -> None:
    redactor = Redactor(KEY, names=["大熊🐻", "小🌟鹿", "Rob ⚽️"])
    assert found("大熊🐻来了，大熊😂", redactor) == [("name", "大熊🐻"), ("name", "大熊")]
    assert found("小🌟鹿和小鹿", redactor) == [("name", "小🌟鹿"), ("name", "小鹿")]
    assert found("Rob ⚽ or rob", redactor) == [("name", "Rob ⚽"), ("name", "rob")]
    texts, _ = redactor.redact(["🐻大熊🐻🐻", "大熊"])
    assert texts[0] == texts[1]
    assert found("大熊🐻", Redactor(KEY, names=["大熊"])) == [("name", "大熊")]
    assert usable_names(["大熊🐻", "🐻", "小🌟鹿"]) == ["大熊", "小鹿"]


def test_relations_roles_and_short_remarks_are_no_names() -> None:
    generic = ["妈妈", "老婆❤️", "李", "Al", "文件传输助手", "客服", "12345", "😀😀", "", "Me"]
    assert usable_names([*generic, "🌸王小明🌸", "王小明", "ａｌｉｃｅ", "李四"]) == ["alice", "王小明", "李四"]


@pytest.mark.parametrize(
    "text",
    [
        "1" * 100_000,
        "1 " * 50_000,
        "a" * 100_000,
        "a@" * 50_000,
        "一" * 100_000,
        "a." * 50_000 + "@",
        "路1" * 50_000,
        "路" * 100_000 + "8号",
        "微信" * 50_000 + "zhangsan_1",
        "1.1." * 25_000,
        ":a" * 50_000,
        "QQ " * 33_000 + "12345678",
        "加的" * 50_000 + "v abc123",
        "1\n" * 50_000,
        "[手机号:" * 20_000,
        "0571-" * 20_000,
        "6222 0571 8765 4321 009\n" * 3_000,
        "大🐻" * 30_000,
        "13800，后" * 15_000,
        "fe80::" * 15_000,
    ],
    ids=lambda text: text[:6],
)
def test_long_hostile_texts_come_back(text: str) -> None:
    assert len(REDACTOR.redact([text])[0]) == 1


# Pieces that make numbers, contexts and placeholders likely.
_LIKELY = (
    "138|0013|8000|13800138000|１３８|一三八|零零| |-|，|\n|QQ|微信|vx|号|电话|@|qq|.com|abc|x|X|11010519491231002|6222"
    "|京A|12345|路|8号|北京市|王小明|Ann|1.2.3.4|E12345678|[手机号:bcdfgh]|[微信号:kjjjmz]|wxid_|abcdef|\u200b|½"
    "|订单|建国|3栋|501|::|fe80|后面|177013|59284|🐻|这是我|微信|[QQ号:aeiouv]|6222 0571 8765 4321"
)
_PIECES = st.sampled_from(_LIKELY.split("|"))
_MESSAGES = st.lists(st.lists(_PIECES | st.text(max_size=6), max_size=9).map("".join), max_size=4)


@settings(max_examples=300, deadline=None)
@given(_MESSAGES)
def test_redacting_twice_changes_nothing_and_nothing_is_left(messages: list[str]) -> None:
    redactor = Redactor(KEY, names=["王小明", "Ann🐻"])
    once, _ = redactor.redact(messages)
    assert redactor.redact(once) == (once, {})
    assert redactor.find(once) == []
    assert len(once) == len(messages)
    assert [bool(text.strip()) for text in once] == [bool(text.strip()) for text in messages]


@settings(max_examples=300, deadline=None)
@given(_MESSAGES)
def test_hits_lie_in_their_messages_and_do_not_overlap(messages: list[str]) -> None:
    hits = Redactor(KEY, names=["王小明"]).find(messages)
    for hit in hits:
        assert 0 <= hit.start < hit.end <= len(messages[hit.message])
        assert fold(messages[hit.message][hit.start : hit.end]).strip() != ""
    for left, right in pairwise(hits):
        assert left.message < right.message or left.end <= right.start


@pytest.mark.parametrize(("kind", "marked"), POSITIVE)
def test_the_quick_look_passes_every_text_with_personal_data(kind: str, marked: str) -> None:
    assert HINT.search(marked.replace("【", "").replace("】", ""))


def test_real_medical_rows_give_less_than_one_hit_in_five_thousand(shared: Path) -> None:
    texts, hits = 0, 0
    for file in sorted((shared / "data/promptcblue/labelled").glob("*.json")):
        for line in re.split(r"[\r\n]+", file.read_bytes().decode("utf-8-sig")):
            try:
                row = json.loads(line)
            except ValueError:
                continue
            texts += 1
            hits += bool(REDACTOR.find([row["input"], row["target"]]))
    assert texts > 19_000
    assert hits <= texts / 5000


# --- the key ---------------------------------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def no_key_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(KEY_VARIABLE, raising=False)


def test_a_random_key_is_made_once_and_only_its_owner_reads_it(tmp_path: Path) -> None:
    key, public = load_key(tmp_path / "runs")
    assert len(key) == 32 and re.fullmatch("[0-9a-f]{8}", public)
    assert load_key(tmp_path / "runs") == (key, public)
    assert load_key(tmp_path / "other")[0] != key
    if sys.platform != "win32":
        assert stat.S_IMODE((tmp_path / "runs" / KEY_FILE).stat().st_mode) == 0o600


def test_the_variable_overrides_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KEY_VARIABLE, "十六个字的口令十六个字的口令要够")
    key, public = load_key(tmp_path)
    assert key.decode() == "十六个字的口令十六个字的口令要够" and public not in key.decode()
    assert not (tmp_path / KEY_FILE).exists()
    monkeypatch.setenv(KEY_VARIABLE, "short")
    with pytest.raises(ConfigError, match=f"{KEY_VARIABLE}: 5 characters; at least 16") as error:
        load_key(tmp_path)
    assert "short" not in str(error.value)


def test_a_file_that_holds_no_key_is_named_and_not_replaced(tmp_path: Path) -> None:
    (tmp_path / KEY_FILE).write_text("half a key", encoding="utf-8")
    with pytest.raises(ConfigError, match="not a redaction key"):
        load_key(tmp_path)
    assert (tmp_path / KEY_FILE).read_text(encoding="utf-8") == "half a key"


def test_processes_that_start_at_once_end_with_one_key(tmp_path: Path) -> None:
    code = (
        "from pathlib import Path; from tasks.data.personal_data.redaction import load_key; "
        f"print(load_key(Path({str(tmp_path)!r})))"
    )
    workers = [subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) for _ in range(4)]
    assert len({worker.communicate()[0] for worker in workers}) == 1
    assert all(worker.returncode == 0 for worker in workers)
    assert [path.name for path in tmp_path.iterdir() if not path.name.startswith(".locks")] == [KEY_FILE]
