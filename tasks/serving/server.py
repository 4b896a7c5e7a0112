"""The server process: ``python -m tasks.serving.server FOLDER``; FOLDER/job.json says what to serve, and where.

Binds its address before it loads the model, answers /health with 503 until a first token was generated, then
writes FOLDER/server.json and removes it when it ends. SIGTERM and SIGINT let running replies go on for a few
seconds. The same command starts it by hand. The other side is tasks.serving.process.

job.json: model, base (null for whole models), name, host, port, device, dtype, instance, attached, and the fields
of ``ServingConfig.limits``. ``attached`` ends the server when its parent process dies.

Exit codes: 0 ended by a signal, 2 the user's input, 1 anything else; error.json holds the reason.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Mapping
from pathlib import Path
from types import FrameType
from typing import Any

from tasks import plugins
from tasks.errors import ResourceError, StageError, WeitiaoError
from tasks.files import write_atomic
from tasks.serving.config import ENGINES, api_key
from tasks.serving.engine import Engine, Sampling

log = logging.getLogger(__name__)

#: Seconds that running replies get after SIGTERM.
DRAIN_S = 4
_BACKLOG = 128


def main(folder: Path) -> int:
    """Serve until a signal comes; returns the exit code."""
    job: dict[str, Any] = json.loads((folder / "job.json").read_text(encoding="utf-8"))
    (folder / "error.json").unlink(missing_ok=True)
    try:
        with listen(job["host"], job["port"]) as listener:
            _Server(folder, job, listener).run()
        return 0
    except Exception as error:
        known = isinstance(error, WeitiaoError)
        if not known:
            traceback.print_exc()
        kind = type(error).__name__ if known else StageError.__name__
        message = str(error) if known else f"{type(error).__name__}: {error}"
        write_atomic(folder / "error.json", json.dumps({"kind": kind, "message": message}, ensure_ascii=False))
        log.error("%s", message)
        return error.exit_code if isinstance(error, WeitiaoError) else 1


def listen(host: str, port: int) -> socket.socket:
    """A listening socket. Raises ResourceError: the address is in use or is not this machine's."""
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        listener = socket.socket(family, socket.SOCK_STREAM)
        try:
            if os.name != "nt":  # there it would share the port with whoever has it
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
            listener.listen(_BACKLOG)
        except OSError:
            listener.close()
            raise
        return listener
    except OSError as error:
        raise ResourceError(
            f"serving.port={port}: cannot listen on {host} ({error.strerror or error}); "
            "choose another port, or serving.port=0 for a free one"
        ) from None


class _Server:
    """One run: uvicorn answers on the main thread while a second one loads the model."""

    def __init__(self, folder: Path, job: Mapping[str, Any], listener: socket.socket) -> None:
        import uvicorn

        from tasks.serving.api import Service, create_app

        self._folder, self._job, self._listener = folder, job, listener
        self._failure: Exception | None = None
        self._service = Service(
            name=job["name"],
            instance=job["instance"],
            host=job["host"],
            api_key=api_key(job["api_key_env"]),
            temperature=job["temperature"],
            max_new_tokens=job["max_new_tokens"],
            request_timeout_s=job["request_timeout_s"],
        )
        config = uvicorn.Config(
            create_app(self._service),
            log_config=None,
            access_log=False,
            server_header=False,
            ws="none",
            lifespan="off",
            timeout_graceful_shutdown=DRAIN_S,
        )
        self._uvicorn = uvicorn.Server(config)

    def run(self) -> None:
        # uvicorn raises the signal it got once more after it has shut down: nothing is left to do then
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, _ignore)
        threading.Thread(target=self._load, name="load", daemon=True).start()
        if self._job["attached"]:
            threading.Thread(target=self._follow_parent, args=(os.getppid(),), daemon=True).start()
        try:
            self._uvicorn.run(sockets=[self._listener])
        finally:
            (self._folder / "server.json").unlink(missing_ok=True)
            if self._service.engine is not None:
                self._service.engine.close()
        if self._failure is not None:
            raise self._failure

    def _load(self) -> None:
        try:
            started = time.monotonic()
            engine: Engine = plugins.load(ENGINES, self._job["engine"], key="serving.engine").load(self._job)
            _warm_up(engine)
            self._service.engine = engine
            write_atomic(self._folder / "server.json", json.dumps(self._facts(), ensure_ascii=False, indent=1))
            seconds = time.monotonic() - started
            log.info("ready after %.1f s: %s at %s", seconds, self._service.name, self._facts()["url"])
        except Exception as error:
            self._failure = error
            self._uvicorn.should_exit = True

    def _facts(self) -> dict[str, Any]:
        host, port = self._job["host"], self._listener.getsockname()[1]
        shown = f"[{host}]" if ":" in host else host
        return {
            "pid": os.getpid(),
            "host": host,
            "port": port,
            "url": f"http://{shown}:{port}",
            "model": self._job["name"],
            "instance": self._job["instance"],
        }

    def _follow_parent(self, parent: int) -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        log.warning("the parent process is gone: ending")
        self._uvicorn.should_exit = True


def _warm_up(engine: Engine) -> None:
    """Generate one token: what fails here must not fail a user's request."""
    import asyncio

    from tasks.conversation import Message

    async def one_token() -> None:
        async for _ in engine.submit(engine.prompt_ids([Message("user", "你好")]), Sampling(max_tokens=1)):
            pass

    asyncio.run(one_token())


def _ignore(_: int, __: FrameType | None) -> None:
    return


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    if len(sys.argv) != 2 or not (Path(sys.argv[1]) / "job.json").is_file():
        raise SystemExit("usage: python -m tasks.serving.server FOLDER   (a folder that holds job.json)")
    # nothing is ever fetched: what is missing shall fail at once
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    code = main(Path(sys.argv[1]))
    with contextlib.suppress(OSError):
        sys.stderr.flush()
    # os._exit: the thread that loads a model may still be inside torch, where a normal exit would hang or crash
    os._exit(code)
