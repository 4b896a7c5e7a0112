"""What each row-wise source makes of its records; the golden vectors are those of ChatGLM3's own code."""

from __future__ import annotations

import copy
import json
from collections import Counter
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks import plugins
from tasks.conversation import Row
from tasks.data import reading, source
from tasks.data.cleaning import Cleaner
from tasks.data.source import DataFile, Draft, Unusable
from tasks.errors import ConfigError

CONF = Path(__file__).parents[3] / "conf/data"
NAMES = plugins.names(source.PACKAGE)
MINE = (
    "advertisegen",
    "alpaca",
    "conversations",
    "medical_qa_csv",
    "messages",
    "prompt_response",
    "sharegpt",
    "triples",
)
QUESTION = {"role": "user", "content": "问"}
ANSWER = {"role": "assistant", "content": "答"}


def convert(name: str, record: dict[str, Any], **values: Any) -> Draft:
    module = source.load(name)
    return module.convert(record, "file.json#1", module.Config(**values))


def one(name: str, record: dict[str, Any], **values: Any) -> Row:
    return convert(name, record, **values).row


def why(name: str, record: dict[str, Any], **values: Any) -> str:
    """The reason why a record makes no row, in the source or in the cleaning that follows."""
    module = source.load(name)
    config = module.Config(**values)
    with pytest.raises(Unusable) as caught:
        Cleaner(config).clean(module.convert(record, "file.json#1", config))
    return caught.value.reason


def turns(row: Row) -> list[tuple[str, str]]:
    return [(message.role, message.content) for message in row.messages]


# --- every plug-in -----------------------------------------------------------------------------------------------


def test_every_source_has_its_yaml_and_every_yaml_its_source() -> None:
    assert {path.stem for path in CONF.glob("*.yaml") if not path.stem.startswith("_")} == set(NAMES)
    assert set(MINE) | {"auto", "chat_export", "promptcblue"} <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_the_yaml_validates_and_states_every_field_with_its_default(name: str) -> None:
    own = yaml.safe_load((CONF / f"{name}.yaml").read_text(encoding="utf-8"))
    common = yaml.safe_load((CONF / "_common.yaml").read_text(encoding="utf-8"))
    assert own.pop("defaults") == ["_common", "_self_"]
    module = source.load(name)
    # only a mixture's parts must be set
    required = {key: [{"source": "triples"}] for key, value in own.items() if value == "???"}
    assert module.Config(**{**common, **own, **required}) == module.Config(**required)
    assert {**common, **own}.keys() == module.Config.model_fields.keys()
    assert get_args(module.Config.model_fields["source"].annotation) == (name,)
    assert all(field.description for key, field in module.Config.model_fields.items() if key != "source")


def test_an_unknown_source_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"data\.source='promptclue': unknown; did you mean promptcblue\?"):
        source.load("promptclue")


@pytest.mark.parametrize("name", MINE)
def test_a_record_of_other_columns_is_refused_by_name_and_never_by_content(name: str) -> None:
    module = source.load(name)
    with pytest.raises(Unusable) as caught:
        module.convert({"标题": "秘密的内容", "n": 5}, "file.json#1", module.Config())
    assert caught.value.reason.startswith("no ")
    assert "标题" in caught.value.detail
    assert "秘密" not in f"{caught.value.reason}{caught.value.detail}"


# --- damaged records ---------------------------------------------------------------------------------------------

