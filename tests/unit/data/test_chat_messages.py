"""Raw message logs: cut as MemoTrace's exporter cuts them, every message accounted for, odd logs named."""

from __future__ import annotations

import csv
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from tasks.data import reading
from tasks.data.chat import layout as chat_layout
from tasks.data.chat import text as chat_text
from tasks.data.chat import windows
from tasks.data.samples import generate
from tasks.data.source import DataFile, Draft, Entry
from tasks.data.sources import chat_export, chat_messages
from tasks.data.sources.chat_messages import (
    EMPTY,
    EMPTY_LOG,
    GROUP,
    NAMELESS,
    NO_LOG,
    OUT_OF_ORDER,
    Config,
    find,
    read,
    recognise,
)
from tasks.errors import DataError

GOLDEN = json.loads((Path(__file__).parents[2] / "golden" / "memotrace_exporter.json").read_text(encoding="utf-8"))
MEMOTRACE = ["localId", "TalkerId", "Type", "SubType", "IsSender", "CreateTime", "Status", "StrContent", "StrTime"]
MEMOTRACE += ["Remark", "NickName", "Sender"]
WECLONE = ["id", "MsgSvrID", "type_name", "is_sender", "talker", "room_name", "msg", "src", "CreateTime"]
COLUMNS = {"time": "ts", "text": "text", "is_sender": "is_send"}


def write_csv(path: Path, header: list[str], rows: list[dict[str, Any]]) -> Path:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, header, restval="")
        writer.writeheader()
        writer.writerows(rows)
    return path


