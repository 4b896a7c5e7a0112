"""Rows end to end in one sequence, none of which sees another: attention and positions of packed training.

A packed batch has no padding: its rows stand one behind the other in ``input_ids`` [1, t], positions start at 0 in
each, and ``cu_seq_lens`` says where rows begin. All that works token by token (linear layers, norms) needs nothing
more; the attention is computed row by row: by torch's variable-length flash kernel on a GPU in half precision, else by
one scaled-dot-product call a row, which on a CPU costs less than any mask over the whole sequence.

Shapes: b rows of a padded batch, t tokens of a packed one, h heads, d head size, n vectors of a prefix.
"""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tasks.errors import ModelError

#: The name under which transformers finds the attention below.
NAME = "weitiao_packed"


def batch(ids: NDArray[np.int64], lengths: NDArray[np.int64]) -> dict[str, Any]:
    """The model's arguments for rows of ``lengths`` whose tokens stand end to end in ``ids`` [t]."""
    bounds = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    positions = np.arange(len(ids)) - np.repeat(bounds[:-1].astype(np.int64), lengths)
    cut, longest = torch.from_numpy(bounds), int(lengths.max())
    return {
        "input_ids": torch.from_numpy(ids)[None],
        "position_ids": torch.from_numpy(positions)[None],
        "cu_seq_lens_q": cut,
        "cu_seq_lens_k": cut,
        "max_length_q": longest,
        "max_length_k": longest,
    }


def enable(model: Any) -> None:
    """Let a model take packed batches, beside padded ones.

    Raises:
        ModelError: its class computes attention in its own way.
    """
    from transformers import AttentionInterface
    from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

    if not getattr(model, "_supports_attention_backend", False):
        raise ModelError(f"{type(model).__name__} computes attention in its own way")
    if "position_ids" not in inspect.signature(type(model.base_model).forward).parameters:
        raise ModelError(f"{type(model).__name__} finds a row's positions by itself")
    kinds = {*(getattr(model.config.get_text_config(), "layer_types", None) or ())}
    if strange := sorted(kinds - {"full_attention", "sliding_attention"}):  # these pass from row to row
        raise ModelError(f"{type(model).__name__} has layers of {', '.join(strange)}")
    AttentionInterface.register(NAME, attention)

    def mask(*args: Any, attention_mask: Tensor | None = None, **options: Any) -> Tensor | None:
        # packed batches and whole causal ones need none; transformers' own would be [t, t]
        return None if attention_mask is None else sdpa_mask(*args, attention_mask=attention_mask, **options)

    AttentionMaskInterface.register(NAME, mask)
    try:
        model.set_attn_implementation(NAME)
    except (ValueError, AttributeError) as error:
        raise ModelError(f"{type(model).__name__}: {error}") from error


def attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    sliding_window: int | None = None,
    cu_seq_lens_q: Tensor | None = None,
    max_length_q: int = 0,
    **options: Any,
) -> tuple[Tensor, None]:
    """Causal attention within each row; query [b, h, t, d], key and value [b, h', n + t, d]; gives [b, t, h, d].

    Keys in front of the first token (n of them, a trained prefix) are seen by every row.

    Raises:
        ModelError: the model wants scores that these kernels do not give.
    """
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    if any(options.get(name) is not None for name in ("softcap", "s_aux", "position_bias")):
        raise ModelError(f"{type(module).__name__}: attention scores are capped or biased")
    if cu_seq_lens_q is None:
        before = key.shape[2] - query.shape[2]
        if attention_mask is None and before and query.shape[2] > 1:
            attention_mask = _causal(query.shape[2], before, 0, query.device)
        whole: tuple[Tensor, None] = sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **options
        )
        return whole
    if query.is_cuda and query.dtype in (torch.float16, torch.bfloat16) and not dropout:
        return _flash(query, key, value, cu_seq_lens_q, max_length_q, scaling, sliding_window), None
    lengths = cu_seq_lens_q.diff().tolist()
    return _row_by_row(query, key, value, lengths, dropout, scaling, sliding_window), None


