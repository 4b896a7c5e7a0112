"""A small client of a chat server: whole or streamed replies. Works with any OpenAI-compatible server."""

from __future__ import annotations

import json
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import httpx

from tasks.conversation import Message
from tasks.errors import ResourceError, StageError, UserError

_CONNECT_S = 5.0


@dataclass(frozen=True)
class Answer:
    """One reply and what it cost."""

    text: str
    finish_reason: str
    prompt_tokens: int
    completion_tokens: int


class Client:
    """Talks to one server.

    Args:
        model: the name to ask for; None takes the first that the server lists.
        timeout_s: most seconds between two parts of a reply.
    """

    def __init__(
        self, url: str, *, api_key: str | None = None, model: str | None = None, timeout_s: float = 600.0
    ) -> None:
        headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        # trust_env=False: a proxy of the environment cannot reach this machine's own servers
        self._http = httpx.Client(
            base_url=url.rstrip("/").removesuffix("/v1"),
            headers=headers,
            timeout=httpx.Timeout(timeout_s, connect=_CONNECT_S),
            trust_env=False,
        )
        self.url = url
        self._model = model

    def health(self) -> dict[str, Any]:
        """What /health says of a ready server; empty when it is not ready or not there."""
        try:
            response = self._http.get("/health", timeout=_CONNECT_S)
            value = response.json() if response.status_code == 200 else {}
        except (httpx.HTTPError, ValueError):
            return {}
        return value if isinstance(value, dict) else {}

    @property
    def model(self) -> str:
        if self._model is None:
            with _errors(self.url):
                response = self._http.get("/v1/models")
                _check(response)
                self._model = str(response.json()["data"][0]["id"])
        return self._model

    def answer(self, messages: Sequence[Message], **options: Any) -> Answer:
        """The whole reply. ``options`` are further fields of the request."""
        with _errors(self.url):
            response = self._http.post("/v1/chat/completions", json=self._request(messages, options))
            _check(response)
            value = response.json()
        choice, usage = value["choices"][0], value["usage"]
        return Answer(
            choice["message"]["content"],
            choice["finish_reason"],
            usage["prompt_tokens"],
            usage["completion_tokens"],
        )

    def stream(self, messages: Sequence[Message], **options: Any) -> Generator[str, None, Answer]:
        """The reply's text in parts as they come; the generator's return value is the whole answer."""
        options = {**options, "stream": True, "stream_options": {"include_usage": True}}
        text, finish, usage = "", "", {"prompt_tokens": 0, "completion_tokens": 0}
        with (
            _errors(self.url),
            self._http.stream("POST", "/v1/chat/completions", json=self._request(messages, options)) as response,
        ):
            if response.is_error:
                response.read()
            _check(response)
            for chunk in _chunks(response.iter_lines()):
                if "error" in chunk:
                    raise StageError(f"{self.url}: {chunk['error'].get('message')}")
                usage = chunk.get("usage") or usage
                for choice in chunk["choices"]:
                    part = choice["delta"].get("content") or ""
                    finish = choice["finish_reason"] or finish
                    text += part
                    if part:
                        yield part
        if not finish:
            raise StageError(f"{self.url}: the stream broke off after {len(text)} characters")
        return Answer(text, finish, usage["prompt_tokens"], usage["completion_tokens"])

    def close(self) -> None:
        self._http.close()

    def _request(self, messages: Sequence[Message], options: dict[str, Any]) -> dict[str, Any]:
        return {
            "model": self.model,
            "messages": [{"role": m.role, "content": m.content} for m in messages],
            **options,
        }


def ask(
    url: str, messages: Sequence[Message], *, stream: bool = True, api_key: str | None = None, **options: Any
) -> Iterator[str]:
    """The reply of the server at ``url``, in parts or as one."""
    client = Client(url, api_key=api_key)
    try:
        if stream:
            yield from client.stream(messages, **options)
        else:
            yield client.answer(messages, **options).text
    finally:
        client.close()


def _chunks(lines: Iterator[str]) -> Iterator[dict[str, Any]]:
    """The JSON of each server-sent event up to [DONE]."""
    for line in lines:
        if line.startswith("data:"):
            data = line.removeprefix("data:").strip()
            if data == "[DONE]":
                return
            yield json.loads(data)


def _check(response: httpx.Response) -> None:
    if not response.is_error:
        return
    try:
        message = str(response.json()["error"]["message"])
    except (ValueError, KeyError, TypeError):
        message = response.text[:200]
    line = f"{response.url}: {response.status_code} {message}"
    raise (StageError if response.status_code >= 500 else UserError)(line)


class _errors:
    """Turns failures of the connection into one line."""

    def __init__(self, url: str) -> None:
        self._url = url

    def __enter__(self) -> None:
        return

    def __exit__(self, _: Any, error: BaseException | None, __: Any) -> None:
        if isinstance(error, httpx.ConnectError | httpx.ConnectTimeout):
            raise ResourceError(f"{self._url}: no server answers there ({error})") from None
        if isinstance(error, httpx.HTTPError):
            raise StageError(f"{self._url}: {type(error).__name__}: {error}") from None