TOOL = {"name": "查天气", "description": "天气", "parameters": {"type": "object", "properties": {}}}
CALL = {"id": "1", "type": "function", "function": {"name": "查天气", "arguments": '{"city": "北京"}'}}
TOOL_TURN = {"role": "tool", "name": "查天气", "parameters": {"city": "北京"}, "observation": {"天气": "晴"}}
WHOLE: dict[str, dict[str, Any]] = {
    "advertisegen": {"content": "类型#裙", "summary": ["一", "二"]},
    "alpaca": {"instruction": "问", "input": "文", "output": "答", "system": "规则", "history": [["问", "答"]]},
    "conversations": {"tools": [TOOL], "conversations": [QUESTION, TOOL_TURN, {**ANSWER, "loss": True}]},
    "medical_qa_csv": {"department": "内科", "title": "头痛", "ask": "头痛？", "answer": "休息。"},
    "messages": {
        "tools": [{"type": "function", "function": TOOL}],
        "messages": [
            QUESTION,
            {"role": "assistant", "content": [{"type": "text", "text": "看"}], "tool_calls": [CALL], "weight": 1},
            {"role": "tool", "content": "晴"},
            ANSWER,
        ],
    },
    "prompt_response": {"question": "问", "answer": "答", "history": [["问", "答"]]},
    "sharegpt": {
        "conversations": [
            {"from": "human", "value": "问"},
            {"from": "function_call", "value": json.dumps(CALL["function"])},
            {"from": "observation", "value": "晴"},
            {"from": "gpt", "value": "答"},
        ],
        "system": "规则",
        "tools": json.dumps([TOOL]),
    },
    "triples": {"instruction": "抽取：", "input": "水泵漏水", "output": "水泵_部件故障_漏水"},
}
TEXTS = st.sampled_from(["", " ", "无", "[1]", "{}", "{", "tool", "system", "gpt", "答"])
SCALARS = st.none() | st.booleans() | st.integers(-1, 2) | st.just(0.5) | TEXTS
VALUES: st.SearchStrategy[Any] = (
    SCALARS | st.lists(SCALARS, max_size=2) | st.just({}) | st.just({"name": "f"}) | st.just([{}])
)


@st.composite
def damaged(draw: st.DrawFn, name: str) -> dict[str, Any]:
    """A record of the source in which up to three values, at any depth, are replaced or gone."""
    record = copy.deepcopy(WHOLE[name])
    for _ in range(draw(st.integers(1, 3))):
        place: Any = record
        while place:
            key = draw(st.sampled_from(list(place) if isinstance(place, dict) else range(len(place))))
            if isinstance(place[key], dict | list) and place[key] and draw(st.booleans()):
                place = place[key]
            elif draw(st.booleans()):
                place[key] = copy.deepcopy(draw(VALUES))
                break
            else:
                del place[key]
                break
    return record


def test_every_source_makes_a_row_of_its_whole_record() -> None:
    assert set(WHOLE) == set(MINE)
    for name, record in WHOLE.items():
        assert one(name, record).messages[-1].content in ("一", "答", "休息。", "水泵_部件故障_漏水")
        assert source.load(name).recognise(record) is not None  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", MINE)
@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_a_damaged_record_makes_a_row_or_a_reason(name: str, data: st.DataObject) -> None:
    record = data.draw(damaged(name))
    module = source.load(name)
    config = module.Config()
    claim = module.recognise(record)  # type: ignore[attr-defined]
    assert claim is None or (1 <= claim.strength <= 9 and claim.why)
    try:
        draft = Cleaner(config).clean(module.convert(record, "file.json#1", config))
    except Unusable as error:
        assert error.reason
        return
    assert draft.row.messages[-1].role == "assistant"
    assert all(isinstance(message.content, str) for message in draft.row.messages)


# --- columns -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("prompt", "reply"),
    [
        ("content", "summary"),
        ("prompt", "response"),
        ("input", "target"),
        ("question", "answer"),
        ("query", "response"),
        ("ask", "answer"),
        ("q", "a"),
    ],
)
def test_known_pairs_of_columns(prompt: str, reply: str) -> None:
    row = one("prompt_response", {"id": "7", prompt: "问", reply: "答"})
    assert turns(row) == [("user", "问"), ("assistant", "答")]
    assert (row.id, row.task, row.metric) == ("file.json#1", "prompt_response", "generation")


def test_any_columns_joined_in_the_order_given() -> None:
    record = {"病历": "发热三天", "问": "怎么治？", "答": "多饮水。", "history": [["你好", "您好"]]}
    row = one("prompt_response", record, prompt_column="病历+问", response_column="答", task="qa", metric="chat")
    assert turns(row) == [
        ("user", "你好"),
        ("assistant", "您好"),
        ("user", "发热三天\n怎么治？"),
        ("assistant", "多饮水。"),
    ]
    assert (row.task, row.metric) == ("qa", "chat")


