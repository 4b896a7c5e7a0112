"""Replies of a vLLM server, over HTTP, for sets that are too large for one process. Imported by workers.

The server is the user's: vLLM needs a torch of its own, so it is installed in an environment of its own. There:

    vllm serve BASE_FOLDER
    VLLM_ALLOW_RUNTIME_LORA_UPDATING=true vllm serve BASE_FOLDER --enable-lora --max-lora-rank 64

The first serves a base or merged model, the second LoRA checkpoints too, which are loaded from here; that variable
lets whoever reaches the server load any folder: keep it on this machine. Prompts are sent as token ids and replies come
back as token ids, so rendering and decoding are this project's; precision and speed are the server's. What vLLM would
take from the model's own generation settings is sent with each request.

Source: vLLM 0.33, OpenAI-compatible server, completions and their extra parameters; ``return_token_ids`` came with
pull request 22587, in 0.10.2.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

import httpx

from tasks.errors import ConfigError, StageError
from tasks.evaluation.answering.vllm_server import API_KEY_ENV, Server, checked, listed, models, prepare, send
from tasks.models.decoding import Reply
from tasks.models.sampling import Sampling

__all__ = ["API_KEY_ENV", "Server", "prepare", "replies", "row_seed"]

#: Seconds between tries of one request, about a minute together: a server that restarts is waited for.
_WAITS_S: tuple[float, ...] = (0.5, 1, 2, 4, 8, 16, 30)


def replies(
    server: Server,
    model: str,
    prompts: Sequence[Sequence[int]],
    *,
    stop_ids: Sequence[int],
    max_new_tokens: int,
    sampling: Sampling | None = None,
    row_ids: Sequence[str] = (),
) -> Iterator[tuple[int, Reply]]:
    """Replies to prompts of token ids, each with its prompt's index, as they come; closing ends what is under way.

    A reply's ``seconds`` are those from asking to its arrival, its waits included.

    Args:
        model: the name that :func:`prepare` gave.
        stop_ids: the tokens that end a reply, which is cut before them.
        sampling: None is greedy.
        row_ids: one a prompt where tokens are drawn; with the seed they decide the draws.

    Raises:
        ConfigError: the server refuses, or serves no such model.
        ResourceError: it does not answer, or not in time.
        StageError: it answers something else than a reply.
    """
    shared = {"model": model, "max_tokens": max_new_tokens, "stop_token_ids": list(stop_ids), **_choice(sampling)}
    requests = [{**shared, "prompt": list(prompt)} for prompt in prompts]
    if sampling is not None:
        for request, row_id in zip(requests, row_ids, strict=True):
            request["seed"] = row_seed(sampling.seed, row_id)
    stream = _stream(server, requests, frozenset(stop_ids))

    async def following() -> tuple[int, Reply] | None:
        return await anext(stream, None)

    async def end() -> None:
        await stream.aclose()

    with asyncio.Runner() as runner:
        try:
            while (found := runner.run(following())) is not None:
                yield found
        finally:
            runner.run(end())


def row_seed(seed: int, row_id: str) -> int:
    """The seed of one row's request, 63 bits: a row draws the same each time, and no two rows draw alike."""
    return int.from_bytes(hashlib.sha256(f"{seed}:{row_id}".encode()).digest()[:8], "big") >> 1


def _choice(sampling: Sampling | None) -> dict[str, Any]:
    """How tokens are chosen. What is left out vLLM takes from the model's generation_config.json."""
    fixed = {"repetition_penalty": 1.0, "min_p": 0.0, "skip_special_tokens": True, "return_token_ids": True}
    if sampling is None:
        return {**fixed, "temperature": 0.0, "top_p": 1.0, "top_k": 0}
    return {**fixed, "temperature": sampling.temperature, "top_p": sampling.top_p, "top_k": sampling.top_k}


async def _stream(
    server: Server, requests: Sequence[Mapping[str, Any]], stop_ids: frozenset[int]
) -> AsyncGenerator[tuple[int, Reply], None]:
    async with server.client() as client:

        async def one(index: int, request: Mapping[str, Any]) -> tuple[int, Reply]:
            return index, await _reply(server, client, request, stop_ids)

        waiting = iter(enumerate(requests))
        running: set[asyncio.Task[tuple[int, Reply]]] = set()
        try:
            while True:
                more = islice(waiting, server.concurrency - len(running))
                running |= {asyncio.create_task(one(index, request)) for index, request in more}
                if not running:
                    return
                done, running = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
                # failures come last: replies that came with them are not lost
                for task in sorted(done, key=lambda task: task.exception() is not None):
                    yield task.result()
        finally:
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)


async def _reply(
    server: Server, client: httpx.AsyncClient, request: Mapping[str, Any], stop_ids: frozenset[int]
) -> Reply:
    started = time.monotonic()
    response = await send(server, client, "POST", "/v1/completions", request, waits_s=_WAITS_S)
    if response.status_code == 404:
        served = listed(await models(server, client))
        raise ConfigError(f"evaluation.vllm: {server.url} serves no model {request['model']!r}; it serves {served}")
    ids, finish = _choice_of(server, checked(server, response))
    end = next((place for place, token in enumerate(ids) if token in stop_ids), None)
    return Reply(ids[:end], finish if end is None else "stop", time.monotonic() - started)


def _choice_of(server: Server, body: Any) -> tuple[list[int], str]:
    """The token ids of a completion and why it ended."""
    try:
        choice = body["choices"][0]
        ids, finish = choice.get("token_ids"), choice["finish_reason"]
    except (LookupError, TypeError, AttributeError):
        raise StageError(f"{server.url}: its answer is no completion: {str(body)[:200]}") from None
    if ids is None:
        raise ConfigError(
            f"evaluation.vllm.url={server.url}: its replies hold no token ids (return_token_ids), without which they "
            "cannot be decoded as in training; use vLLM 0.10.2 or newer"
        )
    if finish not in ("stop", "length"):
        raise StageError(f"{server.url}: a reply ended with finish_reason {finish!r}; see the server's log")
    return list(ids), finish
