"""Key and value vectors in front of every layer's attention, put there by hooks inside the layers.

The prefix is no cache entry: real tokens keep the positions 0, 1, ... that the base model was trained with (PEFT's
prefix tuning shifts them), and it is there again when gradient checkpointing computes a layer anew (a cache is not).

Shapes: b rows, q queries of this call, k keys of this call and the cache, n virtual tokens, l layers, h key-value
heads, d head size, w width of the embedding, p width of the projection.
Source: the prefix encoders of THUDM/ChatGLM-6B and THUDM/ChatGLM3, whose layout and names are kept: embedding [n, w],
then, with projection, trans.0 [p, w], tanh, trans.2 [2 l h d, p]; viewed as [n, 2 l, h, d], where layer i has its keys
at 2 i and its values at 2 i + 1. Without projection w = 2 l h d.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from tasks.errors import ConfigError, ModelError
from tasks.methods._layers import layer_list
from tasks.models import packed

#: Names that models give the cache in the arguments of their attention.
_CACHES = ("past_key_values", "layer_past")
#: Names of position biases that are added to the scores, one column a key: none for the prefix.
_BIASES = ("alibi", "position_bias")
#: Name of the encoder's module in the model, as in the official checkpoints.
NAME = "prefix_encoder"


class PrefixEncoder(nn.Module):
    """The trained part of P-Tuning v2; its tensors have the official names, and float32 by default."""

    def __init__(self, shape: tuple[int, int, int], tokens: int, *, width: int = 0, projection: int = 0) -> None:
        """The encoder for layers of ``shape`` (l, h, d); ``width`` w and ``projection`` p where there is one."""
        super().__init__()
        layers, heads, size = shape
        whole = 2 * layers * heads * size
        self.view = (tokens, 2 * layers, heads, size)
        self.embedding = nn.Embedding(tokens, width if projection else whole, dtype=torch.float32)
        self.trans = (
            nn.Sequential(
                nn.Linear(width, projection, dtype=torch.float32),
                nn.Tanh(),
                nn.Linear(projection, whole, dtype=torch.float32),
            )
            if projection
            else None
        )

    def forward(self) -> Tensor:
        """The keys and values of all layers, [2 l, h, n, d]."""
        return self._flat().view(self.view).permute(1, 2, 0, 3)

    def _flat(self) -> Tensor:
        return self.embedding.weight if self.trans is None else self.trans(self.embedding.weight)

    @torch.no_grad()
    def flattened(self, dtype: torch.dtype) -> PrefixEncoder:
        """The same prefix without its projection and without gradients, for inference."""
        tokens, twice, heads, size = self.view
        flat = PrefixEncoder((twice // 2, heads, size), tokens)
        flat.embedding.weight.copy_(self._flat())
        flat.requires_grad_(False).to(dtype)
        return flat

    @staticmethod
    def of(tensors: Mapping[str, Tensor], shape: tuple[int, int, int]) -> PrefixEncoder:
        """The encoder that saved tensors make, an official ``embedding``/``trans`` among them.

        Raises:
            ModelError: they do not fit layers of ``shape``.
        """
        try:
            tokens, width = tensors["embedding.weight"].shape
            projection = tensors["trans.0.weight"].shape[0] if "trans.0.weight" in tensors else 0
            encoder = PrefixEncoder(shape, tokens, width=width, projection=projection)
            encoder.load_state_dict(dict(tensors))
        except (KeyError, ValueError, RuntimeError) as error:
            reason = " ".join(str(error).split())[:200]
            raise ModelError(
                f"the prefix does not fit a model of (layers, heads, head size) {shape}: {reason}"
            ) from None
        return encoder


def layers_shape(model: Any) -> tuple[int, int, int]:
    """Layers, key-value heads and head size of a model whose layers can all take a prefix.

    Raises:
        ConfigError: they cannot, and why.
    """
    _, layers = layer_list(model)
    config = model.config.get_text_config()
    if not all(map(_attention, layers)) or getattr(config, "kv_lora_rank", None):
        raise ConfigError(
            f"method=ptuning_v2: not on {type(model).__name__}: its layers do not all keep plain keys and values "
            "(latent or linear attention); use method=lora or method=ptuning"
        )
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    if config.model_type == "falcon":  # its configuration has no num_key_value_heads, its cache repeated heads
        first: Any = _attention(layers[0])
        heads = first.num_heads if first.new_decoder_architecture else first.num_kv_heads
    size = getattr(config, "head_dim", None) or getattr(config, "dim_head", None)
    return len(layers), heads, size or config.hidden_size // config.num_attention_heads


def inject(model: Any, encoder: PrefixEncoder) -> Any:
    """Make the encoder a part of the model and let every layer's attention see its vectors; returns the model."""
    name, layers = layer_list(model)
    encoder = encoder.to(next(model.parameters()).device)
    model.add_module(NAME, encoder)
    prefix = _Prefix(encoder)
    # the module around the list, not the outer model: some callers run it alone
    model.get_submodule(name.rpartition(".")[0]).register_forward_pre_hook(prefix.start)
    for index, layer in enumerate(layers):
        attention: Any = _attention(layer)
        attention.register_forward_pre_hook(_Hook(prefix, index, attention), with_kwargs=True)
    return model


