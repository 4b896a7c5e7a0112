"""Each metric against values computed by hand or by an independent implementation."""

from __future__ import annotations

import json
import math
import random
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from tasks import plugins
from tasks.errors import DataError
from tasks.evaluation import label_counts, scoring
from tasks.evaluation.metric import Options, RowScores
from tasks.evaluation.metrics import chat, classification, generation, perplexity, triples
from tasks.evaluation.overlap import ngrams, rouge
from tasks.evaluation.overlap import pairs as overlap
from tasks.evaluation.predictions import Prediction
from tasks.evaluation.triple_errors import errors

CHARACTERS = Options(text_unit="characters")


def rows(*pairs: tuple[str, str], **rest: Any) -> list[Prediction]:
    """(prediction, reference) pairs."""
    return [
        Prediction(f"{i:04d}", "t", "m", "", reference, prediction, **rest)
        for i, (prediction, reference) in enumerate(pairs)
    ]


def score(metric: ModuleType, predictions: list[Prediction], options: Options | None = None) -> RowScores:
    result: RowScores = metric.score(predictions, options or Options())
    return result


def test_every_metric_module_scores_every_kind_of_row() -> None:
    names = plugins.names(scoring.METRICS)
    assert names == ["chat", "classification", "generation", "perplexity", "promptcblue", "triples"]
    for name in set(names) - {"promptcblue"}:  # which scores its own 20 tasks only
        predictions = rows(("", "甲"), ("甲", ""), ("甲", "甲"), nll=1.5, nll_tokens=2, copied=False)
        scores = score(plugins.load(scoring.METRICS, name, key="metric"), predictions)
        assert scores.statistics.shape[0] == len(scores.rows) == 3
        assert 0 <= scores.point()[scores.primary] <= 1
        assert all(0 <= value <= 1 for value in scores.rows)
        assert set(scores.percent) <= set(scores.point())
        json.dumps(scores.facts)


# --- triples ----------------------------------------------------------------------------------------------------


def test_triples_are_counted_over_all_rows() -> None:
    scores = score(
        triples,
        rows(
            ("a_r_b\na_r_c", "a_r_b\nd_r_e\nf_s_g"),  # 1 hit, 2 predicted, 3 gold
            ("x_s_y\nx_s_y\nbroken_line\nx_y_z_w", "x_s_y"),  # 1, 1, 1: one duplicate, two malformed
            ("", "h_r_i"),  # 0, 0, 1
            ("", ""),  # nothing on either side
        ),
    )
    point = scores.point()
    assert point["precision"] == pytest.approx(2 / 3)
    assert point["recall"] == pytest.approx(2 / 5)
    assert point["f1"] == pytest.approx(2 * 2 / (3 + 5))
    assert list(scores.rows) == pytest.approx([2 / 5, 1.0, 0.0, 1.0])
    assert scores.facts["malformed_lines"] == 2
    assert scores.facts["duplicate_triples"] == 1
    assert scores.facts["empty_predictions"] == 2
    assert scores.facts["empty_references"] == 1
    assert scores.facts["relations"] == {
        "r": {"gold": 3, "predicted": 2, "hits": 1, "f1": 0.4, "f1_normalised": 0.4},
        "s": {"gold": 2, "predicted": 1, "hits": 1, "f1": pytest.approx(2 / 3), "f1_normalised": pytest.approx(2 / 3)},
    }


def test_each_relation_of_the_references_is_a_value_with_an_interval() -> None:
    scores = score(triples, rows(("a_r_b\na_r_c", "a_r_b\nd_r_e\nf_s_g"), ("x_s_y\nx_t_y", "x_s_y"), ("", "h_r_i")))
    point = scores.point()
    assert {name: point[name] for name in point if name.startswith("f1[")} == {
        "f1[r]": pytest.approx(2 * 1 / (2 + 3)),
        "f1[s]": pytest.approx(2 * 1 / (1 + 2)),  # t is no relation of the references
    }
    without_the_second = scores.values(scores.statistics[[0, 2]].sum(axis=0))
    assert without_the_second["f1[s]"] == 0
    assert without_the_second["f1[r]"] == pytest.approx(0.4)


