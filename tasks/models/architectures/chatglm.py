"""ChatGLM-6B (the first version): a prefix language model with two positions a token, as a plain transformers model.

A row is ``prompt [gMASK] <sop> reply <eop>``. Every token sees the whole context (what stands before ``<sop>``); from
``<sop>`` on, tokens see only what precedes them. A context token has the positions (i, 0); a token from ``<sop>`` on
has (index of the mask token, 1, 2, 3, ...). Each head rotates its first half by the one position, its second by the
other. Where a row has no ``<sop>`` yet, it is plain causal with the positions (i, 0): such rows are not what the model
was trained on, but they are well defined. Positions and the context come from the ids, with padding on either side told
by ``attention_mask``; a key-value cache keeps them for the tokens that follow.

Source: the facts of the original code (THUDM/chatglm-6b, modeling_chatglm.py), checked against its outputs by
tests/unit/models/test_conversions.py. Residuals are ``x * sqrt(2 * 28) + f(x)`` of the normalised x; 28 is fixed there.

Shapes: b rows, s tokens of this call, k columns (cached and new ones), h heads, e head size, d model.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache, GenerationMixin, PreTrainedConfig, PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.utils.generic import can_return_tuple, merge_with_config_defaults
from transformers.utils.output_capturing import capture_outputs

_ROPE_BASE = 10_000.0
_CACHED = "chatglm_prompt"  # attribute of a cache that holds its rows' Prompt


class ChatGLMConfig(PreTrainedConfig):
    """Sizes and control tokens; the defaults are those of ChatGLM-6B."""

    model_type = "weitiao_chatglm"
    keys_to_ignore_at_inference = ("past_key_values",)

    vocab_size: int = 130528
    hidden_size: int = 4096
    intermediate_size: int = 16384
    num_hidden_layers: int = 28
    num_attention_heads: int = 32
    max_position_embeddings: int = 2048
    layer_norm_eps: float = 1e-5
    residual_scale: float = 56**0.5
    initializer_range: float = 0.02
    use_cache: bool = True
    tie_word_embeddings: bool = False
    pad_token_id: int | None = 3
    bos_token_id: int | None = 130004  # <sop>
    eos_token_id: int | list[int] | None = 130005  # <eop>
    mask_token_id: int = 130000
    gmask_token_id: int = 130001


@dataclass(frozen=True)
class Prompt:
    """Where each row's context ends: all that a later call needs to place its tokens.

    Attributes:
        first: the column of the first token; columns before it are a prefix, which every token sees.
        start: [b] column of ``<sop>``, -1 where there is none.
        anchor: [b] first position of every token from ``<sop>`` on.
    """

    first: int
    start: Tensor
    anchor: Tensor

    @staticmethod
    def find(hits: dict[str, Tensor], valid: Tensor, first: int) -> Prompt:
        """Args:
        hits: for ``sop``, ``gmask`` and ``mask`` where that token stands, bool [b, s]. valid: no padding, bool [b, s].
        """
        positions = _counted(valid)
        column = {name: (hit & valid).int().argmax(-1) for name, hit in hits.items()}
        has = {name: (hit & valid).any(-1) for name, hit in hits.items()}
        masked = torch.where(has["gmask"], column["gmask"], column["mask"])
        # without a mask token the block hangs on the last token of the context
        masked = torch.where(has["gmask"] | has["mask"], masked, (column["sop"] - 1).clamp(min=0))
        anchor = positions.gather(-1, masked[:, None])[:, 0]
        return Prompt(first, torch.where(has["sop"], column["sop"] + first, -1), anchor)

    def positions(self, valid: Tensor, length: int) -> Tensor:
        """Both positions of the last ``length`` of the columns ``valid`` [b, k]: [b, 2, s]."""
        columns = torch.arange(valid.shape[1] - length, valid.shape[1], device=valid.device)
        context = _counted(valid[:, self.first :])[:, -length:]
        block = (columns - self.start[:, None] + 1).where(self.start[:, None] >= 0, 0).clamp(min=0)
        return torch.stack([torch.where(block > 0, self.anchor[:, None], context), block], dim=1)

    def visible(self, valid: Tensor, length: int) -> Tensor:
        """What the last ``length`` of the columns ``valid`` [b, k] see: bool [b, 1, s, k].

        Every token sees at least itself, padding too: a row of nothing visible would be NaN in some kernels.
        """
        keys = torch.arange(valid.shape[1], device=valid.device)
        queries = keys[-length:, None]
        seen = (keys <= queries) | (keys < self.start[:, None, None])
        return ((seen & valid[:, None]) | (keys == queries))[:, None]


def _counted(valid: Tensor) -> Tensor:
    """The index of each token among its row's tokens, padding left out: [b, s]."""
    return (valid.long().cumsum(-1) - 1).clamp(min=0)


