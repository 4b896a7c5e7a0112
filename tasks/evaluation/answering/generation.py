"""Many rows put through a model, as many at a time as memory takes. Torch side; imported by workers.

The plan depends on the rows' lengths and the token budget only, never on what an earlier run got done, so that a killed
evaluation goes on with the very batches, and replies, of an uninterrupted one: a unit of the plan that was cut in two
is computed as a whole again.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from tasks.errors import ResourceError
from tasks.models.decoding import left_padded

log = logging.getLogger(__name__)

#: Largest |logit| difference, relative to the largest |logit|, at which a merged adapter counts as the same model.
_MERGE_TOLERANCE = {"float32": 1e-3, "bfloat16": 2e-2, "float16": 5e-3}
#: How often a unit's rows fill its slots: at its end slots stand empty, and a kill costs at most one unit.
_ROUNDS = 8

T = TypeVar("T")


@dataclass(frozen=True)
class Unit:
    """Rows, by index, that are put through a model together: at most ``slots`` at a time, in this order."""

    rows: list[int]
    slots: int


def plan(lengths: Sequence[int], max_new_tokens: int, batch_tokens: int) -> list[Unit]:
    """Split rows into units, longest first; a unit's slots are within the budget, but one at least.

    Longest first: what does not fit in memory shows at once, and the estimate of the remaining time errs on the safe
    side.
    """
    order = sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))
    units: list[Unit] = []
    start = 0
    while start < len(order):
        slots = max(1, batch_tokens // max(1, lengths[order[start]] + max_new_tokens))
        rows = order[start : start + slots * _ROUNDS]
        units.append(Unit(rows, min(slots, len(rows))))
        start += len(rows)
    return units


class Memory:
    """Knows what did not fit, so that it is not tried again."""

    def __init__(self) -> None:
        self._limit: int | None = None  # slots x tokens of the longest row

    def each(
        self, unit: Unit, width: int, work: Callable[[Sequence[int], int], Iterator[list[tuple[int, T]]]]
    ) -> Iterator[list[tuple[int, T]]]:
        """What ``work(rows, slots)`` finds of each row, as it comes; out of memory halves the slots and starts again.

        Args:
            width: tokens of the unit's longest row.

        Raises:
            ResourceError: a single row does not fit.
        """
        slots, given = self._fitting(unit.slots, width), set[int]()
        while True:
            try:
                for found in work(unit.rows, slots):
                    new = [(row, value) for row, value in found if row not in given]
                    given |= {row for row, _ in new}
                    if new:
                        yield new
                return
            except (MemoryError, RuntimeError) as error:
                if not is_out_of_memory(error):
                    raise
            if slots == 1:
                raise ResourceError(
                    f"out of memory on one row of {width} tokens; lower evaluation.max_new_tokens or "
                    "tokenization.max_prompt_tokens, or use a smaller model or precision"
                )
            log.warning("out of memory on %d rows of up to %d tokens: half as many", slots, width)
            self._limit = slots * width
            slots = self._fitting(slots, width)
            release_memory()

    def _fitting(self, slots: int, width: int) -> int:
        while self._limit is not None and slots > 1 and slots * width >= self._limit:
            slots = (slots + 1) // 2
        return slots


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


def digest(model: Any, prompts: Sequence[Sequence[int]]) -> str:
    """A hash of the logits of the token after each prompt: equal for models that compute exactly the same."""
    import torch

    ids, mask = left_padded(prompts, pad_id=0, device=model.device)
    with torch.inference_mode():
        logits = model(input_ids=ids, attention_mask=mask).logits[:, -1].float().cpu()  # [b, v]
    return hashlib.sha256(logits.numpy().tobytes()).hexdigest()