def test_of_many_relations_the_fifty_most_frequent_are_values_and_all_are_in_the_table() -> None:
    lines = [f"a_r{i:02d}_b" for i in range(60)]
    scores = score(triples, rows(("\n".join(lines), "\n".join(lines)), (lines[59], lines[59])))
    named = [name for name in scores.point() if name.startswith("f1[")]
    assert named == ["f1[r59]", *(f"f1[r{i:02d}]" for i in range(49))]
    assert len(scores.facts["relations"]) == 60


def test_normalised_triples_forgive_width_spaces_and_literal_line_breaks() -> None:
    scores = score(triples, rows(("Ａ＿ｒ＿b 1\\nc_r_d", "A_r_b1\nc_r_d"), ("a_r_b", "a_r_c")))
    point = scores.point()
    assert point["f1"] == 0
    assert [point[f"{kind}_normalised"] for kind in ("precision", "recall", "f1")] == pytest.approx([2 / 3] * 3)
    assert scores.facts["relations"]["r"]["f1_normalised"] == pytest.approx(2 / 3)


def test_a_relation_whose_lines_fold_into_malformed_ones_has_no_normalised_triple() -> None:
    assert score(triples, rows(("a＿b_r_c", "a＿b_r_c"))).facts["relations"]["r"] == {
        "gold": 1,
        "predicted": 1,
        "hits": 1,
        "f1": 1,
        "f1_normalised": 0,
    }


def test_line_ends_are_not_part_of_a_triple_but_cost_the_seed_score() -> None:
    point = score(triples, rows(("a_r_b\r\nc_r_d\r", "a_r_b\nc_r_d"))).point()
    assert point["f1"] == 1
    assert point["seed_f1"] == 0


def test_seed_f1_follows_the_upstream_rule() -> None:
    scores = score(
        triples,
        rows(
            ("a_r_b\nnoise\na_r_b", "a_r_b\nnot a triple"),  # predicted {a_r_b}, gold has both pieces: 2*1/(1+2)
            ("", ""),  # an empty gold is {""}: never matched
        ),
    )
    assert scores.point()["seed_f1"] == pytest.approx((2 / 3) / 2)
    assert scores.point()["seed_f1_over_50"] == pytest.approx((2 / 3) / 50)
    assert scores.facts["seed_f1_divisor"] == 2


def test_seed_f1_of_the_real_training_gold_against_itself(shared: Path) -> None:
    lines = (shared / "data/triples/spo_train.json").read_text(encoding="utf-8").splitlines()
    outputs = [json.loads(line)["output"] for line in lines]
    scores = score(triples, rows(*zip(outputs, outputs, strict=True)))
    assert scores.point()["seed_f1"] == pytest.approx(1419 / 1441, abs=1e-12)
    assert scores.point()["f1"] == 1
    assert scores.facts["empty_references"] == 22
    assert {name: facts["gold"] for name, facts in scores.facts["relations"].items()}.keys() == {
        "部件故障",
        "性能故障",
        "组成",
        "检测工具",
    }
    assert set(scores.facts["errors"].values()) == {0}


def test_every_wrong_triple_is_one_kind_of_error() -> None:
    predicted = "发动机_性能故障_水温高\n风扇_部件故障_低速转动\n车_组成_轮\n门_部件故障_异响"
    gold = "发动机_部件故障_水温高\n风扇_部件故障_低速\n泵_组成_阀\n灯_性能故障_暗\n门_部件故障_异响"
    assert score(triples, rows((predicted, gold), ("a_r_b", ""), ("", "a_r_b"))).facts["errors"] == {
        "missing": 2 + 1,
        "spurious": 1 + 1,
        "wrong_relation": 1,
        "wrong_span": 1,
    }