def write_jsonl(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def entries(path: Path, **values: Any) -> list[Entry]:
    return list(read(DataFile(path, path.name, "train"), Config(**values)))


def drafts(found: list[Entry]) -> list[Draft]:
    return [entry.draft for entry in found if entry.draft is not None]


def reasons(found: list[Entry]) -> Counter[str]:
    return Counter(entry.reason for entry in found if entry.reason)


def turns(draft: Draft) -> list[tuple[str, str]]:
    """The dialogue behind its system message."""
    return [(message.role, message.content) for message in draft.row.messages if message.role != "system"]


def custom(tmp_path: Path, messages: Sequence[tuple[float, int, str]], **values: Any) -> list[Entry]:
    """A log of (time, is_send, text)."""
    rows = [{"ts": time, "is_send": sent, "text": text} for time, sent, text in messages]
    return entries(write_jsonl(tmp_path / "log.jsonl", rows), columns=COLUMNS, **values)


def memotrace(time: int, sent: int, text: str, **cells: Any) -> dict[str, Any]:
    who = {"Remark": "阿杰", "NickName": "大杰", "Sender": "我" if sent else "大杰"}
    return {"TalkerId": 3, "Type": 1, "IsSender": sent, "CreateTime": time, "StrContent": text, **who, **cells}


def weclone(time: str, sent: int, text: str, **cells: Any) -> dict[str, Any]:
    talker = "wxid_me" if sent else "wxid_jie"
    return {"type_name": "文本", "is_sender": sent, "talker": talker, "msg": text, "CreateTime": time, **cells}


def accounts(found: list[Entry], total: int) -> None:
    """Each record once: the sum is right and no id comes twice."""
    assert sum(entry.records for entry in found) == total
    assert len({entry.id for entry in found}) == len(found)
    assert all(bool(entry.draft) != bool(entry.reason) for entry in found)


@pytest.mark.parametrize("gap", [60, 300])
@pytest.mark.parametrize("case", GOLDEN["cases"])
def test_dialogues_are_the_exporters(tmp_path: Path, case: str, gap: int) -> None:
    messages = GOLDEN["cases"][case]["messages"]
    found = entries(
        write_jsonl(tmp_path / "log.jsonl", messages),
        columns=COLUMNS,
        gap_s=gap,
        owner_name=GOLDEN["me_name"],
        order="file",  # one case has times going backwards and expects the file's order
    )
    made = [[{"role": m.role, "content": m.content} for m in draft.row.messages] for draft in drafts(found)]
    assert made == [row["conversations"] for row in GOLDEN["cases"][case][f"split_by_intervals_{gap}"]]
    accounts(found, len(messages))


def test_all_golden_cases_are_there() -> None:
    assert len(GOLDEN["cases"]) == 17
    assert sum(len(case["split_by_intervals_60"]) for case in GOLDEN["cases"].values()) == 16


def test_sorting_by_time_is_the_default_and_is_noted(tmp_path: Path) -> None:
    log = [(55.0, 0, "c"), (100.0, 0, "e"), (60.0, 1, "d"), (101.0, 1, "f"), (900.0, 0, "g"), (901.0, 1, "h")]
    found = custom(tmp_path, log)
    assert [turns(draft) for draft in drafts(found)] == [
        [("user", "c"), ("assistant", "d"), ("user", "e"), ("assistant", "f")],
        [("user", "g"), ("assistant", "h")],
    ]
    assert [OUT_OF_ORDER in draft.notes for draft in drafts(found)] == [True, False]


def test_a_log_with_the_newest_first_is_turned_round_within_a_second_too(tmp_path: Path) -> None:
    newest_first = [(90.0, 1, "reply"), (80.0, 0, "second"), (80.0, 0, "first"), (10.0, 0, "hello")]
    assert turns(drafts(custom(tmp_path, newest_first, gap_s=100))[0]) == [
        ("user", "hello\nfirst\nsecond"),
        ("assistant", "reply"),
    ]


def test_every_message_outside_a_dialogue_has_its_reason(tmp_path: Path) -> None:
    log = [(0, 1, "me first"), (10, 0, "a"), (500, 0, "b"), (510, 1, "c"), (520, 0, "d"), (900, 0, "e"), (905, 1, "f")]
    found = custom(tmp_path, log)
    assert [(e.id, e.reason, e.records) for e in sorted(found, key=lambda e: e.line)] == [
        ("log.jsonl#1", windows.LEADING, 1),
        ("log.jsonl#2", windows.LATE, 1),
        ("log.jsonl#3", "", 2),
        ("log.jsonl#5", windows.TRAILING, 1),
        ("log.jsonl#6", "", 2),
    ]


MESSAGES = st.lists(
    st.tuples(
        st.integers(-3, 400),
        st.sampled_from([0, 1, "maybe"]),
        st.sampled_from(["好", "", "[图片]", "「甲：问」", "「甲：问」\n- - - - -\n答", "[捂脸]", "<msg>x</msg>"]),
        st.sampled_from(["文本", "图片", "系统通知"]),
        st.sampled_from(["甲", "乙", "丙"]),
        st.sampled_from(["", "", "群"]),
    ),
    max_size=40,
)


@settings(max_examples=150, deadline=None)
@given(
    messages=MESSAGES,
    gap=st.sampled_from([0, 5, 60]),
    broken=st.lists(st.integers(0, 40), max_size=3),
    options=st.fixed_dictionaries(
        {
            "media": st.sampled_from(["drop", "keep"]),
            "empty_messages": st.sampled_from(["drop", "keep"]),
            "group_chats": st.sampled_from(["skip", "speaker_names"]),
            "assistant": st.sampled_from(["me", "contact"]),
            "order": st.sampled_from(["time", "file"]),
            "shuffle_seed": st.sampled_from([None, 1]),
        }
    ),
)
def test_no_message_is_lost_or_counted_twice(
    tmp_path_factory: pytest.TempPathFactory,
    messages: list[tuple[Any, ...]],
    gap: int,
    broken: list[int],
    options: dict[str, Any],
) -> None:
    keys = ("time", "is_sender", "text", "type", "talker", "room")
    lines = [json.dumps(dict(zip(keys, message, strict=True)), ensure_ascii=False) for message in messages]
    for place in broken:
        lines.insert(min(place, len(lines)), '{"time": 1,')
    path = tmp_path_factory.getbasetemp() / "any.jsonl"
    path.write_text("\n".join(lines), encoding="utf-8")
    found = entries(path, columns={key: key for key in keys}, gap_s=gap, **options)
    accounts(found, sum(1 for _ in reading.records(DataFile(path, path.name, "train"))))
    for draft in drafts(found):
        roles = [role for role, _ in turns(draft)]
        assert roles == ["user", "assistant"] * (len(roles) // 2)
        assert roles


@given(st.lists(st.tuples(st.integers(0, 300), st.booleans()), max_size=30), st.integers(0, 100))
def test_windows_cover_all_messages_in_order(log: list[tuple[int, bool]], gap: int) -> None:
    cut = list(windows.cut([time for time, _ in log], [sent for _, sent in log], gap))
    assert [i for window in cut for i in range(window.start, window.end)] == list(range(len(log)))
    for window in cut:
        if not window.reason:
            assert not log[window.start][1]
            assert log[window.end - 1][1]


def test_memotrace_log_of_all_chats_is_cut_chat_by_chat(tmp_path: Path) -> None:
    other = {"TalkerId": 3, "Remark": "", "NickName": "林晓"}  # the same number: two databases in one file
    rows = [
        memotrace(0, 0, "在吗"),
        memotrace(1, 0, "报告呢", **other, Sender="林晓"),
        memotrace(2, 1, "在"),
        memotrace(3, 1, "发您了", **other),
        memotrace(4, 0, "<msg/>", Type=3),
        memotrace(5, 0, "你撤回了一条消息", Type=10000),
    ]
    found = entries(write_csv(tmp_path / "messages.csv", MEMOTRACE, rows), owner_name="小舟")
    assert [turns(draft) for draft in drafts(found)] == [
        [("user", "在吗"), ("assistant", "在")],
        [("user", "报告呢"), ("assistant", "发您了")],
    ]
    assert drafts(found)[0].row.messages[0].content.startswith("你是小舟，一个聪明")
    assert set(drafts(found)[0].names) == {"阿杰", "大杰", "小舟", "林晓"}  # the first tells the whole log's names
    assert set(drafts(found)[1].names) == {"林晓", "小舟"}
    assert reasons(found) == {"not a text message": 1, "system notice": 1}
    accounts(found, 6)


def test_contacts_that_were_never_answered_are_told_for_redaction(tmp_path: Path) -> None:
    other = {"TalkerId": 4, "Remark": "林姐", "NickName": "林晓", "Sender": "林晓"}
    group = {"TalkerId": 9, "Remark": "", "NickName": "爬山群"}
    rows = [memotrace(0, 0, "林姐在吗"), memotrace(1, 1, "在"), memotrace(2, 0, "快来", **other)]
    rows += [memotrace(3, 0, "开心", **group, Sender=name) for name in ("开心", "小吴")]
    (draft,) = drafts(entries(write_csv(tmp_path / "messages.csv", MEMOTRACE, rows)))
    assert set(draft.names) == {"阿杰", "大杰", "林姐", "林晓"}


def test_in_a_contacts_own_file_remark_and_nickname_are_the_senders(tmp_path: Path) -> None:
    me = {"Remark": "", "NickName": "小舟", "Sender": "wxid_me"}
    rows = [memotrace(0, 0, "在吗", Sender="wxid_jie"), memotrace(2, 1, "在", **me)]
    (draft,) = drafts(
        entries(write_csv(tmp_path / "阿杰_utf8.csv", MEMOTRACE, rows), system_template="{me}对{contact}")
    )
    assert draft.row.messages[0].content == "小舟对阿杰"
    assert turns(draft) == [("user", "在吗"), ("assistant", "在")]


def test_group_members_of_a_memotrace_log_get_their_names_in_front(tmp_path: Path) -> None:
    group = {"TalkerId": 9, "Remark": "", "NickName": "爬山群"}
    rows = [
        memotrace(0, 0, "几点", **group, Sender="小吴"),
        memotrace(1, 0, "八点吧", **group, Sender="大杰"),
        memotrace(2, 1, "好", **group),
    ]
    path = write_csv(tmp_path / "messages.csv", MEMOTRACE, rows)
    assert reasons(entries(path)) == {GROUP: 3}
    (draft,) = drafts(entries(path, group_chats="speaker_names"))
    assert turns(draft) == [("user", "小吴: 几点\n大杰: 八点吧"), ("assistant", "好")]
    assert {"小吴", "大杰", "爬山群"} <= set(draft.names)
    assert reasons(entries(path, group_chats="speaker_names", assistant="contact")) == {GROUP: 3}


def test_weclone_log(tmp_path: Path) -> None:
    rows = [
        weclone("2024-05-01 10:00:00", 0, "吃了吗"),
        weclone("2024-05-01 10:00:20", 0, "", type_name="图片"),
        weclone(
            "2024-05-01 10:00:30", 1, "刚吃完\n\n[引用](2024-05-01 10:00:00)杰:吃了吗", type_name="带有引用的文本消息"
        ),
        weclone("2024-05-01 10:05:00", 0, "撤回", type_name="消息撤回5"),
    ]
    found = entries(write_csv(tmp_path / "wxid_jie_0_5000.csv", WECLONE, rows))
    (draft,) = drafts(found)
    assert turns(draft) == [("user", "吃了吗"), ("assistant", "刚吃完")]
    assert draft.notes == (chat_text.QUOTE_CUT, NAMELESS)
    assert draft.row.messages[0].content.startswith("你是我，")
    assert reasons(found) == {"not a text message": 1, "system notice": 1}


def test_weclone_header_of_2024_with_json_in_content(tmp_path: Path) -> None:
    header = ["id", "MsgSvrID", "type_name", "is_sender", "talker", "room_name", "content", "CreateTime"]
    rows = []
    for time, sent, text in (("2024-05-01 10:00:00", 0, "在吗"), ("2024-05-01 10:00:05", 1, "在")):
        row = weclone(time, sent, "")
        del row["msg"]
        rows.append({**row, "content": json.dumps({"src": "", "msg": text}, ensure_ascii=False)})
    (draft,) = drafts(entries(write_csv(tmp_path / "a.csv", header, rows)))
    assert turns(draft) == [("user", "在吗"), ("assistant", "在")]


def test_talkers_interleaved_in_one_weclone_file_are_apart(tmp_path: Path) -> None:
    """talker is the chat where it stands on both sides' messages."""
    rows = [
        weclone("2024-05-01 10:00:00", 0, "一", talker="甲某"),
        weclone("2024-05-01 10:00:01", 0, "二", talker="乙某"),
        weclone("2024-05-01 10:00:02", 1, "三", talker="甲某"),
        weclone("2024-05-01 10:00:03", 1, "四", talker="乙某"),
    ]
    made = drafts(entries(write_csv(tmp_path / "all.csv", WECLONE, rows), group_by="contact"))
    assert [(turns(draft), draft.group) for draft in made] == [
        ([("user", "一"), ("assistant", "三")], "甲某"),
        ([("user", "二"), ("assistant", "四")], "乙某"),
    ]


def test_a_chatroom_is_a_group_even_with_one_speaker(tmp_path: Path) -> None:
    rows = [weclone(f"2024-05-01 10:00:0{i}", i, "话", room_name="123@chatroom") for i in (0, 1)]
    assert reasons(entries(write_csv(tmp_path / "a.csv", WECLONE, rows))) == {GROUP: 2}


def test_without_a_direction_column_the_owners_name_tells(tmp_path: Path) -> None:
    header = ["消息ID", "类型", "发送人", "时间", "内容", "备注", "昵称", "更多信息"]
    rows = [
        {"类型": "文本", "发送人": "小红", "时间": "2024-02-01 10:00:00", "内容": "在吗", "备注": "小红", "昵称": "红"},
        {"类型": "文本", "发送人": "小舟", "时间": "2024-02-01 10:00:09", "内容": "在", "备注": "小舟", "昵称": "舟"},
    ]
    path = write_csv(tmp_path / "小红.csv", header, rows)
    with pytest.raises(DataError, match="data.owner_name=NAME"):
        entries(path)
    (draft,) = drafts(entries(path, owner_name="小舟"))
    assert turns(draft) == [("user", "在吗"), ("assistant", "在")]


def test_custom_columns_for_rooms_senders_and_names(tmp_path: Path) -> None:
    def row(time: int, mine: bool, text: str, room: str, sender: str) -> dict[str, Any]:
        return {"t": time, "mine": mine, "said": text, "grp": room, "by": sender, "friend": "林姐" if not room else ""}

    rows = [
        row(0, False, "在吗", "", "林晓"),
        row(1, False, "集合", "爬山群", "小吴"),
        row(2, True, "在", "", "舟"),
        row(3, True, "来了", "爬山群", "舟"),
    ]
    columns = {"time": "t", "is_sender": "mine", "text": "said", "room": "grp", "sender": "by", "name": "friend"}
    path = write_jsonl(tmp_path / "log.jsonl", rows)
    found = entries(path, columns=columns, system_template="{me}/{contact}", group_chats="speaker_names")
    assert [[m.content for m in draft.row.messages] for draft in drafts(found)] == [
        ["舟/林姐", "在吗", "在"],
        ["舟/爬山群", "小吴: 集合", "来了"],
    ]
    assert set(drafts(found)[0].names) == {"林姐", "林晓"}
    assert reasons(entries(path, columns=columns)) == {GROUP: 2}


def test_the_contact_as_assistant(tmp_path: Path) -> None:
    log = [(0, 1, "你好"), (5, 0, "你也好"), (7, 0, "真的"), (9, 1, "嗯")]
    path = write_jsonl(tmp_path / "阿杰.jsonl", [dict(zip(("ts", "is_send", "text"), m, strict=True)) for m in log])
    found = list(
        read(DataFile(path, path.name, "train", names=("阿杰",)), Config(columns=COLUMNS, assistant="contact"))
    )
    (draft,) = drafts(found)
    assert turns(draft) == [("user", "你好"), ("assistant", "你也好\n真的")]
    assert draft.row.messages[0].content.startswith("你是阿杰，")
    assert reasons(found) == {windows.TRAILING: 1}


def test_media_and_empty_messages_by_option(tmp_path: Path) -> None:
    log = [
        (0, 0, "[图片]"),
        (1, 0, "看[捂脸]"),
        (2, 0, ""),
        (3, 1, "「甲：看」\n- - - - - -\n好看"),
        (4, 1, "<msg>x</msg>"),
    ]
    kept, dropped = custom(tmp_path, log, media="keep"), custom(tmp_path, log, empty_messages="drop")
    assert turns(drafts(kept)[0]) == [
        ("user", "[图片]\n看[捂脸]\n"),
        ("assistant", "「甲：看」\n- - - - - -\n好看\n[分享]"),
    ]
    assert turns(drafts(dropped)[0]) == [("user", "看[捂脸]"), ("assistant", "好看")]
    assert reasons(dropped) == {"quote or media placeholder": 2, EMPTY: 1}


@pytest.mark.parametrize("text", ["[捂脸]", "[强]", "「天气之子」好看", "「你好」", "a <msg", "[图片]真好看", "5<6"])
def test_words_that_only_look_like_a_placeholder_stay(text: str) -> None:
    assert chat_text.words(text, keep_media=False) == (text, "", "")


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (1700000000, 1700000000.0),
        ("1700000000", 1700000000.0),
        (1700000000123, 1700000000.123),
        ("2023-11-14 22:13:20", 1700000000.0),
        ("2023/11/14 22:13", 1699999980.0),
        ("2023-11-14T22:13:20Z", 1700000000.0),
        ("2023-11-15T06:13:20.500+08:00", 1700000000.5),
        ("2023-11-15T06:13:20.000Z", 1700028800.0),
    ],
)
def test_times(value: Any, expected: float) -> None:
    assert chat_layout.seconds(value) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("value", ["", None, "1.70E+09", "yesterday", "2023-13-01 10:00", -5, True, [1], "2023-11-14"])
