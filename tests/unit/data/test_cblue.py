"""CBLUE's raw records to PromptCBLUE's rows; real prompts and answers (env WEITIAO_SHARED) are the reference."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ET
import zipfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tasks.data.cblue import labels as cblue_labels
from tasks.data.cblue import tasks as cblue_tasks
from tasks.data.cblue import templates as cblue_templates
from tasks.data.source import Draft, MaxRows, SourceConfig, Unusable
from tasks.data.sources import cblue, promptcblue
from tasks.data.stage import prepare
from tasks.errors import DataError
from tasks.store import Store

REPOSITORY = Path(__file__).parents[3]
NAMES = ("CHIP-CTC", "CHIP-STS", "CHIP-CDN", "KUAKE-QIC", "KUAKE-QQR", "KUAKE-QTR", "CMeEE-V2", "CMeIE")
CONFIG = cblue.Config()
ALWAYS = cblue.Config(left_out_share=0)
NEVER = cblue.Config(left_out_share=0.999999)

CTC: dict[str, Any] = {"id": "s1", "label": "Age", "text": " 3.年龄&gt;18岁；"}
STS = {"id": "2", "text1": "感冒吃什么", "text2": "感冒要吃什么药", "label": "1", "category": "flu"}
CDN = {"text": "左膝退变 伴游离体", "normalized_result": "膝骨关节病##膝关节游离体##O##膝骨关节病"}
QIC = {"id": "s1", "query": "发烧能治好吗", "label": "疾病表述"}
QQR = {"id": "s1", "query1": "输液", "query2": "小孩输液", "label": "1"}
QTR = {"id": "s1", "query": "宝宝睡多久", "title": "宝宝一天睡几个小时", "label": "0"}
CMEEE: dict[str, Any] = {
    "text": "肺炎患儿有咳嗽，咳嗽时肺部痛",
    "entities": [
        {"start_idx": 8, "end_idx": 9, "type": "sym", "entity": "咳嗽"},
        {"start_idx": 5, "end_idx": 6, "type": "sym", "entity": "咳嗽"},
        {"start_idx": 11, "end_idx": 13, "type": "sym", "entity": "肺部痛"},
        {"start_idx": 11, "end_idx": 12, "type": "bod", "entity": "肺部"},
        {"start_idx": 0, "end_idx": 1, "type": "dis", "entity": "肺炎"},
    ],
}
CMEIE: dict[str, Any] = {
    "text": "肺炎@患者咳嗽、发热，用青霉素。",
    "spo_list": [
        {"predicate": "临床表现", "subject": "肺炎", "object": {"@value": "咳嗽"}},
        {"predicate": "药物治疗", "subject": "肺炎", "object": {"@value": "青霉素"}},
        {"predicate": "临床表现", "subject": "肺炎", "object": {"@value": "发热"}},
        {"predicate": "临床表现", "subject": "肺炎", "object": {"@value": "咳嗽"}},
    ],
}
RAW: dict[str, dict[str, Any]] = dict(zip(NAMES, (CTC, STS, CDN, QIC, QQR, QTR, CMEEE, CMEIE), strict=True))


def make(name: str, record: dict[str, Any], config: cblue.Config = CONFIG) -> Draft:
    return cblue.convert(record, f"{name}_train.json#1", config)


def parts(draft: Draft) -> tuple[str, list[str], str]:
    """Prompt, options, target."""
    return draft.row.messages[0].content, draft.row.fields["answer_choices"], draft.row.reference


def why(record: dict[str, Any], name: str = "CHIP-CTC", **values: Any) -> Unusable:
    with pytest.raises(Unusable) as caught:
        make(name, record, cblue.Config(**values))
    return caught.value


def many(record: dict[str, Any], column: str, config: cblue.Config = ALWAYS, count: int = 200) -> list[Draft]:
    """Rows of records that differ in their text alone."""
    name = next(name for name, raw in RAW.items() if set(raw) == set(record))
    return [make(name, {**record, column: f"{record[column]}{i}"}, config) for i in range(count)]


# --- what every task's rows have ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_a_row_has_promptcblues_fields_and_the_text_as_it_is(name: str) -> None:
    row = make(name, RAW[name]).row
    assert (row.id, row.task, row.metric) == (f"{name}_train.json#1", name, promptcblue.METRIC)
    assert [message.role for message in row.messages] == ["user", "assistant"]
    assert row.fields["sample_id"] == f"{name}_train-{RAW[name].get('id', 1)}"
    for column in cblue_tasks.BY_NAME[name].texts[0]:
        assert RAW[name][column] in row.messages[0].content
    assert "，".join(row.fields["answer_choices"]) in row.messages[0].content
    assert not re.search(r"\[[A-Z_]+\]|\\n", row.messages[0].content)
    types = {
        "CHIP-CTC": "cls",
        "CHIP-STS": "cls",
        "CHIP-CDN": "normalization",
        "KUAKE-QIC": "cls",
        "KUAKE-QQR": "matching",
        "KUAKE-QTR": "matching",
        "CMeEE-V2": "ner",
        "CMeIE": "spo_generation",
    }
    assert row.fields["task_type"] == types[name]


@pytest.mark.parametrize("name", NAMES)
def test_a_row_depends_on_seed_and_text_but_not_on_its_place(name: str) -> None:
    record, column = RAW[name], cblue_tasks.BY_NAME[name].texts[0][0]
    first = make(name, record)
    elsewhere = cblue.convert(record, f"x/{name}_dev.json#77", CONFIG)
    assert parts(elsewhere) == parts(first)
    assert elsewhere.group == first.group
    spaced = make(name, {**record, column: f"{record[column]} "})
    assert parts(spaced)[1:] == parts(first)[1:]  # the same text but for its edges: the same draw
    assert spaced.group == first.group
    other_seeds = {parts(make(name, record, cblue.Config(template_seed=seed)))[0] for seed in range(30)}
    assert len(other_seeds) >= 3


def test_two_rows_as_they_were_when_this_was_written() -> None:
    """A change here changes everybody's rows: raise the stage's REVISION and say so in the changelog."""
    listed = (
        "年龄，疾病，症状(患者感受)，居住情况，受体状态，参与其它试验，种族，护理，依存性，饮食，健康群体，肿瘤进展，"
        "锻炼，风险评估，数据可及性，读写能力，睡眠"
    )
    head = " 3.年龄&gt;18岁；\n上面这条受试者筛选标准说的是哪一类要求？"
    assert parts(make("CHIP-CTC", CTC)) == (f"{head}\n类别选项：{listed}\n答：", listed.split("，"), "年龄")
    assert parts(make("CHIP-CDN", {"text": "左膝退变伴游离体", "normalized_result": "膝骨关节病##膝关节游离体"})) == (
        "医生写的诊断是：左膝退变伴游离体\n哪些标准诊断词与它意思一致？\n"
        "选项：脑动脉瘤，肾上腺肿物，膝关节游离体，黄斑变性，膝骨关节病，视网膜脱离\n答：",
        ["脑动脉瘤", "肾上腺肿物", "膝关节游离体", "黄斑变性", "膝骨关节病", "视网膜脱离"],
        "膝关节游离体，膝骨关节病",
    )


def test_the_group_is_left_to_data_group_by() -> None:
    assert make("KUAKE-QTR", QTR, cblue.Config(group_by="query")).group == ""


@pytest.mark.parametrize("name", NAMES)
def test_every_shipped_template_is_used_and_there_are_three_or_more(name: str) -> None:
    column = cblue_tasks.BY_NAME[name].texts[0][0]
    templates = cblue_templates.load(None)[name]
    assert len(set(templates)) >= 3
    heads = {re.sub(r"\[[A-Z_0-9]+\].*", "", text, flags=re.DOTALL) or text.split("\n")[1] for text in templates}
    prompts = [parts(draft)[0] for draft in many(RAW[name], column)]
    assert all(any(head[:8] in prompt for prompt in prompts) for head in heads)


@pytest.mark.parametrize("name", NAMES)
def test_three_in_five_prompts_ask_for_the_answer_and_all_of_sts(name: str) -> None:
    drafts = many(RAW[name], cblue_tasks.BY_NAME[name].texts[0][0], count=600)
    share = sum(parts(draft)[0].endswith("\n答：") for draft in drafts) / 600
    assert share == 1.0 if name == "CHIP-STS" else 0.53 < share < 0.67
    none = cblue.Config(answer_line_share=0)
    assert parts(make(name, RAW[name], none))[0].endswith("\n答：") == (name == "CHIP-STS")


def test_a_text_that_looks_like_a_placeholder_stays() -> None:
    prompt, options, _ = parts(make("CHIP-CTC", {**CTC, "text": "[LIST_LABELS]\\n岁"}))
    assert "[LIST_LABELS]\\n岁" in prompt
    assert prompt.count("，".join(options)) == 1


# --- labels ------------------------------------------------------------------------------------------------------


def test_ctc_offers_a_part_of_the_43_names_with_the_right_one() -> None:
    drafts = many(CTC, "text", count=600)
    sizes = Counter(len(parts(draft)[1]) for draft in drafts)
    assert min(sizes) == 1
    assert max(sizes) == 43
    assert all("年龄" in parts(draft)[1] and parts(draft)[2] == "年龄" for draft in drafts)
    assert {option for draft in drafts for option in parts(draft)[1]} == set(cblue_labels.CRITERIA.values())
    places = [parts(draft)[1].index("年龄") for draft in drafts if len(parts(draft)[1]) > 20]
    assert len(set(places)) > 15  # shuffled


def test_four_in_a_hundred_rows_do_not_offer_the_right_option() -> None:
    drafts = many(CTC, "text", CONFIG, count=3000)
    left_out = [draft for draft in drafts if parts(draft)[2] == "非上述类型"]
    assert 80 < len(left_out) < 165
    assert all("年龄" not in parts(draft)[1] for draft in left_out)
    assert all("年龄" in parts(draft)[1] for draft in drafts if draft not in left_out)


def test_ctcs_multiple_answers_none_of_these_or_has_its_own_option() -> None:
    draft = make("CHIP-CTC", {**CTC, "label": "Multiple"}, ALWAYS)
    assert parts(draft)[2] == "非上述类型"
    assert draft.notes == ("label Multiple (several categories) written as none of these",)
    offered = make("CHIP-CTC", {**CTC, "label": "Multiple"}, cblue.Config(left_out_share=0, ctc_multiple="offer"))
    assert parts(offered)[2] == "含有多个类别"
    assert "含有多个类别" in parts(offered)[1]
    assert offered.notes == ()


@pytest.mark.parametrize(
    ("name", "label", "expected"),
    [
        ("KUAKE-QIC", "疾病表述", "疾病描述"),
        ("KUAKE-QIC", "其他", "非上述类型"),
        ("KUAKE-QIC", "治疗方案", "治疗方案"),
        ("CHIP-STS", "1", "是的"),
        ("CHIP-STS", 0, "不是"),
        ("KUAKE-QQR", "2", "完全一致"),
        ("KUAKE-QQR", "1", "后者是前者的语义子集"),
        ("KUAKE-QQR", "0", "语义无直接关联"),
        ("KUAKE-QTR", "0", "完全不匹配或者没有参考价值"),
        ("KUAKE-QTR", "1", "很少匹配有一些参考价值"),
        ("KUAKE-QTR", "2", "部分匹配"),
        ("KUAKE-QTR", "3", "完全匹配"),
    ],
)
def test_labels_are_named_as_in_promptcblue(name: str, label: Any, expected: str) -> None:
    assert parts(make(name, {**RAW[name], "label": label}, ALWAYS))[2] == expected


def test_pair_tasks_offer_all_options_in_their_order_and_never_leave_one_out() -> None:
    assert parts(make("KUAKE-QTR", QTR, NEVER))[1:] == (
        ["完全不匹配或者没有参考价值", "很少匹配有一些参考价值", "部分匹配", "完全匹配"],
        "完全不匹配或者没有参考价值",
    )
    four = ["完全一致", "后者是前者的语义子集", "后者是前者的语义父集", "语义无直接关联"]
    assert parts(make("KUAKE-QQR", QQR, NEVER))[1:] == (four, "后者是前者的语义子集")
    assert make("KUAKE-QQR", {**QQR, "label": "0"}).notes == ("label 0 (superset or unrelated) written as unrelated",)
    with_title = {"id": "s1", "query": "输液", "title": "小孩输液", "label": "1"}
    assert parts(make("KUAKE-QQR", with_title)) == parts(make("KUAKE-QQR", QQR))


def test_cdn_offers_all_standard_terms_with_two_to_four_wrong_ones() -> None:
    for draft in many(CDN, "text"):
        _, options, target = parts(draft)
        assert set(target.split("，")) == {"膝骨关节病", "膝关节游离体"}
        assert target.split("，") == [option for option in options if option in target.split("，")]
        assert 4 <= len(options) <= 6
        assert len(set(options)) == len(options)
        assert draft.notes == ("the mark O (no standard term) left out",)
    assert parts(make("CHIP-CDN", CDN, NEVER))[2] == "没有对应的标准化实体"
    assert parts(make("CHIP-CDN", {**CDN, "normalized_result": "O"}))[2] == "没有对应的标准化实体"


def test_cdns_wrong_terms_come_from_the_given_list_whatever_its_order(tmp_path: Path) -> None:
    terms = [f"病{i}" for i in range(30)]
    one, other = tmp_path / "one.txt", tmp_path / "other.txt"
    one.write_text("\n".join(terms), encoding="utf-8")
    other.write_text("\r\n".join([*reversed(terms), "", "病3"]), encoding="utf-8-sig")
    drafts = [make("CHIP-CDN", CDN, cblue.Config(left_out_share=0, terms=path)) for path in (one, other)]
    assert parts(drafts[0]) == parts(drafts[1])
    assert set(parts(drafts[0])[1]) <= {*terms, "膝骨关节病", "膝关节游离体"}
    one.write_text("病", encoding="utf-8")
    with pytest.raises(DataError, match=r"data\.terms=.*one\.txt: 1 terms; needs 10 or more"):
        make("CHIP-CDN", CDN, cblue.Config(terms=one))


def test_cdns_own_file_may_be_the_list_of_terms(tmp_path: Path) -> None:
    path = tmp_path / "CHIP-CDN_train.json"
    rows = [{"text": "x", "normalized_result": f"甲{i}##乙{i}##O"} for i in range(10)]
    path.write_text(json.dumps(rows, ensure_ascii=False), encoding="utf-8")
    options = parts(make("CHIP-CDN", CDN, cblue.Config(left_out_share=0, terms=path)))[1]
    assert all(option[0] in "甲乙" for option in options if not option.startswith("膝"))


def test_cmeee_writes_a_line_for_each_type_offered_in_the_order_of_the_text() -> None:
    mentions = {"临床表现": "咳嗽，肺部痛", "身体部位": "肺部", "疾病": "肺炎"}
    seen = set()
    for draft in many(CMEEE, "text"):
        _, options, target = parts(draft)
        lines = [f"{option}实体：{mentions.get(option, '')}" for option in options]
        assert target == "\n".join(["上述句子中的实体包含：", *lines])
        assert any(option in mentions for option in options)
        seen.add(len(options))
    assert seen == set(range(1, 10))
    assert parts(make("CMeEE-V2", CMEEE, NEVER))[2] == "上述句子没有指定类型实体"
    assert parts(make("CMeEE-V2", {**CMEEE, "entities": []}))[2] == "上述句子没有指定类型实体"


def test_cmeie_writes_a_line_for_each_relation_and_each_pair_once() -> None:
    lines = {
        "临床表现": "头实体为肺炎，尾实体为咳嗽。头实体为肺炎，尾实体为发热。",
        "药物治疗": "头实体为肺炎，尾实体为青霉素。",
    }
    sizes = set()
    for draft in many(CMEIE, "text"):
        _, options, target = parts(draft)
        assert target == "\n".join(f"具有{o}关系的头尾实体对如下：{lines.get(o, '')}" for o in options)
        assert set(lines) <= set(options)
        sizes.add(len(options))
    assert sizes == {2, 3, 4}
    assert parts(make("CMeIE", CMEIE, NEVER))[2] == "没有指定类型的三元组"
    plain = [{**triple, "object": triple["object"]["@value"]} for triple in CMEIE["spo_list"]]
    assert parts(make("CMeIE", {**CMEIE, "spo_list": plain})) == parts(make("CMeIE", CMEIE))


def test_a_value_that_holds_the_answers_separator_is_noted() -> None:
    entities = [{"start_idx": 0, "end_idx": 2, "type": "sym", "entity": "咳，痰"}]
    assert make("CMeEE-V2", {"text": "咳，痰", "entities": entities}).notes == (
        "a value holds the separator of the answer",
    )
    triples = [{"predicate": "病因", "subject": "甲。", "object": {"@value": "乙"}}]
    assert make("CMeIE", {"text": "甲", "spo_list": triples}).notes == ("a value holds the separator of the answer",)


# --- records that make no row ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_a_record_without_its_label_says_so(name: str) -> None:
    column = cblue_tasks.BY_NAME[name].column
    for record in (
        {key: value for key, value in RAW[name].items() if key != column},
        {**RAW[name], column: None},
        {**RAW[name], column: ""},
    ):
        problem = why(record, name)
        assert (problem.reason, problem.task) == ("no label", name)


@pytest.mark.parametrize(
    ("name", "change", "reason"),
    [
        ("CHIP-CTC", {"label": "Aged"}, "unknown label"),
        ("CHIP-STS", {"label": "3"}, "unknown label"),
        ("CHIP-STS", {"label": True}, "unknown label"),
        ("CHIP-STS", {"label": ["1"]}, "unknown label"),
        ("CHIP-CTC", {"text": " \n"}, "empty prompt"),
        ("KUAKE-QTR", {"title": ""}, "empty prompt"),
        ("KUAKE-QTR", {"title": 5}, "not a text"),
        ("CHIP-CDN", {"normalized_result": ["a"]}, "broken label"),
        ("CMeEE-V2", {"entities": {}}, "broken label"),
        ("CMeEE-V2", {"entities": [{"start_idx": 0, "type": "dis"}]}, "broken label"),
        ("CMeEE-V2", {"entities": [{"start_idx": 0, "type": "xyz", "entity": "a"}]}, "unknown label"),
        ("CMeIE", {"spo_list": [{"predicate": "病因", "subject": "a", "object": {}}]}, "broken label"),
        ("CMeIE", {"spo_list": [{"predicate": "x", "subject": "a", "object": "b"}]}, "unknown label"),
    ],
)
def test_what_cannot_be_a_row_has_a_reason_without_its_content(name: str, change: dict[str, Any], reason: str) -> None:
    problem = why({**RAW[name], **change}, name)
    assert (problem.reason, problem.task) == (reason, name)
    assert "Aged" not in problem.detail


def test_a_file_of_another_task_names_the_columns() -> None:
    problem = why(STS, "CHIP-CTC")
    assert problem.reason == "no such columns"
    assert problem.detail.startswith("CHIP-CTC has text; the record has id, text1, text2")


# --- which task --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("CHIP-CTC_train.json", "CHIP-CTC"),
        ("CHIP-STS/train.json", "CHIP-STS"),
        ("data/CMeEE-V2_dev.json", "CMeEE-V2"),
        ("cmeee_dev.json", "CMeEE-V2"),
        ("CMeIE-V2/CMeIE-V2_train.jsonl", "CMeIE"),
        ("QQR.json", "KUAKE-QQR"),
        ("CHIP-CTC/KUAKE-QIC_dev.json", "KUAKE-QIC"),
        ("ctcs_doctor.json", None),
        ("train.json", None),
    ],
)
def test_a_name_speaks_of_a_task(path: str, name: str | None) -> None:
    task = cblue_tasks.named(path)
    assert (task.name if task else None) == name


@pytest.mark.parametrize("name", NAMES)
def test_the_columns_show_the_task_where_the_name_does_not(name: str) -> None:
    draft = cblue.convert(RAW[name], "train.json#4", CONFIG)
    assert draft.row.task == name
    claim = cblue.recognise(RAW[name])
    assert claim is not None
    assert claim.strength == 6
    assert name in claim.why


def test_other_records_are_not_claimed_and_need_a_task() -> None:
    for record in ({"text": "好吃", "label": "Positive"}, {"id": "1", "text": "甲"}, {"query": "问", "response": "答"}):
        assert cblue.recognise(record) is None
    with pytest.raises(Unusable, match="unknown task"):
        cblue.convert({"id": "1", "text": "甲"}, "train.json#1", CONFIG)
    assert why({"id": "1", "text": "甲"}, "x", task="CHIP-CTC").reason == "no label"


# --- files -------------------------------------------------------------------------------------------------------


def layout(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("[]", encoding="utf-8")
    return folder


def found(**values: Any) -> list[tuple[str, str]]:
    return [(file.name, file.split) for file in cblue.find(cblue.Config(**values)).files]


def test_a_tasks_folder_gives_its_three_files_and_names_the_others(tmp_path: Path) -> None:
    names = ("CHIP-CTC_train.json", "CHIP-CTC_dev.json", "CHIP-CTC_test.json", "example_gold.json", "category.xlsx")
    folder = layout(tmp_path / "CHIP-CTC", *names, "old.json")
    assert found(path=folder) == [
        ("CHIP-CTC_train.json", "train"),
        ("CHIP-CTC_dev.json", "validation"),
        ("CHIP-CTC_test.json", "test"),
    ]
    skipped = {file.name: file.reason for file in cblue.find(cblue.Config(path=folder)).skipped}
    assert skipped == {
        "category.xlsx": "the label names, which are built in",
        "example_gold.json": "an example for the scorer",
        "old.json": "its name does not end with train, dev or test",
    }


def test_a_plain_name_takes_its_task_from_the_folder(tmp_path: Path) -> None:
    folder = layout(tmp_path / "CHIP-CTC", "train.json")
    assert found(path=folder) == [("CHIP-CTC/train.json", "train")]


def test_the_folder_above_gives_all_tasks_or_the_one_that_is_asked_for(tmp_path: Path) -> None:
    folder = layout(
        tmp_path, "CHIP-CTC/CHIP-CTC_train.json", "CMeIE/CMeIE_dev.json", "CMeIE/53_schemas.json", "notes/a.json"
    )
    assert found(path=folder) == [("CHIP-CTC/CHIP-CTC_train.json", "train"), ("CMeIE/CMeIE_dev.json", "validation")]
    assert found(path=folder, task="CHIP-CTC") == [("CHIP-CTC/CHIP-CTC_train.json", "train")]
    skipped = {file.name: file.reason for file in cblue.find(cblue.Config(path=folder, task="CHIP-CTC")).skipped}
    assert skipped == {
        "CMeIE/": "another task than data.task=CHIP-CTC",
        "notes/": "its name speaks of no CBLUE task",
    }


def test_without_a_training_file_the_error_names_what_is_there(tmp_path: Path) -> None:
    folder = layout(tmp_path / "CMeEE", "CMeEE_dev.json")
    with pytest.raises(DataError, match=r"no training file among CMeEE_dev\.json; name one with data\.train=FILE"):
        found(path=folder)
    dev = folder / "CMeEE_dev.json"
    assert ("CMeEE_dev.json", "train") in found(path=folder, train=dev)
    assert found(path=dev) == [("CMeEE_dev.json", "train")]
    with pytest.raises(DataError, match=r"no <task>_train\.json"):
        found(path=layout(tmp_path / "empty", "a.txt"))
    with pytest.raises(DataError, match="cblue ships no sample"):
        found()


# --- templates of one's own --------------------------------------------------------------------------------------


def templates(path: Path, value: Any) -> cblue.Config:
    path.write_text(value if isinstance(value, str) else json.dumps(value), encoding="utf-8")
    return cblue.Config(templates=path, left_out_share=0)


def test_a_templates_file_is_unescaped_and_filled(tmp_path: Path) -> None:
    config = templates(tmp_path / "t.json", {"CHIP-CTC": ["甲：[INPUT_TEXT]\\n乙：[LIST_LABELS]\\n答："]})
    prompt, options, _ = parts(make("CHIP-CTC", CTC, config))
    assert prompt.removesuffix("\n答：") == f"甲：{CTC['text']}\n乙：{'，'.join(options)}"


def test_a_pair_template_may_spell_out_its_own_two_answers(tmp_path: Path) -> None:
    spelled = "“[INPUT_TEXT_1]”，“[INPUT_TEXT_2]”。\\n选项：相同，不同\\n答："
    config = templates(tmp_path / "t.json", {"CHIP-STS": [spelled]})
    assert parts(make("CHIP-STS", STS, config)) == (
        "“感冒吃什么”，“感冒要吃什么药”。\n选项：相同，不同\n答：",
        ["相同", "不同"],
        "相同",
    )


def test_editions_of_one_task_share_their_templates(tmp_path: Path) -> None:
    config = templates(tmp_path / "t.json", {"CMeIE-V2": ["[INPUT_TEXT]：[LIST_LABELS]"]})
    assert parts(make("CMeIE", CMEIE, config))[0].startswith(f"{CMEIE['text']}：")


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("{", "not JSON; allowed: one JSON object like"),
        (["[INPUT_TEXT]"], "not an object of tasks; allowed"),
        ({"CHIP-CTC": "[INPUT_TEXT]"}, "task 'CHIP-CTC' has no list of texts; allowed"),
        ({"CHIP-CTC": []}, "task 'CHIP-CTC' has no list of texts; allowed"),
        ({"CHIP-STS": ["[INPUT_TEXT_1][INPUT_TEXT_2][LIST_LABELS]"]}, "no templates for CHIP-CTC; it has CHIP-STS"),
        ({"CHIP-CTC": ["[LIST_LABELS]"]}, r"template 1 of CHIP-CTC: its placeholders are not \[INPUT_TEXT\]"),
        ({"CHIP-CTC": ["[INPUT_TEXT]"]}, "template 1 of CHIP-CTC: its placeholders"),
        ({"CHIP-CTC": ["[INPUT_TEXT]\n选项：是的，不是"]}, "template 1 of CHIP-CTC: its placeholders"),
        ({"CHIP-CTC": ["[INPUT_TEXT][LIST_LABELS][LIST_MENTIONS]"]}, "template 1 of CHIP-CTC: its placeholders"),
    ],
)
def test_a_templates_file_of_another_form_is_an_error_before_any_record(
    tmp_path: Path, value: Any, message: str
) -> None:
    config = templates(tmp_path / "t.json", value)
    folder = layout(tmp_path / "CHIP-CTC", "CHIP-CTC_train.json")
    with pytest.raises(DataError, match=message):
        cblue.find(config.model_copy(update={"path": folder, "task": "CHIP-CTC"}))
    with pytest.raises(DataError, match=message):
        make("CHIP-CTC", CTC, config)


def test_a_changed_templates_file_is_read_again(tmp_path: Path) -> None:
    config = templates(tmp_path / "t.json", {"CHIP-CTC": ["一[INPUT_TEXT][LIST_LABELS]"]})
    assert parts(make("CHIP-CTC", CTC, config))[0].startswith("一")
    templates(tmp_path / "t.json", {"CHIP-CTC": ["第二[INPUT_TEXT][LIST_LABELS]"]})
    assert parts(make("CHIP-CTC", CTC, config))[0].startswith("第二")
    assert cblue.inputs(config) == (tmp_path / "t.json",)


def test_the_yaml_states_every_key_of_its_own() -> None:
    values = yaml.safe_load((REPOSITORY / "conf/data/cblue.yaml").read_text(encoding="utf-8"))
    assert values.pop("defaults") == ["_common", "_self_"]
    assert cblue.Config(**values) == cblue.Config()
    own = set(cblue.Config.model_fields) - set(SourceConfig.model_fields)
    assert set(values) == own | {"source", "min_keep_ratio"}


# --- real files --------------------------------------------------------------------------------------------------

COUNTS = {
    ("CHIP-CTC", "train"): 22962,
    ("CHIP-CTC", "dev"): 7682,
    ("CHIP-STS", "train"): 16000,
    ("CHIP-STS", "dev"): 4000,
    ("CHIP-CDN", "train"): 6000,
    ("CHIP-CDN", "dev"): 2000,
    ("KUAKE-QIC", "train"): 6931,
    ("KUAKE-QIC", "dev"): 1955,
    ("KUAKE-QQR", "train"): 15000,
    ("KUAKE-QQR", "dev"): 1600,
    ("KUAKE-QTR", "train"): 24174,
    ("KUAKE-QTR", "dev"): 2913,
    ("CMeEE-V2", "dev"): 5000,
    ("CMeIE", "dev"): 3585,
}
UNLABELLED = {
    "CHIP-CTC": 10192,
    "CHIP-STS": 10000,
    "CHIP-CDN": 10000,
    "KUAKE-QIC": 1994,
    "KUAKE-QQR": 1596,
    "KUAKE-QTR": 5465,
    "CMeEE-V2": 3000,
    "CMeIE": 4482,
}


def raw(shared: Path, name: str, split: str) -> list[dict[str, Any]]:
    """The records of a raw file, read without the project's reader."""
    folder = name.removesuffix("-V2")
    path = shared / f"data/cblue_raw/{folder}/{folder}_{split}.json"
    return lines(path) if path.exists() else []


