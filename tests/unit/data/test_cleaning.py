"""Roles put in order, texts mended, and the rows that are refused."""

from __future__ import annotations

from typing import Any

import pytest

from tasks.conversation import Message, Row
from tasks.data import cleaning
from tasks.data.cleaning import Cleaner
from tasks.data.source import Draft, SourceConfig, Unusable

S, U, A, OBS = "system", "user", "assistant", "observation"


def draft(*turns: tuple[str, str] | Message, **values: Any) -> Draft:
    messages = tuple(t if isinstance(t, Message) else Message(*t) for t in turns)  # type: ignore[arg-type]
    return Draft(Row("f#1", messages, "t", "generation"), **values)


def cleaned(given: Draft, **config: Any) -> tuple[list[tuple[str, str]], tuple[str, ...]]:
    result = Cleaner(SourceConfig(source="test", **config)).clean(given)
    return [(m.role, m.content) for m in result.row.messages], result.notes


def test_a_plain_row_is_left_as_it_is_the_same_object() -> None:
    for given in (draft((U, "问"), (A, "答")), draft((S, "你是"), (U, " 问 \n"), (A, "答"), (U, "再"), (A, "好"))):
        assert Cleaner(SourceConfig(source="test")).clean(given) is given


@pytest.mark.parametrize(
    ("turns", "expected", "note"),
    [
        ([(U, "一"), (A, "二"), (U, "三")], [(U, "一"), (A, "二")], cleaning.TRIMMED),
        ([(A, "零"), (U, "一"), (A, "二")], [(U, "一"), (A, "二")], cleaning.LEADING_REPLY),
        ([(S, "系"), (A, "零"), (U, "一"), (A, "二")], [(S, "系"), (U, "一"), (A, "二")], cleaning.LEADING_REPLY),
        ([(U, "一"), (U, "二"), (A, "三"), (A, "四")], [(U, "一\n二"), (A, "三\n四")], cleaning.JOINED),
        ([(S, "甲"), (S, "乙"), (U, "一"), (A, "二")], [(S, "甲\n乙"), (U, "一"), (A, "二")], cleaning.SYSTEM_JOINED),
    ],
)
def test_roles_are_put_in_order_and_it_is_noted(turns: list[Any], expected: list[Any], note: str) -> None:
    assert cleaned(draft(*turns)) == (expected, (note,))


def test_the_message_that_lists_tools_stands_apart_from_the_system_message() -> None:
    tools = (S, cleaning.TOOLS_PROMPT + "[]")
    turns = [tools, (S, "你是"), (U, "一"), (A, "二")]
    assert cleaned(draft(*turns)) == (turns, ())


def test_calls_of_tools_and_their_results_are_not_joined() -> None:
    call = Message("assistant", "tool_call(a='1')", None, "weather")
    turns = [
        Message("user", "天气"),
        call,
        call,
        Message("observation", "晴"),
        Message("observation", ""),
        Message("assistant", "晴"),
    ]
    given = draft(*turns)
    assert Cleaner(SourceConfig(source="test")).clean(given).row.messages == tuple(turns)


@pytest.mark.parametrize(
    ("turns", "reason"),
    [
        ([(U, "一")], "no reply"),
        ([(S, "系")], "no reply"),
        ([], "no reply"),
        ([(A, "答")], "no prompt"),
        ([(S, "系"), (A, "答")], "no prompt"),
        ([(U, " \n"), (A, "答")], "empty prompt"),
        ([(U, "问"), (A, "\u3000")], "empty reply"),
        ([(U, "问"), (A, ""), (U, "问"), (A, "答")], "empty reply"),
        ([(U, "问"), (S, "系"), (A, "答")], "system message inside the dialogue"),
        ([(U, "问"), (OBS, "果"), (A, "答")], "a tool's result without a call"),
        ([(U, "问"), Message("assistant", "答", False)], "nothing to learn"),
    ],
)
def test_what_cannot_be_mended_is_refused_with_a_reason(turns: list[Any], reason: str) -> None:
    with pytest.raises(Unusable, match=f"^{reason}$") as caught:
        cleaned(draft(*turns))
    assert caught.value.task == "t"


def test_an_empty_reply_is_kept_where_it_is_legal() -> None:
    assert cleaned(draft((U, "问"), (A, ""), empty_reply=True)) == ([(U, "问"), (A, "")], ())


@pytest.mark.parametrize(
    ("text", "config", "expected", "notes"),
    [
        ("a\x00b\ufeffc\x1a\x7f", {}, "abc", (cleaning.CONTROL_REMOVED,)),
        ("a\x00b", {"control_characters": "keep"}, "a\x00b", ()),
        ("一\r\n二\r三\t四\n", {}, "一\n二\n三\t四\n", (cleaning.LINE_ENDS,)),
        ("&gt;1 &amp; 2", {}, "&gt;1 &amp; 2", ()),
        ("&gt;1 &amp; 2", {"html_entities": "decode"}, ">1 & 2", (cleaning.DECODED,)),
        (" 文 ", {"edge_spaces": "strip"}, "文", (cleaning.STRIPPED,)),
        ("说<|assistant|>吧", {}, "说<|assistant|>吧", (cleaning.CONTROL_TOKEN,)),
        ("[gMASK]sop", {}, "[gMASK]sop", (cleaning.CONTROL_TOKEN,)),
        ("</s>", {}, "</s>", (cleaning.CONTROL_TOKEN,)),
        ("[INST] 你好 [/INST]", {}, "[INST] 你好 [/INST]", (cleaning.CONTROL_TOKEN,)),
        ("<UNK>的<b>裙子</b>，soprano", {}, "<UNK>的<b>裙子</b>，soprano", ()),
    ],
)
def test_texts(text: str, config: dict[str, Any], expected: str, notes: tuple[str, ...]) -> None:
    assert cleaned(draft((U, text), (A, "答")), **config) == ([(U, expected), (A, "答")], notes)


def test_a_system_prompt_is_given_to_dialogues_that_have_none() -> None:
    assert cleaned(draft((U, "问"), (A, "答")), system_prompt="你是")[0] == [(S, "你是"), (U, "问"), (A, "答")]
    assert cleaned(draft((S, "自己的"), (U, "问"), (A, "答")), system_prompt="你是")[0][0] == (S, "自己的")
