"""What holds for any rows: bounds, order, sides, and that two systems' rows can be scored together."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from itertools import pairwise
from types import ModuleType

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.evaluation.metric import Options, RowScores
from tasks.evaluation.metrics import chat, classification, generation, perplexity, triples
from tasks.evaluation.predictions import Prediction
from tasks.evaluation.triple_errors import errors

OPTIONS = Options(text_unit="characters")
METRICS = (chat, classification, generation, perplexity, triples)
FREE_OF_BOUNDS = ("seed_f1_over_50", "length_ratio", "perplexity", "bits_per_character")

triple = st.tuples(*(st.sampled_from(letters) for letters in ("甲乙", ["r", "s"], "丙丁"))).map("_".join)
line = triple | st.sampled_from(["", "甲_r", "甲_r_丙_丁", "free text", "Ａ ＿r_丙"])
answer = st.lists(line, max_size=5).map("\n".join)


@st.composite
def predictions(draw: st.DrawFn) -> Prediction:
    return Prediction(
        id="",
        task="t",
        metric="m",
        prompt="",
        reference=draw(answer),
        prediction=draw(answer),
        finish_reason=draw(st.sampled_from(["stop", "length"])),
        turn=draw(st.integers(1, 6)),
        nll=draw(st.floats(0, 50)),
        nll_tokens=draw(st.integers(1, 20)),
        copied=draw(st.booleans()),
    )


tables = st.lists(predictions(), min_size=1, max_size=8)


def score(metric: ModuleType, rows: list[Prediction]) -> RowScores:
    result: RowScores = metric.score(rows, OPTIONS)
    return result


@pytest.mark.parametrize("metric", METRICS, ids=lambda m: m.__name__.rpartition(".")[2])
@settings(deadline=None, max_examples=60)
@given(rows=tables)
def test_values_lie_within_their_bounds(metric: ModuleType, rows: list[Prediction]) -> None:
    scores = score(metric, rows)
    assert np.all((scores.rows >= 0) & (scores.rows <= 1))
    for name, value in scores.point().items():
        assert value >= 0, name
        assert value <= 1 + 1e-12 or name.startswith(FREE_OF_BOUNDS), name


@pytest.mark.parametrize("metric", METRICS, ids=lambda m: m.__name__.rpartition(".")[2])
@settings(deadline=None, max_examples=40)
@given(rows=tables, order=st.randoms(use_true_random=False))
def test_the_order_of_rows_does_not_matter(metric: ModuleType, rows: list[Prediction], order: object) -> None:
    shuffled = list(rows)
    order.shuffle(shuffled)  # type: ignore[attr-defined]
    assert score(metric, shuffled).point() == pytest.approx(score(metric, rows).point(), abs=1e-12, rel=1e-9)


@pytest.mark.parametrize("metric", METRICS, ids=lambda m: m.__name__.rpartition(".")[2])
@settings(deadline=None, max_examples=60)
@given(data=st.data(), rows=tables)
def test_two_systems_scored_together_have_their_own_values_in_each_half(
    metric: ModuleType, data: st.DataObject, rows: list[Prediction]
) -> None:
    """What the permutation test rests on: sums of any mix of the two systems' rows have a meaning."""
    others = [replace(row, prediction=data.draw(answer), nll=data.draw(st.floats(0, 50))) for row in rows]
    together = score(metric, [*rows, *others])
    for half, own in ((slice(0, len(rows)), rows), (slice(len(rows), None), others)):
        sums = np.asarray(together.statistics[half].sum(axis=0)).reshape(-1)
        values = {name: float(value) for name, value in together.values(sums).items()}
        assert values == pytest.approx(score(metric, own).point(), abs=1e-9)
        assert list(together.rows[half]) == pytest.approx(list(score(metric, own).rows))


@pytest.mark.parametrize("metric", METRICS, ids=lambda m: m.__name__.rpartition(".")[2])
@settings(deadline=None, max_examples=30)
@given(rows=tables)
def test_values_of_many_sums_are_those_of_each(metric: ModuleType, rows: list[Prediction]) -> None:
    scores = score(metric, rows)
    dense = scores.statistics if isinstance(scores.statistics, np.ndarray) else scores.statistics.toarray()
    sums = np.stack([dense[: i + 1].sum(axis=0) for i in range(len(rows))])
    for name, values in scores.values(sums).items():
        assert values.shape == (len(rows),)
        assert values == pytest.approx([float(scores.values(row)[name]) for row in sums], abs=1e-12, rel=1e-9), name


