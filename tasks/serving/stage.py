"""The deploy action: a proven, registered model in service, reconciled with the release record each time.

A new model is started, asked a real question, registered, recorded; then its server ends unless
``serving.keep``. A server kept by an earlier release ends before the new one starts: a short gap, one port.
"""

from __future__ import annotations

import logging
import re
import signal
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from types import FrameType

from tasks.artifacts import ServableModel
from tasks.conversation import Message
from tasks.errors import ResourceError, StageError, WeitiaoError
from tasks.serving import process, release
from tasks.serving.client import Client
from tasks.serving.config import ServingConfig, api_key
from tasks.serving.process import Server, Target
from tasks.serving.release import Release, Smoke
from tasks.serving.server import listen
from tasks.store import Store

log = logging.getLogger(__name__)

#: Hands a model to the registry and returns its version there.
Register = Callable[[ServableModel], str | None]

_SMOKE_TOKENS = 64
_CONTROL = re.compile(r"<\|[a-z_]+\|>|\[(?:g|s)?MASK\]|</?s>|<(?:unk|pad|bos|eos)>")


def deploy(
    config: ServingConfig,
    model: ServableModel,
    *,
    root: Path,
    question: Sequence[Message],
    register: Register | None,
    expected: str | None = None,
    evaluation: Path | None = None,
    device: str = "cpu",
    dtype: str = "float32",
    device_map: str = "none",
) -> Release:
    """Put ``model`` in service, or find that it is.

    Args:
        question: what the new server is asked, unless ``serving.smoke_prompt`` says otherwise.
        evaluation: folder of the report that promoted the model.
        expected: the evaluated reply to ``question``; another one is a warning, an empty one passes only if it was.
        register: None where no registry is wanted. A registry that fails is logged and asked again next time.

    Raises:
        ResourceError: the port is in use.
        StageError: the model does not start, or fails its smoke test; the release in service stays on record.
    """
    started = time.monotonic()
    with Store(root).lock("deploy"):
        current = release.read(root)
        if current is not None and _is_released(config, model, current):
            current = _completed(current, model, root, register)
            log.info("deploy: already released: %s (%s)", current.name, current.url or "no server kept")
            return current.model_copy(update={"reused": True, "seconds": 0.0})
        log.info("deploy: starts")
        Store(root).load(ServableModel, model.path, hashes=True)
        target = Target(*_folders(model), device, dtype, device_map)
        asked = question
        if config.smoke_prompt:
            asked, expected = [Message("user", config.smoke_prompt)], None
        server, smoke = _prove(config, target, asked, expected, root, current)
        try:
            version, registered = _register(register, model, current if _names(config, model, current) else None)
            new = Release(
                path=release.folder(root),
                fingerprint=model.fingerprint,
                seconds=round(time.monotonic() - started, 3),
                model=target.model,
                base=target.base,
                device=device,
                dtype=dtype,
                device_map=device_map,
                engine=config.engine,
                name=config.model_name,
                alias=config.alias,
                version=version,
                registered=registered,
                smoke=smoke,
                url=server.url if config.keep else None,
                server=server.to_json() if config.keep else None,
                time=time.time(),
                evaluation=evaluation,
            )
            release.write(root, new, event="released")
        except BaseException:
            process.end(server.pid)
            raise
        if not config.keep:
            process.end(server.pid)
    log.info("deploy: done in %.1f s -> %s %s", new.seconds, new.name, new.url or "(no server kept)")
    return new


def check_port(config: ServingConfig, *, root: Path, stays: bool | None = None) -> None:
    """Fail early where ``deploy`` would fail late: the port is in use, and not by this root's own release.

    Raises:
        ResourceError: names the port.
    """
    port = config.listen_port(stays=config.keep if stays is None else stays)
    try:
        listen(config.host, port).close()
    except ResourceError:
        current = release.read(root)
        running = current.running if current else None
        if running is None or running.port != port:
            raise


def serve(
    config: ServingConfig,
    *,
    root: Path,
    model: Path,
    base: Path | None = None,
    device: str = "cpu",
    dtype: str = "float32",
    device_map: str = "none",
) -> None:
    """Run a server in the foreground until Ctrl-C or SIGTERM, its log on standard error.

    Raises:
        ResourceError: the port is in use.
    """
    with suppress(ValueError):  # not the main thread
        signal.signal(signal.SIGTERM, _interrupt)
    port = config.listen_port(stays=True)
    listen(config.host, port).close()  # the server would say it too, but among the lines of its log
    target = Target(model, base, device, dtype, device_map)
    with (
        suppress(KeyboardInterrupt),
        process.session(config, target, root, port=port, output=sys.stderr.fileno()) as server,
    ):
        log.info("serving %s at %s (Ctrl-C ends it)", server.model, server.url)
        process.wait(server)
        raise StageError(f"the server at {server.url} ended by itself; see its log above")


