"""What each source makes of its records; the golden vectors are those of ChatGLM3's own code."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml
from data_cases import write_lines

from tasks import plugins
from tasks.conversation import Row
from tasks.data import source
from tasks.data.source import DataFile, Entry
from tasks.errors import ConfigError

REPOSITORY = Path(__file__).parents[3]
NAMES = ["advertisegen", "chat_export", "conversations", "messages", "promptcblue", "triples"]


def read(tmp_path: Path, name: str, rows: list[Any], **values: Any) -> list[Entry]:
    module = source.load(name)
    path = write_lines(tmp_path / "file.json", rows)
    return list(module.read(DataFile(path, "file.json", "train"), module.Config(**values)))


def one(tmp_path: Path, name: str, row: Any, **values: Any) -> Row:
    (entry,) = read(tmp_path, name, [row], **values)
    assert entry.row is not None, entry
    return entry.row


def why(tmp_path: Path, name: str, row: Any, **values: Any) -> str:
    (entry,) = read(tmp_path, name, [row], **values)
    assert entry.row is None
    return entry.reason


def turns(row: Row) -> list[tuple[str, str]]:
    return [(message.role, message.content) for message in row.messages]


# --- every plug-in -----------------------------------------------------------------------------------------------


def test_the_sources_are_these_six_and_each_has_its_yaml() -> None:
    assert plugins.names(source.PACKAGE) == NAMES
    assert sorted(path.stem for path in (REPOSITORY / "conf/data").glob("*.yaml")) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_the_yaml_validates_and_states_every_field_with_its_default(name: str) -> None:
    values = yaml.safe_load((REPOSITORY / f"conf/data/{name}.yaml").read_text(encoding="utf-8"))
    module = source.load(name)
    assert module.Config(**values) == module.Config()
    assert set(values) == set(module.Config.model_fields)
    assert get_args(module.Config.model_fields["source"].annotation) == (name,)
    assert all(field.description for key, field in module.Config.model_fields.items() if key != "source")


def test_an_unknown_source_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"data\.source='promptclue': unknown; did you mean promptcblue\?"):
        source.load("promptclue")


# --- promptcblue -------------------------------------------------------------------------------------------------

CTC = {
    "input": " 判断类型：\n 3. 年龄&gt;18岁\n选项：年龄，疾病\n答：",
    "target": "年龄",
    "answer_choices": ["年龄", "疾病"],
    "task_type": "cls",
    "task_dataset": "CHIP-CTC",
    "sample_id": "dev-7",
}


def test_promptcblue_keeps_texts_as_they_are_and_the_fields_that_scoring_needs(tmp_path: Path) -> None:
    row = one(tmp_path, "promptcblue", CTC)
    assert turns(row) == [("user", CTC["input"]), ("assistant", "年龄")]
    assert (row.id, row.task, row.metric) == ("file.json#1", "CHIP-CTC", "classification")
    assert row.fields == {"answer_choices": ["年龄", "疾病"], "sample_id": "dev-7", "task_type": "cls"}


def test_promptcblue_reads_choices_given_as_text_and_the_documented_field_name(tmp_path: Path) -> None:
    documented = {**CTC, "answer_choices": "['年龄', '疾病']", "type": "cls"}
    del documented["task_type"]
    assert one(tmp_path, "promptcblue", documented).fields == one(tmp_path, "promptcblue", CTC).fields
    assert "answer_choices" not in one(tmp_path, "promptcblue", {**CTC, "answer_choices": None}).fields


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"target": "  "}, "empty target"),
        ({"target": None}, "empty target"),
        ({"input": ""}, "empty prompt"),
        ({"input": 5}, "not a text"),
        ({"task_dataset": None}, "no task_dataset"),
        ({"task_dataset": "CHIP-XYZ"}, "unknown task_dataset"),
        ({"answer_choices": "__import__('os')"}, "answer_choices is not a list"),
        ({"answer_choices": [1]}, "answer_choices is not a list"),
    ],
)
def test_promptcblue_drops_what_cannot_be_a_row_with_the_reason(
    tmp_path: Path, change: dict[str, Any], reason: str
) -> None:
    assert why(tmp_path, "promptcblue", {**CTC, **change}) == reason


def test_promptcblue_metric_by_task(tmp_path: Path) -> None:
    expected = {
        "classification": "CHIP-CTC CHIP-STS KUAKE-QIC KUAKE-QQR KUAKE-QTR KUAKE-IR IMCS-V2-DAC",
        "extraction": "CMeEE-V2 CHIP-CDN CMeIE CHIP-CDEE CHIP-MDCFNPC IMCS-V2-NER IMCS-V2-SR",
        "generation": "IMCS-V2-MRG MedDG",
    }
    for metric, tasks in expected.items():
        for task in tasks.split():
            assert one(tmp_path, "promptcblue", {**CTC, "task_dataset": task}).metric == metric


def test_columns_are_configurable_and_a_missing_one_is_named(tmp_path: Path) -> None:
    row = {"question": "问", "reply": "答", "task_dataset": "MedDG"}
    found = one(tmp_path, "promptcblue", row, prompt_column="question", response_column="reply")
    assert turns(found) == [("user", "问"), ("assistant", "答")]
    (entry,) = read(tmp_path, "promptcblue", [row])
    assert entry.reason == "no such columns"
    assert "data.prompt_column=input" in entry.detail
    assert "question, reply, task_dataset" in entry.detail


# --- advertisegen, triples ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("prompt", "reply"), [("content", "summary"), ("prompt", "response"), ("input", "target")])
def test_advertisegen_knows_its_column_names(tmp_path: Path, prompt: str, reply: str) -> None:
    row = one(tmp_path, "advertisegen", {prompt: "类型#裙", reply: "裙子。"}, system_prompt="写广告")
    assert turns(row) == [("system", "写广告"), ("user", "类型#裙"), ("assistant", "裙子。")]
    assert (row.task, row.metric) == ("advertisegen", "generation")


def test_a_list_of_replies_becomes_references(tmp_path: Path) -> None:
    row = one(tmp_path, "advertisegen", {"content": "类型#裙", "summary": ["一", " ", "二"]})
    assert (row.reference, row.fields) == ("一", {"references": ["一", "二"]})
    assert why(tmp_path, "advertisegen", {"content": "类型#裙", "summary": ""}) == "empty reply"


def test_triples_reads_both_forms_to_the_same_row(tmp_path: Path) -> None:
    prompt = source.load("triples").INSTRUCTION  # type: ignore[attr-defined]
    assert r"三元组之间用\n分割" in prompt
    new = one(tmp_path, "triples", {"instruction": prompt, "input": "水泵漏水", "output": "水泵_部件故障_漏水"})
    old = one(tmp_path, "triples", {"text": "水泵漏水", "answer": "水泵_部件故障_漏水"})
    assert new == old
    assert turns(new) == [("user", prompt + "水泵漏水"), ("assistant", "水泵_部件故障_漏水")]
    assert (new.task, new.metric) == ("triples", "triples")


def test_triples_instruction_is_configurable_and_an_empty_answer_legal(tmp_path: Path) -> None:
    row = one(tmp_path, "triples", {"instruction": "旧：", "input": "无故障", "output": ""}, instruction="新：")
    assert turns(row) == [("user", "新：无故障"), ("assistant", "")]
    assert why(tmp_path, "triples", {"text": " ", "answer": "a_b_c"}) == "empty prompt"


# --- dialogues ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["tools_flow", "tools_obs_string"])
def test_conversations_with_tools_match_the_reference_text_and_what_it_learns(
    tmp_path: Path, shared: Path, name: str
) -> None:
    golden = json.loads((shared / "golden/chatglm3_preprocess.json").read_text(encoding="utf-8"))
    case = golden["preprocess_utils_94c30e9"][name]
    messages = one(tmp_path, "conversations", case["item"]).messages
    bodies = [f"{message.metadata}\n{message.content}" for message in messages]
    openings = [f"<|{message.role}|>" for message in messages]
    text = "[gMASK]sop" + "".join(o + b for o, b in zip(openings, bodies, strict=True)) + "</s>"
    assert text == case["rendered"]
    # a learned body is learned together with the token behind it, which ends it
    ends = [*openings[1:], "</s>"]
    assert "".join(b + e for m, b, e in zip(messages, bodies, ends, strict=True) if m.learned) == case["learned"]


def test_conversations_learning_per_message(tmp_path: Path) -> None:
    item = {
        "conversations": [
            {"role": "user", "content": "问", "loss": True},
            {"role": "assistant", "content": "不学", "loss": False},
            {"role": "tool", "name": "f", "parameters": {"a": "x'y", "n": 2}, "observation": {"得": 1}},
            {"role": "assistant", "content": "学"},
        ]
    }
    row = one(tmp_path, "conversations", item)
    assert [(m.role, m.metadata, m.learned) for m in row.messages] == [
        ("user", "", True),
        ("assistant", "", False),
        ("assistant", "f", True),
        ("observation", "", False),
        ("assistant", "", True),
    ]
    assert row.messages[2].content == "```python\ntool_call(a=\"x'y\", n='2')\n```"
    assert row.messages[3].content == '{"得": 1}'


def test_dialogues_end_with_the_last_reply_and_say_when_they_were_cut(tmp_path: Path) -> None:
    dialogue = [("user", "一"), ("assistant", "二"), ("user", "三"), ("assistant", "四"), ("user", "五")]
    item = {"conversations": [{"role": role, "content": text} for role, text in dialogue]}
    (entry,) = read(tmp_path, "conversations", [item])
    assert entry.row is not None
    assert turns(entry.row) == dialogue[:4]
    assert entry.note == "turns behind the last reply left out"


@pytest.mark.parametrize(
    ("conversations", "reason"),
    [
        ([], "empty dialogue"),
        ("text", "no list 'conversations'"),
        ([1], "a turn is not an object"),
        ([{"role": "user", "content": "问"}], "no reply"),
        ([{"role": "system", "content": "s"}, {"role": "assistant", "content": "答"}], "no prompt"),
        ([{"role": "user", "content": "问"}, {"role": "assistant", "content": " "}], "empty reply"),
        (
            [{"role": "user", "content": "问"}, {"role": "assistant", "content": "答", "loss": False}],
            "nothing to learn",
        ),
        ([{"role": "human", "content": "问"}, {"role": "assistant", "content": "答"}], "unknown role"),
        ([{"role": "user", "content": None}, {"role": "assistant", "content": "答"}], "a content is not a text"),
        (
            [{"role": "user", "content": "问"}, {"role": "tool", "parameters": {}}],
            "a tool turn without name or parameters",
        ),
    ],
)
def test_dialogues_that_cannot_be_rows(tmp_path: Path, conversations: Any, reason: str) -> None:
    assert why(tmp_path, "conversations", {"conversations": conversations}) == reason


def test_messages_with_tool_calls_parts_and_weights(tmp_path: Path) -> None:
    call = {"id": "1", "type": "function", "function": {"name": "查天气", "arguments": '{"city": "北京"}'}}
    item: dict[str, Any] = {
        "messages": [
            {"role": "developer", "content": "规则"},
            {"role": "user", "content": [{"type": "text", "text": "北京"}, {"type": "text", "text": "天气"}]},
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "1", "content": "晴"},
            {"role": "assistant", "content": "晴天", "weight": 1},
        ]
    }
    row = one(tmp_path, "messages", item)
    assert [(m.role, m.content, m.metadata) for m in row.messages] == [
        ("system", "规则", ""),
        ("user", "北京天气", ""),
        ("assistant", "```python\ntool_call(city='北京')\n```", "查天气"),
        ("observation", "晴", ""),
        ("assistant", "晴天", ""),
    ]
    item["messages"][1]["content"] = [{"type": "image_url", "image_url": {}}]
    assert why(tmp_path, "messages", item) == "a content is not a text"
    item["messages"][1] = {"role": "user", "content": "北京", "weight": 3}
    assert why(tmp_path, "messages", item) == "weight is neither 0 nor 1"


def test_a_system_prompt_is_added_only_where_there_is_none(tmp_path: Path) -> None:
    pair = [{"role": "user", "content": "问"}, {"role": "assistant", "content": "答"}]
    with_system = {"messages": [{"role": "system", "content": "自己的"}, *pair]}
    assert one(tmp_path, "messages", {"messages": pair}, system_prompt="新").messages[0].content == "新"
    assert one(tmp_path, "messages", with_system, system_prompt="新").messages[0].content == "自己的"