def test_a_missing_column_is_named_with_those_there_are() -> None:
    with pytest.raises(Unusable) as caught:
        convert("prompt_response", {"问": "a", "答": "b"}, prompt_column="问", response_column="回")
    assert caught.value.reason == "no such columns"
    assert "data.prompt_column=问, data.response_column=回" in caught.value.detail
    assert "问, 答" in caught.value.detail
    assert caught.value.task == "prompt_response"


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        ({"question": 5, "answer": "a"}, "not a text"),
        ({"question": "q", "answer": {"text": "a"}}, "not a text"),
        ({"question": "q", "answer": ["a", 5]}, "not a text"),
        ({"question": "q", "answer": []}, "empty reply"),
        ({"question": "q", "answer": ["", " "]}, "empty reply"),
        ({"question": None, "answer": "a"}, "empty prompt"),
        ({"question": "q", "answer": "a", "history": [["x"]]}, "history is not a list of question and answer"),
        ({"question": "q", "answer": "a", "history": "x"}, "history is not a list of question and answer"),
    ],
)
def test_columns_that_do_not_make_a_row(record: dict[str, Any], reason: str) -> None:
    assert why("prompt_response", record) == reason


# --- advertisegen, triples, alpaca -------------------------------------------------------------------------------


@pytest.mark.parametrize(("prompt", "reply"), [("content", "summary"), ("prompt", "response"), ("input", "target")])
def test_advertisegen_knows_its_column_names(prompt: str, reply: str) -> None:
    row = one("advertisegen", {prompt: "类型#裙", reply: "裙子。"})
    assert turns(row) == [("user", "类型#裙"), ("assistant", "裙子。")]
    assert (row.task, row.metric, row.fields) == ("advertisegen", "generation", {})


def test_a_list_of_replies_becomes_references() -> None:
    row = one("advertisegen", {"content": "类型#裙", "summary": ["一", " ", "二"]})
    assert (row.reference, row.fields) == ("一", {"references": ["一", "二"]})
    assert one("alpaca", {"instruction": "问", "output": ["一"]}).fields == {}
    assert why("advertisegen", {"content": "类型#裙", "summary": ""}) == "empty reply"


def test_triples_reads_both_forms_to_the_same_row() -> None:
    prompt = source.load("triples").INSTRUCTION  # type: ignore[attr-defined]
    assert r"三元组之间用\n分割" in prompt
    new = one("triples", {"instruction": prompt, "input": "水泵漏水", "output": "水泵_部件故障_漏水"})
    old = one("triples", {"text": "水泵漏水", "answer": "水泵_部件故障_漏水"})
    assert new == old
    assert turns(new) == [("user", prompt + "水泵漏水"), ("assistant", "水泵_部件故障_漏水")]
    assert (new.task, new.metric) == ("triples", "triples")


def test_triples_instruction_is_configurable_and_an_empty_answer_legal() -> None:
    draft = convert("triples", {"instruction": "旧：", "input": "无故障", "output": ""}, instruction="新：")
    assert turns(draft.row) == [("user", "新：无故障"), ("assistant", "")]
    assert draft.empty_reply
    assert why("triples", {"text": " ", "answer": "a_b_c"}) == "empty prompt"


def test_alpaca_joins_instruction_and_input_and_puts_system_and_history_before() -> None:
    record = {
        "instruction": "翻译成英文",
        "input": "你好",
        "output": "Hello",
        "system": "你是翻译",
        "history": [["翻译", "请给原文"]],
    }
    row = one("alpaca", record)
    assert turns(row) == [
        ("system", "你是翻译"),
        ("user", "翻译"),
        ("assistant", "请给原文"),
        ("user", "翻译成英文\n你好"),
        ("assistant", "Hello"),
    ]
    assert turns(one("alpaca", {"instruction": "文档：", "input": "甲", "output": "乙"}))[0] == ("user", "文档：甲")
    assert turns(one("alpaca", {"instruction": "问", "input": "", "output": "乙"}))[0] == ("user", "问")


# --- medical_qa_csv ----------------------------------------------------------------------------------------------

CASE = {"department": "内科", "title": "头痛", "ask": "头痛三天，怎么办？", "answer": "休息。"}


