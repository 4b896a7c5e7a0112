"""A request is honoured or refused by name: every bad field has its line."""

from __future__ import annotations

import json
from typing import Any

import pytest
from pydantic import ValidationError

from tasks.conversation import Message
from tasks.serving.engine import Sampling
from tasks.serving.wire import UNSUPPORTED, ChatRequest, Refusal, parse

USER = {"role": "user", "content": "你好"}


def body(**fields: Any) -> bytes:
    return json.dumps({"model": "tiny", "messages": [USER], **fields}).encode()


def parse_chat(data: bytes) -> ChatRequest:
    return parse(data, ChatRequest)


def refusal(data: bytes) -> Refusal:
    with pytest.raises(Refusal) as caught:
        parse_chat(data)
    assert caught.value.status == 400
    assert "\n" not in str(caught.value)
    return caught.value


def test_every_sampling_field_reaches_the_engine() -> None:
    asked = parse_chat(
        body(
            temperature=0.7,
            top_p=0.9,
            max_completion_tokens=7,
            stop=["a", "bc"],
            n=3,
            seed=5,
            presence_penalty=0.5,
            frequency_penalty=-0.5,
            repetition_penalty=1.1,
            user="someone",
        )
    )
    assert asked.limit == 7
    assert asked.sampling(max_tokens=7, temperature=0.0) == Sampling(
        max_tokens=7,
        temperature=0.7,
        top_p=0.9,
        presence_penalty=0.5,
        frequency_penalty=-0.5,
        repetition_penalty=1.1,
        stop=("a", "bc"),
        seed=5,
        n=3,
    )


def test_the_servers_temperature_holds_where_the_request_names_none() -> None:
    assert parse_chat(body()).sampling(max_tokens=1, temperature=0.25).temperature == 0.25
    assert parse_chat(body(temperature=0)).sampling(max_tokens=1, temperature=0.25).temperature == 0


def test_text_parts_are_joined_and_null_is_not_given() -> None:
    parts = [{"type": "text", "text": "头"}, {"type": "text", "text": "痛"}]
    asked = parse_chat(body(messages=[{"role": "user", "content": parts}], temperature=None, tools=None))
    assert asked.dialogue == [Message("user", "头痛")]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("temperature", 1e9),
        ("temperature", -1),
        ("temperature", "0.7"),
        ("temperature", True),
        ("temperature", 10**400),
        ("top_p", 0),
        ("top_p", 1.01),
        ("max_tokens", -1),
        ("max_tokens", 0),
        ("max_tokens", 1.5),
        ("max_completion_tokens", -1),
        ("n", 0),
        ("n", 9),
        ("seed", 2**63),
        ("stop", ""),
        ("stop", 5),
        ("stop", ["a", "b", "c", "d", "e"]),
        ("stop", ["x" * 65]),
        ("presence_penalty", 2.1),
        ("frequency_penalty", -2.1),
        ("repetition_penalty", 0),
        ("stream", "yes"),
        ("stream_options", {"include_usage": True}),
        ("user", 5),
        ("model", 5),
    ],
)
def test_a_value_out_of_range_is_refused_by_its_name(field: str, value: Any) -> None:
    problem = refusal(body(**{field: value}))
    assert str(problem).startswith(f"{field}")
    assert problem.body()["error"]["type"] == "invalid_request_error"


@pytest.mark.parametrize(
    ("messages", "place"),
    [
        ([], "messages"),
        ([{"role": "assistant", "content": "a"}], "messages"),
        ([USER, {"role": "assistant", "content": "a"}], "messages"),
        ([USER, {"role": "system", "content": "a"}, USER], "messages"),
        ([{"role": "tool", "content": "a"}], "messages.0.role"),
        ([{"role": "User", "content": "a"}], "messages.0.role"),
        ([{"role": "user"}], "messages.0.content"),
        ([{"role": "user", "content": None}], "messages.0.content"),
        ([{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}], "messages.0.content"),
        ([{**USER, "nam": "x"}], "messages.0.nam"),
        ("hello", "messages"),
    ],
)
def test_a_bad_dialogue_is_refused_where_it_is_bad(messages: Any, place: str) -> None:
    problem = refusal(body(messages=messages))
    assert problem.param is not None
    assert problem.param.startswith(place)


def test_an_unknown_field_is_refused_with_the_nearest_known() -> None:
    problem = refusal(body(temprature=0.5))
    assert problem.code == "unknown_parameter"
    assert "temprature: unknown field; did you mean temperature?" in str(problem)


@pytest.mark.parametrize("name", ["str", "list[x", "constrained-str"])
def test_an_unknown_field_that_reads_like_a_type_is_refused_by_its_name(name: str) -> None:
    problem = refusal(body(**{name: 1}))
    assert (problem.param, problem.code) == (name, "unknown_parameter")
    assert refusal(body(messages=[{**USER, name: 1}])).param == f"messages.0.{name}"
    part = {"type": "text", "text": "a", name: 1}
    assert refusal(body(messages=[{"role": "user", "content": [part]}])).param == f"messages.0.content.0.{name}"


def test_many_bad_parts_are_one_error_and_not_one_each() -> None:
    fields = {"model": "tiny", "messages": [{"role": "user", "content": [{"type": "image"}] * 1000}]}
    with pytest.raises(ValidationError) as caught:
        ChatRequest.model_validate(fields)
    assert caught.value.error_count() <= 4


@pytest.mark.parametrize("field", sorted(UNSUPPORTED))
def test_a_field_of_the_api_that_is_not_supported_says_so(field: str) -> None:
    problem = refusal(body(**{field: []}))
    assert (problem.param, problem.code) == (field, "unsupported_parameter")
    assert "not supported" in str(problem) or "only text" in str(problem)


@pytest.mark.parametrize(
    "data",
    [b"", b"{", b"[]", b"null", b'"x"', b"\xff\xfe", b"[" * 100_000, b'{"temperature": NaN}', body()[:-1]],
)
def test_what_is_no_json_object_is_refused(data: bytes) -> None:
    assert refusal(data).code == "invalid_json"


def test_a_lone_surrogate_is_refused() -> None:
    refusal(b'{"model": "tiny", "messages": [{"role": "user", "content": "\\ud800"}]}')


def test_two_different_limits_are_refused_and_two_equal_ones_are_not() -> None:
    refusal(body(max_tokens=3, max_completion_tokens=4))
    assert parse_chat(body(max_tokens=3, max_completion_tokens=3)).limit == 3


def test_no_refusal_repeats_the_text_of_a_message() -> None:
    secret = "张三的电话"
    for messages in ([{"role": "x", "content": secret}], [{"role": "user", "content": [secret]}], secret):
        assert secret not in json.dumps(refusal(body(messages=messages)).body(), ensure_ascii=False)


def test_every_field_of_the_request_is_used_or_known_to_have_no_effect() -> None:
    used = {"model", "messages", "max_tokens", "max_completion_tokens", "stream", "stream_options", "user"}
    sampling = set(Sampling.__dataclass_fields__)
    assert set(ChatRequest.model_fields) <= used | sampling