def test_times_that_say_nothing_are_a_reason(tmp_path: Path, value: Any) -> None:
    rows = [{"ts": 1, "is_send": 0, "text": "a"}, {"ts": value, "is_send": 1, "text": "b"}]
    found = entries(write_jsonl(tmp_path / "log.jsonl", rows), columns=COLUMNS)
    assert reasons(found) == {"time not understood": 1, windows.LATE: 1}


def test_unknown_columns_are_an_error_that_says_how_to_map_them(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "a.csv", ["when", "who", "what"], [{"when": 1, "who": "a", "what": "b"}])
    with pytest.raises(DataError) as caught:
        entries(path)
    message = str(caught.value)
    for part in ("a.csv", "when, who, what", "CreateTime, StrContent, IsSender (memotrace)", "data.preset=custom"):
        assert part in message
    with pytest.raises(DataError, match="data.columns names ts, text, is_send, which the file does not have"):
        entries(path, columns=COLUMNS)
    with pytest.raises(DataError, match="time, text and is_sender"):
        entries(path, preset="custom", columns={"time": "when"})


@pytest.mark.parametrize(("head", "kind"), [(b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "xls"), (b"PK\x03\x04", "xlsx")])
def test_a_workbook_named_csv_is_called_by_its_name(tmp_path: Path, head: bytes, kind: str) -> None:
    path = tmp_path / "chat.csv"
    path.write_bytes(head + bytes(600))
    with pytest.raises(DataError, match=rf"chat.csv: an Excel workbook \({kind}\).*save it as CSV"):
        entries(path)
    with pytest.raises(DataError, match="an Excel workbook"):
        find(Config(path=path))


