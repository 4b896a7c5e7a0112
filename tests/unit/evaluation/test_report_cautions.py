"""What a report warns of: each warning where it applies, with its number, and none about sound answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from tasks.evaluation.predictions import Prediction
from tasks.evaluation.reporting import report

PLACES = ("北京", "上海", "天津", "重庆")


def replies(right: int = 40, rows: int = 40) -> list[Prediction]:
    """Free text; the first ``right`` are the references, the others text of their own. No two are the same."""
    return [
        Prediction(
            id=f"{i:03d}",
            task="闲聊",
            metric="chat",
            prompt=f"{i} 号去哪里",
            reference=f"{i} 号去{PLACES[i % 4]}",
            prediction=f"{i} 号去{PLACES[i % 4]}" if i < right else f"不知道 {i}",
            tokens=5,
        )
        for i in range(rows)
    ]


def found(tuned: Sequence[Prediction], base: Sequence[Prediction] | None = None, **changes: Any) -> list[str]:
    content = report.build(
        {"base": replies(0, len(tuned)) if base is None else base, "tuned": tuned},
        **{
            "split": "test",
            "chosen": {"step": 1, "why": "the only candidate", "by": "score", "validation": []},
            "resamples": 100,
            "permutations": 100,
            "seed": 1,
            "worst_rows": 0,
            **changes,
        },
    )
    warnings: list[str] = content["warnings"]
    return warnings


def only(warnings: list[str]) -> str:
    assert len(warnings) == 1, warnings
    return warnings[0]


def test_sound_answers_give_no_warning() -> None:
    assert found(replies(30)) == []


def test_a_model_that_equals_its_base() -> None:
    facts = {"tuned": {"same_as_base": True}}
    assert "its norm is 0, or it was not loaded" in only(found(replies(30), worker_facts=facts))
    assert found(replies(30), worker_facts={"tuned": {"same_as_base": False}}) == []
    assert found(replies(30), worker_facts={"tuned": {"same_as_base": None}, "base": {"same_as_base": True}}) == []
    assert "Every one of 40 replies is the untuned base's" in only(found(replies(30), replies(30)))


def test_a_model_that_does_not_stop() -> None:
    cut = [replace(row, finish_reason="length" if i < 5 else "stop") for i, row in enumerate(replies(30))]
    line = only(found(cut))
    assert line.startswith("12% of the tuned model's replies were cut at evaluation.max_new_tokens")
    assert found([replace(row, finish_reason="length") if i < 4 else row for i, row in enumerate(replies(30))]) == []


def test_empty_replies_and_cut_prompts() -> None:
    empty = [replace(row, prediction=" \n" if i < 5 else row.prediction) for i, row in enumerate(replies())]
    assert only(found(empty)).startswith("12% of the tuned model's replies are empty")
    cut = [replace(row, prompt_cut=i == 0) for i, row in enumerate(replies(30))]
    assert only(found(cut)).startswith("2.5% of the prompts were cut at tokenization.max_prompt_tokens")


def test_replies_that_recite_the_training_set() -> None:
    copied = [replace(row, copied=i < 10) for i, row in enumerate(replies(30))]
    assert only(found(copied)).startswith("25% of the tuned model's replies are training replies word for word")
    assert found([replace(row, copied=i < 4) for i, row in enumerate(replies(30))]) == []


def test_replies_that_repeat_the_input() -> None:
    parrot = [replace(row, prediction=row.prompt if i < 6 else row.prediction) for i, row in enumerate(replies())]
    assert only(found(parrot)).startswith("15% of the tuned model's replies are the input, word for word")
    # where the input is the right answer, repeating it is right
    asked = [replace(row, prompt=row.reference) for row in replies(30)]
    parrot = [replace(row, prediction=row.prompt) if i < 30 else row for i, row in enumerate(asked)]
    assert found(parrot) == []


def test_a_model_that_gives_one_answer_to_everything() -> None:
    labels = [replace(row, metric="classification", reference=PLACES[i % 4]) for i, row in enumerate(replies())]
    one = [replace(row, prediction="北京") for row in labels]
    line = only(found(one, labels[:20] + one[20:]))
    assert line.startswith(
        "闲聊: 100% of the replies are the one `北京`, while the most frequent reference makes up 25%"
    )
    # where nearly every reference is that one as well, the model may be right
    skewed = [replace(row, reference="北京" if i < 38 else "上海") for i, row in enumerate(one)]
    assert found(skewed, [replace(row, prediction="上海") for row in skewed]) == []


def test_lines_that_are_no_triples() -> None:
    gold = "电机_部件故障_异响"
    rows = [
        replace(row, metric="triples", reference=gold, prediction=f"{gold}\n电机{i}_组成_转子")
        for i, row in enumerate(replies())
    ]
    base = [replace(row, prediction=gold if i == 0 else "无") for i, row in enumerate(rows)]
    assert found(rows, base) == []
    broken = [
        replace(row, prediction=f"{row.prediction}\n电机_异响" if i < 9 else row.prediction)
        for i, row in enumerate(rows)
    ]
    line = only(found(broken, base))
    assert line.startswith("闲聊: 9 of 89 answered lines (10%) are not head_relation_tail")
    assert "evaluation.constraint=triples" in line


def test_a_value_that_rose_and_should_fall() -> None:
    def likely(rows: list[Prediction], nll: float) -> list[Prediction]:
        return [replace(row, nll=nll + 0.01 * (i % 5), nll_tokens=1) for i, row in enumerate(rows)]

    line = only(found(likely(replies(30), 2.0), likely(replies(0), 1.0)))
    assert line.startswith("闲聊: perplexity rose from 2.77 to 7.54, and lower is better")  # e^1.02, e^2.02
    assert found(likely(replies(30), 1.0), likely(replies(0), 2.0)) == []


def likelihoods(nll: float, rows: int = 40) -> list[Prediction]:
    """Rows that only the likelihood of their reference is asked of, as a worker writes them."""
    return [
        Prediction(f"{i:03d}", "热线", "perplexity", f"问{i}", f"答{i}", "", nll=nll + 0.1 * (i % 5), nll_tokens=2)
        for i in range(rows)
    ]


def test_rows_without_replies_give_no_warning_about_replies() -> None:
    assert found(likelihoods(1.0), likelihoods(2.0)) == []
    # beside replies they neither raise a share nor water it down: 5 of 40 replies are empty, of 80 rows all the more
    empty = [replace(row, prediction="" if i < 5 else row.prediction) for i, row in enumerate(replies())]
    base = replies(0) + likelihoods(2.0)
    assert only(found(empty + likelihoods(1.0), base)).startswith("12% of the tuned model's replies are empty")
    cut = [replace(row, finish_reason="length" if i < 5 else "stop") for i, row in enumerate(replies(30))]
    assert only(found(cut + likelihoods(1.0), base)).startswith("12% of the tuned model's replies were cut")
    same = found(replies(30) + likelihoods(1.0), replies(30) + likelihoods(2.0))
    assert only(same).startswith("Every one of 40 replies is the untuned base's")


def test_scores_that_are_the_same_on_every_row() -> None:
    gold = "电机_部件故障_异响"
    rows = [replace(row, metric="triples", reference=gold, prediction=gold) for row in replies()]
    wrong = [replace(row, prediction="电机_组成_异响") for row in rows]
    one_hit, one_miss = [*rows[:1], *wrong[1:]], [*wrong[:1], *rows[1:]]
    assert found(one_miss, one_hit) == []
    # of 40 rows without an exception: 1 - 0.05^(1/40) = 0.0722
    base = only(found(one_miss, wrong))
    assert base.startswith("The untuned base scores 0 on every row of 闲聊 (40 rows: up to 7.2%).") and "more (" in base
    tuned = only(found(rows, one_hit))
    assert tuned.startswith("The tuned model scores the maximum on every row of 闲聊 (40 rows: up to 7.2%).")
    assert "less (" in tuned
    # two rows a document: 1 - 0.05^(1/30) = 0.0950
    documents = [[replace(row, group=str(i // 2)) for i, row in enumerate(side * 2)][:60] for side in (one_miss, wrong)]
    documents = [[replace(row, id=f"{i:03d}") for i, row in enumerate(side)] for side in documents]
    assert "闲聊 (30 documents: up to 9.5%)" in only(found(*documents))


def test_rows_that_are_few_or_not_for_testing() -> None:
    assert "闲聊 (29)" in only(found(replies(20, 29)))
    documents = [replace(row, group=str(i % 29)) for i, row in enumerate(replies(30))]
    assert "闲聊 (29)" in only(found(documents, [replace(row, group=str(i % 29)) for i, row in enumerate(replies(0))]))
    assert only(found(replies(30), split="validation")).startswith("The data set has no test rows")


def test_rows_without_a_likelihood_are_told_where_a_perplexity_is_given() -> None:
    measured = [replace(r, nll=10.0, nll_tokens=5) for r in replies(30)]
    assert found(measured, [replace(r, nll=11.0, nll_tokens=5) for r in replies(0)]) == []
    overflowed = [replace(r, nll=None, nll_tokens=0) if i < 3 else r for i, r in enumerate(measured)]
    warning = only(found(overflowed, [replace(r, nll=11.0, nll_tokens=5) for r in replies(0)]))
    assert "3 of 40 rows have no likelihood under the tuned model" in warning
