"""The HTTP side of a server: an OpenAI-compatible API over one engine.

Owns authentication, limits, the order of a stream and the log line of a request (counts and hashes, no text).
Knows nothing of processes and models.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import secrets
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Receive, Scope, Send

from tasks.errors import UserError
from tasks.serving import wire
from tasks.serving.completions import CompletionRequest
from tasks.serving.config import is_loopback
from tasks.serving.engine import Busy, Engine, Generation, Piece, Sampling
from tasks.serving.wire import ChatRequest, Refusal

log = logging.getLogger(__name__)

MAX_BODY_BYTES = 1 << 20
MAX_BODY_SECONDS = 30.0


@dataclass
class Service:
    """What the handlers share.

    Attributes:
        name: the model's name.
        instance: tells this server from others that had its address.
        engine: None until the model is loaded and warm.
    """

    name: str
    instance: str
    host: str
    api_key: str | None = None
    temperature: float = 0.0
    max_new_tokens: int = 512
    request_timeout_s: float = 300.0
    engine: Engine | None = None
    started: int = field(default_factory=lambda: int(time.time()))

    def ready(self) -> Engine:
        if self.engine is None:
            raise Refusal("the model is being loaded; try again in a moment", status=503, code="loading")
        if not self.engine.alive:
            raise Refusal("the engine has failed; see the server's log", status=503, code="engine_failed")
        return self.engine


def create_app(service: Service) -> FastAPI:
    """The application: /health, /v1/models, /v1/chat/completions, /v1/completions. No documentation pages, no CORS."""
    app = FastAPI(title="weitiao", docs_url=None, redoc_url=None, openapi_url=None)

    app.add_middleware(_Guard, service=service)

    @app.exception_handler(Refusal)
    async def refused(_: Request, refusal: Refusal) -> Response:
        return _error(refusal)

    @app.exception_handler(HTTPException)
    async def http_error(request: Request, error: HTTPException) -> Response:
        message = f"{request.method} {request.url.path}: {error.detail}"
        return JSONResponse(wire.error_body(message, status=error.status_code), error.status_code, error.headers)

    @app.exception_handler(Exception)
    async def failed(_: Request, error: Exception) -> Response:
        return JSONResponse(wire.error_body("internal error; see the server's log", status=500), 500)

    @app.get("/health")
    async def health() -> Response:
        service.ready()
        return JSONResponse({"status": "ok", "model": service.name, "instance": service.instance})

    @app.get("/v1/models")
    async def models() -> Response:
        model = {"id": service.name, "object": "model", "created": service.started, "owned_by": "weitiao"}
        return JSONResponse({"object": "list", "data": [model]})

    @app.post("/v1/chat/completions")
    async def chat(request: Request) -> Response:
        return await _answer(service, request, wire.parse(await _body(request), ChatRequest))

    @app.post("/v1/completions")
    async def complete(request: Request) -> Response:
        return await _answer(service, request, wire.parse(await _body(request), CompletionRequest))

    return app


async def _answer(service: Service, request: Request, asked: wire.Request) -> Response:
    call = await _admit(service, asked)
    if asked.stream:
        events = _events(call, asked.include_usage)
        return StreamingResponse(events, media_type="text/event-stream", headers={"Cache-Control": "no-cache"})
    return JSONResponse(await _whole(call, request))


@dataclass
class _Call:
    """One admitted request.

    Attributes:
        deadline: in the event loop's time.
    """

    id: str
    model: str
    form: wire.Form
    prompt: list[int]
    sampling: Sampling
    generation: Generation
    deadline: float
    started: float = field(default_factory=time.monotonic)

    def close(self, completion_tokens: int, outcome: str) -> None:
        self.generation.cancel()
        digest = hashlib.sha256(repr(self.prompt).encode()).hexdigest()[:12]
        seconds = time.monotonic() - self.started
        line = "%s prompt %s: %d tokens in, %d out, n=%d, %s, %.2f s"
        log.info(line, self.id, digest, len(self.prompt), completion_tokens, self.sampling.n, outcome, seconds)


async def _admit(service: Service, asked: wire.Request) -> _Call:
    """Check what depends on the model, render the prompt and queue it."""
    engine = service.ready()
    deadline = asyncio.get_running_loop().time() + service.request_timeout_s
    if asked.model != service.name:
        message = f"model {asked.model[:80]!r} is not served here; this server has {service.name!r}"
        raise Refusal(message, status=404, param="model", code="model_not_found")
    place = asked.prompt_field
    try:
        prompt = await asyncio.to_thread(asked.prompt_ids, engine)
    except UserError as error:
        log.info("%s refused: %s", place, error)  # names folders, which are not the client's business
        raise Refusal(f"{place}: this model's layout or tokenizer cannot hold this", param=place) from None
    room = engine.context_tokens - len(prompt)
    wanted = asked.limit or max(1, min(service.max_new_tokens, room))
    if wanted > room:
        message = (
            f"{place}: {len(prompt)} tokens and {wanted} for the reply make {len(prompt) + wanted}, "
            f"more than this model's context of {engine.context_tokens}; shorten the {place}, lower max_tokens"
        )
        raise Refusal(message, param=place, code="context_length_exceeded")
    sampling = asked.sampling(max_tokens=wanted, temperature=service.temperature)
    try:
        generation = engine.submit(prompt, sampling)
    except Busy as busy:
        raise Refusal(f"busy: {busy}", status=429, code="queue_full") from None
    id = f"{asked.form.id_prefix}-{secrets.token_hex(12)}"
    return _Call(id, service.name, asked.form, prompt, sampling, generation, deadline)


async def _whole(call: _Call, request: Request) -> dict[str, Any]:
    """Collect all replies; a client that goes away, or the time limit, cancels them."""
    collecting = asyncio.ensure_future(_collect(call))
    leaving = asyncio.ensure_future(_disconnected(request))
    outcome, tokens = "client left", 0
    try:
        done, _ = await asyncio.wait({collecting, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if collecting not in done:
            raise _left()
        outcome = "failed"
        replies = collecting.result()
        tokens = sum(reply.tokens for reply in replies)
        outcome = "/".join(reply.finish for reply in replies)
        return wire.completion(call.form, call.id, call.model, replies, len(call.prompt))
    finally:
        call.close(tokens, outcome)
        for task in (collecting, leaving):
            task.cancel()


async def _collect(call: _Call) -> list[wire.Reply]:
    replies = [wire.Reply() for _ in range(call.sampling.n)]
    async for piece in _pieces(call):
        replies[piece.index].add(piece)
    return replies


async def _events(call: _Call, include_usage: bool) -> AsyncIterator[bytes]:
    """The parts of each choice as its form writes them; usage if asked for; then [DONE]."""
    tokens, outcome = 0, "client left"
    begun: set[int] = set()  # choices of which something was sent
    try:
        async for piece in _pieces(call):
            for chunk in wire.chunks(call.form, call.id, call.model, piece, piece.index not in begun):
                yield wire.event(chunk)
            begun.add(piece.index)
            tokens += piece.tokens if piece.finish else 0
        if include_usage:
            yield wire.event(wire.usage_chunk(call.form, call.id, call.model, wire.usage(len(call.prompt), tokens)))
        outcome = "done"
        yield wire.event("[DONE]")
    except Refusal as refusal:  # the status line has gone out: the error is the last event
        outcome = refusal.code
        yield wire.event(refusal.body())
    except Exception:
        outcome = "failed"
        yield wire.event(wire.error_body("internal error; see the server's log", status=500))
    finally:
        call.close(tokens, outcome)


async def _pieces(call: _Call) -> AsyncIterator[Piece]:
    """The generation's pieces until its deadline. Raises Refusal: status 504."""
    pieces = aiter(call.generation)
    while True:
        try:
            async with asyncio.timeout_at(call.deadline):
                piece = await anext(pieces)
        except StopAsyncIteration:
            return
        except TimeoutError:
            seconds = time.monotonic() - call.started
            message = f"not done after {seconds:.0f} s, the wait included; ask for fewer tokens (max_tokens)"
            raise Refusal(message, status=504, code="timeout") from None
        yield piece