def test_logs_in_an_archive(tmp_path: Path) -> None:
    log = write_csv(tmp_path / "log.csv", WECLONE, [weclone(f"2024-05-01 10:00:0{i}", i, "话") for i in (0, 1)])
    with ZipFile(tmp_path / "all.zip", "w") as archive:
        archive.write(log, "导出/小红(wxid_red)/wxid_red_0_5000.csv")
    (file,) = find(Config(path=tmp_path / "all.zip")).files
    assert (file.name, file.names) == ("all.zip/导出/小红(wxid_red)/wxid_red_0_5000.csv", ("小红", "wxid_red"))
    assert sum(entry.records for entry in read(file, Config())) == 2


def test_records_that_lack_columns_or_a_direction_are_reasons_of_their_own(tmp_path: Path) -> None:
    rows = [
        {"ts": 0, "is_send": 0, "text": "a"},
        {"ts": 1, "text": "b"},
        {"ts": 2, "is_send": 2, "text": "c"},
        {"ts": 3, "is_send": 1, "text": ["d"]},
        {"ts": 4, "is_send": True, "text": "e"},
    ]
    found = entries(write_jsonl(tmp_path / "log.jsonl", rows), columns=COLUMNS)
    assert reasons(found) == {"no such columns": 1, "unclear sender": 1, "not a text": 1}
    assert turns(drafts(found)[0]) == [("user", "a"), ("assistant", "e")]