def lines(path: Path) -> list[dict[str, Any]]:
    text = path.read_bytes().decode("utf-8")
    if text.startswith("["):
        return json.loads(text)  # type: ignore[no-any-return]
    return [json.loads(line) for line in re.split(r"\r\n|\n|\r", text) if line.strip()]


@pytest.mark.parametrize("name", NAMES)
def test_every_labelled_record_of_the_real_files_makes_a_row(shared: Path, name: str) -> None:
    for split in ("train", "dev"):
        made = [make(name, record) for record in raw(shared, name, split)]
        assert len(made) == COUNTS.get((name, split), 0)
    records = raw(shared, name, "test")
    assert len(records) == UNLABELLED[name]
    assert {why(record, name).reason for record in records} == {"no label"}


def test_the_real_folder_gives_all_files_and_enough_for_6000_and_1100_rows(shared: Path) -> None:
    given = found(path=shared / "data/cblue_raw")
    assert Counter(split for _, split in given) == {"train": 6, "validation": 8, "test": 8}
    assert found(path=shared / "data/cblue_raw", task="CHIP-CTC") == [
        ("CHIP-CTC/CHIP-CTC_train.json", "train"),
        ("CHIP-CTC/CHIP-CTC_dev.json", "validation"),
        ("CHIP-CTC/CHIP-CTC_test.json", "test"),
    ]
    train = {make("CHIP-CTC", record).group for record in raw(shared, "CHIP-CTC", "train")}
    dev = {make("CHIP-CTC", record).group for record in raw(shared, "CHIP-CTC", "dev")}
    assert len(train - dev) >= 6000
    assert len(dev) >= 1100