def swapped(rows: list[Prediction]) -> list[Prediction]:
    return [replace(r, prediction=r.reference, reference=r.prediction) for r in rows]


@settings(deadline=None, max_examples=100)
@given(rows=tables)
def test_swapping_the_sides_swaps_precision_and_recall_of_triples(rows: list[Prediction]) -> None:
    here, there = score(triples, rows).point(), score(triples, swapped(rows)).point()
    for kind in ("", "_normalised"):
        assert here[f"precision{kind}"] == there[f"recall{kind}"]
        assert here[f"recall{kind}"] == there[f"precision{kind}"]
        assert here[f"f1{kind}"] == there[f"f1{kind}"]


@settings(deadline=None, max_examples=60)
@given(rows=tables)
def test_rouge_and_f1_of_labels_do_not_know_which_side_is_which(rows: list[Prediction]) -> None:
    for metric, names in ((generation, ("rouge_1", "rouge_2", "rouge_l")), (classification, ("accuracy", "macro_f1"))):
        here, there = score(metric, rows).point(), score(metric, swapped(rows)).point()
        assert [here[name] for name in names] == pytest.approx([there[name] for name in names])


@settings(deadline=None, max_examples=100)
@given(rows=tables)
def test_micro_f1_of_triples_equals_counting_them_one_by_one(rows: list[Prediction]) -> None:
    """The oracle labels each (row, triple) that either side holds, and counts the labels."""

    def found(text: str) -> list[str]:
        return [part.strip() for part in text.split("\n") if part.count("_") == 2]

    seen: Counter[str] = Counter()
    for row in rows:
        for candidate in dict.fromkeys(found(row.prediction) + found(row.reference)):
            given, wanted = candidate in found(row.prediction), candidate in found(row.reference)
            seen["hit" if given and wanted else "false" if given else "missed"] += 1
    every = 2 * seen["hit"] + seen["false"] + seen["missed"]
    assert score(triples, rows).point()["f1"] == pytest.approx(2 * seen["hit"] / every if every else 0)
    relations = score(triples, rows).facts["relations"]
    assert sum(facts["hits"] for facts in relations.values()) == seen["hit"]


@settings(deadline=None, max_examples=100)
@given(pairs=st.lists(st.tuples(*(st.sampled_from("甲乙丙丁") for _ in range(2))), min_size=1, max_size=20))
def test_scores_of_labels_equal_scikit_learn(pairs: list[tuple[str, str]]) -> None:
    from sklearn.metrics import f1_score

    predicted, gold = zip(*pairs, strict=True)
    point = score(classification, [Prediction("", "t", "m", "", g, p) for p, g in pairs]).point()
    for kind in ("macro", "micro", "weighted"):
        assert point[f"{kind}_f1"] == pytest.approx(f1_score(gold, predicted, average=kind, zero_division=0))


@settings(deadline=None, max_examples=60)
@given(rows=tables)
def test_bleu_and_chrf_equal_sacrebleu(rows: list[Prediction]) -> None:
    from sacrebleu.metrics import BLEU, CHRF

    point = score(generation, rows).point()
    replies, references = [r.prediction for r in rows], [[r.reference for r in rows]]
    assert point["bleu_4"] == pytest.approx(BLEU(tokenize="zh").corpus_score(replies, references).score / 100, abs=1e-9)
    assert point["chrf"] == pytest.approx(CHRF().corpus_score(replies, references).score / 100, abs=1e-9)


sets = st.sets(st.tuples(*(st.text("甲乙丙丁", max_size=3) for _ in range(3))), max_size=6)


@settings(deadline=None, max_examples=100)
@given(predicted=sets, gold=sets)
def test_every_false_positive_and_false_negative_is_one_error(
    predicted: set[tuple[str, str, str]], gold: set[tuple[str, str, str]]
) -> None:
    kinds = errors(predicted, gold)
    paired = kinds["wrong_relation"] + kinds["wrong_span"]
    assert paired + kinds["spurious"] == len(predicted - gold)
    assert paired + kinds["missing"] == len(gold - predicted)
    other_way = errors(gold, predicted)
    assert other_way["wrong_relation"] == kinds["wrong_relation"]


@settings(deadline=None, max_examples=60)
@given(words=st.lists(st.text("甲乙丙", min_size=0, max_size=6), min_size=1, max_size=6))
def test_distinct_is_one_exactly_where_no_n_gram_repeats(words: list[str]) -> None:
    every = [pair for text in words for pair in pairwise(text)]
    assert (chat.distinct(words, 2) == 1) == (bool(every) and len(set(every)) == len(every))