@pytest.mark.parametrize(
    ("predicted", "gold", "counts"),
    [
        # another relation goes before another span, though both would fit
        ({("a", "s", "b"), ("a", "r", "bc")}, {("a", "r", "b")}, {"wrong_relation": 1, "spurious": 1}),
        # one reference excuses one answer only; the nearer one (three shared characters) is its pair
        ({("a", "r", "bc"), ("a", "r", "b")}, {("a", "r", "bcd")}, {"wrong_span": 1, "spurious": 1}),
        # the nearest pair (bcde, bcd) goes first and leaves the other two to each other
        ({("a", "r", "bcde"), ("a", "r", "xz")}, {("a", "r", "bcd"), ("a", "r", "ex")}, {"wrong_span": 2}),
        # 2 of 3 characters are shared; 1 of 3 is too little, at either end
        ({("左前轮", "r", "b")}, {("右前轮", "r", "b")}, {"wrong_span": 1}),
        ({("发动机", "r", "b")}, {("机油泵", "r", "b")}, {"missing": 1, "spurious": 1}),
        ({("b", "r", "发动机")}, {("b", "r", "机油泵")}, {"missing": 1, "spurious": 1}),
        # contained, but under another relation
        ({("前轮", "s", "b")}, {("右前轮", "r", "b")}, {"missing": 1, "spurious": 1}),
        ({("", "r", "b")}, {("x", "r", "b")}, {"missing": 1, "spurious": 1}),
        ({("a", "r", "b")}, {("a", "r", "b")}, {}),
    ],
)
def test_errors_are_told_apart_by_the_stated_rule(
    predicted: set[tuple[str, str, str]], gold: set[tuple[str, str, str]], counts: dict[str, int]
) -> None:
    assert {kind: n for kind, n in errors(predicted, gold).items() if n} == counts


# --- classification ---------------------------------------------------------------------------------------------


def test_classification_equals_scikit_learn_also_with_answers_outside_the_vocabulary() -> None:
    from sklearn.metrics import accuracy_score, f1_score

    dice = random.Random(5)
    labels = ["甲", "乙", "丙", "丁"]
    pairs = [(dice.choice([*labels, "别的", "又一个", ""]), dice.choice(labels)) for _ in range(200)]
    predicted, gold = zip(*pairs, strict=True)
    scores = score(classification, rows(*pairs))
    point = scores.point()
    assert scores.primary == "macro_f1"
    assert point["accuracy"] == pytest.approx(accuracy_score(gold, predicted))
    for kind in ("macro", "micro", "weighted"):
        assert point[f"{kind}_f1"] == pytest.approx(f1_score(gold, predicted, average=kind, zero_division=0))


def test_classification_strips_answers_and_counts_what_is_no_label() -> None:
    scores = score(classification, rows((" 是的\n", "是的"), ("", "是的"), ("也许", "不是"), ("不是", "不是 ")))
    assert scores.point()["accuracy"] == 2 / 4
    # 是的 2·1/(1+2), 不是 2·1/(1+2), and the two answers outside, a class each
    assert scores.point()["macro_f1"] == pytest.approx((2 / 3 + 2 / 3) / 4)
    assert scores.facts["labels"] == {"是的": 2, "不是": 2}
    assert scores.facts["empty_predictions"] == 1
    assert scores.facts["answers_outside_the_labels"] == 2
    assert scores.facts["confusion"] == {"不是": {"不是": 1, "也许": 1}, "是的": {"": 1, "是的": 1}}