def test_chip_ctc_of_6000_and_1100_rows_is_rebuilt(shared: Path, tmp_path: Path) -> None:
    caps = MaxRows(train=6000, validation=1100)
    config = cblue.Config(path=shared / "data/cblue_raw", task="CHIP-CTC", max_rows=caps, near_duplicates=None)
    dataset = prepare(config, store=Store(tmp_path))
    assert (dataset.splits["train"], dataset.splits["validation"]) == (6000, 1100)
    assert dataset.rows["read"] == 22962 + 7682 + 10192
    assert dataset.rows["dropped"]["no label"] == 10192
    assert dataset.tasks == {"CHIP-CTC": dataset.rows["kept"]}


def test_the_ctc_names_are_those_of_the_published_table(shared: Path) -> None:
    space = "{http://schemas.openxmlformats.org/spreadsheetml/2006/main}"
    with zipfile.ZipFile(shared / "data/cblue_raw/CHIP-CTC/category.xlsx") as book:
        texts = [
            "".join(text.text or "" for text in item.iter(f"{space}t"))
            for item in ET.fromstring(book.read("xl/sharedStrings.xml"))
        ]
        cells = {
            cell.get("r"): texts[int(value.text or "")]
            for cell in ET.fromstring(book.read("xl/worksheets/sheet1.xml")).iter(f"{space}c")
            if (value := cell.find(f"{space}v")) is not None
        }
    table = {cells[f"C{row}"]: cells[f"B{row}"] for row in range(2, 46)}
    assert table.pop("Multiple") == "含有多类别的语句"  # the scorer's name for it is another
    assert table == cblue_labels.CRITERIA
    assert len(table) == 43


