"""Which base model an old file means, and what its layers are called here."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath, PureWindowsPath

from tasks.training.importing.account import Account

_SPLIT = ("q_proj", "k_proj", "v_proj")
_GLM = {
    "query_key_value": _SPLIT,
    "dense": ("o_proj",),
    "dense_h_to_4h": ("gate_up_proj",),
    "dense_4h_to_h": ("down_proj",),
}
#: Start of a preset's name -> the hub form's layers and those of the native class that it is converted to.
_LAYERS: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "chatglm2": _GLM,
    "chatglm3": _GLM,
    "codegeex2": _GLM,
    "glm_4_9b_chat": _GLM,
    "baichuan": {"W_pack": _SPLIT},
    "internlm2": {"wqkv": _SPLIT, "wo": ("o_proj",), "w1": ("gate_proj",), "w3": ("up_proj",), "w2": ("down_proj",)},
}


def lora_targets(model: str, layers: Sequence[str]) -> tuple[str | list[str], str]:
    """``method.target_modules`` for layers under their hub names, and what is to be said of it."""
    names = next((table for start, table in _LAYERS.items() if model.startswith(start)), {})
    made = [new for old in layers for new in names.get(old, (old,))]
    fused = any(len(names.get(old, ())) > 1 for old in layers)
    note = "q, k and v are layers of their own here, each with its own A: somewhat more parameters" if fused else ""
    if set(layers) == set(names) and len(names) > 1:  # every linear layer of the model
        return "all-linear", note
    return made, note


def choose(account: Account, old: str, given: str, presets: Mapping[str, Sequence[str]]) -> None:
    """Set the model group from a folder or a hub name.

    Args:
        presets: our option -> its names on the hubs.
    """
    by_hub = {name.lower(): option for option, names in presets.items() for name in names}
    plain = given.rstrip("/\\")
    last = PureWindowsPath(plain).name if "\\" in plain else PurePosixPath(plain).name
    option = by_hub.get(plain.lower()) or _named(last, presets)
    is_hub_name = bool(re.fullmatch(r"[\w.-]+/[\w.-]+", given)) and not given.startswith(".")
    account.choose("model", option or "local", old, given)
    if plain.lower() in by_hub:
        return
    if is_hub_name and (option is None or plain.split("/")[0].lower() in ("thudm", "zai-org")):
        if option is None:
            account.map(old, given, "model.hub_id")
    else:
        account.map(old, given, "model.path", note="" if option else "a folder that no preset describes")


def _named(text: str, presets: Mapping[str, Sequence[str]]) -> str | None:
    name = re.sub(r"[^a-z0-9]+", "_", text.lower()).strip("_")
    return name if name in presets else None


def guessed(text: str, presets: Mapping[str, Sequence[str]]) -> str | None:
    """The preset whose name is part of a file's name, the longest first."""
    name = re.sub(r"[^a-z0-9]+", "_", text.lower())
    return next((p for p in sorted(presets, key=len, reverse=True) if p in name), None)