def test_label_averages_follow_from_the_stated_columns() -> None:
    """Gold of 乙, 甲; hits of 乙, 甲; answers of 乙, 甲 and of the label that gold lacks."""
    statistics = label_counts.statistics(["甲", "甲", "乙"], ["甲", "别的", "甲"]).toarray()
    assert statistics.tolist() == [[0, 1, 0, 1, 0, 1, 0], [0, 1, 0, 0, 0, 0, 1], [1, 0, 0, 0, 0, 1, 0]]
    values = label_counts.averages(statistics.sum(axis=0), 2)
    assert {name: float(value) for name, value in values.items()} == pytest.approx(
        {
            "accuracy": 1 / 3,
            "micro_f1": 1 / 3,
            "macro_precision": (1 / 2) / 3,
            "macro_recall": (1 / 2) / 3,
            "macro_f1": (2 / 4) / 3,
            "weighted_precision": 2 / 3 * 1 / 2,
            "weighted_recall": 2 / 3 * 1 / 2,
            "weighted_f1": 2 / 3 * 2 / 4,
        }
    )


def test_labels_that_a_resample_lacks_do_not_count_in_its_macro_mean() -> None:
    scores = score(classification, rows(("甲", "甲"), ("别的", "乙")))
    assert scores.values(np.asarray(scores.statistics[[0]].sum(axis=0)))["macro_f1"] == 1
    assert scores.point()["macro_f1"] == pytest.approx(1 / 3)


def test_the_confusion_matrix_names_the_fifty_most_frequent_labels() -> None:
    pairs = [(f"{i:02d}", f"{i:02d}") for i in range(60) for _ in range(60 - i)]  # label 00 60 times, 59 once
    confusion = score(classification, rows(*pairs, ("free text", "00"))).facts["confusion"]
    assert list(confusion) == [*(f"{i:02d}" for i in range(50)), label_counts.OTHER]
    assert confusion["00"] == {"00": 60, label_counts.OTHER: 1}
    assert confusion[label_counts.OTHER] == {label_counts.OTHER: sum(range(1, 11))}
    pairs = [(f"{i:02d}", "gold") for i in range(60) for _ in range(i + 1)]  # answer 59 60 times, 00 once
    answers = score(classification, rows(*pairs)).facts["confusion"]["gold"]
    assert list(answers) == [label_counts.OTHER, *(f"{i:02d}" for i in range(59, 10, -1))]
    assert answers[label_counts.OTHER] == sum(range(1, 12))


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


def test_a_text_is_cut_into_words_or_into_characters() -> None:
    assert rouge.units("今天 天气很好", "words") == ("今天", "天气", "很", "好")
    assert rouge.units("今天 V领\n", "characters") == ("今", "天", "V", "领")
    pair = rows(("医生说孩子发烧", "医生说孩子感冒"))  # words 医生 说 孩子 and another; 5 of 7 characters
    assert score(generation, pair).point()["rouge_1"] == pytest.approx(3 / 4)
    assert score(generation, pair, CHARACTERS).point()["rouge_1"] == pytest.approx(5 / 7)


def test_an_empty_reply_scores_zero_and_the_best_reference_counts() -> None:
    scores = score(
        generation,
        rows(("", "今天天气很好"), ("今天天气很好", "别的"), fields={"references": ["今天天气很好", "明天下雨"]}),
    )
    assert list(scores.rows) == [0, 1]
    assert scores.point()["rouge_l"] == pytest.approx(0.5)
    assert scores.facts["empty_predictions"] == 1
    assert set(score(generation, rows(("", "今天"))).point().values()) == {0}


PAIRS = [
    ("这条裙子采用了雪纺面料，穿着十分舒适", "这款裙子采用雪纺的面料，上身舒适又透气"),
    ("上衣 V领 设计 2020 款", "这件上衣采用V领设计，是2020年的新款"),
    ("今天下雨了吗", "明天出太阳了"),
    ("好", "很好看的衣服"),
    ("", "没有回答"),
    ("多余的", ""),
]
#: The later ones have orders without a match, or without an n-gram.
PARTS = [PAIRS, PAIRS[:2], PAIRS[2:3], PAIRS[3:4], PAIRS[4:]]


