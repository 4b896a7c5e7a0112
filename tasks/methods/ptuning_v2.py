"""P-Tuning v2: trained key and value vectors in front of every layer's attention.

The prefix cannot be merged into weights: the model is served as base + prefix.

What other programs' settings mean here: ``pre_seq_len`` is num_virtual_tokens; ``prefix_projection`` has the same name.
ChatGLM-Finetuning's notes call the two values of its flag (there also ``prefix_encoder``) P-Tuning v2 (True) and
P-Tuning at the embedding only (False), but in its code both are P-Tuning v2: with False the vectors of every layer are
trained as they are (16 tokens on ChatGLM-6B: 16 * 28 * 2 * 4096 = 3,670,016 parameters), with True a two-layer network
makes them (956,600,320). Its argument is read by ``bool``, so that any text given for it, "False" too, means True.

Source: Liu et al. 2022, https://arxiv.org/abs/2110.07602; the encoder is the one of the official ChatGLM code, so that
its checkpoints mean the same here: see ``_prefix``.
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
