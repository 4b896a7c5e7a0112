"""Greedy replies to many prompts, in batches of similar length. Torch side; imported by workers.

The batch plan depends on the prompts and the token budget only, never on what an earlier run got done, so that a
killed evaluation goes on with the very batches, and replies, of an uninterrupted one.

Shapes: b rows, s prompt tokens (left-padded), t new tokens, v vocabulary.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from tasks.errors import ResourceError

log = logging.getLogger(__name__)

#: Largest |logit| difference, relative to the largest |logit|, at which a merged adapter counts as the same model.
_MERGE_TOLERANCE = {"float32": 1e-3, "bfloat16": 2e-2, "float16": 5e-3}


@dataclass(frozen=True)
class Reply:
    """The generated ids of one prompt, the end token left out."""

    ids: list[int]
    finish_reason: str
    seconds: float


def plan(lengths: Sequence[int], max_new_tokens: int, batch_tokens: int) -> list[list[int]]:
    """Split prompts into batches, longest first, each within the budget (at least one prompt a batch).

    Longest first: what does not fit in memory shows at once, and the estimate of the remaining time errs on the safe
    side.
    """
    order = sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))
    batches: list[list[int]] = []
    start = 0
    while start < len(order):
        size = max(1, batch_tokens // (lengths[order[start]] + max_new_tokens))
        batches.append(order[start : start + size])
        start += size
    return batches


def replies(
    batches: Sequence[Sequence[int]], lengths: Sequence[int], generate: Callable[[Sequence[int]], list[Reply]]
) -> Iterator[tuple[list[int], list[Reply]]]:
    """Run ``generate`` over batches of row indices; out of memory halves a batch and those that are as big.

    Raises:
        ResourceError: a single row does not fit.
    """
    waiting = [list(batch) for batch in reversed(batches)]
    limit: int | None = None  # prompt tokens known not to fit
    while waiting:
        batch = waiting.pop()
        size = len(batch) * max(lengths[i] for i in batch)
        fits = limit is None or size < limit
        if fits or len(batch) == 1:
            try:
                done = generate(batch)
            except (MemoryError, RuntimeError) as error:
                if not is_out_of_memory(error):
                    raise
                if len(batch) == 1:
                    raise ResourceError(
                        f"out of memory on one row of {size} prompt tokens; lower evaluation.max_new_tokens or "
                        "tokenization.max_prompt_tokens, or use a smaller model or precision"
                    ) from None
                limit = size
                log.warning("out of memory on %d rows of up to %d tokens: half as many", len(batch), size // len(batch))
            else:
                yield batch, done
                continue
            release_memory()
        middle = (len(batch) + 1) // 2
        waiting += [batch[middle:], batch[:middle]]


def is_out_of_memory(error: BaseException) -> bool:
    """CUDA's and the CPU allocator's ways to say that memory is full."""
    import torch

    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return "can't allocate memory" in str(error) or "not enough memory" in str(error)


def release_memory() -> None:
    """Give unused blocks back, so that smaller ones can be had."""
    import gc

    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def greedy(
    model: Any, prompts: Sequence[Sequence[int]], *, stop_ids: Sequence[int], max_new_tokens: int
) -> list[Reply]:
    """The most likely reply to each prompt, token by token, until a stop token or the limit."""
    import torch
    from transformers import GenerationConfig

    started = time.monotonic()
    ids, mask = left_padded(prompts, pad_id=stop_ids[0], device=model.device)
    settings = GenerationConfig(
        do_sample=False,
        max_new_tokens=max_new_tokens,
        eos_token_id=list(stop_ids),
        pad_token_id=stop_ids[0],
        use_cache=True,
    )
    # Set, not passed: what a model's own generation_config asks for (sampling, penalties, lengths) would be merged in.
    # On both: PEFT hands its own on to the wrong module where the base model's body is called ``model``, as in GLM.
    model.generation_config = settings
    if hasattr(model, "get_base_model"):
        model.get_base_model().generation_config = settings
    with torch.inference_mode():
        output = model.generate(input_ids=ids, attention_mask=mask)
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


def merge_if_exact(model: Any, prompts: Sequence[Sequence[int]], dtype: str) -> bool | None:
    """Fold a LoRA adapter into the weights in memory, for speed.

    Returns:
        True: folded, and on ``prompts`` the logits agree and every most likely token is the same. False: folded, but
        they do not; the model must be loaded again. None: nothing to fold.
    """
    import torch

    merge = getattr(model, "merge_adapter", None)
    if merge is None:
        return None
    ids, mask = left_padded(prompts, pad_id=0, device=model.device)
    real = mask.bool()
    with torch.inference_mode():
        before = model(input_ids=ids, attention_mask=mask).logits[real].float()  # [real tokens, v]
        merge()
        after = model(input_ids=ids, attention_mask=mask).logits[real].float()
    close = float((before - after).abs().max()) <= _MERGE_TOLERANCE[dtype] * float(before.abs().max())
    return close and bool((before.argmax(-1) == after.argmax(-1)).all())