async def _body(request: Request) -> bytes:
    """The request's body, its real size and time limited."""
    if not request.headers.get("content-type", "").startswith("application/json"):
        # also keeps other sites' pages out: a browser asks before it sends this type, and is not answered
        raise Refusal("Content-Type must be application/json", status=415, code="invalid_content_type")
    body = bytearray()
    try:
        async with asyncio.timeout(MAX_BODY_SECONDS):
            async for part in request.stream():
                body += part
                if len(body) > MAX_BODY_BYTES:
                    message = f"the body is larger than {MAX_BODY_BYTES} bytes"
                    raise Refusal(message, status=413, code="body_too_large")
    except ClientDisconnect:
        raise _left() from None
    except TimeoutError:
        raise Refusal(f"the body did not arrive in {MAX_BODY_SECONDS:.0f} s", status=408, code="timeout") from None
    return bytes(body)


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _left() -> Refusal:
    """Read by nobody, but the request has to end somehow."""
    return Refusal("the client closed the connection", status=499, code="disconnected")


class _Guard:
    """Turns strangers away before anything else looks at a request; every path but /health needs the key."""

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self._app, self._service = app, service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            request = Request(scope)
            try:
                _check_host(self._service, request)
                if request.url.path != "/health":
                    _check_key(self._service, request)
            except Refusal as refusal:
                await _error(refusal)(scope, receive, send)
                return
        await self._app(scope, receive, send)


def _check_host(service: Service, request: Request) -> None:
    """A page that rebinds its own name to this machine still sends its own name: refuse it."""
    name = request.url.hostname or ""
    if is_loopback(service.host) and not is_loopback(name):
        raise Refusal("this server answers to localhost only", status=403, code="wrong_host")


def _check_key(service: Service, request: Request) -> None:
    if service.api_key is None:
        return
    scheme, _, given = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not secrets.compare_digest(given.encode(), service.api_key.encode()):
        raise Refusal("a valid key is required: Authorization: Bearer KEY", status=401, code="invalid_api_key")


def _error(refusal: Refusal) -> Response:
    headers = {"Retry-After": "1"} if refusal.status in (429, 503) else None
    return JSONResponse(refusal.body(), refusal.status, headers)
