"""Prompt tuning: trained vectors in front of the prompt, at the embedding only, without a network that makes them.

The prompt cannot be merged into weights: the model is served as base + prompt.

Source: Lester et al. 2021, https://arxiv.org/abs/2104.08691, who start from vectors of the vocabulary as well.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from tasks.errors import ConfigError, ModelError
from tasks.methods import _layers, _tensors
from tasks.methods._method import MethodConfig
from tasks.schema import Field

MERGES = False
save = _tensors.save


class Config(MethodConfig):
    name: Literal["prompt_tuning"] = Field(doc="Name of the method module.")
    num_virtual_tokens: int = Field(20, ge=1, le=4096, doc="Length of the prompt; each takes a place of the context.")
    init_text: str | None = Field(
        None,
        min_length=1,
        doc="Text whose tokens' vectors the prompt starts from, repeated or cut to its length; null takes tokens drawn "
        "from the vocabulary.",
    )


def attach(model: Any, config: Config) -> Any:
    import torch

    from tasks.methods._prompt import PromptTuned

    _layers.refuse(model, "prompt_tuning")
    model.requires_grad_(False)
    encoder, words = _encoder(model, config), model.get_input_embeddings()
    if config.init_text is None:
        ids = torch.randint(words.num_embeddings, (config.num_virtual_tokens,))
    else:
        found = _ids(model, config.init_text)
        ids = torch.tensor([found[i % len(found)] for i in range(config.num_virtual_tokens)])
    with torch.no_grad():
        encoder.embedding.weight.copy_(words.weight[ids.to(words.weight.device)])
    return PromptTuned(model, encoder, config.num_virtual_tokens)


def load(model: Any, folder: Path, config: Config, *, trainable: bool) -> Any:
    from tasks.methods import _prompt

    _layers.refuse(model, "prompt_tuning")
    return _prompt.load(model, _encoder(model, config), folder, trainable=trainable)


def _encoder(model: Any, config: Config) -> Any:
    import torch
    from peft import PromptEmbedding, PromptTuningConfig

    settings = PromptTuningConfig(
        num_virtual_tokens=config.num_virtual_tokens,
        token_dim=model.get_input_embeddings().embedding_dim,
        num_transformer_submodules=1,
    )
    encoder = PromptEmbedding(settings, None).to(torch.float32)
    encoder.total_virtual_tokens = config.num_virtual_tokens
    return encoder


def _ids(model: Any, text: str) -> list[int]:
    """The text's tokens, by the tokenizer beside the base's weights.

    Raises:
        ConfigError: the model came from no folder, or the text has no token.
    """
    from tasks.models.loading import load_tokenizer

    folder = Path(model.name_or_path)
    if not model.name_or_path or not folder.is_dir():
        raise ConfigError(f"method.init_text={text!r}: the base model has no folder with a tokenizer; set it to null")
    ids = [int(i) for i in load_tokenizer(folder)(text, add_special_tokens=False)["input_ids"]]
    if not ids:
        raise ConfigError(f"method.init_text={text!r}: it has no token; give another text, or null")
    return ids


def merge(model: Any) -> Any:
    raise ModelError("method prompt_tuning cannot be merged into weights; it is served as base + prompt")