@pytest.mark.parametrize("part", PARTS)
def test_bleu_equals_sacrebleu_on_the_corpus(part: list[tuple[str, str]]) -> None:
    from sacrebleu.metrics import BLEU

    found = {unit: score(generation, rows(*part), Options(text_unit=unit)).point() for unit in ("words", "characters")}
    characters = BLEU(tokenize="zh").corpus_score([p for p, _ in part], [[r for _, r in part]]).score / 100
    assert found["characters"]["bleu_4"] == pytest.approx(characters, abs=1e-9)
    cut = [(" ".join(rouge.words(p)), " ".join(rouge.words(r))) for p, r in part]
    words = BLEU(tokenize="none").corpus_score([p for p, _ in cut], [[r for _, r in cut]]).score / 100
    assert found["words"]["bleu_4"] == pytest.approx(words, abs=1e-9)


@pytest.mark.parametrize("part", PARTS)
def test_chrf_equals_sacrebleu_on_the_corpus(part: list[tuple[str, str]]) -> None:
    from sacrebleu.metrics import CHRF

    theirs = CHRF().corpus_score([p for p, _ in part], [[r for _, r in part]]).score / 100
    assert score(generation, rows(*part)).point()["chrf"] == pytest.approx(theirs, abs=1e-9)


def test_bleu_and_chrf_equal_sacrebleu_with_several_references() -> None:
    from sacrebleu.metrics import BLEU, CHRF

    dice = random.Random(11)
    texts = [
        ["".join(dice.choice("甲乙丙 ab。") for _ in range(dice.randint(2, 25))) for _ in range(3)] for _ in range(40)
    ]
    texts = [row for row in texts if all(text.strip() for text in row)]
    replies, *references = (list(side) for side in zip(*texts, strict=True))
    predictions = [
        Prediction(str(i), "t", "m", "", first, reply, {"references": [first, second]})
        for i, (reply, first, second) in enumerate(texts)
    ]
    point = score(generation, predictions, CHARACTERS).point()
    assert point["bleu_4"] == pytest.approx(BLEU(tokenize="zh").corpus_score(replies, references).score / 100, abs=1e-9)
    assert point["chrf"] == pytest.approx(CHRF().corpus_score(replies, references).score / 100, abs=1e-9)


def test_chrf_by_hand() -> None:
    # characters 2 of 3 and 3, pairs 1 of 2 and 2, triples 0 of 1: P = R = (2/3 + 1/2 + 0) / 3
    assert float(ngrams.corpus_chrf(np.array(ngrams.chrf_counts("ab c", ["ab d"])))) == pytest.approx(
        (2 / 3 + 1 / 2) / 3
    )


def test_the_facts_hold_signatures_in_sacrebleus_form() -> None:
    from sacrebleu.metrics import BLEU, CHRF

    facts = score(generation, rows(*PAIRS), CHARACTERS).facts
    for theirs, mine in ((BLEU(tokenize="zh"), facts["bleu"]), (CHRF(), facts["chrf"])):
        theirs.corpus_score(["甲"], [["甲"]])
        assert str(theirs.get_signature()).replace("nrefs:1", "nrefs:var") == mine
    assert "tok:none" in score(generation, rows(*PAIRS)).facts["bleu"]


def test_many_rows_are_scored_by_several_processes_as_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    dice = random.Random(2)
    texts = ["".join(dice.choice("甲乙丙丁") for _ in range(8)) for _ in range(42)]
    pairs = [(reply, (reference,)) for reply, reference in zip(texts, reversed(texts), strict=True)] * 2
    alone = overlap.statistics(pairs, "characters")
    monkeypatch.setattr(overlap, "_memory", {})
    monkeypatch.setattr(overlap, "_WORTH_PROCESSES", 1)
    monkeypatch.setattr(overlap, "_BATCH", 10)
    assert np.array_equal(overlap.statistics(pairs, "characters"), alone)


