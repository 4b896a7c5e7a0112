"""LoRA adapters as PEFT has written them over the years: one description, one set of names, tensors read one by one.

Old and new files differ in their keys: with ``base_model.model.`` in front or without, with the adapter's name
(``lora_A.default.weight``) or without, full copies of embeddings as ``embed_tokens.weight`` or as
``embed_tokens.modules_to_save.default.weight``. Weights are read as plain tensors only.

Shapes: r rank, i input features, o output features of a linear layer.
Source: the key forms of peft 0.2 (MergedLinear left out) to 0.21, and of adapters published with them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tasks.errors import ModelError
from tasks.models import resolving
from tasks.models.importing import tensors
from tasks.models.importing.tensors import Slot

CONFIG = "adapter_config.json"
WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin")
#: A buffer of old LLaMA files that today's classes compute themselves.
COMPUTED = ".rotary_emb.inv_freq"
_PREFIX = re.compile(r"^(?:module\.)?(?:base_model\.model\.)?")
_LORA = re.compile(r"^(?P<module>.+)\.lora_(?P<part>[AB])(?:\.[^.]+)?\.weight$")
_COPY = re.compile(r"\.modules_to_save(?:\.(?!weight$|bias$)[^.]+)?(?=\.)")
#: Other values replace the base's weights by what is left after the adapter was drawn from them.
_INITS = (True, False, None, "gaussian", "orthogonal", "eva")
_REFUSED = {
    "use_dora": "DoRA also scales the merged weight",
    "lora_bias": "biases of the update have no native place",
    "rank_pattern": "one rank for all layers is needed",
    "alpha_pattern": "one lora_alpha for all layers is needed",
    "enable_lora": "the MergedLinear layers of peft 0.2 have another shape",
    "trainable_token_indices": "single trained tokens have no native place",
    "target_parameters": "updates of single parameters have no native place",
}


@dataclass(frozen=True)
class Pair:
    """The two tensors of one layer's update: ``a`` [r, i] and ``b`` [o, r]."""

    a: Slot
    b: Slot

    @property
    def rank(self) -> int:
        return self.a.shape[0]


@dataclass(frozen=True)
class Adapter:
    """A LoRA adapter's files.

    Attributes:
        folder: where it lies. config: its adapter_config.json. weights: its weight file.
        pairs: module of the base model -> its update.
        copies: tensor of the base model -> the full copy that replaces it.
    """

    folder: Path
    config: dict[str, Any]
    weights: Path
    pairs: Mapping[str, Pair]
    copies: Mapping[str, Slot]

    @property
    def scale(self) -> float:
        """What B @ A is multiplied by."""
        r = int(self.config["r"])
        return float(self.config["lora_alpha"]) / (r**0.5 if self.config.get("use_rslora") else r)

    @contextmanager
    def opened(self) -> Iterator[Callable[[Slot], Any]]:
        """A function that reads one of the tensors."""
        with tensors.opened(self.weights) as read:
            yield lambda slot: read(slot.name)

    def delta(self, module: str, read: Callable[[Slot], Any]) -> Any:
        """What the adapter adds to a layer's weight, [o, i] in float32 ([i, o] with fan_in_fan_out)."""
        pair = self.pairs[module]
        product = read(pair.b).float() @ read(pair.a).float()
        return (product.T if self.config.get("fan_in_fan_out") else product) * self.scale

    def delta_shape(self, module: str) -> tuple[int, int]:
        out, inner = self.pairs[module].b.shape[0], self.pairs[module].a.shape[1]
        return (inner, out) if self.config.get("fan_in_fan_out") else (out, inner)


def read(folder: Path) -> Adapter:
    """The LoRA adapter in ``folder``; no tensor is read yet.

    Raises:
        ModelError: a file is missing or damaged, or the adapter is of a kind that cannot be converted exactly.
    """
    config = _config(folder)
    weights = next((folder / name for name in WEIGHTS if (folder / name).is_file()), None)
    if weights is None:
        raise ModelError(f"{folder}: neither {' nor '.join(WEIGHTS)}: the adapter's weights are missing")
    tensors.check(weights)
    halves: dict[str, dict[str, Slot]] = {}
    copies: dict[str, Slot] = {}
    for slot in tensors.slots(weights):
        if ".original_module." in slot.name or slot.name.endswith(COMPUTED):
            continue  # the untrained copy that modules_to_save keeps, and what is no weight
        name = _COPY.sub("", _PREFIX.sub("", slot.name))
        found = _LORA.match(name)
        place, key = (halves.setdefault(found["module"], {}), found["part"]) if found else (copies, name)
        if key in place:
            raise ModelError(f"{weights}: {slot.name} is there twice (also as {place[key].name})")
        place[key] = slot
    pairs = {module: _pair(weights, module, half, int(config["r"])) for module, half in halves.items()}
    _check_copies(weights, copies)
    if not pairs and not copies:
        raise ModelError(f"{weights}: no tensors: the adapter was saved empty (DeepSpeed ZeRO-3 does that)")
    return Adapter(folder, config, weights, pairs, copies)


def _config(folder: Path) -> dict[str, Any]:
    if not (folder / CONFIG).is_file():
        raise ModelError(f"{folder}: no {CONFIG}: not a LoRA adapter's folder")
    config = resolving.read_json(folder / CONFIG)
    where = f"{folder / CONFIG}: "
    if config.get("peft_type") != "LORA":
        raise ModelError(f"{where}peft_type={config.get('peft_type')!r}: only LORA can be converted")
    for key in ("r", "lora_alpha"):
        value = config.get(key)
        if isinstance(value, bool) or not isinstance(value, int | float) or value < 1:
            raise ModelError(f"{where}{key}={value!r}: must be a number, at least 1")
    for key, reason in _REFUSED.items():
        if config.get(key):
            raise ModelError(f"{where}{key}={config[key]!r}: cannot be converted exactly: {reason}")
    if config.get("bias") not in (None, "none"):
        raise ModelError(f"{where}bias={config['bias']!r}: trained biases cannot be converted; only bias='none' can")
    if config.get("init_lora_weights") not in _INITS:
        raise ModelError(
            f"{where}init_lora_weights={config['init_lora_weights']!r}: it changed the base model's weights, "
            "which the adapter does not hold"
        )
    return config


def _pair(weights: Path, module: str, half: Mapping[str, Slot], r: int) -> Pair:
    for part in "AB":
        if part not in half:
            raise ModelError(f"{weights}: {module} has no lora_{part}: the file was cut or merged by hand")
    a, b = half["A"], half["B"]
    if len(a.shape) != 2 or len(b.shape) != 2 or a.shape[0] != r or b.shape[1] != r:
        raise ModelError(f"{weights}: {module}: lora_A {a.shape} and lora_B {b.shape} do not fit {CONFIG}'s r={r}")
    return Pair(a, b)


def _check_copies(weights: Path, copies: Mapping[str, Slot]) -> None:
    for name, slot in copies.items():
        if "lora_" in name or "base_layer" in name or not name.endswith((".weight", ".bias")):
            raise ModelError(f"{weights}: {slot.name}: not a tensor of a LoRA adapter on linear layers")