def _row_by_row(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    lengths: list[int],
    dropout: float,
    scaling: float | None,
    window: int | None,
) -> Tensor:
    prefix = key.shape[2] - query.shape[2]
    groups = query.shape[1] // key.shape[1]
    if groups > 1:
        key, value = key.repeat_interleave(groups, dim=1), value.repeat_interleave(groups, dim=1)
    # one split, not one slice a row: a slice's gradient is a tensor of the whole sequence
    front_k, *keys = key.split([prefix, *lengths], dim=2)
    front_v, *values = value.split([prefix, *lengths], dim=2)
    outputs = []
    for q, k, v in zip(query.split(lengths, dim=2), keys, values, strict=True):
        length = q.shape[2]
        narrow = window if window is not None and length > window else 0
        if prefix:
            k, v = torch.cat([front_k, k], dim=2), torch.cat([front_v, v], dim=2)
        mask = _causal(length, prefix, narrow, q.device) if prefix or narrow else None
        outputs.append(
            torch.nn.functional.scaled_dot_product_attention(
                q, k, v, attn_mask=mask, dropout_p=dropout, scale=scaling, is_causal=mask is None
            )
        )
    return torch.cat(outputs, dim=2).transpose(1, 2).contiguous()


def _causal(length: int, before: int, window: int, device: torch.device) -> Tensor:
    """What each of ``length`` queries sees of ``before`` + ``length`` keys; [1, 1, length, before + length]."""
    seen = torch.ones(length, length, dtype=torch.bool, device=device).tril()
    if window:
        seen = seen.triu(1 - window)
    return torch.nn.functional.pad(seen, (before, 0), value=True)[None, None]


def _flash(
    query: Tensor, key: Tensor, value: Tensor, bounds: Tensor, longest: int, scaling: float | None, window: int | None
) -> Tensor:
    from torch.nn.attention import varlen

    prefix, rows = key.shape[2] - query.shape[2], len(bounds) - 1
    q, k, v = (x[0].transpose(0, 1) for x in (query, key, value))  # [t, h, d]
    bounds_k = bounds
    if prefix:
        if window is not None and longest > window:
            raise ModelError("a prefix and a sliding window shorter than the rows: set training.packing=off")
        # every row gets the prefix of its own: the kernel's causal mask is aligned to the last key
        places = torch.arange(len(q), device=q.device) + prefix
        row = torch.searchsorted(bounds[1:], torch.arange(len(q), device=q.device), right=True)
        bounds_k = bounds + prefix * torch.arange(rows + 1, device=q.device, dtype=bounds.dtype)
        index = torch.arange(prefix, device=q.device).repeat(rows, 1)
        order = torch.empty(len(q) + prefix * rows, dtype=torch.long, device=q.device)
        order[torch.arange(len(q), device=q.device) + prefix * (row + 1)] = places
        order[(bounds_k[:-1, None].long() + torch.arange(prefix, device=q.device)).flatten()] = index.flatten()
        k, v = k[order], v[order]
    options: dict[str, Any] = {"scale": scaling}
    known = inspect.signature(varlen.varlen_attn).parameters
    if "window_size" in known:
        options["window_size"] = ((window - 1) if window is not None else -1, 0)
    else:  # torch before 2.12
        if window is not None and longest > window:
            raise ModelError("this torch has no sliding window for packed rows: set training.packing=off")
        options["is_causal"] = True
    if k.shape[1] != q.shape[1]:
        if "enable_gqa" in known:
            options["enable_gqa"] = True
        else:
            groups = q.shape[1] // k.shape[1]
            k, v = k.repeat_interleave(groups, dim=1), v.repeat_interleave(groups, dim=1)
    if isinstance(scaling, float) and "scale" not in known:
        q, options = q * (scaling * q.shape[-1] ** 0.5), {k: v for k, v in options.items() if k != "scale"}
    output = varlen.varlen_attn(
        q.contiguous(), k.contiguous(), v.contiguous(), bounds, bounds_k, longest, longest + prefix, **options
    )
    attended: Tensor = output[0] if isinstance(output, tuple) else output
    return attended[None]
