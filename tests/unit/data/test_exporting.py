"""Rows written in the forms of other tools: what is written reads back as the same dialogue, the rest is counted."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.conversation import Message, Role, Row
from tasks.data import dialogue, exporting, reading, source
from tasks.data.source import DataFile, ExportFormat

SOURCES: dict[ExportFormat, str] = {
    "chatglm3": "conversations",
    "messages": "messages",
    "sharegpt": "sharegpt",
    "alpaca": "alpaca",
    "promptcblue": "promptcblue",
}
QUESTION, ANSWER = Message("user", "北京天气？"), Message("assistant", "晴天。")
TOOL = {"name": "查天气", "description": "天气", "parameters": {"type": "object", "properties": {}}}
CALL = Message("assistant", dialogue.tool_call({"city": "北京"}), metadata="查天气")
RESULT = Message("observation", '{"天气": "晴"}')


def row(*messages: Message, task: str = "chat", metric: str = "chat", **fields: Any) -> Row:
    return Row("a.json#1", messages, task, metric, fields)


def written(folder: Path, rows: list[Row], format: ExportFormat) -> tuple[list[dict[str, Any]], dict[str, int]]:
    """The JSON objects of the file, and the rows left out."""
    path = folder / f"train{exporting.SUFFIX}"
    result = exporting.write(path, rows, format)
    lines = path.read_bytes().decode("utf-8").split("\n")
    assert lines.pop() == ""
    assert result.rows == len(lines)
    assert result.rows + sum(result.skipped.values()) == len(rows)
    return [json.loads(line) for line in lines], result.skipped


def read_back(folder: Path, format: ExportFormat) -> list[Row]:
    """The rows of the file that :func:`written` left, through the reader and the form's own source."""
    module = source.load(SOURCES[format])
    path = folder / f"train{exporting.SUFFIX}"
    records = list(reading.records(DataFile(path, path.name, "train")))
    assert not any(record.problem for record in records)
    return [module.convert(record.value, path.name, module.Config()).row for record in records]


def why(folder: Path, format: ExportFormat, *messages: Message) -> str:
    """The reason why a row is left out."""
    values, skipped = written(folder, [row(*messages)], format)
    assert values == []
    ((reason, count),) = skipped.items()
    assert count == 1
    return reason


# --- each form ---------------------------------------------------------------------------------------------------


def test_chatglm3_with_tools_learning_and_metadata(tmp_path: Path) -> None:
    offer = dialogue.tools_message([TOOL])
    silent = Message("assistant", "嗯", learn=False)
    values, _ = written(tmp_path, [row(offer, QUESTION, CALL, RESULT, silent, QUESTION, ANSWER)], "chatglm3")
    assert values == [
        {
            "tools": [TOOL],
            "conversations": [
                {"role": "user", "content": "北京天气？"},
                {
                    "role": "tool",
                    "name": "查天气",
                    "parameters": {"city": "北京"},
                    "observation": '{"天气": "晴"}',
                },
                {"role": "assistant", "content": "嗯", "loss": False},
                {"role": "user", "content": "北京天气？"},
                {"role": "assistant", "content": "晴天。"},
            ],
        }
    ]


def test_chatglm3_keeps_a_call_that_it_cannot_take_apart_as_it_is(tmp_path: Path) -> None:
    odd = Message("assistant", "调用", metadata="查天气")
    values, _ = written(tmp_path, [row(QUESTION, odd, RESULT, ANSWER)], "chatglm3")
    assert values[0]["conversations"][1:3] == [
        {"role": "assistant", "content": "调用", "metadata": "查天气"},
        {"role": "observation", "content": '{"天气": "晴"}'},
    ]
    assert read_back(tmp_path, "chatglm3")[0].messages == (QUESTION, odd, RESULT, ANSWER)


