"""Replies that stand in the training set."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tasks.conversation import Message, Row
from tasks.evaluation import copying
from tasks.evaluation.predictions import Prediction

LEARNED = "您好，请问孩子多大了？"


def training(*replies: str) -> list[Row]:
    return [
        Row(f"r{i}", (Message("user", "问"), Message("assistant", reply)), "chat", "chat")
        for i, reply in enumerate(replies)
    ]


def prediction(text: str, reference: str = "别的", **fields: object) -> Prediction:
    return Prediction("1", "chat", "chat", "问", reference, text, fields)


@pytest.mark.parametrize(
    ("row", "copied"),
    [
        (prediction(LEARNED), True),
        (prediction(" 您好,请问 孩子\n多大了?"), True),  # width and white space say nothing
        (prediction(LEARNED, reference="您好，请问孩子多大了?"), False),  # right, whatever the training held
        (prediction(LEARNED, references=["别的", LEARNED]), False),
        (prediction(LEARNED + "是男孩吗"), False),
        (prediction("好的谢谢医生了"), False),  # in the training set, but 7 characters
        (prediction("好的谢谢医生您"), False),
        (prediction(""), False),
    ],
)
def test_a_whole_training_reply_that_is_not_the_reference_is_copied(row: Prediction, copied: bool) -> None:
    assert copying.mark([row], training(LEARNED, "好的谢谢医生了", "")) == [replace(row, copied=copied)]


def test_eight_characters_are_enough_and_white_space_is_none_of_them() -> None:
    eight, seven = "一二三四五六七八", "一二三四五六 七"
    marked = copying.mark([prediction(eight), prediction(seven)], iter(training(eight, seven)))
    assert [p.copied for p in marked] == [True, False]


def test_the_share_is_of_those_that_were_looked_at() -> None:
    marked = copying.mark([prediction(LEARNED), prediction("全新的一句话在这里")], training(LEARNED))
    assert copying.share(marked) == 1 / 2
    assert copying.share([*marked, prediction(LEARNED)]) == 1 / 2
    assert copying.share([prediction(LEARNED)]) is None
