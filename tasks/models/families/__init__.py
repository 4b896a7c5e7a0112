"""Model families: one module each, recognised by a model's files, with the layout of its dialogues.

A module holds ``recognises(config, special_tokens) -> bool`` and ``renderer(tokenizer) -> Renderer``.
``generic`` comes last: whatever transformers loads natively, by the tokenizer's own chat template.
"""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType

from tasks import plugins

_GENERIC = "generic"


def recognise(folder: Path) -> ModuleType:
    """The first family whose module recognises the model in ``folder``; reads JSON files only."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    special_tokens: set[str] = set()
    if (folder / "tokenizer.json").is_file():
        tokenizer = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
        special_tokens = {token["content"] for token in tokenizer.get("added_tokens", ())}
    for name in plugins.names(__name__):
        if name != _GENERIC:
            module = plugins.load(__name__, name, key="model.family")
            if module.recognises(config, special_tokens):
                return module
    return plugins.load(__name__, _GENERIC, key="model.family")
