"""Talking to a model from a terminal: to a deployment, or to a folder that gets a server for the session.

There is one path: a client talks to a URL. ``connect`` finds or makes the server behind it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, TextIO

from tasks.conversation import Message
from tasks.errors import UserError, WeitiaoError
from tasks.serving import process, release
from tasks.serving.client import Answer, Client
from tasks.serving.config import ServingConfig, api_key
from tasks.serving.process import Target

log = logging.getLogger(__name__)

_HELP = "/clear forgets the conversation, /exit or Ctrl-D ends, Ctrl-C stops a reply"


@contextmanager
def connect(
    config: ServingConfig,
    *,
    root: Path,
    url: str | None = None,
    target: Target | None = None,
    base: Path | None = None,
) -> Iterator[Client]:
    """A client of the server at ``url``, of one started on ``target``, or else of the release in service.

    ``base`` says where the release's base model lies now. A released model whose server is not running gets one for the
    session, as a folder does.

    Raises:
        UserError: nothing was released yet.
    """
    key = api_key(config.api_key_env)
    if url is None and target is None:
        current = release.read(root)
        if current is None:
            raise UserError(
                f"paths.root={root}: nothing is deployed there; run python -m flows.full first, "
                "or name a model or checkpoint folder"
            )
        running = current.running
        moved = replace(current.target, base=base or current.target.base)
        url, target = (running.url, None) if running else (None, moved)
        config = config.model_copy(update={"model_name": current.name})
    if url is not None:
        client = Client(url, api_key=key)
        try:
            yield client
        finally:
            client.close()
        return
    assert target is not None
    log.info("starting a server on %s for this session", target.model)
    private = config.model_copy(update={"host": "127.0.0.1"})
    with process.session(private, target, root) as server:
        client = Client(server.url, api_key=key, model=server.model)
        try:
            yield client
        finally:
            client.close()


def once(client: Client, prompt: str, output: TextIO, *, system: str | None = None, **options: Any) -> Answer:
    """Write the reply to one prompt as it comes."""
    answer = _reply(client, [*_system(system), Message("user", prompt)], output, options)
    output.write("\n")
    return answer


def talk(
    client: Client,
    output: TextIO,
    *,
    read: Callable[[str], str] = input,
    system: str | None = None,
    **options: Any,
) -> None:
    """A conversation until /exit or the end of the input; a failed or stopped reply is taken back."""
    output.write(f"{client.model} at {client.url}; {_HELP}\n")
    history = _system(system)
    while True:
        try:
            line = read("> ").strip()
        except (EOFError, KeyboardInterrupt):
            output.write("\n")
            return
        if line == "/exit":
            return
        if line == "/clear":
            history = _system(system)
            output.write("(forgotten)\n")
        elif line.startswith("/"):
            output.write(f"{_HELP}\n")
        elif line:
            history = _turn(client, history, line, output, options)


def _turn(client: Client, history: list[Message], line: str, output: TextIO, options: dict[str, Any]) -> list[Message]:
    """One exchange; returns the history with it, or as it was where the exchange failed."""
    asked = [*history, Message("user", line)]
    try:
        answer = _reply(client, asked, output, options)
    except KeyboardInterrupt:
        output.write("\n(stopped; this exchange is forgotten)\n")
        return history
    except WeitiaoError as error:
        output.write(f"{error}\n")
        return history
    output.write("\n" if answer.finish_reason == "stop" else f"\n(cut off: {answer.finish_reason})\n")
    return [*asked, Message("assistant", answer.text)]


def _reply(client: Client, messages: list[Message], output: TextIO, options: dict[str, Any]) -> Answer:
    parts = client.stream(messages, **options)
    while True:
        try:
            output.write(next(parts))
            output.flush()
        except StopIteration as end:
            return end.value  # type: ignore[no-any-return]
        except BaseException:
            parts.close()  # closes the connection, which ends the generation
            raise


def _system(text: str | None) -> list[Message]:
    return [Message("system", text)] if text else []