def test_what_was_scored_once_is_remembered_within_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    memory: dict[Any, Any] = {}
    monkeypatch.setattr(overlap, "_memory", memory)
    monkeypatch.setattr(overlap, "_REMEMBERED", 3)
    first, second = [("甲", ("甲",)), ("乙", ("甲",))], [("丙", ("甲",)), ("丁", ("丁",)), ("乙", ("甲",))]
    for pairs, rouge_1 in ((first, [1, 0]), (second, [0, 1, 0]), (first, [1, 0]), (first + second, [1, 0, 0, 1, 0])):
        assert overlap.statistics(pairs, "characters")[:, 0].tolist() == rouge_1
        assert len(memory) <= 3
    assert overlap.statistics(first, "characters")[:, 0].tolist() == [1, 0]
    assert {pair for _, pair in memory} >= set(first)
    overlap.statistics([(str(i), ("甲",)) for i in range(4)], "characters")
    assert len(memory) <= 3


# --- chat and likelihoods ---------------------------------------------------------------------------------------


def reply(prediction: str, reference: str, **rest: Any) -> Prediction:
    return Prediction("0", "chat", "chat", "", reference, prediction, **rest)


def test_chat_counts_variety_length_and_stops() -> None:
    assert chat.distinct([["a", "b", "a"], ["b"]], 1) == 2 / 4
    assert chat.distinct([["a", "b", "a", "b"], ["b"]], 2) == 2 / 3
    assert chat.distinct([[]], 2) == 0
    scores = score(chat, [reply("好的", "好的呀"), reply("嗯", "嗯", finish_reason="length")])
    assert scores.primary == "rouge_l"
    assert scores.point()["length_ratio"] == pytest.approx(3 / 4)
    assert scores.point()["stop_rate"] == 1 / 2
    assert scores.facts["distinct_1"] == 1
    assert score(chat, [reply("嗯嗯", "嗯"), reply("嗯", "嗯")], CHARACTERS).facts["distinct_1"] == 1 / 3


def test_chat_holds_the_generation_metrics_numbers() -> None:
    mine, theirs = score(chat, rows(*PAIRS)), score(generation, rows(*PAIRS))
    assert theirs.point().items() <= mine.point().items()
    assert mine.percent == theirs.percent
    assert list(mine.rows) == list(theirs.rows)


def test_chat_shows_copies_only_where_every_reply_was_looked_at() -> None:
    assert score(chat, [reply("甲", "乙", copied=True), reply("甲", "乙", copied=False)]).point()["copied"] == 1 / 2
    assert "copied" not in score(chat, [reply("甲", "乙", copied=True), reply("甲", "乙")]).point()


def test_chat_perplexity_by_turn() -> None:
    ln2 = math.log(2)
    turns = [(1, 2 * ln2, 2), (1, 4 * ln2, 1), (3, 3 * ln2, 3), (4, 2 * ln2, 1), (7, ln2, 2)]
    scores = score(chat, [reply("甲", "乙", turn=turn, nll=nll, nll_tokens=n) for turn, nll, n in turns])
    point = scores.point()
    assert {name: value for name, value in point.items() if name.startswith("perplexity")} == {
        "perplexity": pytest.approx(2 ** (12 / 9)),
        "perplexity[turn 1]": pytest.approx(2 ** (6 / 3)),
        "perplexity[turn 3]": pytest.approx(2),
        "perplexity[turn 4+]": pytest.approx(2 ** (3 / 3)),
    }
    assert scores.facts["rows_without_likelihood"] == 0
    first_turn_only = scores.values(scores.statistics[:2].sum(axis=0))
    assert first_turn_only["perplexity[turn 4+]"] == first_turn_only["perplexity"] == pytest.approx(4)