@pytest.mark.parametrize(
    ("prompt", "change", "expected", "note"),
    [
        ("ask", {}, "头痛三天，怎么办？", ""),
        ("title", {}, "头痛", ""),
        ("both", {}, "头痛\n头痛三天，怎么办？", ""),
        ("both", {"ask": "头痛"}, "头痛", ""),
        ("ask", {"ask": "无"}, "头痛", "no question: the title is the prompt"),
        ("both", {"ask": " 无 "}, "头痛", "no question: the title is the prompt"),
        ("ask", {"ask": None}, "头痛", "no question: the title is the prompt"),
        ("title", {"title": ""}, "头痛三天，怎么办？", "no title: the question is the prompt"),
    ],
)
def test_medical_qa_prompt_from_question_and_title(
    prompt: str, change: dict[str, Any], expected: str, note: str
) -> None:
    draft = convert("medical_qa_csv", {**CASE, **change}, prompt=prompt)
    assert turns(draft.row) == [("user", expected), ("assistant", "休息。")]
    assert draft.notes == ((note,) if note else ())
    assert (draft.row.task, draft.row.metric) == ("medical_qa", "generation")
    assert draft.row.fields == {"department": "内科"}


def test_medical_qa_without_any_question_or_with_columns_of_its_own() -> None:
    assert why("medical_qa_csv", {**CASE, "ask": "无", "title": ""}) == "empty prompt"
    assert turns(one("medical_qa_csv", CASE, prompt_column="department+title")) == [
        ("user", "内科\n头痛"),
        ("assistant", "休息。"),
    ]


# --- dialogues ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["tools_flow", "tools_obs_string"])
def test_conversations_with_tools_match_the_reference_text_and_what_it_learns(shared: Path, name: str) -> None:
    golden = json.loads((shared / "golden/chatglm3_preprocess.json").read_text(encoding="utf-8"))
    case = golden["preprocess_utils_94c30e9"][name]
    messages = one("conversations", case["item"]).messages
    bodies = [f"{message.metadata}\n{message.content}" for message in messages]
    openings = [f"<|{message.role}|>" for message in messages]
    text = "[gMASK]sop" + "".join(o + b for o, b in zip(openings, bodies, strict=True)) + "</s>"
    assert text == case["rendered"]
    # a learned body is learned together with the token behind it, which ends it
    ends = [*openings[1:], "</s>"]
    assert "".join(b + e for m, b, e in zip(messages, bodies, ends, strict=True) if m.learned) == case["learned"]


def test_conversations_learning_per_message() -> None:
    item = {
        "conversations": [
            {"role": "user", "content": "问", "loss": True},
            {"role": "assistant", "content": "不学", "loss": False},
            {"role": "tool", "name": "f", "parameters": {"a": "x'y", "n": 2}, "observation": {"得": 1}},
            {"role": "assistant", "content": "学"},
        ]
    }
    row = one("conversations", item)
    assert [(m.role, m.metadata, m.learned) for m in row.messages] == [
        ("user", "", True),
        ("assistant", "", False),
        ("assistant", "f", True),
        ("observation", "", False),
        ("assistant", "", True),
    ]
    assert row.messages[2].content == "```python\ntool_call(a=\"x'y\", n='2')\n```"
    assert row.messages[3].content == '{"得": 1}'


@pytest.mark.parametrize(
    ("conversations", "reason"),
    [
        ([], "empty dialogue"),
        ("text", "no list 'conversations'"),
        ([1], "a turn is not an object"),
        ([QUESTION], "no reply"),
        ([{"role": "system", "content": "s"}, ANSWER], "no prompt"),
        ([QUESTION, {"role": "assistant", "content": " "}], "empty reply"),
        ([QUESTION, {**ANSWER, "loss": False}], "nothing to learn"),
        ([QUESTION, {**ANSWER, "loss": "no"}], "loss or weight is neither 0 nor 1"),
        ([{"role": "human", "content": "问"}, ANSWER], "unknown role"),
        ([{"role": ["user"], "content": "问"}, ANSWER], "unknown role"),
        ([{"role": "user", "content": None}, ANSWER], "a content is not a text"),
        ([QUESTION, {**ANSWER, "metadata": 5}], "a content is not a text"),
        ([QUESTION, {"role": "tool", "parameters": {}}], "a tool turn without name or parameters"),
    ],
)
def test_dialogues_that_cannot_be_rows(conversations: Any, reason: str) -> None:
    assert why("conversations", {"conversations": conversations}) == reason