def test_the_relations_are_those_of_the_published_schemas(shared: Path) -> None:
    schemas = lines(shared / "data/cblue_raw/CMeIE/53_schemas.json")
    assert {schema["predicate"] for schema in schemas} == set(cblue_labels.RELATIONS)
    assert len(cblue_labels.RELATIONS) == 44


#: Official test prompts (of all that there are) that are, character by character, an official template filled by us
#: with a text of the raw files and the row's own options. CTC's others have a raw text stripped at its edges; CMeEE's
#: use three templates that are not in the published file.
REPRODUCED = {
    "CHIP-CTC": (1008, 1060),
    "CHIP-STS": (600, 600),
    "CHIP-CDN": (600, 600),
    "KUAKE-QIC": (660, 660),
    "KUAKE-QQR": (600, 600),
    "KUAKE-QTR": (600, 600),
    "CMeEE-V2": (431, 600),
    "CMeIE": (600, 600),
}


@pytest.mark.parametrize("name", NAMES)
def test_official_templates_filled_by_us_are_the_real_prompts(shared: Path, name: str) -> None:
    columns = cblue_tasks.BY_NAME[name].texts[0]
    known = {
        tuple(r[column] for column in columns) for split in ("train", "dev", "test") for r in raw(shared, name, split)
    }
    rows = real(shared / "data/promptcblue/official_test_inputs", name)
    hits = sum(any(texts in known for texts in texts_of(shared, name, row)) for row in rows)
    assert (hits, len(rows)) == REPRODUCED[name]


