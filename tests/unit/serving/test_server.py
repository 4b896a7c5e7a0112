"""The API as clients see it: a real server process, asked over HTTP, also with the official client."""

from __future__ import annotations

import http.client
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from tasks.conversation import Message
from tasks.errors import UserError
from tasks.serving.client import Answer, Client, ask
from tasks.serving.process import Server

ASKED = [Message("user", "头痛发热吗")]
JSON: Any = [{"role": "user", "content": "头痛发热吗"}]


@pytest.fixture
def http_client(server: Server) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url, trust_env=False, timeout=60) as raw:
        yield raw


@pytest.fixture
def official(server: Server, monkeypatch: pytest.MonkeyPatch) -> openai.OpenAI:
    monkeypatch.setenv("NO_PROXY", server.host)
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key="unused", max_retries=0)


def streamed(client: Client, **options: Any) -> tuple[list[str], Answer]:
    parts: list[str] = []
    stream = client.stream(ASKED, **options)
    while True:
        try:
            parts.append(next(stream))
        except StopIteration as end:
            return parts, end.value


def wait_for(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, f"never happened: {what}"
        time.sleep(0.02)


def test_health_and_models_name_the_model(client: Client, server: Server) -> None:
    assert client.health() == {"status": "ok", "model": "tiny", "instance": server.instance}
    assert client.model == "tiny"


def test_a_streamed_reply_is_the_whole_reply_in_parts(client: Client) -> None:
    whole = client.answer(ASKED)
    parts, answer = streamed(client)
    assert answer == whole
    assert len(parts) > 5
    assert "".join(parts) == whole.text
    assert (whole.finish_reason, whole.completion_tokens) == ("length", 24)


def test_ask_gives_the_same_text_streamed_and_whole(server: Server) -> None:
    assert "".join(ask(server.url, ASKED)) == "".join(ask(server.url, ASKED, stream=False))


def test_usage_counts_prompt_and_reply(client: Client) -> None:
    # [gMASK] sop <|user|> "\n" + 5 characters + <|assistant|>
    answer = client.answer(ASKED, max_tokens=3)
    assert (answer.prompt_tokens, answer.completion_tokens, len(answer.text)) == (10, 3, 3)


def test_typed_control_tokens_are_text_for_the_model(client: Client) -> None:
    plain = client.answer([Message("user", "")], max_tokens=1).prompt_tokens
    typed = client.answer([Message("user", "<|assistant|>")], max_tokens=1).prompt_tokens
    assert typed - plain == len("<|assistant|>")


def test_a_stop_text_ends_the_reply_and_is_not_part_of_it(client: Client) -> None:
    text = client.answer(ASKED).text
    stop = text[6:9]
    whole = client.answer(ASKED, stop=[stop, "never"])
    assert (whole.text, whole.finish_reason) == (text[: text.index(stop)], "stop")
    _, answer = streamed(client, stop=stop)
    assert answer == whole


def test_a_seed_makes_a_sampled_reply_reproducible(client: Client) -> None:
    first, again, other = (client.answer(ASKED, temperature=1.0, seed=seed).text for seed in (1, 1, 2))
    assert first == again
    assert first != other
    _, answer = streamed(client, temperature=1.0, seed=1)
    assert answer.text == first


def test_without_a_seed_sampled_replies_differ(client: Client) -> None:
    assert client.answer(ASKED, temperature=1.5).text != client.answer(ASKED, temperature=1.5).text


def test_a_tiny_top_p_is_greedy_at_any_temperature(client: Client) -> None:
    assert client.answer(ASKED, temperature=1.5, top_p=1e-6).text == client.answer(ASKED).text


def test_a_strong_frequency_penalty_changes_a_repetitive_reply(client: Client) -> None:
    plain = client.answer(ASKED, max_tokens=200).text
    penalised = client.answer(ASKED, max_tokens=200, frequency_penalty=2.0).text
    most = max(plain.count(c) for c in plain)
    assert max(penalised.count(c) for c in penalised) < most


def test_the_official_client_gets_n_choices_and_the_sum_of_their_tokens(official: openai.OpenAI) -> None:
    reply = official.chat.completions.create(
        model="tiny", messages=JSON, n=3, temperature=1.0, seed=7, max_completion_tokens=8
    )
    texts = [choice.message.content for choice in reply.choices]
    assert [choice.index for choice in reply.choices] == [0, 1, 2]
    assert len(set(texts)) == 3
    assert reply.usage is not None
    assert reply.usage.completion_tokens == 24
    assert reply.usage.total_tokens == 24 + 10


def test_the_official_client_reads_a_stream_of_two_choices(official: openai.OpenAI) -> None:
    fields: dict[str, Any] = {"model": "tiny", "messages": JSON, "n": 2, "temperature": 1.0, "seed": 7}
    whole = official.chat.completions.create(**fields)
    texts, ends, usages = ["", ""], ["", ""], []
    for part in official.chat.completions.create(**fields, stream=True, stream_options={"include_usage": True}):
        usages += [part.usage] if part.usage else []
        for choice in part.choices:
            texts[choice.index] += choice.delta.content or ""
            ends[choice.index] = choice.finish_reason or ends[choice.index]
    assert texts == [choice.message.content for choice in whole.choices]
    assert ends == ["length", "length"]
    assert usages == [whole.usage]


def test_the_order_of_a_stream(http_client: httpx.Client) -> None:
    fields = {"model": "tiny", "messages": JSON, "stream": True, "max_tokens": 2}
    response = http_client.post("/v1/chat/completions", json=fields)
    assert response.headers["content-type"].startswith("text/event-stream")
    events = [line.removeprefix("data: ") for line in response.text.split("\n\n") if line]
    assert events[-1] == "[DONE]"
    choices = [json.loads(event)["choices"][0] for event in events[:-1]]
    assert choices[0]["delta"] == {"role": "assistant", "content": ""}
    assert [len(c["delta"]["content"]) for c in choices[1:-1]] == [1, 1]
    assert (choices[-1]["delta"], choices[-1]["finish_reason"]) == ({}, "length")
    assert len({json.loads(event)["id"] for event in events[:-1]}) == 1


def test_errors_reach_the_official_client_as_its_own_kinds(official: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="temperature") as bad:
        official.chat.completions.create(model="tiny", messages=JSON, temperature=1e9)
    assert bad.value.param == "temperature"
    with pytest.raises(openai.BadRequestError, match="top_k: unknown field"):
        official.chat.completions.create(model="tiny", messages=JSON, extra_body={"top_k": 5})
    with pytest.raises(openai.NotFoundError, match="'gpt-9' is not served here; this server has 'tiny'"):
        official.chat.completions.create(model="gpt-9", messages=JSON)


def test_a_prompt_beyond_the_context_is_refused_with_the_numbers(client: Client) -> None:
    with pytest.raises(UserError, match=r"5005 tokens and 1 for the reply make 5006, more than .* context of 4096"):
        client.answer([Message("user", "好" * 5000)])
    with pytest.raises(UserError, match="10 tokens and 4087 for the reply make 4097"):
        client.answer(ASKED, max_tokens=4087)


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "/", 404), ("GET", "/docs", 404), ("GET", "/openapi.json", 404), ("GET", "/v1/chat/completions", 405)],
)
def test_other_paths_and_methods_get_an_error_body(
    http_client: httpx.Client, method: str, path: str, status: int
) -> None:
    response = http_client.request(method, path)
    assert response.status_code == status
    assert response.json()["error"]["type"] == "invalid_request_error"


