"""Greedy replies to many prompts, in batches of similar length. Torch side; imported by workers.

The batch plan depends on the prompts and the token budget only, never on what an earlier run got done, so that a
killed evaluation goes on with the very batches, and replies, of an uninterrupted one.

Shapes: b rows, s prompt tokens (left-padded), t new tokens, v vocabulary.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from tasks.errors import ResourceError
from tasks.models.decoding import Reply, left_padded

log = logging.getLogger(__name__)

#: Largest |logit| difference, relative to the largest |logit|, at which a merged adapter counts as the same model.
_MERGE_TOLERANCE = {"float32": 1e-3, "bfloat16": 2e-2, "float16": 5e-3}


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


def merge_if_exact(model: Any, prompts: Sequence[Sequence[int]], dtype: str) -> bool | None:
    """Fold a LoRA adapter into the weights in memory, for speed.

    Returns:
        True: folded, and on ``prompts`` the logits agree and every most likely token is the same. False: folded, but
        they do not; the model must be loaded again. None: nothing to fold, or weights of 4 or 8 bits, which rounding
        would change once more.
    """
    import torch

    merge = getattr(model, "merge_adapter", None)
    if merge is None or getattr(model, "is_quantized", False):
        return None
    ids, mask = left_padded(prompts, pad_id=0, device=model.device)
    real = mask.bool()
    with torch.inference_mode():
        before = model(input_ids=ids, attention_mask=mask).logits[real].float()  # [real tokens, v]
        merge()
        after = model(input_ids=ids, attention_mask=mask).logits[real].float()
    close = float((before - after).abs().max()) <= _MERGE_TOLERANCE[dtype] * float(before.abs().max())
    return close and bool((before.argmax(-1) == after.argmax(-1)).all())