def _interrupt(_: int, __: FrameType | None) -> None:
    raise KeyboardInterrupt


def _folders(model: ServableModel) -> tuple[Path, Path | None]:
    """What to load, and the base that it needs."""
    return (model.model, None) if model.adapter is None else (model.adapter, model.model)


def _names(config: ServingConfig, model: ServableModel, current: Release | None) -> bool:
    """Whether the record is about this model, under the names asked for."""
    return current is not None and (current.fingerprint, current.name, current.alias) == (
        model.fingerprint,
        config.model_name,
        config.alias,
    )


def _is_released(config: ServingConfig, model: ServableModel, current: Release) -> bool:
    """Whether the record covers what is asked; a kept server must live, and where it is asked for."""
    proved = (current.engine, current.model, current.base)
    if not _names(config, model, current) or proved != (config.engine, *_folders(model)):
        return False
    if not config.keep:
        return True
    running = current.running
    return running is not None and running.host == config.host and config.port in (None, 0, running.port)


def _completed(current: Release, model: ServableModel, root: Path, register: Register | None) -> Release:
    """Register what an earlier run could not."""
    version, registered = _register(register, model, current)
    if registered == current.registered:
        return current
    current = current.model_copy(update={"version": version, "registered": registered})
    release.write(root, current, event="registered")
    return current


def _register(register: Register | None, model: ServableModel, known: Release | None) -> tuple[str | None, bool]:
    """(version, whether it is registered); a release must not fail because a registry does."""
    if known is not None and known.registered:
        return known.version, True
    if register is None:
        return None, False
    try:
        version = register(model)
        return version, version is not None
    except Exception as error:
        log.warning("deploy: not registered, the next run tries again: %s: %s", type(error).__name__, error)
        return None, False


def _prove(
    config: ServingConfig,
    target: Target,
    question: Sequence[Message],
    expected: str | None,
    root: Path,
    current: Release | None,
) -> tuple[Server, Smoke]:
    """Start a server and ask it; the caller ends it."""
    port = config.listen_port(stays=config.keep)
    old = current.running if current else None
    if old is not None and (config.keep or old.port == port):
        log.info("deploy: the server of the earlier release at %s ends now and makes room", old.url)
        process.end(old.pid)
    elif old is not None:
        log.warning("deploy: %s goes on with the earlier model; serving.keep=true replaces it", old.url)
    place = root.resolve() / "serving" / config.model_name
    left_over = process.read(place)
    if left_over is not None and process.stop(left_over):
        log.warning("deploy: ended a server that an interrupted release left at %s", left_over.url)
    server = process.start(config, target, place, port=port, attached=not config.keep)
    try:
        return server, _smoke(config, server, question, expected, place / "server.log")
    except BaseException:
        process.end(server.pid)
        raise


def _smoke(
    config: ServingConfig, server: Server, question: Sequence[Message], expected: str | None, log_path: Path
) -> Smoke:
    """Ask greedily, whole and streamed: the same text, not empty, ended properly, free of control tokens."""
    client = Client(server.url, api_key=api_key(config.api_key_env), model=config.model_name)
    try:
        options = {"temperature": 0, "max_tokens": min(_SMOKE_TOKENS, config.max_new_tokens)}
        whole = client.answer(question, **options)
        started = time.monotonic()
        streamed = "".join(client.stream(question, **options))
        seconds = round(time.monotonic() - started, 3)
    except WeitiaoError as error:
        raise StageError(f"smoke test: {error} (log: {log_path})") from error
    finally:
        client.close()
    problems = [
        problem
        for problem, found in (
            ("the reply is empty", not whole.text.strip() and (expected is None or expected.strip() != "")),
            ("streamed and whole reply differ", streamed != whole.text),
            (f"finish_reason is {whole.finish_reason!r}", whole.finish_reason not in ("stop", "length")),
            ("the reply holds control tokens", _CONTROL.search(whole.text) is not None),
        )
        if found
    ]
    if problems:
        raise StageError(f"smoke test: {'; '.join(problems)}: the model is not released (log: {log_path})")
    repeats = None
    if expected is not None:
        cut = whole.finish_reason == "length" and expected.startswith(whole.text)
        repeats = cut or whole.text == expected
        if not repeats:
            log.warning("deploy: the server's reply is not the evaluated one (rounding of the merged weights, or more)")
    return Smoke(
        as_evaluated=repeats,
        prompt_tokens=whole.prompt_tokens,
        completion_tokens=whole.completion_tokens,
        reply=whole.text,
        finish_reason=whole.finish_reason,
        seconds=seconds,
    )
