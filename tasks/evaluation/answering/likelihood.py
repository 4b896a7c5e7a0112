"""How likely a system finds the replies that rows hold: their negative log-likelihood, a token at a time.

What counts is what training learns of a row's last reply, cut as in training, its end token included. Torch side;
imported by workers.

Shapes: b rows, s tokens of the longest (left-padded), n places of replies in a batch, d hidden size, v vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

from tasks.conversation import Row
from tasks.models import decoding
from tasks.models.fitting import fit
from tasks.models.rendering import Renderer

#: Places whose logits exist at one time, unless a single reply has more.
_PLACES = 1024


@dataclass(frozen=True)
class Target:
    """A rendered row up to its end token, and the places of its reply's learned tokens."""

    ids: list[int]
    places: list[int]


@dataclass(frozen=True)
class Likelihood:
    """-log p (nats) summed over ``tokens`` tokens; None over 0 tokens where there is no such number.

    That is so where training would leave the row out, and where the sum is not finite: float16 can overflow.
    """

    nll: float | None = None
    tokens: int = 0


def target(renderer: Renderer, row: Row, max_prompt_tokens: int, max_reply_tokens: int) -> Target:
    """What is measured of a row; no places where training would leave the row out."""
    rendered, _ = fit(renderer, row, max_prompt_tokens, max_reply_tokens)
    prompt = renderer.prompt_ids(row.prompt, max_prompt_tokens)
    # the whole prompt, but for layouts whose prompts close thoughts that a reply may have
    start = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(prompt, rendered.ids, strict=False)))
    places = [i for i in range(start, len(rendered.ids)) if rendered.learn[i]]
    return Target(rendered.ids[: places[-1] + 1] if places else [], places)


def rows_at_once(targets: Sequence[Target], batch_tokens: int) -> int:
    """How many rows fit: by their tokens, and by the logits of their replies."""
    tokens = max(len(t.ids) for t in targets)
    places = max(len(t.places) for t in targets)
    return max(1, min(batch_tokens // max(1, tokens), _PLACES // max(1, places)))


def stream(model: Any, targets: Mapping[int, Target], slots: int) -> Iterator[list[tuple[int, Likelihood]]]:
    """The likelihood of every row, ``slots`` rows of similar length at a time."""
    empty = [(index, Likelihood()) for index, t in targets.items() if not t.places]
    if empty:
        yield empty
    order = sorted((i for i, t in targets.items() if t.places), key=lambda i: (-len(targets[i].ids), i))
    for start in range(0, len(order), slots):
        rows = order[start : start + slots]
        yield list(zip(rows, _measured(model, [targets[i] for i in rows]), strict=True))


def _measured(model: Any, targets: Sequence[Target]) -> list[Likelihood]:
    import torch
    from torch.nn.functional import cross_entropy

    called, virtual = decoding.plain(model)
    rows = [[*virtual, *t.ids] for t in targets]
    ids, mask = decoding.left_padded(rows, pad_id=0, device=model.device)
    # counted from the last column, where all rows end: a token is told by the logits one place before it
    row = torch.tensor([r for r, t in enumerate(targets) for _ in t.places])
    column = torch.tensor([place - len(t.ids) for t in targets for place in t.places])
    wanted = ids[row, column]

    def at_places(head: Any, args: tuple[Any, ...]) -> tuple[Any, ...]:
        hidden = args[0]  # [b, s, d]
        return (hidden[row, column - 1], *args[1:])  # [n, d]

    hook = called.get_output_embeddings().register_forward_pre_hook(at_places)
    try:
        with torch.inference_mode():
            options = {"position_ids": decoding.positions(mask)} if decoding.takes(called, "position_ids") else {}
            logits = called(input_ids=ids, attention_mask=mask, use_cache=False, **options).logits  # [n, v]
            losses = cross_entropy(logits.float(), wanted, reduction="none").double().cpu()  # [n]
    finally:
        hook.remove()
    counts = [len(t.places) for t in targets]
    sums = [float(part.sum()) for part in losses.split(counts)]
    return [Likelihood(nll, n) if math.isfinite(nll) else Likelihood() for nll, n in zip(sums, counts, strict=True)]