@pytest.mark.parametrize(
    "messages",
    [
        (QUESTION, CALL, Message("observation", "晴", learn=True), ANSWER),
        (QUESTION, CALL, Message("observation", "晴", metadata="查天气"), ANSWER),
        (Message("system", dialogue.TOOLS_PROMPT + '[{"name": "f"}]'), QUESTION, ANSWER),
        (Message("system", dialogue.TOOLS_PROMPT + "[]"), QUESTION, ANSWER),
        (Message("system", dialogue.TOOLS_PROMPT + "[NaN]"), QUESTION, ANSWER),
        (dialogue.tools_message([TOOL]), Message("system", "规则"), QUESTION, ANSWER),
    ],
)
def test_chatglm3_keeps_what_its_tool_turn_and_tools_cannot_hold(tmp_path: Path, messages: tuple[Message, ...]) -> None:
    written(tmp_path, [row(*messages)], "chatglm3")
    assert read_back(tmp_path, "chatglm3")[0].messages == messages


def test_messages_with_tools_two_calls_at_once_and_weight(tmp_path: Path) -> None:
    offer, unlearned = dialogue.tools_message([TOOL]), Message("assistant", "嗯", learn=False)
    rows = [row(offer, QUESTION, unlearned, QUESTION, CALL, CALL, RESULT, RESULT, ANSWER)]
    values, _ = written(tmp_path, rows, "messages")
    function = {"name": "查天气", "arguments": '{"city": "北京"}'}
    assert values == [
        {
            "messages": [
                {"role": "user", "content": "北京天气？"},
                {"role": "assistant", "content": "嗯", "weight": 0},
                {"role": "user", "content": "北京天气？"},
                {
                    "role": "assistant",
                    "content": None,
                    "tool_calls": [
                        {"id": "call_1", "type": "function", "function": function},
                        {"id": "call_2", "type": "function", "function": function},
                    ],
                },
                {"role": "tool", "tool_call_id": "call_1", "content": '{"天气": "晴"}'},
                {"role": "tool", "tool_call_id": "call_2", "content": '{"天气": "晴"}'},
                {"role": "assistant", "content": "晴天。"},
            ],
            "tools": [{"type": "function", "function": TOOL}],
        }
    ]
    assert read_back(tmp_path, "messages")[0].messages == rows[0].messages


def test_sharegpt_with_system_tools_and_call(tmp_path: Path) -> None:
    rows = [row(dialogue.tools_message([TOOL]), Message("system", "规则"), QUESTION, CALL, RESULT, ANSWER)]
    values, _ = written(tmp_path, rows, "sharegpt")
    assert values == [
        {
            "conversations": [
                {"from": "human", "value": "北京天气？"},
                {"from": "function_call", "value": '{"name": "查天气", "arguments": {"city": "北京"}}'},
                {"from": "observation", "value": '{"天气": "晴"}'},
                {"from": "gpt", "value": "晴天。"},
            ],
            "system": "规则",
            "tools": json.dumps([TOOL], ensure_ascii=False),
        }
    ]
    assert read_back(tmp_path, "sharegpt")[0].messages == rows[0].messages


def test_alpaca_with_system_and_history(tmp_path: Path) -> None:
    values, _ = written(tmp_path, [row(Message("system", "规则"), QUESTION, ANSWER, QUESTION, ANSWER)], "alpaca")
    last = {"instruction": "北京天气？", "input": "", "output": "晴天。"}
    assert values == [{**last, "system": "规则", "history": [["北京天气？", "晴天。"]]}]
    assert written(tmp_path, [row(QUESTION, ANSWER)], "alpaca")[0] == [last]


def test_promptcblue_with_the_fields_of_scoring_or_those_that_stand_in(tmp_path: Path) -> None:
    fields = {"answer_choices": ["晴天。", "雨"], "sample_id": "dev-7", "task_type": "cls"}
    rows = [
        row(QUESTION, ANSWER, task="CHIP-CTC", metric="classification", **fields),
        row(QUESTION, ANSWER, task="advertisegen", metric="generation"),
    ]
    values, _ = written(tmp_path, rows, "promptcblue")
    pair = {"input": "北京天气？", "target": "晴天。"}
    assert values == [
        {**pair, **fields, "task_dataset": "CHIP-CTC"},
        {
            **pair,
            "answer_choices": None,
            "task_type": "generation",
            "task_dataset": "advertisegen",
            "sample_id": "a.json#1",
        },
    ]


