"""What the API does with an engine that is not there, hangs or fails: engines written for the purpose."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from typing import Any

import httpx
import pytest

from tasks.conversation import Message
from tasks.errors import ModelError
from tasks.serving.api import Service, create_app
from tasks.serving.engine import Piece, Sampling

BODY = {"model": "m", "messages": [{"role": "user", "content": "a"}]}


class Script:
    """An engine, and its one generation, that plays a script: pieces, then an error or endless silence."""

    context_tokens = 100
    vocabulary_size = 10
    alive = True

    def __init__(self, pieces: Sequence[Piece] = (), error: Exception | None = None) -> None:
        self.pieces, self.error = pieces, error
        self.cancelled = False

    def prompt_ids(self, messages: Sequence[Message]) -> list[int]:
        return [1, 2]

    def text_ids(self, text: str) -> list[int]:
        return [1]

    def submit(self, prompt: Sequence[int], sampling: Sampling) -> Script:
        return self

    def cancel(self) -> None:
        self.cancelled = True

    def close(self) -> None:
        return

    async def __aiter__(self) -> AsyncIterator[Piece]:
        for piece in self.pieces:
            yield piece
        if self.error:
            raise self.error
        await asyncio.Event().wait()


class Unrenderable(Script):
    def prompt_ids(self, messages: Sequence[Message]) -> list[int]:
        raise ModelError("/secret/place: its template refuses")


def post(engine: Script | None, host: str = "127.0.0.1", **fields: Any) -> httpx.Response:
    async def go() -> httpx.Response:
        service = Service(name="m", instance="i", host=host, request_timeout_s=0.05, engine=engine)
        transport = httpx.ASGITransport(create_app(service), raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
            return await client.post("/v1/chat/completions", json={**BODY, **fields})

    return asyncio.run(go())


def test_a_server_that_still_loads_says_so() -> None:
    response = post(None)
    assert (response.status_code, response.headers["retry-after"]) == (503, "1")
    assert response.json()["error"]["code"] == "loading"


def test_a_dead_engine_says_so() -> None:
    engine = Script()
    engine.alive = False
    assert post(engine).json()["error"]["code"] == "engine_failed"


def test_a_reply_that_takes_too_long_is_cancelled() -> None:
    engine = Script([Piece(0, "half", 1)])
    response = post(engine)
    assert (response.status_code, response.json()["error"]["code"]) == (504, "timeout")
    assert engine.cancelled


def test_a_stream_that_takes_too_long_ends_with_an_error_instead_of_done() -> None:
    engine = Script([Piece(0, "half", 1)])
    text = post(engine, stream=True).text
    assert '"content": "half"' in text
    assert '"code": "timeout"' in text.strip().splitlines()[-1]
    assert "[DONE]" not in text
    assert engine.cancelled


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_leaves_while_it_waits_cancels_its_reply(stream: bool) -> None:
    engine = Script([Piece(0, "half", 1)])
    converse(engine, [body_message(stream=stream), {"type": "http.disconnect"}])
    assert engine.cancelled


def test_a_client_that_leaves_before_its_request_is_complete_is_nothing_to_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    engine = Script()
    half = {**body_message(), "more_body": True}
    converse(engine, [half, {"type": "http.disconnect"}])
    assert not caplog.records


def body_message(**fields: Any) -> dict[str, Any]:
    return {"type": "http.request", "body": json.dumps({**BODY, **fields}).encode(), "more_body": False}


def converse(engine: Script, incoming: list[dict[str, Any]]) -> None:
    """Play what a client's connection does to the application; returns when the application has ended."""
    headers = [(b"content-type", b"application/json"), (b"host", b"localhost")]
    scope: dict[str, Any] = {"type": "http", "method": "POST", "path": "/v1/chat/completions", "headers": headers}
    scope |= {"query_string": b"", "scheme": "http", "http_version": "1.1", "asgi": {"spec_version": "2.3"}}

    async def receive() -> dict[str, Any]:
        return incoming.pop(0) if incoming else await asyncio.Future()

    async def send(_: Any) -> None:
        return

    service = Service(name="m", instance="i", host="127.0.0.1", engine=engine)
    asyncio.run(create_app(service)(scope, receive, send))


@pytest.mark.parametrize("stream", [False, True])
def test_a_failing_engine_is_an_internal_error_without_its_words(stream: bool) -> None:
    response = post(Script([Piece(0, "a", 1)], RuntimeError("/secret/place")), stream=stream)
    assert response.status_code == (200 if stream else 500)
    assert "server_error" in response.text
    assert "[DONE]" not in response.text
    assert "secret" not in response.text


def test_a_dialogue_that_the_layout_refuses_is_a_bad_request_without_paths() -> None:
    response = post(Unrenderable())
    assert (response.status_code, response.json()["error"]["param"]) == (400, "messages")
    assert "secret" not in response.text


def test_the_reply_shorter_than_the_default_where_the_context_is_nearly_full() -> None:
    taken: list[Sampling] = []

    class Recording(Script):
        def submit(self, prompt: Sequence[int], sampling: Sampling) -> Script:
            taken.append(sampling)
            return self

    post(Recording([Piece(0, "a", 1, "stop")], RuntimeError()))
    assert taken[0].max_tokens == 98  # a context of 100 less a prompt of 2; the default is 512


@pytest.mark.parametrize(
    ("bound", "asked", "status"),
    [
        ("127.0.0.1", "evil.example", 403),
        ("127.0.0.1", "localhost:9", 404),
        ("127.0.0.1", "[::1]:9", 404),
        ("0.0.0.0", "name.example", 404),
    ],
)
def test_a_loopback_server_answers_to_loopback_names_only(bound: str, asked: str, status: int) -> None:
    async def go() -> httpx.Response:
        app = create_app(Service(name="m", instance="i", host=bound, engine=Script()))
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://x") as client:
            return await client.get("/nothing", headers={"host": asked})

    assert asyncio.run(go()).status_code == status