def test_messages_with_tools_calls_parts_and_weights() -> None:
    item: dict[str, Any] = {
        "tools": [{"type": "function", "function": TOOL}],
        "messages": [
            {"role": "developer", "content": "规则"},
            {"role": "user", "content": [{"type": "text", "text": "北京"}, {"type": "text", "text": "天气"}]},
            {"role": "assistant", "content": None, "tool_calls": [CALL], "weight": 0},
            {"role": "tool", "tool_call_id": "1", "content": "晴"},
            {"role": "assistant", "content": "晴天", "weight": 1},
        ],
    }
    row = one("messages", item)
    assert [(m.role, m.content, m.metadata, m.learn) for m in row.messages[1:]] == [
        ("system", "规则", "", None),
        ("user", "北京天气", "", None),
        ("assistant", "```python\ntool_call(city='北京')\n```", "查天气", False),
        ("observation", "晴", "", None),
        ("assistant", "晴天", "", True),
    ]
    # the offer of tools is the one that ChatGLM3's own form gives: without OpenAI's wrapping
    assert row.messages[0] == one("conversations", {"tools": [TOOL], "conversations": [QUESTION, ANSWER]}).messages[0]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"content": [{"type": "image_url", "image_url": {}}]}, "a content is not a text"),
        ({"weight": 3}, "loss or weight is neither 0 nor 1"),
        ({"tool_calls": 5}, "tool_calls is not a list"),
        ({"tool_calls": [{"function": {"arguments": "{}"}}]}, "a tool call without name and JSON arguments"),
        (
            {"tool_calls": [{"function": {"name": "f", "arguments": "{"}}]},
            "a tool call without name and JSON arguments",
        ),
        ({"tool_calls": ["f"]}, "a tool call without name and JSON arguments"),
        ({"role": "judge"}, "unknown role"),
        ({"role": 1}, "unknown role"),
    ],
)
def test_messages_that_cannot_be_rows(change: dict[str, Any], reason: str) -> None:
    assert why("messages", {"messages": [QUESTION, {**ANSWER, **change}]}) == reason


@pytest.mark.parametrize(("asks", "replies"), [("patient", "doctor"), ("human", "bot"), ("User", "Assistant")])
def test_conversation_with_the_roles_of_other_data_sets(asks: str, replies: str) -> None:
    item = {"id": "1", "conversation": [{"role": asks, "content": "头痛"}, {"role": replies, "content": "休息"}]}
    assert turns(one("messages", item)) == [("user", "头痛"), ("assistant", "休息")]


def test_sharegpt_with_system_tools_call_and_observation() -> None:
    item = {
        "conversations": [
            {"from": "human", "value": "北京天气"},
            {"from": "function_call", "value": '{"name": "查天气", "arguments": {"city": "北京", "days": 1}}'},
            {"from": "observation", "value": "晴"},
            {"from": "gpt", "value": "晴天"},
        ],
        "system": "规则",
        "tools": json.dumps([TOOL]),
    }
    row = one("sharegpt", item)
    assert [(m.role, m.content, m.metadata) for m in row.messages[1:]] == [
        ("system", "规则", ""),
        ("user", "北京天气", ""),
        ("assistant", "```python\ntool_call(city='北京', days='1')\n```", "查天气"),
        ("observation", "晴", ""),
        ("assistant", "晴天", ""),
    ]
    assert row.messages[0] == one("conversations", {"tools": [TOOL], "conversations": [QUESTION, ANSWER]}).messages[0]
    assert why("sharegpt", {**item, "tools": "["}) == "tools is not JSON"
    assert len(one("sharegpt", {**item, "tools": "", "system": ""}).messages) == 4


@pytest.mark.parametrize(
    ("turn", "reason"),
    [
        ({"from": "moderator", "value": "x"}, "unknown role"),
        ({"value": "x"}, "unknown role"),
        ({"from": "gpt", "value": None}, "a content is not a text"),
        ({"from": "function_call", "value": "查天气()"}, "a tool call without name and JSON arguments"),
        ({"from": "function_call", "value": "[1]"}, "a tool call without name and JSON arguments"),
    ],
)
def test_sharegpt_that_cannot_be_a_row(turn: dict[str, Any], reason: str) -> None:
    assert why("sharegpt", {"conversations": [{"from": "human", "value": "问"}, turn]}) == reason


# --- real files --------------------------------------------------------------------------------------------------