def _attention(layer: nn.Module) -> Any | None:
    """The one innermost module of a layer that takes a cache."""
    found = [m for m in layer.modules() if m is not layer and _cache_name(m)]
    inner = [m for m in found if not any(_cache_name(c) for c in m.modules() if c is not m)]
    return inner[0] if len(inner) == 1 else None


def _cache_name(module: nn.Module) -> str | None:
    parameters = inspect.signature(type(module).forward).parameters
    return next((name for name in _CACHES if name in parameters), None)


class _Prefix:
    """The prefix of the forward pass that runs: made once when the layers start, kept for their recomputation."""

    def __init__(self, encoder: PrefixEncoder) -> None:
        self.encoder = encoder
        self._vectors: tuple[Tensor, ...] = ()
        self._masks: dict[Any, tuple[Any, Tensor]] = {}

    def start(self, module: nn.Module, args: Any) -> None:
        self._vectors = self.encoder().unbind()  # 2 l of [h, n, d]
        self._masks = {}

    def before(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """The layer's prefix in front of keys and values [b, h, k, d]."""

        def joined(vectors: Tensor, real: Tensor) -> Tensor:
            return torch.cat([vectors.to(real).expand(real.shape[0], -1, -1, -1), real], dim=-2)

        return joined(self._vectors[2 * layer], keys), joined(self._vectors[2 * layer + 1], values)

    def widened(self, mask: Any, queries: int, past: int, device: torch.device) -> Tensor:
        """A mask [..., k], True or 0 where visible, with n visible columns in front; without one the causal mask.

        The layers of a forward pass share their masks, so each is widened once.
        """
        key = (queries, past) if mask is None else id(mask)
        if key not in self._masks:
            real = mask
            if real is None:
                rows = torch.arange(past, past + queries, device=device)
                real = (torch.arange(past + queries, device=device) <= rows[:, None])[None, None]
            elif not isinstance(real, Tensor):
                raise ModelError(
                    f"method=ptuning_v2: an attention mask of type {type(mask).__name__} cannot be widened"
                )
            seen = real.new_full((*real.shape[:-1], self.encoder.view[0]), 0 if real.is_floating_point() else 1)
            self._masks[key] = mask, torch.cat([seen, real], dim=-1)  # the mask is held, so that its id stays its own
        return self._masks[key][1]


class _Hook:
    """Called before a layer's attention: hands it a cache that starts with the prefix, and a mask that shows it."""

    def __init__(self, prefix: _Prefix, layer: int, attention: nn.Module) -> None:
        self._prefix = prefix
        self._layer = layer
        self._names = list(inspect.signature(type(attention).forward).parameters)[1:]
        self._cache = _cache_name(attention) or ""

    def __call__(self, module: nn.Module, args: Any, kwargs: dict[str, Any]) -> tuple[tuple[()], dict[str, Any]]:
        kwargs = {**dict(zip(self._names, args, strict=False)), **kwargs}
        hidden, cache, mask = kwargs[self._names[0]], kwargs.get(self._cache), kwargs.get("attention_mask")
        queries = hidden.shape[1]
        implementation = str(getattr(getattr(module, "config", None), "_attn_implementation", ""))
        # without a mask these are causal from the last key on: right as it is
        from_the_end = "flash" in implementation or implementation == packed.NAME
        if mask is not None or (queries > 1 and not from_the_end):
            past = 0 if cache is None else int(cache.get_seq_length(self._layer))
            kwargs["attention_mask"] = self._prefix.widened(mask, queries, past, hidden.device)
        for name in _BIASES:
            if kwargs.get(name) is not None:
                kwargs[name] = nn.functional.pad(kwargs[name], (self._prefix.encoder.view[0], 0))
        kwargs[self._cache] = _Prefixed(cache, self._prefix, self._layer)
        return (), kwargs


class _Prefixed:
    """Stands for the cache (or for none) within one attention: what comes out of it starts with the prefix."""

    def __init__(self, cache: Any, prefix: _Prefix, layer: int) -> None:
        self._real = cache
        self._prefix = prefix
        self._layer = layer

    def update(self, keys: Tensor, values: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        if self._real is not None:
            keys, values = self._real.update(keys, values, *args, **kwargs)
        return self._prefix.before(self._layer, keys, values)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)