#: Labelled real rows whose text is in the raw files: those whose answer is ours with the row's own options.
ANSWERED = {
    "CHIP-CTC": (245, 247),  # two have an option of the right name and answer none of these
    "CHIP-STS": (3422, 3422),
    "KUAKE-QTR": (1010, 1010),
    "KUAKE-QIC": (10, 10),
    "KUAKE-QQR": (8, 10),  # two are supersets, which the raw label 0 does not tell from unrelated
    "CHIP-CDN": (496, 496),
    "CMeIE": (5, 5),
}


@pytest.mark.parametrize("name", list(ANSWERED))
def test_our_answers_are_those_of_the_real_rows(shared: Path, name: str) -> None:
    task = cblue_tasks.BY_NAME[name]
    known: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for split in ("train", "dev"):
        for record in raw(shared, name, split):
            known.setdefault(tuple(record[column].strip() for column in task.texts[0]), []).append(record)
    outcomes: Counter[bool] = Counter()
    for folder in ("toy_examples", "labelled"):
        for row in real(shared / "data/promptcblue" / folder, name):
            candidates = [tuple(text.strip() for text in texts) for texts in texts_of(shared, name, row)]
            records = [record for texts in candidates for record in known.get(texts, [])]
            if records and row["target"]:
                outcomes[any(same(row, record, task) for record in records)] += 1
    assert (outcomes[True], outcomes.total()) == ANSWERED[name]


