"""Which rows and checkpoints are looked at, and which number a name stands for."""

from __future__ import annotations

import pytest

from tasks.conversation import Message, Row
from tasks.errors import ConfigError
from tasks.evaluation import scoring, selection
from tasks.evaluation.metric import Options
from tasks.evaluation.predictions import Prediction


def labelled(task: str, right: int, wrong: int) -> list[Prediction]:
    return [
        Prediction(f"{task}{i}", task, "classification", "", "是", "是" if i < right else "否")
        for i in range(right + wrong)
    ]


SYSTEM = scoring.sampled(
    [*labelled("a", 3, 1), *labelled("b", 1, 1), Prediction("t", "t", "triples", "", "甲_乙_丙", "甲_乙_丙")],
    resamples=100,
    seed=1,
)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a.accuracy", 0.75),
        ("accuracy", (0.75 + 0.5) / 2),  # of the two tasks that have one
        ("t.f1", 1.0),
        ("score", SYSTEM.headline.value),
    ],
)
def test_a_name_stands_for_the_score_a_value_or_a_tasks_value(name: str, expected: float) -> None:
    assert selection.value(SYSTEM, name).value == pytest.approx(expected)


def test_an_unknown_name_is_refused_with_what_there_is() -> None:
    with pytest.raises(ConfigError, match=r"'acuracy': no task has a value of that name; known: score, .*accuracy"):
        selection.value(SYSTEM, "acuracy")


def test_the_choosing_value_is_checked_before_any_model_answers() -> None:
    rows = [Row("1", (Message("user", "文"), Message("assistant", "甲_乙_丙")), "triples", "triples")]
    selection.check("f1_normalised", rows, Options(), likelihoods=True)
    with pytest.raises(ConfigError, match=r"evaluation\.choose_by='rouge_l'"):
        selection.check("rouge_l", rows, Options(), likelihoods=True)
    chat = [Row("1", (Message("user", "文"), Message("assistant", "好")), "chat", "chat")]
    selection.check("perplexity", chat, Options(), likelihoods=True)
    with pytest.raises(ConfigError, match=r"evaluation\.choose_by='perplexity'"):
        selection.check("perplexity", chat, Options(), likelihoods=False)


def test_perplexities_alone_are_better_when_lower() -> None:
    assert [n for n in ("score", "chat.perplexity", "perplexity[turn 1]", "f1") if selection.lower_is_better(n)] == [
        "chat.perplexity",
        "perplexity[turn 1]",
    ]


@pytest.mark.parametrize(
    ("wanted", "best", "expected"),
    [
        (2, 100, [100, 400, 500]),  # training kept it on purpose
        (2, 400, [400, 500]),
        (2, 300, [400, 500]),  # it is not there any more
        (2, None, [400, 500]),
        ("last", 100, [500]),
        (1, 100, [500]),
        ("all", 100, [100, 400, 500]),
    ],
)
def test_candidates_are_the_newest_and_the_one_with_the_lowest_validation_loss(
    wanted: int | str, best: int | None, expected: list[int]
) -> None:
    assert selection.candidates([100, 400, 500], wanted, best) == expected
