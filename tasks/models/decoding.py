"""Greedy replies of a loaded model to a batch of prompts. Torch side; imported by workers.

Shapes: b prompts, s tokens of the longest (left-padded), t new tokens.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Reply:
    """The generated ids of one prompt, the end token left out."""

    ids: list[int]
    finish_reason: str
    seconds: float


def greedy(
    model: Any, prompts: Sequence[Sequence[int]], *, stop_ids: Sequence[int], max_new_tokens: int
) -> list[Reply]:
    """The most likely reply to each prompt, token by token, until a stop token or the limit."""
    import torch
    from transformers import GenerationConfig

    started = time.monotonic()
    ids, mask = left_padded(prompts, pad_id=0, device=model.device)  # CPM-Ant knows padding by this id alone
    settings = GenerationConfig(
        do_sample=False,
        max_new_tokens=max_new_tokens,
        eos_token_id=list(stop_ids),
        pad_token_id=stop_ids[0],
        use_cache=True,
    )
    # Set, not passed: what a model's own generation_config asks for (sampling, penalties, lengths) would be merged in.
    # On both: PEFT hands its own on to the wrong module where the base model's body is called ``model``, as in GLM.
    both = [model, model.get_base_model()] if hasattr(model, "get_base_model") else [model]
    own = [m.generation_config for m in both]
    try:
        for m in both:
            m.generation_config = settings
        with torch.inference_mode():
            output = model.generate(input_ids=ids, attention_mask=mask)
    finally:  # the model may be saved afterwards, with its own settings
        for m, before in zip(both, own, strict=True):
            m.generation_config = before
    seconds = (time.monotonic() - started) / len(prompts)
    return [cut(row, stop_ids, seconds) for row in output[:, ids.shape[1] :].tolist()]


def cut(ids: list[int], stop_ids: Sequence[int], seconds: float = 0.0) -> Reply:
    """A row of generated ids up to its first stop token; what follows is padding."""
    end = next((i for i, token in enumerate(ids) if token in stop_ids), None)
    return Reply(ids[:end], "length" if end is None else "stop", seconds)


def left_padded(prompts: Sequence[Sequence[int]], *, pad_id: int, device: Any) -> tuple[Any, Any]:
    """Token ids [b, s] and attention mask [b, s]; padding stands before the prompt, so replies start in one column."""
    import torch

    longest = max(map(len, prompts))
    ids = torch.full((len(prompts), longest), pad_id, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for row, prompt in enumerate(prompts):
        ids[row, longest - len(prompt) :] = torch.tensor(prompt)
        mask[row, longest - len(prompt) :] = 1
    return ids.to(device), mask.to(device)