def test_a_template_with_an_unknown_placeholder_is_refused() -> None:
    with pytest.raises(ValidationError, match=r"unknown placeholder \{name\}"):
        Config(system_template="你是{name}")


def test_no_system_message_where_the_template_is_empty(tmp_path: Path) -> None:
    (draft,) = drafts(custom(tmp_path, [(0, 0, "a"), (1, 1, "b")], system_template=""))
    assert [message.role for message in draft.row.messages] == ["user", "assistant"]
    assert draft.notes == ()


def test_a_seed_changes_the_order_and_nothing_else(tmp_path: Path) -> None:
    log = [(1000.0 * i + j, j, f"{i}") for i in range(20) for j in (0, 1)]
    plain, shuffled, again = (custom(tmp_path, log, shuffle_seed=seed) for seed in (None, 7, 7))
    assert [e.id for e in shuffled] == [e.id for e in again] != [e.id for e in plain]
    assert sorted(e.id for e in shuffled) == sorted(e.id for e in plain)


def test_a_folder_of_logs_names_what_is_none(tmp_path: Path) -> None:
    good = [memotrace(0, 0, "在吗"), memotrace(1, 1, "在")]
    (tmp_path / "阿杰").mkdir()
    write_csv(tmp_path / "阿杰" / "阿杰_utf8.csv", MEMOTRACE, good)
    write_csv(tmp_path / "contacts.csv", ["UserName", "Alias"], [{"UserName": "a", "Alias": "b"}])
    write_csv(tmp_path / "空.csv", MEMOTRACE, [])
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "artifact.json").write_text("{}", encoding="utf-8")
    write_csv(tmp_path / "old" / "x.csv", MEMOTRACE, good)
    found = find(Config(path=tmp_path))
    assert [(file.name, file.split, file.names) for file in found.files] == [("阿杰/阿杰_utf8.csv", "train", ("阿杰",))]
    skipped = {skip.name: skip.reason for skip in found.skipped}
    assert skipped == {"contacts.csv": NO_LOG, "空.csv": EMPTY_LOG, "old": "an artifact of this project"}


