"""What the conversions of the families share: settings that are required or refused, and maps of tensor names."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from tasks.errors import ModelError
from tasks.models.families._family import Tensors

#: A pattern of a source name and what becomes of it: a native name ("{0}" is its first group), a function of the
#: groups and the tensor, or None where it is not needed.
Rule = tuple[str, str | Callable[[tuple[str, ...], Any], Tensors] | None]


def require(config: Mapping[str, Any], key: str) -> Any:
    """A setting that decides the result, so that it is never guessed."""
    if config.get(key) is None:
        raise ModelError(f"config.json: no {key}; without it the model cannot be converted: take the hub's config.json")
    return config[key]


def refuse_unless(config: Mapping[str, Any], needed: Mapping[str, tuple[Any, Any]]) -> None:
    """Refuse settings that the native class has no counterpart for.

    Args:
        needed: key -> (value where the key is absent, the only value that can be converted).

    Raises:
        ModelError: naming every such key with its value.
    """
    wrong = {
        key: (config.get(key, default), value)
        for key, (default, value) in needed.items()
        if config.get(key, default) != value
    }
    if wrong:
        found = ", ".join(f"{key}={was!r}" for key, (was, _) in wrong.items())
        allowed = ", ".join(f"{key}={value!r}" for key, (_, value) in wrong.items())
        raise ModelError(f"config.json: {found}: cannot be converted exactly; only {allowed}")


def refuse_quantized(config: Mapping[str, Any], full: str) -> None:
    """Refuse weights that are stored in 4 or 8 bits by code of the model's own."""
    for key in ("quantization_bit", "quantization_config"):
        if config.get(key):
            raise ModelError(
                f"config.json: {key}={config[key]!r}: quantised weights cannot be converted exactly; take {full} and, "
                "for less memory, model.quantization=int8 or nf4"
            )


def renaming(rules: Iterable[Rule], model: str) -> Callable[[str, Any], Tensors]:
    """The map of a :class:`Conversion`; a name that no rule knows is a ModelError."""
    compiled = [(re.compile(pattern), target) for pattern, target in rules]

    def tensors(name: str, tensor: Any) -> Tensors:
        for pattern, target in compiled:
            if match := pattern.fullmatch(name):
                if isinstance(target, str):
                    yield target.format(*match.groups()), tensor
                elif target is not None:
                    yield from target(match.groups(), tensor)
                return
        raise ModelError(f"tensor {name}: unknown in {model}; is it another model, or a part of one?")

    return tensors


def rows(tensor: Any, sizes: Mapping[str, int], name: str) -> Tensors:
    """Parts of a tensor's first dimension as ``name.format(part)``: a fused linear layer taken apart.

    Raises:
        ModelError: the sizes do not add up to the dimension.
    """
    if tensor.shape[0] != sum(sizes.values()):
        parts = " + ".join(f"{size} ({part})" for part, size in sizes.items())
        raise ModelError(f"{name}: {tensor.shape[0]} rows, but config.json asks for {parts}")
    for part, piece in zip(sizes, tensor.split(list(sizes.values())), strict=True):
        yield name.format(part), piece
