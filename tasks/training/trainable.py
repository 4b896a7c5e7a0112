"""How many parameters a method trains on a model, exactly, and what of the base that leaves frozen.

Counted on the model's outline, so that nothing is loaded; the worker's own count is the same number.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from tasks.methods import freeze
from tasks.models import families
from tasks.models.outline import Linear, Outline

#: The methods that put low-rank updates beside linear layers.
LORA = ("lora", "qlora")
_ALL = "all-linear"


@dataclass(frozen=True)
class Trained:
    """What a method trains.

    Attributes:
        added: parameters that are not the base's.
        own: names of the base's tensors that are trained in place; copied: trained as copies, the base's own stay.
        adapted: for each layer the names of its linear layers that have an update.
        virtual_tokens: trained vectors in front of every row; in_text: they take part in every layer as tokens do.
    """

    added: int = 0
    own: frozenset[str] = frozenset()
    copied: frozenset[str] = frozenset()
    adapted: tuple[frozenset[str], ...] = ()
    virtual_tokens: int = 0
    in_text: bool = False

    def parameters(self, outline: Outline) -> int:
        return self.added + _size(outline, self.own) + _size(outline, self.copied)

    def total(self, outline: Outline) -> int:
        """All parameters of the model with the method on it."""
        return outline.parameters + self.added + _size(outline, self.copied)

    def first_layer(self, outline: Outline) -> int:
        """The lowest layer that gradients pass: only from there on activations are kept."""
        if self.virtual_tokens or any("embed" in name for name in self.own | self.copied):
            return 0
        for index, layer in enumerate(outline.layers):
            if not self.own.isdisjoint(layer) or (self.adapted and self.adapted[index]):
                return index
        return len(outline.layers)


def trained(outline: Outline, method: Mapping[str, Any]) -> Trained:
    """What ``method``, with the keys of its configuration, trains on the model.

    Args:
        method: such as ``{"name": "lora", "r": 8, "target_modules": "all-linear"}``; keys that it lacks are off.
    """
    name = method["name"]
    if name in LORA:
        return _lora(outline, method)
    if name == "freeze":
        return Trained(own=frozenset(_unfrozen(outline, method)))
    if name == "full":
        return Trained(own=frozenset(outline.tensors))
    tokens = int(method["num_virtual_tokens"])
    size = _prefix_size if name == "ptuning_v2" else _prompt_size
    return Trained(added=size(outline, method, tokens), virtual_tokens=tokens, in_text=name != "ptuning_v2")


def trainable_parameters(outline: Outline, method: Mapping[str, Any]) -> int:
    """How many parameters the method trains on the model."""
    return trained(outline, method).parameters(outline)


def _size(outline: Outline, names: Iterable[str]) -> int:
    return sum(math.prod(outline.tensors[name]) for name in names)


def _lora(outline: Outline, method: Mapping[str, Any]) -> Trained:
    rank, wanted = int(method.get("r", 8)), method.get("target_modules", _ALL)
    whole = {name for alias, name in _aliases(outline) if _is_one_of(alias, method.get("modules_to_save") or ())}
    names = list(families.named(outline.family).LORA_TARGETS) if wanted == "family" else wanted
    layers = [outline.linears(n) for n in range(len(outline.layers))]
    hit = [[one for one in layer if _targeted(one, names)] for layer in layers]
    added = sum(_update(one, rank, bool(method.get("use_dora"))) for layer in hit for one in layer)
    if names != _ALL and _ALL not in names:  # an embedding or the output layer may be named too
        inside = {one.name for layer in layers for one in layer}
        outside = [
            Linear(name.removesuffix(".weight"), shape[1], shape[0])
            for name, shape in outline.tensors.items()
            if len(shape) == 2 and name.endswith(".weight") and name.removesuffix(".weight") not in inside
        ]
        added += sum(_update(one, rank, False) for one in outside if _targeted(one, names))
    adapted = tuple(frozenset(one.name for one in layer) for layer in hit)
    return Trained(added=added, copied=frozenset(whole), adapted=adapted)


def _targeted(linear: Linear, wanted: str | list[str]) -> bool:
    if isinstance(wanted, str):
        return wanted in (_ALL, linear.leaf) or re.fullmatch(wanted, linear.name) is not None
    return _ALL in wanted or any(linear.name == one or linear.name.endswith(f".{one}") for one in wanted)


def _aliases(outline: Outline) -> Iterable[tuple[str, str]]:
    """Every name of a parameter and the one it is listed under: a tied output layer is the embedding."""
    yield from ((name, name) for name in outline.tensors)
    if outline.tied and (embedding := outline.embedding):
        yield "lm_head.weight", embedding


def _is_one_of(tensor: str, modules: Iterable[str]) -> bool:
    module = tensor.rpartition(".")[0]
    return any(module == one or module.endswith(f".{one}") for one in modules)


def _update(linear: Linear, rank: int, decomposed: bool) -> int:
    """A and B; DoRA learns a magnitude for each output too."""
    return rank * (linear.inputs + linear.outputs) + (linear.outputs if decomposed else 0)


def _unfrozen(outline: Outline, method: Mapping[str, Any]) -> Iterable[str]:
    if wanted := method.get("trainable_modules"):
        patterns = [freeze.expression(one) for one in wanted]
        return {name for alias, name in _aliases(outline) if any(one.search(alias) for one in patterns)}
    count = min(int(method.get("trainable_layers") or 0), len(outline.layers))
    return [name for layer in outline.layers[len(outline.layers) - count :] for name in layer]


def _prefix_size(outline: Outline, method: Mapping[str, Any], tokens: int) -> int:
    vectors = len(outline.layers) * 2 * outline.key_value_heads * outline.head_size
    if not method.get("prefix_projection"):
        return tokens * vectors
    hidden = outline.hidden_size
    width = int(method.get("encoder_hidden_size") or hidden)
    return tokens * hidden + _dense(hidden, width) + _dense(width, vectors)


def _prompt_size(outline: Outline, method: Mapping[str, Any], tokens: int) -> int:
    hidden = outline.hidden_size
    if method["name"] == "prompt_tuning":
        return tokens * hidden
    width = int(method.get("encoder_hidden_size") or hidden)
    if method.get("encoder_reparameterization_type") == "LSTM":
        # two bidirectional layers of four gates, each with an input and a recurrent matrix and two biases
        lstm = sum(8 * width * (wide + width + 2) for wide in (hidden, 2 * width))
        return tokens * hidden + lstm + _dense(2 * width, 2 * width) + _dense(2 * width, hidden)
    return tokens * hidden + _dense(hidden, width) + _dense(width, width) + _dense(width, hidden)


def _dense(inputs: int, outputs: int) -> int:
    """Parameters of a linear layer with a bias."""
    return inputs * outputs + outputs
