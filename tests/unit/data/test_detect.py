"""data.source=auto: which source is found, what is said about it, and what it takes over from the configuration."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from data_cases import write_lines

from tasks.data import detect, source
from tasks.data.source import SourceConfig
from tasks.errors import ConfigError, DataError

DIALOGUE = [{"role": "user", "content": "问"}, {"role": "assistant", "content": "答"}]
#: As the exporter writes it.
SYSTEM = {
    "role": "system",
    "content": "你是小明，一个聪明、热情、善良的人，后面的对话来自你的朋友，你要认真地回答他",
}
RECORDS: dict[str, dict[str, Any]] = {
    "advertisegen": {"content": "类型#裙", "summary": "裙子。"},
    "triples": {"text": "水泵漏水", "answer": "水泵_部件故障_漏水\n水泵_组成_轴"},
    "alpaca": {"instruction": "问", "input": "", "output": "答"},
    "prompt_response": {"question": "问", "answer": "答"},
    "medical_qa_csv": {"department": "内科", "title": "头痛", "ask": "头痛？", "answer": "休息。"},
    "conversations": {"conversations": DIALOGUE},
    "messages": {"messages": DIALOGUE},
    "sharegpt": {"conversations": [{"from": "human", "value": "问"}, {"from": "gpt", "value": "答"}]},
    "promptcblue": {"input": "问", "target": "答", "task_dataset": "CHIP-CTC", "task_type": "cls"},
}


def auto(**values: Any) -> SourceConfig:
    return source.load("auto").Config(**values)


def found(tmp_path: Path, rows: list[Any], name: str = "data.json", **values: Any) -> tuple[SourceConfig, str]:
    return detect.resolve(auto(path=write_lines(tmp_path / name, rows), **values))


@pytest.mark.parametrize("name", RECORDS)
def test_each_format_is_found(tmp_path: Path, name: str) -> None:
    config, why = found(tmp_path, [RECORDS[name]] * 3)
    assert config.source == name
    assert isinstance(config, source.load(name).Config)
    assert why.startswith(f"{name}: 3 of 3 records fit (")


@pytest.mark.parametrize(
    ("record", "name"),
    [
        ({"conversation": [{"role": "patient", "content": "痛"}, {"role": "doctor", "content": "休息"}]}, "messages"),
        ({"conversations": [{"role": "tool", "name": "f", "observation": 1}, *DIALOGUE]}, "conversations"),
        ({"prompt": "类型#裙*颜色#白", "response": "裙子。"}, "advertisegen"),
        ({"prompt": "写一首诗", "response": "床前明月光"}, "prompt_response"),
        ({"instruction": "文档：", "input": "甲", "output": ["一", "二"]}, "alpaca"),
        ({"instruction": "抽取：", "input": "甲", "output": "甲_部件故障_乙"}, "triples"),
    ],
)
def test_forms_that_look_alike(tmp_path: Path, record: dict[str, Any], name: str) -> None:
    assert found(tmp_path, [record])[0].source == name


def test_a_few_odd_records_do_not_decide_and_fifty_are_enough(tmp_path: Path) -> None:
    odd = [RECORDS["alpaca"], "{broken", {"note": 1}]
    config, why = found(tmp_path, [*odd, *[RECORDS["advertisegen"]] * 100])
    # of the first fifty records one cannot be read and two are of another kind
    assert (config.source, why) == ("advertisegen", "advertisegen: 47 of 49 records fit (content and summary)")


def test_values_that_are_given_are_taken_over_and_the_rest_is_left_to_the_source(tmp_path: Path) -> None:
    rows = [{"conversations": [SYSTEM, *DIALOGUE]}]
    default, _ = found(tmp_path, rows)
    own = source.load(default.source).Config()
    for key in ("prompt_column", "response_column", "validation_share", "test_share", "redact", "min_keep_ratio"):
        assert getattr(default, key) == getattr(own, key)
    given, _ = found(
        tmp_path, rows, test_share=0.3, redact=not own.redact, split_seed=5, near_duplicates=None, max_rows={"train": 7}
    )
    assert (given.test_share, given.redact, given.split_seed) == (0.3, not own.redact, 5)
    # null is a value of its own where the source's default is not asked for
    assert given.near_duplicates is None
    assert given.max_rows.train == 7
    assert given.path == default.path


def test_an_exported_chat_is_redacted_though_its_form_is_that_of_any_dialogue(tmp_path: Path) -> None:
    config, _ = found(tmp_path, [{"conversations": [SYSTEM, *DIALOGUE]}], name="export.json")
    assert (config.source, config.redact) == ("chat_export", True)


def test_another_source_than_auto_stays_as_it_is() -> None:
    config = source.load("triples").Config()
    assert detect.resolve(config) == (config, "")


def test_auto_without_files_says_what_to_set() -> None:
    with pytest.raises(ConfigError, match=r"data\.source=auto: no files to look at; set data\.path="):
        detect.resolve(auto())


# --- what cannot be found ----------------------------------------------------------------------------------------


def test_nothing_fits_names_the_columns_the_sources_and_the_way_out(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        found(tmp_path, [{"问": "秘密", "答": "内容"}, {"问": "x", "备注": "y"}])
    line = str(caught.value)
    assert "no source fits; columns: 问, 答, 备注; known: advertisegen, alpaca, " in line
    assert "data.source=prompt_response data.prompt_column=... data.response_column=..." in line
    assert "秘密" not in line
    assert "\n" not in line


def test_columns_that_are_given_are_enough_where_nothing_else_fits(tmp_path: Path) -> None:
    config, why = found(tmp_path, [{"问": "a", "答": "b"}], prompt_column="问", response_column="答")
    assert (config.source, config.prompt_column, config.response_column) == ("prompt_response", "问", "答")
    assert why == "prompt_response: 1 of 1 records fit (the two columns that are given)"


def test_mixed_records_are_told_with_their_counts(tmp_path: Path) -> None:
    rows = [RECORDS["conversations"]] * 2 + [RECORDS["messages"]] * 2
    with pytest.raises(DataError, match=r"mixed: of 4 records fit conversations 2, messages 2; divide the file, or "):
        found(tmp_path, rows)


def test_two_sources_that_fit_alike_are_told(tmp_path: Path) -> None:
    both = {**RECORDS["conversations"], **RECORDS["messages"]}
    conversations, messages = (source.load(name).recognise(both) for name in ("conversations", "messages"))  # type: ignore[attr-defined]
    assert conversations.strength == messages.strength
    with pytest.raises(DataError, match="conversations and messages fit equally; set data.source to one of them"):
        found(tmp_path, [both])


@pytest.mark.parametrize("rows", [["{broken"], [[1]], ["null"]])
def test_no_readable_record_is_told(tmp_path: Path, rows: list[Any]) -> None:
    with pytest.raises(DataError, match=r"data\.json: none of the first 50 records can be read; name the source"):
        found(tmp_path, rows)


def test_a_missing_file_and_a_folder_without_data_are_told(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file or folder"):
        detect.resolve(auto(path=tmp_path / "missing"))
    with pytest.raises(DataError, match=re.escape(str(tmp_path))):
        detect.resolve(auto(path=tmp_path))


# --- folders -----------------------------------------------------------------------------------------------------


def test_a_folder_of_train_and_dev_is_judged_by_its_training_file(tmp_path: Path) -> None:
    write_lines(tmp_path / "train.json", [RECORDS["alpaca"]])
    write_lines(tmp_path / "dev.json", [RECORDS["messages"]])
    assert detect.resolve(auto(path=tmp_path))[0].source == "alpaca"


@pytest.mark.parametrize("head", [[SYSTEM], [{"role": "system", "content": "改写过的提示"}], []])
def test_folders_of_contacts_are_chat_exports_even_if_the_first_is_empty(tmp_path: Path, head: list[Any]) -> None:
    write_lines(tmp_path / "甲/甲_train.json", ["[]"])
    for name in ("乙", "丙"):
        rows = [{"conversations": [*head, {"role": "user", "content": name}, *DIALOGUE[1:]]}]
        write_lines(tmp_path / f"{name}/{name}_train.json", rows)
        write_lines(tmp_path / f"{name}/{name}_dev.json", ["[]"])
    config, why = detect.resolve(auto(path=tmp_path))
    assert (config.source, config.path) == ("chat_export", tmp_path)
    assert why.startswith("chat_export: its layout of folders (2 train")
    assert why.endswith("2 of 2 records fit")


def test_a_stray_file_beside_the_contacts_does_not_hide_them(tmp_path: Path) -> None:
    write_lines(tmp_path / "config.json", [{"version": 3}])
    write_lines(tmp_path / "甲/甲_train.json", [{"conversations": [SYSTEM, *DIALOGUE]}])
    assert detect.resolve(auto(path=tmp_path))[0].source == "chat_export"


def test_folders_of_cblue_tasks_are_not_taken_for_chats(tmp_path: Path) -> None:
    rows = [{"id": "1", "text": "年龄大于18岁", "label": "Age"}]
    write_lines(tmp_path / "CHIP-CTC/CHIP-CTC_train.json", rows)
    write_lines(tmp_path / "CHIP-CTC/CHIP-CTC_dev.json", rows)
    config, why = detect.resolve(auto(path=tmp_path))
    assert config.source == "cblue"
    assert "1 train, 1 validation files" in why


# --- real files --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("advertisegen/dev.json", "advertisegen"),
        ("advertisegen/train_subset_caixiaomao.json", "advertisegen"),
        ("advertisegen/variants/wangxian_dev.json", "advertisegen"),
        ("advertisegen/variants/train_prettyprinted_mhsbz.json", "advertisegen"),
        ("advertisegen/dev_conversations.json", "conversations"),
        ("advertisegen/dev_messages.json", "messages"),
        ("triples/spo_train.json", "triples"),
        ("triples/spo_train_text_answer.json", "triples"),
        ("d2q/d2q_0.json", "alpaca"),
        ("d2q/d2q_1.json", "alpaca"),
        ("chatglm3_demo/cognition", "conversations"),
        ("medical/toyhom/样例_内科5000-6000.csv", "medical_qa_csv"),
        ("medical/huatuo_llama/llama_data.json", "alpaca"),
        ("medical/huatuo_llama/liver_cancer.json", "alpaca"),
        ("medical/disc_medllm/DISC-MedLLM_cmd.json", "messages"),
        ("medical/submit_project_child/dev.json", "conversations"),
        ("promptcblue/toy_examples", "promptcblue"),
        ("promptcblue/labelled", "promptcblue"),
        ("cblue_raw", "cblue"),
        ("cblue_raw/CHIP-CTC", "cblue"),
        ("cblue_raw/KUAKE-QQR", "cblue"),
    ],
)
def test_real_files_are_recognised(shared: Path, path: str, name: str) -> None:
    config, why = detect.resolve(auto(path=shared / "data" / path))
    assert config.source == name
    assert why.startswith(f"{name}: ")


@pytest.mark.parametrize(
    ("path", "column"),
    [
        ("medical/huatuo_llama/question.json", "question, ICD-10"),
        ("medical/huatuogpt/Med-dialog_100.json", "id, medical_case, doctor_diagnosis, Department"),
        ("medical/submit_project_child/trainer_state_8500.json", "best_metric"),
    ],
)
def test_real_files_that_no_source_knows_name_their_columns(shared: Path, path: str, column: str) -> None:
    with pytest.raises(DataError, match=f"no source fits; columns: {column}"):
        detect.resolve(auto(path=shared / "data" / path))
