"""Baichuan 13B and Baichuan2 13B: LLaMA without rotary positions, with ALiBi.

Every head adds a bias that falls linearly with the distance of a key, counted in tokens of the row. All else is
LLaMA's: its rotation is the identity because every token gets position 0.

Source: Press et al. 2022, https://arxiv.org/abs/2108.12409 (ALiBi and the slopes for head counts that are no power of
two); baichuan-inc/Baichuan-13B-Base, checked against its outputs by tests/unit/models/test_conversions.py.

Shapes: b rows, s tokens of this call, k columns (cached and new ones), h heads.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, LlamaConfig, LlamaForCausalLM, LlamaModel


class BaichuanConfig(LlamaConfig):
    model_type = "weitiao_baichuan"


def alibi_slopes(heads: int) -> list[float]:
    """The slope of each head's bias: 2^(-8i/n) for n heads; for other counts every second slope of 2n is added."""
    power = 2 ** math.floor(math.log2(heads))
    slopes = [2 ** (-8 * (i + 1) / power) for i in range(power)]
    return slopes + [2 ** (-4 * (i + 1) / power) for i in range(0, 2 * (heads - power), 2)]


def alibi_mask(attention_mask: Tensor, length: int, heads: int, dtype: torch.dtype) -> Tensor:
    """The additive mask of the last ``length`` columns: ALiBi, causal and padding, [b, h, s, k].

    Args:
        attention_mask: [b, k], 0 for padding.
        dtype: the type that attention is computed in; biases are rounded to it once.
    """
    counted = attention_mask.long().cumsum(-1)  # padding, wherever it stands, adds no distance
    # relative to the query, so that half precision spends its digits on the keys that are near
    distances = counted[:, None, None] - counted[:, None, -length:, None]  # [b, 1, s, k]
    slopes = torch.tensor(alibi_slopes(heads), device=counted.device)
    keys = torch.arange(counted.shape[1], device=counted.device)
    queries = keys[-length:, None]
    # every token sees at least itself: a row of nothing visible would be NaN in some kernels
    seen = (keys <= queries) & attention_mask.bool()[:, None, None] | (keys == queries)
    return torch.where(seen, slopes[:, None, None] * distances, torch.finfo(dtype).min).to(dtype)


class BaichuanModel(LlamaModel):
    config: BaichuanConfig
    config_class = BaichuanConfig

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Any = None,
        inputs_embeds: Tensor | None = None,
        use_cache: bool | None = None,
        **kwargs: Any,
    ) -> Any:
        """LLaMA's forward with ALiBi's mask; ``position_ids`` has no effect: distances come from the mask."""
        given = input_ids if inputs_embeds is None else inputs_embeds
        assert given is not None, "give either input_ids or inputs_embeds"
        if use_cache is None:
            use_cache = self.config.use_cache and not (self.gradient_checkpointing and self.training)
        if use_cache and past_key_values is None:
            past_key_values = DynamicCache(config=self.config)
        rows, length = given.shape[:2]
        if attention_mask is None or attention_mask.dim() == 2:
            past = past_key_values.get_seq_length() if past_key_values is not None else 0
            if attention_mask is None:
                attention_mask = torch.ones((rows, past + length), dtype=torch.long, device=given.device)
            dtype = self.embed_tokens.weight.dtype if inputs_embeds is None else inputs_embeds.dtype
            attention_mask = alibi_mask(attention_mask, length, self.config.num_attention_heads, dtype)
        return super().forward(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=torch.zeros((1, length), dtype=torch.long, device=given.device),
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            use_cache=use_cache,
            **kwargs,
        )


class BaichuanForCausalLM(LlamaForCausalLM):
    config: BaichuanConfig
    config_class = BaichuanConfig

    def __init__(self, config: BaichuanConfig) -> None:
        super().__init__(config)
        self.model = BaichuanModel(config)
        self.post_init()


CONFIG = BaichuanConfig
MODEL = BaichuanForCausalLM