def rotary_tables(positions: Tensor, head_size: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Cosines and sines [b, 1, s, 2, e / 2] of ``positions`` [b, 2, s]: for the first and the second half of a head.

    The frequencies are those of the published checkpoints, which hold them in float16; angles are float32.
    """
    exponents = torch.arange(0, head_size // 2, 2, device=positions.device, dtype=torch.float32) / (head_size // 2)
    frequencies = (1.0 / _ROPE_BASE**exponents).half().float()
    angles = positions.transpose(1, 2)[:, None, :, :, None].float() * frequencies
    angles = torch.cat([angles, angles], dim=-1)
    return angles.cos().to(dtype), angles.sin().to(dtype)


def rotate(states: Tensor, tables: tuple[Tensor, Tensor]) -> Tensor:
    """Rotate queries or keys [b, h, s, e] by the tables."""
    cosines, sines = tables
    halves = states.unflatten(-1, (2, -1))
    low, high = halves.chunk(2, dim=-1)
    return (halves * cosines + torch.cat([-high, low], dim=-1) * sines).flatten(-2)


def eager_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor,
    scaling: float,
    dropout: float = 0.0,
    **kwargs: Any,
) -> tuple[Tensor, Tensor]:
    """Attention written out, for a look at its weights [b, h, s, k]; softmax in float32."""
    scores = query @ key.transpose(2, 3) * scaling
    scores = scores.masked_fill(~attention_mask, torch.finfo(scores.dtype).min)
    weights = scores.softmax(dim=-1, dtype=torch.float32).to(query.dtype)
    return (weights @ value).transpose(1, 2).contiguous(), weights


class ChatGLMAttention(nn.Module):
    def __init__(self, config: ChatGLMConfig, layer_idx: int) -> None:
        super().__init__()
        self.config = config
        self.layer_idx = layer_idx
        self.heads = config.num_attention_heads
        self.head_dim = config.hidden_size // self.heads
        self.scaling = self.head_dim**-0.5
        self.is_causal = False  # the mask says it all
        self.query_key_value = nn.Linear(config.hidden_size, 3 * config.hidden_size)  # per head [q | k | v]
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(
        self,
        hidden_states: Tensor,
        position_embeddings: tuple[Tensor, Tensor],
        attention_mask: Tensor,
        past_key_values: Any = None,
        **kwargs: Any,
    ) -> tuple[Tensor, Tensor | None]:
        """Args: hidden_states [b, s, d]; attention_mask: what each token sees, bool [b, 1, s, k]."""
        fused = self.query_key_value(hidden_states).unflatten(-1, (self.heads, 3 * self.head_dim)).transpose(1, 2)
        query, key, value = fused.chunk(3, dim=-1)
        query, key = rotate(query, position_embeddings), rotate(key, position_embeddings)
        if past_key_values is not None:
            key, value = past_key_values.update(key, value, self.layer_idx)
        attend = ALL_ATTENTION_FUNCTIONS.get_interface(self.config._attn_implementation, eager_attention)
        output, weights = attend(self, query, key, value, attention_mask, scaling=self.scaling, dropout=0.0, **kwargs)
        return self.dense(output.flatten(-2)), weights


class ChatGLMMLP(nn.Module):
    def __init__(self, config: ChatGLMConfig) -> None:
        super().__init__()
        self.dense_h_to_4h = nn.Linear(config.hidden_size, config.intermediate_size)
        self.dense_4h_to_h = nn.Linear(config.intermediate_size, config.hidden_size)
        self.activation = nn.GELU(approximate="tanh")

    def forward(self, hidden_states: Tensor) -> Tensor:
        return self.dense_4h_to_h(self.activation(self.dense_h_to_4h(hidden_states)))


class ChatGLMLayer(GradientCheckpointingLayer):
    def __init__(self, config: ChatGLMConfig, layer_idx: int) -> None:
        super().__init__()
        self.scale = config.residual_scale
        self.input_layernorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.self_attn = ChatGLMAttention(config, layer_idx)
        self.post_attention_layernorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.mlp = ChatGLMMLP(config)

    def forward(self, hidden_states: Tensor, **kwargs: Any) -> Tensor:
        normalised = self.input_layernorm(hidden_states)
        attended, _ = self.self_attn(hidden_states=normalised, **kwargs)
        normalised = self.post_attention_layernorm(normalised * self.scale + attended)
        return normalised * self.scale + self.mlp(normalised)


class ChatGLMPreTrainedModel(PreTrainedModel):
    config: ChatGLMConfig
    config_class = ChatGLMConfig
    base_model_prefix = "model"
    supports_gradient_checkpointing = True
    _no_split_modules = ("ChatGLMLayer",)
    _skip_keys_device_placement = ("past_key_values",)
    _supports_sdpa = True
    _supports_attention_backend = True
    _can_record_outputs = {"hidden_states": ChatGLMLayer, "attentions": ChatGLMAttention}  # noqa: RUF012


class ChatGLMModel(ChatGLMPreTrainedModel):
    def __init__(self, config: ChatGLMConfig) -> None:
        super().__init__(config)
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList([ChatGLMLayer(config, i) for i in range(config.num_hidden_layers)])
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.gradient_checkpointing = False
        self.post_init()

    @merge_with_config_defaults
    @capture_outputs
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        past_key_values: Any = None,
        inputs_embeds: Tensor | None = None,
        use_cache: bool | None = None,
        **kwargs: Any,
    ) -> BaseModelOutputWithPast:
        """Args: input_ids [b, s] or inputs_embeds [b, s, d]; attention_mask [b, k], 0 for padding, None for none."""
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("give either input_ids or inputs_embeds")
        embedded = self.embed_tokens(input_ids) if inputs_embeds is None else inputs_embeds
        if use_cache and past_key_values is None:
            past_key_values = DynamicCache(config=self.config)
        past = past_key_values.get_seq_length() if past_key_values is not None else 0
        rows, length = embedded.shape[:2]
        valid = embedded.new_ones((rows, past + length), dtype=torch.bool)
        if attention_mask is not None:
            if attention_mask.shape != valid.shape:
                raise ValueError(
                    f"attention_mask {tuple(attention_mask.shape)}: {tuple(valid.shape)} is needed, one value for each "
                    "cached and each new token"
                )
            valid = attention_mask.to(valid.device).bool()
        prompt = getattr(past_key_values, _CACHED, None) if past else None
        if prompt is None:
            prompt = Prompt.find(self._hits(input_ids, embedded), valid[:, past:], past)
            if past_key_values is not None:
                setattr(past_key_values, _CACHED, prompt)
        tables = rotary_tables(prompt.positions(valid, length), self.layers[0].self_attn.head_dim, embedded.dtype)
        visible = prompt.visible(valid, length)
        hidden = embedded
        for layer in self.layers:
            hidden = layer(
                hidden,
                attention_mask=visible,
                position_embeddings=tables,
                past_key_values=past_key_values,
                use_cache=use_cache,
                **kwargs,
            )
        return BaseModelOutputWithPast(last_hidden_state=self.norm(hidden), past_key_values=past_key_values)

    def _hits(self, input_ids: Tensor | None, embedded: Tensor) -> dict[str, Tensor]:
        """Where the tokens that place a row stand, bool [b, s] each; told by their embeddings where there are no ids.

        Methods that put trained vectors before the text (P-Tuning) hand over embeddings only.
        """
        config = self.config
        tokens = {"sop": config.bos_token_id, "gmask": config.gmask_token_id, "mask": config.mask_token_id}
        if input_ids is not None:
            return {name: input_ids == token for name, token in tokens.items()}
        with torch.no_grad():
            rows = self.embed_tokens(torch.tensor(list(tokens.values()), device=embedded.device)).to(embedded.dtype)
            return {name: (embedded == row).all(-1) for name, row in zip(tokens, rows, strict=True)}


class ChatGLMForCausalLM(ChatGLMPreTrainedModel, GenerationMixin):
    def __init__(self, config: ChatGLMConfig) -> None:
        super().__init__(config)
        self.model = ChatGLMModel(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        past_key_values: Any = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        **kwargs: Any,
    ) -> CausalLMOutputWithPast:
        """Logits [b, s, v] for the next token, of the last ``logits_to_keep`` tokens (0: of all)."""
        outputs = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            use_cache=use_cache,
            **kwargs,
        )
        kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        logits = self.lm_head(outputs.last_hidden_state[:, kept])
        loss = None
        if labels is not None:
            loss = self.loss_function(logits=logits, labels=labels, vocab_size=self.config.vocab_size, **kwargs)
        return CausalLMOutputWithPast(
            loss=loss,
            logits=logits,
            past_key_values=outputs.past_key_values,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
        )


CONFIG = ChatGLMConfig
MODEL = ChatGLMForCausalLM