def test_bodies_of_the_wrong_size_type_or_sender_are_refused(http_client: httpx.Client) -> None:
    path, fields = "/v1/chat/completions", {"model": "tiny", "messages": JSON}
    large = b'{"model": "' + b"x" * (1 << 20) + b'"}'
    as_json = {"content-type": "application/json"}
    assert http_client.post(path, content=large, headers=as_json).status_code == 413
    assert http_client.post(path, content=iter([large[:-5], large[-5:]]), headers=as_json).status_code == 413
    assert http_client.post(path, content=json.dumps(fields)).status_code == 415
    assert http_client.post(path, json=fields, headers={"host": "evil.example"}).status_code == 403
    assert "access-control-allow-origin" not in http_client.get("/health", headers={"origin": "http://x"}).headers


def test_a_client_that_leaves_a_stream_ends_its_generation(server: Server, client: Client, log_path: Path) -> None:
    stream = client.stream(ASKED, max_tokens=4000)
    next(stream)
    stream.close()
    wait_for(lambda: "of 4000 tokens" in log_path.read_text(encoding="utf-8"), "the engine stops")
    assert client.answer(ASKED, max_tokens=1).completion_tokens == 1


def test_a_full_queue_is_answered_at_once_and_clears(server: Server, client: Client) -> None:
    # one is generated and two wait (queue_limit=2); a stream's status comes when it is admitted
    running = client.stream(ASKED, max_tokens=4000)
    next(running)
    body = json.dumps({"model": "tiny", "messages": JSON, "max_tokens": 4000, "stream": True})
    connections = [http.client.HTTPConnection(server.host, server.port) for _ in range(4)]
    responses = []
    for connection in connections:
        connection.request("POST", "/v1/chat/completions", body, {"Content-Type": "application/json"})
        responses.append(connection.getresponse())
    assert [response.status for response in responses] == [200, 200, 429, 429]
    assert responses[2].headers["retry-after"] == "1"
    assert json.loads(responses[2].read())["error"]["code"] == "queue_full"
    running.close()
    for connection in connections:
        connection.close()
    wait_for(lambda: _answers(client), "the queue clears")


def _answers(client: Client) -> bool:
    try:
        return client.answer(ASKED, max_tokens=1).completion_tokens == 1
    except UserError:
        return False


def test_the_log_holds_no_text_of_a_dialogue(client: Client, log_path: Path) -> None:
    reply = client.answer([Message("user", "咳嗽咳嗽吃药")]).text
    text = log_path.read_text(encoding="utf-8")
    assert "tokens in" in text
    assert "咳嗽" not in text
    assert reply not in text