@pytest.mark.parametrize("name", ["CHIP-CTC", "CHIP-STS", "CHIP-CDN", "KUAKE-QIC", "KUAKE-QTR"])
def test_our_answers_are_those_of_the_ten_published_examples_to_the_letter(shared: Path, name: str) -> None:
    task = cblue_tasks.BY_NAME[name]
    column = task.texts[0][0]
    records = [record for split in ("train", "dev") for record in raw(shared, name, split)]
    rows = [row for row in real(shared / "data/promptcblue/toy_examples", name) if row["target"]]
    assert len(rows) == 10
    for row in rows:
        texts = {text.strip() for given in texts_of(shared, name, row) for text in given}
        matching = [r for r in records if {r[c].strip() for c in task.texts[0]} <= texts and r[column].strip()]
        answers = {task.answer(task.read(r[task.column]).right, row["answer_choices"]) for r in matching}
        assert row["target"] in answers


def same(row: dict[str, Any], record: dict[str, Any], task: cblue_tasks.Task) -> bool:
    right, options = task.read(record[task.column]).right, row["answer_choices"]
    if options == ["相同", "不同"]:
        right = {{"是的": "相同", "不是": "不同"}[option]: [] for option in right}
    ours = task.answer(right, options)
    return bool(structured(task.name, ours, options) == structured(task.name, row["target"], options))


