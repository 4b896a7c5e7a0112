"""P-Tuning: trained vectors in front of the prompt, at the embedding only, made by a small network while training.

Source: Liu et al. 2021, https://arxiv.org/abs/2103.10385; the network (MLP or LSTM) is PEFT's PromptEncoder. The
prompt cannot be merged into weights: the model is served as base + prompt.

Notes on ChatGLM-Finetuning call its prefix_projection=False "P-Tuning, at the embedding only". It is not: in that code
both values put vectors into every layer, see ``ptuning_v2``. This method is what those notes describe.
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
    name: Literal["ptuning"] = Field(doc="Name of the method module.")
    num_virtual_tokens: int = Field(20, ge=1, le=4096, doc="Length of the prompt; each takes a place of the context.")
    encoder_reparameterization_type: Literal["MLP", "LSTM"] = Field(
        "MLP",
        doc="Network that makes the vectors while training: three linear layers, or a bidirectional LSTM and two.",
    )
    encoder_hidden_size: int | None = Field(
        None, ge=1, doc="Width of that network; null takes the width of the embedding."
    )


def attach(model: Any, config: Config) -> Any:
    from tasks.methods._prompt import PromptTuned

    _layers.refuse(model, "ptuning")
    model.requires_grad_(False)
    return PromptTuned(model, _encoder(model, config), config.num_virtual_tokens)


def load(model: Any, folder: Path, config: Config, *, trainable: bool) -> Any:
    from tasks.methods import _prompt

    _layers.refuse(model, "ptuning")
    return _prompt.load(model, _encoder(model, config), folder, trainable=trainable)


def _encoder(model: Any, config: Config) -> Any:
    import torch
    from peft import PromptEncoder, PromptEncoderConfig

    width = model.get_input_embeddings().embedding_dim
    settings = PromptEncoderConfig(
        num_virtual_tokens=config.num_virtual_tokens,
        encoder_reparameterization_type=config.encoder_reparameterization_type,
        encoder_hidden_size=config.encoder_hidden_size or width,
        token_dim=width,
        num_transformer_submodules=1,
    )
    return PromptEncoder(settings).to(torch.float32)


def merge(model: Any) -> Any:
    raise ModelError("method ptuning cannot be merged into weights; it is served as base + prompt")
