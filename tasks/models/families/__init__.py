"""Model families: one module each, with what ``_family`` describes; ``generic`` is what no other module recognises."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from tasks import plugins
from tasks.errors import ModelError

GENERIC = "generic"
#: Key of config.json under which a converted or merged model keeps its family and template.
CONFIG_KEY = "weitiao"


@dataclass(frozen=True)
class Layout:
    """Which renderer a model's dialogues take: it travels with checkpoints, jobs and merged models.

    Attributes:
        family: name of the family module.
        template: name of another layout than the model's own, or None.
    """

    family: str
    template: str | None = None

    @property
    def module(self) -> ModuleType:
        return named(self.family)

    def renderer(self, tokenizer: Any) -> Any:
        return self.module.renderer(tokenizer, self.template)

    def to_json(self) -> dict[str, Any]:
        return {"family": self.family, "template": self.template}

    @staticmethod
    def from_json(value: Mapping[str, Any]) -> Layout:
        return Layout(str(value["family"]), value.get("template"))


def names() -> list[str]:
    return plugins.names(__name__)


def named(name: str) -> ModuleType:
    return plugins.load(__name__, name, key="model.family")


def convertible(config: dict[str, Any], folder: Path) -> str | None:
    """The family whose hub form a folder with this config.json has; None: no family converts it."""
    for name in names():
        converts = getattr(named(name), "converts", None)
        if converts is not None and converts(config, folder):
            return name
    return None


def recognise(folder: Path) -> str:
    """The family of the native model in ``folder``; reads JSON files only."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    return of_config(config, special_tokens(folder))


def of_config(config: dict[str, Any], tokens: Collection[str] = ()) -> str:
    """The family of a native config.json, by what it says of itself, else by its type and special tokens."""
    own = config.get(CONFIG_KEY)
    if isinstance(own, dict) and own.get("family") in names():
        return str(own["family"])
    for name in names():
        if name != GENERIC and named(name).recognises(config, tokens):
            return name
    return GENERIC


def layout(folder: Path, family: str | None = None, template: str | None = None) -> Layout:
    """The layout of the native model in ``folder``, where the user names no other."""
    own = json.loads((folder / "config.json").read_text(encoding="utf-8")).get(CONFIG_KEY)
    kept = own.get("template") if isinstance(own, dict) else None
    return Layout(family or recognise(folder), template or kept)


def special_tokens(folder: Path) -> set[str]:
    """The added tokens that a folder's tokenizer files list."""
    found: set[str] = set()
    for file, of in (
        ("tokenizer.json", lambda value: value.get("added_tokens", ())),
        ("tokenizer_config.json", lambda value: (value.get("added_tokens_decoder") or {}).values()),
    ):
        path = folder / file
        if path.is_file():
            try:
                value = json.loads(path.read_text(encoding="utf-8"))
                found |= {token["content"] for token in of(value)}  # type: ignore[no-untyped-call]
            except (ValueError, TypeError, KeyError) as error:
                raise ModelError(f"{path}: not a tokenizer's file ({error})") from error
    return found
