"""Which token comes next: the likeliest, or one drawn with a seed of the row's own. Torch side; imported by workers.

A row's draws come from its seed and its id alone: neither the rows beside it nor an interruption changes them.

Shapes: b rows, v vocabulary.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tasks.models.constraint import Constraint

#: (prompt index of each row, tokens it has so far, logits [b, v]) -> the next token of each [b].
Choose = Callable[[Sequence[int], Sequence[int], Any], Any]


def greedy_choice(rows: Sequence[int], steps: Sequence[int], logits: Any) -> Any:
    """The likeliest token of each row [b], from logits [b, v]."""
    return logits.argmax(-1)


@dataclass(frozen=True)
class Sampling:
    """How tokens are drawn.

    Attributes:
        temperature: logits are divided by it.
        top_k: only the so many likeliest are drawn from; 0: all.
        top_p: only the likeliest whose probabilities sum to so much are drawn from, the one that reaches it among them.
        seed: with a row's id it decides the row's draws.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int = 42

    @staticmethod
    def of(values: Mapping[str, Any] | None) -> Sampling | None:
        """What a job says; None and a temperature of 0 are greedy."""
        return Sampling(**values) if values and values["temperature"] > 0 else None


class Sampler:
    """Draws the next tokens of many rows, one uniform number a token."""

    def __init__(self, sampling: Sampling, row_ids: Sequence[str], max_new_tokens: int) -> None:
        self._sampling, self._row_ids, self._count = sampling, row_ids, max_new_tokens
        self._drawn: dict[int, list[float]] = {}

    def __call__(self, rows: Sequence[int], steps: Sequence[int], logits: Any) -> Any:
        """The next token of each row [b]: where the sum of probabilities, likeliest first, passes its number."""
        import torch

        s = self._sampling
        numbers = [self._numbers(row)[min(step, self._count - 1)] for row, step in zip(rows, steps, strict=True)]
        drawn = torch.tensor(numbers, dtype=torch.float64, device=logits.device)[:, None]
        likelihoods, order = (logits.double() / s.temperature).softmax(-1).sort(dim=-1, descending=True, stable=True)
        if s.top_k:
            likelihoods[:, s.top_k :] = 0
        sums = likelihoods.cumsum(-1)
        if s.top_p < 1:  # a token stays while those before it have not reached top_p: the first always does
            likelihoods[sums - likelihoods >= s.top_p * sums[:, -1:]] = 0
            sums = likelihoods.cumsum(-1)
        # numbers are below 1 by more than rounding takes off, so that a token of no probability is never reached
        place = (sums <= drawn * sums[:, -1:]).sum(-1, keepdim=True)
        return order.gather(-1, place.clamp(max=logits.shape[-1] - 1))[:, 0]

    def _numbers(self, row: int) -> list[float]:
        """The row's uniform numbers in [0, 1)."""
        if row not in self._drawn:
            import torch

            digest = hashlib.sha256(f"{self._sampling.seed}:{self._row_ids[row]}".encode()).digest()
            generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)
            self._drawn[row] = torch.rand(self._count, generator=generator).tolist()  # on the CPU: alike everywhere
        return self._drawn[row]


class Constrained:
    """Chooses among the tokens that a constraint allows, in some of the rows."""

    def __init__(self, constraint: Constraint, choose: Choose, rows: Collection[int]) -> None:
        self._constraint, self._choose, self._rows = constraint, choose, rows
        self._matchers: dict[int, Any] = {}

    def __call__(self, rows: Sequence[int], steps: Sequence[int], logits: Any) -> Any:
        """The next token of each row [b], from logits [b, v]."""
        from tasks.models.constraint import State

        lines = [line for line, row in enumerate(rows) if row in self._rows]
        for line in lines:
            if steps[line] == 0:
                (self._matchers[rows[line]],) = self._constraint.start(1).matchers
        state = State([self._matchers[rows[line]] for line in lines])
        if lines:
            logits = logits.clone()
            logits[lines] = self._constraint.mask(state, logits[lines])
        tokens = self._choose(rows, steps, logits)
        if lines:
            self._constraint.accept(state, tokens[lines].tolist())
        return tokens