def test_a_folder_without_any_log_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no message log; no CSV, TSV, JSON or JSONL file in it"):
        find(Config(path=tmp_path))
    write_csv(tmp_path / "contacts.csv", ["UserName"], [{"UserName": "a"}])
    with pytest.raises(DataError, match="unknown columns UserName"):
        find(Config(path=tmp_path))


def test_logs_are_recognised_by_their_columns() -> None:
    claim = recognise(dict.fromkeys(MEMOTRACE, ""))
    assert claim is not None
    assert claim.why == "have memotrace's columns CreateTime, StrContent, IsSender"
    assert recognise(dict.fromkeys(WECLONE, "")) is not None
    assert recognise({"content": "a", "summary": "b", "CreateTime": 1}) is None


@pytest.mark.parametrize("module", [chat_messages, chat_export])
def test_the_yaml_writes_out_the_defaults(module: Any) -> None:
    folder = Path(__file__).parents[3] / "conf" / "data"
    name = module.Config().source
    common, own = (yaml.safe_load((folder / f"{n}.yaml").read_text(encoding="utf-8")) for n in ("_common", name))
    assert own.pop("defaults") == ["_common", "_self_"]
    assert module.Config(**{**common, **own}) == module.Config()
    assert {*common, *own} == set(module.Config.model_fields)


@pytest.fixture(scope="module")
def sample() -> Iterator[list[Entry]]:
    (file,) = find(Config()).files
    yield list(read(file, Config()))


def test_the_sample_is_what_the_generator_writes(tmp_path: Path) -> None:
    generate.main(tmp_path)
    (file,) = find(Config()).files
    assert (tmp_path / "chat_messages" / file.name).read_bytes() == file.path.read_bytes()


def test_the_sample_is_accounted_for(sample: list[Entry]) -> None:
    accounts(sample, 569)
    assert len(drafts(sample)) > 150
    assert reasons(sample).keys() == {
        windows.LATE,
        windows.TRAILING,
        GROUP,
        "not a text message",
        "system notice",
    }
    assert sum(OUT_OF_ORDER in draft.notes for draft in drafts(sample)) >= 1