def test_chat_leaves_rows_without_a_likelihood_out_of_perplexity_and_counts_them() -> None:
    known, lacking = reply("甲", "乙", nll=math.log(2), nll_tokens=1), reply("甲", "乙", turn=2)
    scores = score(chat, [known, lacking, replace(lacking, nll=math.nan, nll_tokens=3)])
    perplexities = {name: value for name, value in scores.point().items() if name.startswith("perplexity")}
    assert perplexities == {"perplexity": pytest.approx(2), "perplexity[turn 1]": pytest.approx(2)}
    assert scores.facts["rows_without_likelihood"] == 2
    none = score(chat, [lacking, lacking])
    assert not any(name.startswith("perplexity") for name in none.point())
    assert none.facts["rows_without_likelihood"] == 2


def test_perplexity_by_hand() -> None:
    ln2 = math.log(2)
    predictions = [reply("", "三个字", nll=2 * ln2, nll_tokens=2), reply("", "字", nll=4 * ln2, nll_tokens=1)]
    scores = score(perplexity, predictions)
    assert scores.primary == "token_probability"
    assert scores.point() == pytest.approx({"token_probability": 1 / 4, "perplexity": 4, "bits_per_character": 6 / 4})
    assert list(scores.rows) == pytest.approx([1 / 2, 1 / 16])
    assert scores.facts == {"tokens": 3, "characters": 4, "rows_without_likelihood": 0, "rows_at_the_nll_limit": 0}


def test_perplexity_leaves_rows_without_a_likelihood_out_and_counts_them() -> None:
    known = [reply("", "三个字", nll=2 * math.log(2), nll_tokens=2), reply("", "字", nll=0.0, nll_tokens=2)]
    lacking = [reply("", "很长的字"), *(reply("", "字", nll=nll, nll_tokens=2) for nll in (math.nan, math.inf))]
    scores = score(perplexity, [known[0], *lacking, known[1]])
    assert scores.point() == score(perplexity, known).point()
    assert list(scores.rows) == pytest.approx([1 / 2, 0, 0, 0, 1])
    assert scores.facts == {"tokens": 4, "characters": 4, "rows_without_likelihood": 3, "rows_at_the_nll_limit": 0}


@pytest.mark.parametrize("metric", [perplexity, chat])
def test_a_negative_likelihood_is_an_error_that_names_the_row(metric: ModuleType) -> None:
    with pytest.raises(DataError, match=r"row 7 of t: nll=-3000\.0: must be 0 or more"):
        score(metric, [Prediction("7", "t", "m", "", "甲", "", nll=-3000.0, nll_tokens=3)])


@pytest.mark.parametrize("nll", [1e6, 1e308])
def test_an_absurd_likelihood_counts_a_hundred_nats_a_token_and_keeps_intervals_finite(nll: float) -> None:
    sane, absurd = reply("", "字", nll=3 * math.log(2), nll_tokens=3), reply("", "字", nll=nll, nll_tokens=3)
    table = score(perplexity, [sane, absurd, absurd])
    assert table.point()["perplexity"] == pytest.approx(math.exp((math.log(2) + 200) / 3))
    assert table.facts["rows_at_the_nll_limit"] == 2
    for metric in ("perplexity", "chat"):
        rows = [replace(row, id=str(i), metric=metric) for i, row in enumerate([sane, absurd, absurd, sane])]
        (samples,) = scoring.sampled(rows, resamples=200, seed=0).samples.values()
        assert np.isfinite([[*sampled.interval().to_json().values()] for sampled in samples.values()]).all()
        assert samples["perplexity"].interval().half_width > 0


def test_perplexity_without_any_likelihood_is_an_error_that_names_a_row() -> None:
    row = Prediction("7", "t", "perplexity", "", "甲", "")
    with pytest.raises(DataError, match=r"no row of t .* row 7: nll is None .* needs the likelihood"):
        score(perplexity, [row, row])
    with pytest.raises(DataError, match=r"row 0: nll is 1.0 over nll_tokens = 0"):
        score(perplexity, [reply("", "字", nll=1.0)])
