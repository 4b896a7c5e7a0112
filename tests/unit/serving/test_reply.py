"""Text leaves as whole characters, and no part of a stop text ever leaves."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tasks.serving.reply import ReplyText


def letters(ids: Sequence[int]) -> str:
    return "".join(map(chr, ids))


def utf8(ids: Sequence[int]) -> str:
    """As byte-fallback decoders do it: a run of bytes with anything wrong in it is shown as U+FFFD throughout."""
    try:
        return bytes(ids).decode("utf-8")
    except UnicodeDecodeError:
        return "\ufffd" * len(ids)


def test_each_character_leaves_as_it_comes_without_stop_texts() -> None:
    reply = ReplyText(letters)
    assert [reply.push(ord(c)) for c in "药片"] == ["药", "片"]
    assert reply.finish() == ""
    assert reply.tokens == 2


def test_a_character_of_several_bytes_leaves_as_a_whole() -> None:
    reply = ReplyText(utf8)
    assert [reply.push(b) for b in "咳a嗽".encode()] == ["", "", "咳", "a", "", "", "嗽"]


def test_a_character_left_half_at_the_end_is_dropped_and_the_one_before_it_stays() -> None:
    reply = ReplyText(utf8)
    assert "".join(reply.push(b) for b in "咳".encode() + "嗽".encode()[:2]) == "咳"
    assert reply.finish() == ""


def test_the_beginning_of_a_stop_text_waits_until_it_is_known_to_be_none() -> None:
    reply = ReplyText(letters, ["END"])
    assert [reply.push(ord(c)) for c in "aENx"] == ["a", "", "", "ENx"]
    assert not reply.stopped


def test_a_stop_text_ends_the_reply_before_it() -> None:
    reply = ReplyText(letters, ["END", "\n\n"])
    assert "".join(reply.push(ord(c)) for c in "ok EEND") == "ok E"
    assert reply.stopped
    assert reply.finish() == ""


def test_of_two_stop_texts_in_one_token_the_earlier_wins() -> None:
    pieces = ["a", "xENDyST"]
    reply = ReplyText(lambda ids: "".join(pieces[i] for i in ids), ["ST", "END"])
    assert [reply.push(0), reply.push(1)] == ["a", "x"]


def test_what_was_held_back_leaves_at_the_end() -> None:
    reply = ReplyText(letters, ["END"])
    assert "".join(reply.push(ord(c)) for c in "aEN") == "a"
    assert reply.finish() == "EN"


@pytest.mark.parametrize("text", ["你好", "ß和€与𝄞", "头痛，发热；39.5℃"])
def test_any_text_comes_through_a_byte_fallback_tokenizer(text: str, model: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(model)
    reply = ReplyText(lambda ids: str(tokenizer.decode(list(ids), skip_special_tokens=True)))
    parts = [reply.push(i) for i in tokenizer.encode(text, add_special_tokens=False)]
    assert "".join(parts) == text
    assert "\ufffd" not in "".join(parts)
