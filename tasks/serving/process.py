"""A server process seen from outside: start it and wait until it answers, recognise it again, end it.

The inside is tasks.serving.server. Imports neither torch nor FastAPI.
"""

from __future__ import annotations

import json
import logging
import os
import secrets
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tasks.errors import BY_NAME, ResourceError, StageError, UserError
from tasks.files import write_atomic
from tasks.serving.client import Client
from tasks.serving.config import ServingConfig, api_key

log = logging.getLogger(__name__)

#: Longer than the drain of a server (tasks.serving.server.DRAIN_S), after which it is killed.
_END_S = 10.0
_POLL_S = 0.1


@dataclass(frozen=True)
class Target:
    """What to serve: a folder that tasks.models.loading loads, the base it needs, on what, and spread or not."""

    model: Path
    base: Path | None = None
    device: str = "cpu"
    dtype: str = "float32"
    device_map: str = "none"


@dataclass(frozen=True)
class Server:
    """A server that has answered once.

    Attributes:
        instance: its own mark: another process with the same pid or address has another one.
    """

    pid: int
    host: str
    port: int
    url: str
    model: str
    instance: str

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def start(
    config: ServingConfig,
    target: Target,
    folder: Path,
    *,
    port: int,
    attached: bool,
    output: int | None = None,
) -> Server:
    """Start a server and wait until it has generated its first token.

    Args:
        folder: gets job.json, server.json and server.log.
        port: 0 for a free one.
        attached: the server ends when this process ends; else it stays in a session of its own.
        output: file descriptor for its log instead of server.log.

    Raises:
        ResourceError: the port is in use.
        WeitiaoError: what its error.json names, or StageError with the log's last line.
    """
    api_key(config.api_key_env)
    folder.mkdir(parents=True, exist_ok=True)
    instance = secrets.token_hex(8)
    job = {
        "model": str(target.model.resolve()),
        "base": str(target.base.resolve()) if target.base else None,
        "device": target.device,
        "dtype": target.dtype,
        "device_map": target.device_map,
        "name": config.model_name,
        "host": config.host,
        "port": port,
        "instance": instance,
        "attached": attached,
        **config.limits(),
    }
    for stale in ("server.json", "error.json"):
        (folder / stale).unlink(missing_ok=True)
    write_atomic(folder / "job.json", json.dumps(job, ensure_ascii=False, indent=1))
    log_path = folder / "server.log"
    with log_path.open("ab") as log_file:
        process = subprocess.Popen(
            [sys.executable, "-m", "tasks.serving.server", str(folder)],
            stdin=subprocess.DEVNULL,
            stdout=log_file if output is None else output,
            stderr=subprocess.STDOUT,
            env=_environment(target.device),
            start_new_session=True,
        )
    try:
        return _wait_ready(process, folder, instance, config.start_timeout_s)
    except BaseException:
        end(process.pid)
        raise


def _wait_ready(process: subprocess.Popen[bytes], folder: Path, instance: str, timeout_s: float) -> Server:
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise _failure(folder, process.returncode)
        server = read(folder)
        if server is not None and server.instance == instance and is_alive(server):
            return server
        time.sleep(_POLL_S)
    raise StageError(
        f"serving.start_timeout_s={timeout_s:g}: the server did not answer in time: "
        f"{_last_line(folder)} (log: {folder / 'server.log'})"
    )


def read(folder: Path) -> Server | None:
    """The server that runs, or ran until it was killed, in ``folder``."""
    try:
        return from_json(json.loads((folder / "server.json").read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return None


def from_json(value: Mapping[str, Any]) -> Server:
    return Server(**value)


def is_alive(server: Server) -> bool:
    """Whether this very server answers and is ready."""
    return Client(server.url).health().get("instance") == server.instance


def end(pid: int) -> None:
    """SIGTERM, time to drain, then SIGKILL; returns when the process is gone."""
    import psutil

    try:
        process = psutil.Process(pid)
        process.terminate()
        process.wait(timeout=_END_S)
    except psutil.NoSuchProcess:
        return
    except psutil.TimeoutExpired:
        log.warning("server %d did not end within %.0f s of SIGTERM: killed", pid, _END_S)
        process.kill()
        process.wait(timeout=_END_S)


def wait(server: Server) -> None:
    """Return when the process is gone."""
    import psutil

    try:
        psutil.Process(server.pid).wait()
    except psutil.NoSuchProcess:
        return


def stop(server: Server) -> bool:
    """End a server if it is still the one on record; returns whether it was."""
    if not is_alive(server):
        return False
    end(server.pid)
    return True


@contextmanager
def session(
    config: ServingConfig, target: Target, root: Path, *, port: int = 0, output: int | None = None
) -> Iterator[Server]:
    """A server for the time of a ``with`` block, and not longer than this process lives.

    Its folder below ``root`` is removed at the end; a server that dies while it starts leaves it with its log.
    """
    folder = root.resolve() / "serving" / f"session-{secrets.token_hex(4)}"
    try:
        server = start(config, target, folder, port=port, attached=True, output=output)
    except (UserError, ResourceError, KeyboardInterrupt):  # their one line says it all
        shutil.rmtree(folder, ignore_errors=True)
        raise
    try:
        yield server
    finally:
        end(server.pid)
        shutil.rmtree(folder, ignore_errors=True)


def _environment(device: str) -> dict[str, str]:
    variables = {**os.environ, "PYTHONUNBUFFERED": "1", "TOKENIZERS_PARALLELISM": "false"}
    # threads that spin while they wait starve each other on a shared machine: 200 tokens of a tiny model took 3.0 s
    # beside other work on 2 cores, and 0.27 s with this
    variables.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    variables.setdefault("HF_HUB_OFFLINE", "1")  # a server is given folders; no library of its may ask a hub for more
    if device == "cpu":
        variables["CUDA_VISIBLE_DEVICES"] = ""
    root = str(Path(__file__).resolve().parents[2])
    variables["PYTHONPATH"] = os.pathsep.join(filter(None, [root, variables.get("PYTHONPATH")]))
    return variables


def _failure(folder: Path, code: int) -> Exception:
    try:
        error = json.loads((folder / "error.json").read_text(encoding="utf-8"))
        return BY_NAME.get(error["kind"], StageError)(error["message"])
    except (OSError, ValueError):
        ended = f"killed by signal {-code}" if code < 0 else f"exit code {code}"
        log_path = folder / "server.log"
        return StageError(f"the server ended while it started ({ended}): {_last_line(folder)} (log: {log_path})")


def _last_line(folder: Path) -> str:
    try:
        lines = (folder / "server.log").read_text(encoding="utf-8", errors="replace").strip().splitlines()
    except OSError:
        lines = []
    return lines[-1][:300] if lines else "no output"
