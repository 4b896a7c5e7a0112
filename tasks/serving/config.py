"""The ``serving`` section: how a model is served, and under which name it is released.

A release is an action, not an artifact: nothing here enters a fingerprint.
"""

from __future__ import annotations

import ipaddress
from typing import Any

from pydantic import field_validator, model_validator

from tasks import plugins
from tasks.errors import ConfigError
from tasks.schema import How, Section

ENGINES = "tasks.serving.engines"


class ServingConfig(Section):
    """Settings of the server and of the release."""

    engine: str = How("transformers", doc="Name of the engine that generates; a module of tasks/serving/engines.")
    model_name: str = How(
        "weitiao",
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$",
        doc="Name that clients ask for, and under which the model is registered.",
    )
    alias: str = How(
        "champion",
        pattern=r"^[a-z][a-z0-9_-]{0,31}$",
        doc="Alias that the registered version gets; it names the version in service.",
    )
    keep: bool = How(False, doc="Leave the server running after the release; otherwise it ends after its smoke test.")
    host: str = How("127.0.0.1", doc="Address to listen on; any other than this machine's own needs api_key_env.")
    port: int | None = How(
        None,
        ge=0,
        le=65535,
        doc="TCP port; 0: a free one; null: 8000 for a server that stays, a free one for a smoke test.",
    )
    api_key_env: str | None = How(
        None,
        pattern=r"^[A-Za-z_][A-Za-z0-9_]*$",
        doc="Name of the environment variable that holds the key clients must send; null asks for none.",
    )
    temperature: float = How(
        0.0, ge=0, le=2, doc="Temperature where a request names none; 0 is greedy, as evaluation is."
    )
    max_new_tokens: int = How(512, ge=1, le=65536, doc="Tokens of a reply where a request names no limit.")
    max_context_tokens: int | None = How(
        None, ge=2, doc="Tokens of prompt and reply together; null takes the model's own limit."
    )
    queue_limit: int = How(16, ge=1, le=4096, doc="Requests that may wait; further ones are answered with 429.")
    request_timeout_s: float = How(300.0, gt=0, le=86400, doc="Seconds a request may take, its wait included.")
    start_timeout_s: float = How(300.0, gt=0, le=86400, doc="Seconds a server may take until it answers.")
    smoke_prompt: str | None = How(
        None, min_length=1, doc="Question that a new server must answer; null takes a row of the test set."
    )

    @field_validator("engine")
    @classmethod
    def _known_engine(cls, name: str) -> str:
        known = plugins.names(ENGINES)
        if name not in known:
            raise ValueError(f"unknown engine; {plugins.nearest(name, known)}")
        return name

    @model_validator(mode="after")
    def _key_for_others(self) -> ServingConfig:
        if not is_loopback(self.host) and self.api_key_env is None:
            raise ValueError(
                f"host={self.host!r} can be reached from other machines: set serving.api_key_env to the name of "
                "an environment variable that holds a key, or serving.host=127.0.0.1"
            )
        return self

    def listen_port(self, *, stays: bool) -> int:
        """The port to bind: the one configured, else 8000 for a server that stays, else a free one."""
        if self.port is not None:
            return self.port
        return 8000 if stays else 0

    def limits(self) -> dict[str, Any]:
        """What the server process needs to know beside the model and the address."""
        names = (
            "engine",
            "api_key_env",
            "temperature",
            "max_new_tokens",
            "max_context_tokens",
            "queue_limit",
        )
        return {name: getattr(self, name) for name in (*names, "request_timeout_s")}


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach the address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def api_key(name: str | None) -> str | None:
    """The key that the environment variable holds; None when no variable is configured.

    Raises:
        ConfigError: the variable is not set.
    """
    import os

    if name is None:
        return None
    value = os.environ.get(name, "")
    if not value:
        raise ConfigError("serving.api_key_env: must name an environment variable that is set; export the key in one")
    return value
