"""P-Tuning v2: trained key and value vectors in front of every layer's attention.

Source: Liu et al. 2022, https://arxiv.org/abs/2110.07602; the encoder is the one of the official ChatGLM code (there
``pre_seq_len`` and ``prefix_projection``), so that its checkpoints mean the same here: see ``_prefix``. The prefix
cannot be merged into weights: the model is served as base + prefix.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from tasks.errors import ModelError
from tasks.methods import _layers, _tensors
from tasks.methods._method import MethodConfig
from tasks.schema import Field

MERGES = False
save = _tensors.save


class Config(MethodConfig):
    name: Literal["ptuning_v2"] = Field(doc="Name of the method module.")
    num_virtual_tokens: int = Field(128, ge=1, le=4096, doc="Length of the prefix; each costs memory in every layer.")
    prefix_projection: bool = Field(
        False, doc="Make the prefix with a two-layer network while training: steadier, far more parameters."
    )
    encoder_hidden_size: int | None = Field(
        None, ge=1, doc="Width of that network; null takes the model's hidden size. No effect without projection."
    )


def attach(model: Any, config: Config) -> Any:
    from tasks.methods import _prefix

    _layers.refuse(model, "ptuning_v2")
    shape, width = _prefix.layers_shape(model), model.config.get_text_config().hidden_size
    model.requires_grad_(False)
    encoder = _prefix.PrefixEncoder(
        shape,
        config.num_virtual_tokens,
        width=width,
        projection=(config.encoder_hidden_size or width) if config.prefix_projection else 0,
    )
    return _prefix.inject(model, encoder)


def load(model: Any, folder: Path, config: Config, *, trainable: bool) -> Any:
    from tasks.methods import _prefix

    _layers.refuse(model, "ptuning_v2")
    tensors = _tensors.read(folder, _prefix.NAME)
    try:
        encoder = _prefix.PrefixEncoder.of(tensors, _prefix.layers_shape(model))
    except ModelError as error:
        raise ModelError(f"{folder / _tensors.FILE}: {error}") from None
    model.requires_grad_(False)
    if not trainable:
        encoder = encoder.flattened(model.get_input_embeddings().weight.dtype)
    return _prefix.inject(model, encoder)


def merge(model: Any) -> Any:
    raise ModelError("method ptuning_v2 cannot be merged into weights; it is served as base + prefix")
