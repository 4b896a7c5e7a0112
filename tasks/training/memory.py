"""A static estimate of the memory that training needs, before anything is loaded.

Source: bytes per parameter of mixed-precision AdamW training (weights, gradients, two moments); activations of a
transformer layer from Korthikanti et al. 2022 (https://arxiv.org/abs/2205.05198), attention scores not stored.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

_WEIGHT_BYTES = {"fp32": 4, "bf16": 2, "fp16": 2}
#: Linear layers in 8 or 4 bits with their constants; embeddings and the output layer, about a tenth, in 16.
_QUANTIZED_BYTES = {"int8": 1.1, "nf4": 0.7}
#: Libraries and CUDA context of a process that holds no model yet.
_FIXED_BYTES = 600 << 20


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes of one training process."""

    weights: int
    trained: int
    activations: int

    @property
    def total(self) -> int:
        return self.weights + self.trained + self.activations + _FIXED_BYTES


def estimate(
    shape: Mapping[str, int],
    *,
    trainable: int,
    rows: int,
    tokens: int,
    precision: str,
    gradient_checkpointing: bool,
    quantization: str = "none",
) -> MemoryEstimate:
    """Memory for micro-batches of ``rows`` x ``tokens``; ``trainable`` parameters are held in float32.

    Args:
        shape: parameters, hidden_size, layers and vocabulary (see tasks.models.resolving.shape_facts).
    """
    width = _WEIGHT_BYTES[precision]
    places = rows * tokens
    a_layer = shape["hidden_size"] * width * (1 if gradient_checkpointing else 17)
    # float32 logits, their gradient, and the log-probabilities
    logits = places * shape["vocabulary"] * 4 * 3
    return MemoryEstimate(
        weights=int(shape["parameters"] * _QUANTIZED_BYTES.get(quantization, width)),
        trained=trainable * 16,
        activations=places * (shape["layers"] + int(gradient_checkpointing)) * a_layer + logits,
    )


def trainable_parameters(shape: Mapping[str, int], method: Mapping[str, Any]) -> int:
    """About how many parameters a method trains on this shape (exact numbers come from the worker)."""
    name, hidden, layers = method["name"], shape["hidden_size"], shape["layers"]
    if name == "lora":
        # all-linear: about 4 attention and 3 feed-forward matrices, in + out widths near 2 and 4 hidden sizes
        return int(method["r"]) * hidden * layers * 20
    if name == "ptuning_v2":
        tokens, width = int(method["num_virtual_tokens"]), method.get("encoder_hidden_size") or hidden
        heads_size = shape.get("key_value_heads", 0) * shape.get("head_size", 0) or hidden
        vectors = layers * 2 * heads_size
        if not method.get("prefix_projection"):
            return tokens * vectors
        return tokens * hidden + _linear(hidden, width) + _linear(width, vectors)
    if name == "ptuning":
        tokens, width = int(method["num_virtual_tokens"]), method.get("encoder_hidden_size") or hidden
        if method.get("encoder_reparameterization_type") == "LSTM":
            # two bidirectional layers of four gates, each with an input and a recurrent matrix and two biases
            lstm = sum(8 * width * (wide + width + 2) for wide in (hidden, 2 * width))
            return tokens * hidden + lstm + _linear(2 * width, 2 * width) + _linear(2 * width, hidden)
        return tokens * hidden + _linear(hidden, width) + _linear(width, width) + _linear(width, hidden)
    if name == "freeze":
        share = min(int(method["trainable_layers"]), layers) / max(layers, 1)
        return int((shape["parameters"] - shape["vocabulary"] * hidden) * share)
    return shape["parameters"]


def _linear(inputs: int, outputs: int) -> int:
    """Parameters of a linear layer with a bias."""
    return inputs * outputs + outputs
