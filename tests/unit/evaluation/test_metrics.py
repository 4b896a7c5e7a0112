"""Each metric against values computed by hand or by an independent implementation."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from tasks import plugins
from tasks.evaluation import rouge, scoring
from tasks.evaluation.metrics import chat, classification, extraction, generation, triples
from tasks.evaluation.predictions import Prediction


def rows(*pairs: tuple[str, str], task: str = "t", fields: dict[str, Any] | None = None) -> list[Prediction]:
    """(prediction, reference) pairs."""
    return [
        Prediction(f"{i:04d}", task, "m", "", reference, prediction, fields or {})
        for i, (prediction, reference) in enumerate(pairs)
    ]


def test_every_metric_module_scores_every_kind_of_row() -> None:
    names = plugins.names(scoring.METRICS)
    assert names == ["chat", "classification", "extraction", "generation", "triples"]
    for name in names:
        scores = plugins.load(scoring.METRICS, name, key="metric").score(rows(("", "甲"), ("甲", ""), ("甲", "甲")))
        assert scores.statistics.shape[0] == len(scores.rows) == 3
        assert 0 <= scores.point()[scores.primary] <= 1
        assert all(0 <= value <= 1 for value in scores.rows)
        assert set(scores.percent) <= set(scores.point())


# --- triples ----------------------------------------------------------------------------------------------------


def test_triples_are_counted_over_all_rows() -> None:
    score = triples.score(
        rows(
            ("a_r_b\na_r_c", "a_r_b\nd_r_e\nf_s_g"),  # 1 hit, 2 predicted, 3 gold
            ("x_s_y\nx_s_y\nbroken_line\nx_y_z_w", "x_s_y"),  # 1, 1, 1: one duplicate, two malformed
            ("", "h_r_i"),  # 0, 0, 1
            ("", ""),  # nothing on either side
        )
    )
    point = score.point()
    assert point["precision"] == pytest.approx(2 / 3)
    assert point["recall"] == pytest.approx(2 / 5)
    assert point["f1"] == pytest.approx(2 * 2 / (3 + 5))
    assert list(score.rows) == pytest.approx([2 / 5, 1.0, 0.0, 1.0])
    assert score.facts["malformed_lines"] == 2
    assert score.facts["duplicate_triples"] == 1
    assert score.facts["empty_predictions"] == 2
    assert score.facts["empty_references"] == 1
    assert score.facts["relations"]["r"] == {"gold": 3, "predicted": 2, "hits": 1, "f1": 0.4}
    assert score.facts["relations"]["s"] == {"gold": 2, "predicted": 1, "hits": 1, "f1": pytest.approx(2 / 3)}


def test_normalised_triples_forgive_width_spaces_and_literal_line_breaks() -> None:
    point = triples.score(rows(("Ａ＿ｒ＿b 1\\nc_r_d", "A_r_b1\nc_r_d"))).point()
    assert point["f1"] == 0
    assert point["f1_normalised"] == 1


def test_line_ends_are_not_part_of_a_triple_but_cost_the_seed_score() -> None:
    point = triples.score(rows(("a_r_b\r\nc_r_d\r", "a_r_b\nc_r_d"))).point()
    assert point["f1"] == 1
    assert point["seed_f1"] == 0


def test_seed_f1_follows_the_upstream_rule() -> None:
    score = triples.score(
        rows(
            ("a_r_b\nnoise\na_r_b", "a_r_b\nnot a triple"),  # predicted {a_r_b}, gold has both pieces: 2*1/(1+2)
            ("", ""),  # an empty gold is {""}: never matched
        )
    )
    assert score.point()["seed_f1"] == pytest.approx((2 / 3) / 2)
    assert score.point()["seed_f1_over_50"] == pytest.approx((2 / 3) / 50)
    assert score.facts["seed_f1_divisor"] == 2


def test_seed_f1_of_the_real_training_gold_against_itself(shared: Path) -> None:
    lines = (shared / "data/triples/spo_train.json").read_text(encoding="utf-8").splitlines()
    outputs = [json.loads(line)["output"] for line in lines]
    score = triples.score(rows(*zip(outputs, outputs, strict=True)))
    assert score.point()["seed_f1"] == pytest.approx(1419 / 1441, abs=1e-12)
    assert score.point()["f1"] == 1
    assert score.facts["empty_references"] == 22


# --- classification ---------------------------------------------------------------------------------------------


def test_classification_equals_scikit_learn_also_with_answers_outside_the_vocabulary() -> None:
    from sklearn.metrics import accuracy_score, f1_score

    dice = random.Random(5)
    labels = ["甲", "乙", "丙", "丁"]
    pairs = [(dice.choice([*labels, "别的", "又一个", ""]), dice.choice(labels)) for _ in range(200)]
    predicted, gold = zip(*pairs, strict=True)
    point = classification.score(rows(*pairs)).point()
    assert point["accuracy"] == pytest.approx(accuracy_score(gold, predicted))
    for kind in ("macro", "micro", "weighted"):
        assert point[f"{kind}_f1"] == pytest.approx(f1_score(gold, predicted, average=kind, zero_division=0))


def test_classification_strips_answers_and_reads_empty_ones_as_the_official_scorer_does() -> None:
    score = classification.score(rows((" 相同\n", "是的"), ("", "是的"), ("不同", "不是"), task="CHIP-STS"))
    assert score.point()["accuracy"] == 1
    assert score.facts["empty_predictions"] == 1
    assert classification.score(rows(("", "是的"), task="another task")).point()["accuracy"] == 0


# --- the official scorer ----------------------------------------------------------------------------------------

OFFICIAL = {
    "macro": ("classification", "macro_f1"),
    "weighted": ("classification", "weighted_f1"),
    "micro": ("extraction", "f1"),
}


def test_official_scores_of_perturbed_predictions_are_reproduced(shared: Path) -> None:
    folder = shared / "data/promptcblue/reference_scores"
    gold, predicted = (
        [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        for path in (folder / f"toy_dev_perturbed_seed7.{kind}.jsonl" for kind in ("gold", "pred"))
    )
    scores = json.loads((folder / "toy_dev_perturbed_seed7.scores.json").read_text(encoding="utf-8"))["pred_vs_gold"]
    wanted = {task: facts for task, facts in scores.items() if isinstance(facts, dict) and facts["kind"] in OFFICIAL}
    assert len(wanted) == 14
    found = scoring.score(
        Prediction(
            g["sample_id"],
            g["task_dataset"],
            OFFICIAL[wanted[g["task_dataset"]]["kind"]][0],
            "",
            g["target"],
            p["target"],
            {"answer_choices": g["answer_choices"]},
        )
        for g, p in zip(gold, predicted, strict=True)
        if g["task_dataset"] in wanted
    )
    for task, facts in wanted.items():
        assert found[task].scores.primary == OFFICIAL[facts["kind"]][1]
        assert found[task].primary == pytest.approx(facts["f1"], abs=1e-6), task


# --- extraction -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("task", "text", "items"),
    [
        (
            "CMeEE-V2",
            "上述句子中的实体包含：\n疾病实体：感冒，发烧，\n药物实体：",
            {("疾病", "感冒"), ("疾病", "发烧")},
        ),
        ("CMeEE-V2", "疾病实体:感冒,发烧", {("疾病", "感冒"), ("疾病", "发烧")}),
        (
            "CMeIE",
            "具有药物治疗关系的头尾实体对如下：头实体为A，尾实体为B。头实体为C，尾实体为D。\n没有了",
            {("药物治疗", "A", "B"), ("药物治疗", "C", "D")},
        ),
        ("CMeIE", "头实体为A，尾实体为B。", set()),
        ("CHIP-CDN", "标准词：\n甲，丙，甲", {("甲",)}),
        ("CHIP-CDN", "没有对应的标准化实体", set()),
        (
            "CHIP-CDEE",
            "上述句子中的临床发现事件如下：\n主体词：痛；发生状态：否定；描述词：；解剖部位：腹",
            {("痛", "否定", "", "腹")},
        ),
        ("IMCS-V2-SR", "症状判断为：\n咳嗽：患有该症状\n发热", {("咳嗽", "患有该症状")}),
    ],
)
def test_listing_tasks_are_read_as_sets_of_items(task: str, text: str, items: set[tuple[str, ...]]) -> None:
    row = Prediction("1", task, "extraction", "", text, text, {"answer_choices": ["甲", "乙"]})
    assert extraction.items(row, text) == items


def test_an_unknown_task_is_read_by_the_form_of_its_reference() -> None:
    score = extraction.score(rows(("咳嗽：有，发热：无\n头痛：有", "头痛：有\n咳嗽：有"), ("甲，乙", "乙，丙")))
    # row 1: a line with two colons lists nothing, so 1 hit, 1 predicted, 2 gold; row 2: 1, 2, 2
    assert score.point()["f1"] == pytest.approx(2 * 2 / (3 + 4))


# --- free text --------------------------------------------------------------------------------------------------


def test_rouge_equals_the_rouge_chinese_package() -> None:
    from rouge_chinese import Rouge

    dice = random.Random(3)
    for _ in range(60):
        a, b = ([dice.choice("甲乙丙丁戊己。，") for _ in range(dice.randint(1, 30))] for _ in range(2))
        theirs = Rouge().get_scores(" ".join(a), " ".join(b))[0]
        mine = rouge.rouge(a, b)
        assert mine == pytest.approx([theirs[k]["f"] for k in ("rouge-1", "rouge-2", "rouge-l")], abs=1e-7)


def test_rouge_by_hand() -> None:
    # unigrams {a,b,c} and {a,c,d}: 2 common; bigrams {ab,bc} and {ac,cd}: none; longest common subsequence a c
    assert rouge.rouge("abc", "acd") == pytest.approx((2 / 3, 0, 2 / 3))
    assert rouge.rouge("", "a") == (0, 0, 0)


def test_an_empty_reply_scores_zero_and_the_best_reference_counts() -> None:
    score = generation.score(
        rows(("", "今天天气很好"), ("今天天气很好", "别的"), fields={"references": ["今天天气很好", "明天下雨"]})
    )
    assert list(score.rows) == [0, 1]
    assert score.point()["rouge_l"] == pytest.approx(0.5)
    assert score.facts["empty_predictions"] == 1


def test_bleu_equals_sacrebleu_on_the_corpus() -> None:
    from sacrebleu.metrics import BLEU

    pairs = [
        ("这条裙子采用了雪纺面料，穿着十分舒适", "这款裙子采用雪纺的面料，上身舒适又透气"),
        ("上衣 V领 设计 2020 款", "这件上衣采用V领设计，是2020年的新款"),
        ("今天下雨了吗", "明天出太阳了"),
        ("好", "很好看的衣服"),
    ]
    for part in (pairs, pairs[2:3], pairs[3:]):  # the last ones have orders without a match, or without an n-gram
        theirs = BLEU(tokenize="zh").corpus_score([p for p, _ in part], [[r for _, r in part]]).score / 100
        assert generation.score(rows(*part)).point()["bleu_4"] == pytest.approx(theirs, abs=1e-9)


def test_chat_counts_variety_and_length() -> None:
    assert chat.distinct([["a", "b", "a"], ["b"]], 1) == 2 / 4
    assert chat.distinct([["a", "b", "a", "b"], ["b"]], 2) == 2 / 3
    assert chat.distinct([[]], 2) == 0
    score = chat.score(rows(("好的", "好的呀"), ("嗯", "嗯")))
    assert score.point()["length_ratio"] == pytest.approx(3 / 4)
    assert score.primary == "rouge_l"
