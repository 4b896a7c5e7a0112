"""CPM-Ant with a causal mask: transformers' class lets every token of a pass see those that follow it.

A model that is trained to predict the next token must not see it. Here text sees the model's own prompt vectors, itself
and what stands before it; padding, known by the id 0 as in the original, may stand on either side.

Shapes: b rows, s the prompt vectors and the tokens.
Source: transformers' modeling_cpmant.py, whose weights and names are kept.
"""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import CpmAntConfig
from transformers import CpmAntForCausalLM as Published
from transformers.models.cpmant.modeling_cpmant import CpmAntModel


class CausalCpmAntModel(CpmAntModel):
    """The decoder, its mask replaced."""

    def _prepare_attention_mask(self, input_ids: Tensor, span: Tensor, context: Tensor, length: Tensor) -> Tensor:
        """What each place may see, [b, s, s], True where visible."""
        places = torch.arange(input_ids.shape[1], device=input_ids.device)
        prompt = places < self.prompt_length
        real = prompt | (input_ids != 0)  # [b, s]
        before = (places[None, :] <= places[:, None]) | prompt
        return real[:, None, :] & real[:, :, None] & before


class CpmAntForCausalLM(Published):
    """Keeps the published class's name: what it saves is that class's checkpoint."""

    def __init__(self, config: CpmAntConfig) -> None:
        super().__init__(config)
        self.cpmant = CausalCpmAntModel(config)
        self.post_init()


CONFIG = CpmAntConfig
MODEL = CpmAntForCausalLM
