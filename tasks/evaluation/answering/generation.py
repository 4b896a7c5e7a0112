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
from tasks.models import decoding
from tasks.worker import out_of_memory

log = logging.getLogger(__name__)

#: How far rounding moves one number, as a share of it: the step between numbers of 16 bits; in float32 well above its
#: step of 1e-7, as there the order of long sums matters more.
_ROUNDING = {"float32": 1e-5, "bfloat16": 2**-7, "float16": 2**-10}
#: Roundings by which a folded adapter may move logits (root mean square, in standard deviations of the logits).
#: Measured in 16 bits: 1.0-3.6 on models of 2 layers, 1.4-2.7 on the embedded one, 1.9-4.8 with 28 layers of random
#: weights. An adapter that moves logits by 0.2 standard deviations, folded into bfloat16 at half its scale, is 13 off.
_ROUNDINGS = 6
#: Tokens at each prompt's end whose logits are compared.
_COMPARED = 8
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
                if not out_of_memory(error):
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
        True: folded, and at the ends of ``prompts`` the logits are the same but for rounding. False: folded, but they
        are not; the model must be loaded again. None: nothing to fold, or weights of 4 or 8 bits, which rounding would
        change once more.
    """
    import torch

    merge = getattr(model, "merge_adapter", None)
    if merge is None or getattr(model, "is_quantized", False):
        return None
    before = torch.cat([_last_logits(model, prompt, _COMPARED) for prompt in prompts])
    merge()
    after = torch.cat([_last_logits(model, prompt, _COMPARED) for prompt in prompts])
    return same_but_rounding(before, after, _ROUNDINGS * _ROUNDING[dtype])


def same_but_rounding(before: Any, after: Any, tolerance: float) -> bool:
    """Whether two models' logits [n, v] over the same tokens differ by no more than rounding.

    The root mean square of the differences must be within ``tolerance`` x the standard deviation of ``before``, and no
    clear choice may change: the likeliest token is another one although it led by more than twice that difference. A
    smaller lead can vanish while no logit moves by more than is allowed: one token loses that much, the other gains it.
    """
    before, after = before.float(), after.float()
    allowed = tolerance * float(before.std())
    difference = float((after - before).square().mean().sqrt())
    lead = before.topk(2).values.diff().abs()[:, 0]  # [n]
    changed = before.argmax(-1) != after.argmax(-1)
    return difference <= allowed and not bool((changed & (lead > 2 * allowed)).any())


def digest(model: Any, prompts: Sequence[Sequence[int]]) -> str:
    """A hash of the logits of the token after each prompt: equal for models that compute exactly the same."""
    found = hashlib.sha256()
    for prompt in prompts:
        found.update(_last_logits(model, prompt, 1).float().numpy().tobytes())
    return found.hexdigest()


def _last_logits(model: Any, prompt: Sequence[int], count: int) -> Any:
    """The logits [count, v] of a prompt's last tokens, of all where it has fewer; in the model's precision, on the CPU.

    One prompt at a time, and where the model can no other logits at all: those of 4 whole prompts of 1,024 tokens would
    be 2.5 GB for a vocabulary of 152,000 in float32.
    """
    import torch

    called, virtual = decoding.plain(model)
    ids, mask = decoding.left_padded([[*virtual, *prompt]], pad_id=0, device=model.device)
    options = {"logits_to_keep": count} if decoding.takes(called, "logits_to_keep") else {}
    with torch.inference_mode():
        logits = called(input_ids=ids, attention_mask=mask, use_cache=False, **options).logits
    return logits[0, -count:].cpu()