def structured(name: str, target: str, options: list[str]) -> Any:
    """The answer as PromptCBLUE's scorer takes it apart: sets for the extraction tasks, else the text."""
    if name == "CHIP-CDN":
        return {piece for piece in target.split("\n")[-1].split("，") if piece in options}
    if name == "CMeIE":
        triples = set()
        for line in target.split("\n"):
            predicate = line.split("关系的头尾实体对")[0][2:].strip()
            for piece in line.replace(f"具有{predicate}关系的头尾实体对如下：", "").split("。"):
                if "，尾实体为" in piece:
                    head, tail = piece.split("，尾实体为")[:2]
                    triples.add((predicate, head.replace("头实体为", ""), tail))
        return triples
    return target.strip()


def real(folder: Path, name: str) -> list[dict[str, Any]]:
    files = [path for path in sorted(folder.glob("*.json")) if path.stem not in ("dev_structured", "results")]
    return [row for path in files for row in lines(path) if row["task_dataset"] == name]


def texts_of(shared: Path, name: str, row: dict[str, Any]) -> Iterator[tuple[str, ...]]:
    """The texts with which some official template, filled by us with the row's options, is the row's prompt."""
    count = len(cblue_tasks.BY_NAME[name].texts[0])
    marks = ("\0", "\1")[:count]
    for template in cblue_templates.load(shared / "data/promptcblue/templates/templates.json")[name]:
        for answer_line in (True, False):
            filled = cblue_templates.fill(template, marks, row["answer_choices"] or [], answer_line=answer_line)
            pattern = "(.*)".join(re.escape(piece) for piece in re.split("[\0\1]", filled))
            if match := re.fullmatch(pattern, row["input"], re.DOTALL):
                yield match.groups()