# --- what a form cannot hold -------------------------------------------------------------------------------------

UNLEARNED, RULES = Message("assistant", "嗯", learn=False), Message("system", "规则")


@pytest.mark.parametrize(
    ("format", "messages", "reason"),
    [
        ("messages", (Message("user", "问", learn=True), ANSWER), exporting.LEARNING),
        ("messages", (QUESTION, CALL, ANSWER), exporting.CALL_WITHOUT_RESULT),
        ("messages", (QUESTION, CALL, CALL, RESULT, ANSWER), exporting.CALL_WITHOUT_RESULT),
        ("messages", (QUESTION, ANSWER, RESULT, ANSWER), exporting.CALL_WITHOUT_RESULT),
        ("messages", (QUESTION, Message("assistant", "f()", metadata="f"), RESULT, ANSWER), exporting.UNREADABLE_CALL),
        ("messages", (Message("user", "问", metadata="x"), ANSWER), exporting.METADATA),
        ("sharegpt", (QUESTION, UNLEARNED, QUESTION, ANSWER), exporting.LEARNING),
        ("sharegpt", (QUESTION, CALL, CALL, RESULT, RESULT, ANSWER), exporting.NOT_ALTERNATING),
        ("sharegpt", (RULES, RULES, QUESTION, ANSWER), exporting.SEVERAL_SYSTEMS),
        ("sharegpt", (Message("system", ""), QUESTION, ANSWER), exporting.EMPTY_SYSTEM),
        ("alpaca", (QUESTION, CALL, RESULT, ANSWER), exporting.TOOLS),
        ("alpaca", (dialogue.tools_message([TOOL]), QUESTION, ANSWER), exporting.TOOLS),
        ("alpaca", (QUESTION, UNLEARNED, QUESTION, ANSWER), exporting.LEARNING),
        ("promptcblue", (QUESTION, ANSWER, QUESTION, ANSWER), exporting.SEVERAL_TURNS),
        ("promptcblue", (RULES, QUESTION, ANSWER), exporting.SYSTEM),
        ("promptcblue", (QUESTION, Message("assistant", "")), exporting.EMPTY),
        ("promptcblue", (QUESTION, CALL, RESULT, ANSWER), exporting.TOOLS),
    ],
)
def test_a_row_that_the_form_cannot_hold_is_left_out_and_counted(
    tmp_path: Path, format: ExportFormat, messages: tuple[Message, ...], reason: str
) -> None:
    assert why(tmp_path, format, *messages) == reason


def test_other_rows_are_written_around_it(tmp_path: Path) -> None:
    good = row(QUESTION, ANSWER)
    values, skipped = written(tmp_path, [good, row(RULES, QUESTION, ANSWER), good], "promptcblue")
    assert (len(values), skipped) == (2, {exporting.SYSTEM: 1})


@pytest.mark.parametrize(
    "text",
    [
        "```python\ntool_call(a=__import__('os').getcwd())\n```",
        "```python\ntool_call(a='x'), print(b='y')\n```",
        "```python\ntool_call('x')\n```",
        "```python\ntool_call(a=1)\n```",
        "```python\ntool_call(ﬁ='x')\n```",
        "```python\ntool_call(**{'a': 'x'})\n```",
        "```python\ntool_call(a='\0')\n```",
        "```python\ntool_call(" + "(" * 5000 + ")\n```",
        "tool_call(a='x')",
    ],
)
def test_only_what_tool_call_writes_is_taken_apart(text: str) -> None:
    assert dialogue.tool_arguments(text) is None


def test_arguments_of_any_text_survive() -> None:
    arguments = {"城市": "北'京\"\n\\n", "days": "1"}
    assert dialogue.tool_arguments(dialogue.tool_call(arguments)) == arguments
    assert dialogue.tool_arguments(dialogue.tool_call({})) == {}


# --- round trips of any dialogue ---------------------------------------------------------------------------------

