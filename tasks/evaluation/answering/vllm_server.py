"""A vLLM server as evaluation sees it: asking it, and under which names it serves what is to be evaluated.

LoRA checkpoints are loaded into it; everything else has to be served already. Knows nothing of prompts and replies.

Source: vLLM 0.33, OpenAI-compatible server (models, errors) and LoRA adapters (loading at run time).
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import os
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from tasks import plugins
from tasks.errors import ConfigError, ResourceError
from tasks.files import sha256_file
from tasks.models.loading import DESCRIPTION, read_description

log = logging.getLogger(__name__)

API_KEY_ENV = "WEITIAO_VLLM_API_KEY"
#: Statuses that pass: too many requests, a server that restarts. 504 is not: a reply too slow once is so again.
_PASSING = frozenset({429, 500, 502, 503})
_CONNECT_S = 5.0
_ADAPTER, _ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"


@dataclass(frozen=True)
class Server:
    """Where the server is and how it is asked; its key, if it wants one, is in the environment (API_KEY_ENV).

    Attributes:
        timeout_s: longest wait for one reply.
        concurrency: requests under way at once.
    """

    url: str
    timeout_s: float = 600.0
    concurrency: int = 32

    def client(self) -> httpx.AsyncClient:
        key = os.environ.get(API_KEY_ENV)
        return httpx.AsyncClient(
            base_url=self.url.rstrip("/").removesuffix("/v1"),
            headers={"Authorization": f"Bearer {key}"} if key else {},
            timeout=httpx.Timeout(self.timeout_s, connect=_CONNECT_S, pool=None),
            limits=httpx.Limits(max_connections=self.concurrency),
            trust_env=False,  # a proxy of the environment cannot reach this machine's own servers
        )


# --- asking ---------------------------------------------------------------------------------------------------


async def send(
    server: Server,
    client: httpx.AsyncClient,
    method: str,
    path: str,
    body: Mapping[str, Any] | None = None,
    *,
    waits_s: Sequence[float] = (),
) -> httpx.Response:
    """The answer to one request, tried again after each wait while what hinders it may pass.

    Raises:
        ResourceError: there is none, or none in time.
    """
    left = iter(waits_s)
    while True:
        wait = next(left, None)
        try:
            response = await client.request(method, path, json=body)
        except httpx.TransportError as error:
            if wait is None or isinstance(error, httpx.ReadTimeout):
                raise _no_answer(server, error) from None
            problem = f"{type(error).__name__} {error}"
        else:
            if wait is None or response.status_code not in _PASSING:
                return response
            problem = f"{response.status_code} {said(response)}"
        log.info("%s: %s; trying again in about %g s", server.url, problem, wait)
        await asyncio.sleep(wait * random.uniform(0.5, 1.5))  # spread: requests shall not come back in step


def _no_answer(server: Server, error: httpx.TransportError) -> ResourceError:
    if isinstance(error, httpx.ConnectError | httpx.ConnectTimeout):
        return ResourceError(
            f"evaluation.vllm.url={server.url}: no server answers there ({error or type(error).__name__}); start one "
            "(vllm serve BASE_FOLDER --enable-lora), or use evaluation.engine=transformers"
        )
    if isinstance(error, httpx.TimeoutException):
        return ResourceError(
            f"evaluation.vllm.timeout_s={server.timeout_s:g}: {server.url} gave no reply in that time; raise it, or "
            f"lower evaluation.vllm.concurrency={server.concurrency}"
        )
    return ResourceError(f"{server.url}: the connection broke ({type(error).__name__}: {error}); see the server's log")


def checked(server: Server, response: httpx.Response) -> Any:
    """The body of a good answer. Raises ConfigError: refused; ResourceError: the server failed or is busy."""
    problem = f"{response.status_code} {said(response)}"
    if response.status_code in (401, 403):
        raise ConfigError(f"evaluation.vllm.url={server.url}: {problem}; export the server's key in {API_KEY_ENV}")
    if response.status_code == 429 or response.status_code >= 500:
        raise ResourceError(f"{server.url}: {problem}; see the server's log and evaluate again: replies are kept")
    if response.is_error:
        raise ConfigError(f"evaluation.vllm.url={server.url}: the server refused a request: {problem}")
    return response.json()


def said(response: httpx.Response) -> str:
    """What the server says of an error, in one line: in OpenAI's form, in FastAPI's, or as plain text."""
    try:
        body = response.json()
        text = body["error"]["message"] if "error" in body else body.get("message") or body["detail"]
    except (ValueError, LookupError, TypeError, AttributeError):
        text = response.text
    return " ".join(str(text).split())[:400]


# --- what it serves -------------------------------------------------------------------------------------------


def prepare(server: Server, systems: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """The name that the server has for each system; LoRA checkpoints that it lacks are loaded into it.

    Args:
        systems: name, path, base (folder of the base model; None for a whole model), served_as (the name that it has
            there, or None) and base_served_as (the same for its base; left out or None: the base's folder).

    Raises:
        ConfigError: a line for each system that is not served, with what to do.
        ResourceError: the server does not answer.
    """
    return asyncio.run(_prepare(server, systems))


async def _prepare(server: Server, systems: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    names: dict[str, str] = {}
    problems: list[str] = []
    async with server.client() as client:
        found = await models(server, client)
        for system in systems:
            try:
                known = _served_name(server, system, found)
                names[system["name"]] = known or await _load_adapter(server, client, system, found)
            except ConfigError as error:
                problems += error.problems
    if problems:
        raise ConfigError(problems)
    return names


async def models(server: Server, client: httpx.AsyncClient) -> list[dict[str, Any]]:
    """id, root and parent of each model: its name, its folder, and of an adapter its base's name."""
    return [dict(model) for model in checked(server, await send(server, client, "GET", "/v1/models"))["data"]]


def listed(found: Sequence[Mapping[str, Any]]) -> str:
    return ", ".join(repr(model["id"]) for model in found) or "none"


def _find(found: Sequence[Mapping[str, Any]], wanted: str) -> str | None:
    """The name of the model called so, or of the whole model in that folder."""
    for model in found:
        whole = model.get("root") and not model.get("parent")
        if model["id"] == wanted or (whole and Path(model["root"]) == Path(wanted)):
            return str(model["id"])
    return None


def _served_name(server: Server, system: Mapping[str, Any], found: Sequence[Mapping[str, Any]]) -> str | None:
    """What the server calls a system; None: a checkpoint that has to be loaded. Raises ConfigError: not served."""
    wanted = system.get("served_as") or system["path"]
    name = _find(found, wanted)
    if name is None and system.get("served_as"):
        key = "tuned_served_as" if system.get("base") else "base_served_as"
        other = ", or to null to have its LoRA adapter loaded" if system.get("base") else ""
        raise ConfigError(
            f"evaluation.vllm.{key}: {server.url} serves no model {wanted!r}, which {system['name']} is said to be; "
            f"it serves {listed(found)}: set it to its name there{other}, or start: vllm serve {system['path']}"
        )
    return name


# --- adapters -------------------------------------------------------------------------------------------------


async def _load_adapter(
    server: Server, client: httpx.AsyncClient, system: Mapping[str, Any], found: Sequence[Mapping[str, Any]]
) -> str:
    """Load a LoRA checkpoint under a name that holds its content, so that another one never answers for it."""
    folder = Path(system["path"])
    rank = _lora_rank(system["name"], folder)
    base = system.get("base_served_as") or system["base"]
    if _find(found, base) is None:
        raise ConfigError(
            f"evaluation.vllm.base_served_as: {server.url} serves no model {base!r}, the base of {system['name']}; it "
            f"serves {listed(found)}: set it to its name there, or start: vllm serve {system['base']} --enable-lora"
        )
    content = f"{sha256_file(folder / _ADAPTER)} {sha256_file(folder / _ADAPTER_WEIGHTS)}"
    name = f"weitiao-{system['name']}-{hashlib.sha256(content.encode()).hexdigest()[:12]}"
    if _find(found, name) is not None:
        return name
    request = {"lora_name": name, "lora_path": str(folder.resolve())}
    response = await send(server, client, "POST", "/v1/load_lora_adapter", request)
    if response.is_error:
        raise ConfigError(
            f"evaluation.vllm: {server.url} did not load the adapter {folder} ({response.status_code} "
            f"{said(response)}); start it with VLLM_ALLOW_RUNTIME_LORA_UPDATING=true, --enable-lora and "
            f"--max-lora-rank of at least {rank}, on a machine that sees this folder; or with --lora-modules "
            f"NAME={folder}, and set evaluation.vllm.tuned_served_as=NAME"
        )
    log.info("%s: loaded %s as %s", server.url, folder, name)
    return name


def _lora_rank(name: str, folder: Path) -> int:
    """The rank of the LoRA adapter in ``folder``. Raises ConfigError: vLLM can load no such checkpoint."""
    if (folder / _ADAPTER).is_file():
        settings = json.loads((folder / _ADAPTER).read_text(encoding="utf-8"))
        if settings.get("peft_type") == "LORA":
            return int(settings["r"])
    description = read_description(folder) if (folder / DESCRIPTION).is_file() else None
    method = description["method"]["name"] if description else "another program"
    if description and plugins.load("tasks.methods", method, key="method").MERGES:
        raise ConfigError(
            f"evaluation.engine=vllm: {name} is trained with {method}, which leaves no LoRA adapter: merge it "
            "(python -m flows.merge), start: vllm serve MERGED_FOLDER --served-model-name NAME, and set "
            "evaluation.vllm.tuned_served_as=NAME"
        )
    raise ConfigError(
        f"evaluation.engine=vllm: {name} ({folder}) is trained with {method} and is no LoRA adapter: vLLM cannot run "
        "it; use evaluation.engine=transformers"
    )