def account(shared: Path, name: str, path: str, **values: Any) -> tuple[list[Row], Counter[str], Counter[str]]:
    """Rows, reasons and notes of a real file, after cleaning."""
    module = source.load(name)
    config = module.Config(**values)
    cleaner = Cleaner(config)
    rows: list[Row] = []
    reasons, notes = Counter[str](), Counter[str]()
    for record in reading.records(DataFile(shared / "data" / path, path, "train")):
        if record.problem:
            reasons[record.problem] += 1
            continue
        try:
            draft = cleaner.clean(module.convert(record.value, f"{path}#{record.number}", config))
        except Unusable as error:
            reasons[error.reason] += 1
            continue
        rows.append(draft.row)
        notes.update(draft.notes)
    return rows, reasons, notes


@pytest.mark.parametrize(
    ("name", "path", "count"),
    [
        ("advertisegen", "advertisegen/dev.json", 1070),
        ("advertisegen", "advertisegen/train_subset_caixiaomao.json", 5000),
        ("advertisegen", "advertisegen/variants/train_prettyprinted_mhsbz.json", 1240),
        ("conversations", "advertisegen/dev_conversations.json", 1070),
        ("messages", "advertisegen/dev_messages.json", 1070),
        ("conversations", "chatglm3_demo/cognition/train.json", 71),
        ("conversations", "chatglm3_demo/cognition/dev.json", 60),
        ("conversations", "medical/submit_project_child/dev.json", 960),
        ("messages", "medical/disc_medllm/DISC-MedLLM_cmd.json", 121),
        ("alpaca", "medical/huatuo_llama/liver_cancer.json", 1000),
        ("alpaca", "medical/huatuo_llama/llama_data.json", 8658),
        ("alpaca", "d2q/d2q_0.json", 3143),
        ("prompt_response", "d2q/d2q_0.json", 3143),
    ],
)
def test_real_files_are_read_whole(shared: Path, name: str, path: str, count: int) -> None:
    rows, reasons, _ = account(shared, name, path)
    assert (len(rows), reasons) == (count, {})
    assert all(row.messages[-1].role == "assistant" for row in rows)


def test_real_advertisegen_has_the_same_dialogues_in_three_forms(shared: Path) -> None:
    plain, _, _ = account(shared, "advertisegen", "advertisegen/dev.json")
    chatglm3, _, _ = account(shared, "conversations", "advertisegen/dev_conversations.json")
    openai, _, _ = account(shared, "messages", "advertisegen/dev_messages.json")
    messages = [row.messages for row in plain]
    assert len({m[0].content for m in messages}) == 1000
    assert messages == [row.messages for row in chatglm3] == [row.messages for row in openai]


def test_real_triples_keep_empty_answers_and_agree_in_both_forms(shared: Path) -> None:
    new, reasons, _ = account(shared, "triples", "triples/spo_train.json")
    old, _, _ = account(shared, "triples", "triples/spo_train_text_answer.json")
    assert (len(new), reasons) == (1441, {})
    assert sum(row.reference == "" for row in new) == 22
    assert sum(len(row.reference.split("\n")) for row in new) == 6514
    assert [row.messages for row in new] == [row.messages for row in old]


def test_real_documents_to_questions_have_one_to_four_references(shared: Path) -> None:
    train, _, _ = account(shared, "alpaca", "d2q/d2q_0.json")
    test, reasons, _ = account(shared, "alpaca", "d2q/d2q_1.json")
    assert len({row.messages[0].content for row in train}) == 768
    assert (len(test), reasons) == (20, {})
    assert {len(row.fields.get("references", [row.reference])) for row in test} == {1, 2, 3, 4}


def test_real_medical_csv_in_gbk_with_commas_and_line_feeds_in_cells(shared: Path) -> None:
    rows, reasons, notes = account(shared, "medical_qa_csv", "medical/toyhom/样例_内科5000-6000.csv")
    assert (len(rows), reasons) == (7644, {})
    assert notes["no question: the title is the prompt"] == 6
    assert sum("," in f"{row.messages[0].content}{row.reference}" for row in rows) > 0


@pytest.mark.parametrize(
    ("path", "prompt", "response", "count"),
    [
        ("medical/disc_medllm/cmd_samples.json", "question", "raw_anwser", 120),
        ("medical/huatuogpt/Med-dialog_100.json", "medical_case", "doctor_diagnosis", 100),
    ],
)
def test_real_files_of_columns_of_their_own(shared: Path, path: str, prompt: str, response: str, count: int) -> None:
    rows, reasons, _ = account(shared, "prompt_response", path, prompt_column=prompt, response_column=response)
    assert (len(rows), reasons) == (count, {})