@pytest.mark.parametrize("name", ["CMeEE-V2", "CMeIE", "CHIP-CDN"])
def test_answers_taken_apart_are_the_raw_labels_among_the_options(shared: Path, name: str) -> None:
    for record in raw(shared, name, "dev")[:1500]:
        draft = make(name, record)
        _, options, target = parts(draft)
        if draft.notes:
            continue
        if name == "CHIP-CDN":
            assert structured(name, target, options) == set(record["normalized_result"].split("##")) & set(options)
        elif name == "CMeIE":
            expected = {(t["predicate"], t["subject"], t["object"]["@value"]) for t in record["spo_list"]}
            assert structured(name, target, options) == {triple for triple in expected if triple[0] in options}
        else:
            got = {
                (option, mention)
                for option in options
                for line in target.split("\n")
                if line.startswith(f"{option}实体")
                for mention in line.replace(f"{option}实体：", "").split("，")
                if mention.strip()
            }
            expected_mentions = {
                (cblue_labels.ENTITY_TYPES[e["type"]], record["text"][e["start_idx"] : e["end_idx"] + 1])
                for e in record["entities"]
            }
            assert got == {pair for pair in expected_mentions if pair[0] in options}


@pytest.mark.parametrize("file", ["templates.json", "templates_augment.json"])
@pytest.mark.parametrize("name", NAMES)
def test_the_official_templates_files_can_be_used(shared: Path, name: str, file: str) -> None:
    config = cblue.Config(templates=shared / "data/promptcblue/templates" / file, left_out_share=0)
    column = cblue_tasks.BY_NAME[name].texts[0][0]
    for draft in many(RAW[name], column, config, count=80):
        prompt, options, _ = parts(draft)
        assert "，".join(options) in prompt
        assert not re.search(r"\[[A-Z_0-9]+\]|\\n", prompt)