ODD = [
    "\r\n",
    "\r",
    "\u2028",
    "\ufeff",
    "\0",
    '"',
    "\\",
    "\\n",
    "<|user|>",
    "</s>",
    "[gMASK]",
    "，",
    "😀",
    "{",
    "[",
    " ",
]
TEXT = st.lists(st.sampled_from(ODD) | st.text(st.characters(codec="utf-8"), max_size=5), max_size=5).map("".join)
FILLED = TEXT.map(lambda text: text + "字")
NAME = st.sampled_from(["查天气", "f", "get-time"])
ARGUMENTS = st.dictionaries(st.sampled_from(["city", "城市", "a_1"]), TEXT, max_size=2)
SCALAR = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT
JSON = st.recursive(SCALAR, lambda inner: st.lists(inner) | st.dictionaries(TEXT, inner), max_leaves=4)
TOOLS = st.lists(st.fixed_dictionaries({"name": NAME, "parameters": JSON}), min_size=1, max_size=2)


def said(role: Role) -> st.SearchStrategy[tuple[Message, ...]]:
    return FILLED.map(lambda text: (Message(role, text),))


CALLED = st.builds(
    lambda name, arguments, result: (
        Message("assistant", dialogue.tool_call(arguments), metadata=name),
        Message("observation", result),
    ),
    NAME,
    ARGUMENTS,
    TEXT,
)
TURN = st.builds(
    lambda asks, calls, replies: (*asks, *(m for call in calls for m in call), *replies),
    said("user"),
    st.lists(CALLED, max_size=2),
    said("assistant"),
)
HEAD = st.builds(
    lambda tools, system: (*((dialogue.tools_message(tools),) if tools else ()), *system),
    st.none() | TOOLS,
    st.just(()) | said("system"),
)
DIALOGUES = st.builds(
    lambda head, turns: (*head, *(m for turn in turns for m in turn)), HEAD, st.lists(TURN, min_size=1, max_size=3)
)
PLAIN_TURN = st.builds(lambda asks, replies: (*asks, *replies), said("user"), said("assistant"))
PLAIN = st.builds(
    lambda system, turns: (*system, *(m for turn in turns for m in turn)),
    st.just(()) | said("system"),
    st.lists(PLAIN_TURN, min_size=1, max_size=3),
)
RANDOM: dict[ExportFormat, st.SearchStrategy[tuple[Message, ...]]] = {
    "chatglm3": DIALOGUES,
    "messages": DIALOGUES,
    "sharegpt": DIALOGUES,
    "alpaca": PLAIN,
    "promptcblue": PLAIN_TURN,
}


def test_every_form_has_its_source_and_its_random_dialogues() -> None:
    assert set(exporting.FORMATS) == set(SOURCES) == set(RANDOM)


@pytest.mark.parametrize("format", exporting.FORMATS)
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_what_is_written_reads_back_as_the_same_dialogue(format: ExportFormat, data: st.DataObject) -> None:
    dialogues = data.draw(st.lists(RANDOM[format], max_size=3))
    with tempfile.TemporaryDirectory() as folder:
        _, skipped = written(Path(folder), [row(*messages, task="MedDG") for messages in dialogues], format)
        assert skipped == {}
        assert [back.messages for back in read_back(Path(folder), format)] == dialogues


MESSAGE = st.builds(
    Message,
    st.sampled_from(["system", "user", "assistant", "observation"]),
    TEXT,
    st.sampled_from([None, True, False]),
    st.just("") | NAME,
)


@pytest.mark.parametrize("format", exporting.FORMATS)
@settings(max_examples=100, deadline=None)
@given(messages=st.lists(MESSAGE, min_size=1, max_size=5))
def test_whatever_the_dialogue_it_is_written_unchanged_or_counted(
    format: ExportFormat, messages: list[Message]
) -> None:
    given_row = row(*messages, Message("assistant", "答"), task="MedDG")
    with tempfile.TemporaryDirectory() as folder:
        values, _ = written(Path(folder), [given_row], format)
        if values:
            (back,) = read_back(Path(folder), format)
            assert [(m.role, m.content, m.metadata, m.learned) for m in back.messages] == [
                (m.role, m.content, m.metadata, m.learned) for m in given_row.messages
            ]
