"""Replies of a loaded model to prompts, token by token. Torch side; imported by workers.

A fixed number of rows is decoded together. A reply that ends leaves; the next prompt takes its place where the model
allows it (positions that are given, a cache that keeps all tokens), else when all have ended. What is decoded together
depends on the prompts, the settings and the model only, so that the same call gives the same replies.

Shapes: b rows that are decoded together, s tokens of the longest prompt (left-padded), k columns (prompt and reply so
far), v vocabulary.
"""

from __future__ import annotations

import inspect
import logging
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from tasks.models.sampling import Choose, greedy_choice

log = logging.getLogger(__name__)

Way = Literal["continuous", "batches", "generate"]

#: New prompts join when one row in so many is free: on 2 CPU cores one of 4 costs 1.5 times as much as one of 32.
_JOIN_SHARE = 4
#: Rows that have ended are dropped when they are one in so many: dropping copies the cache.
_DROP_SHARE = 4
#: Steps between looks at the tokens, by device: a GPU would wait for each look.
_LOOK = {"cuda": 4}


@dataclass(frozen=True)
class Reply:
    """The generated ids of one prompt, the end token left out; ``seconds`` is its share of the time of its batch."""

    ids: list[int]
    finish_reason: str
    seconds: float


def greedy(
    model: Any, prompts: Sequence[Sequence[int]], *, stop_ids: Sequence[int], max_new_tokens: int
) -> list[Reply]:
    """The most likely reply to each prompt, all decoded together, until a stop token or the limit."""
    found = stream(model, prompts, stop_ids=stop_ids, max_new_tokens=max_new_tokens, slots=len(prompts))
    done = dict(pair for group in found for pair in group)
    return [done[i] for i in range(len(prompts))]


def stream(
    model: Any,
    prompts: Sequence[Sequence[int]],
    *,
    stop_ids: Sequence[int],
    max_new_tokens: int,
    slots: int,
    choose: Choose = greedy_choice,
) -> Iterator[list[tuple[int, Reply]]]:
    """Replies with the index of their prompt, as they end; at most ``slots`` rows are decoded at a time.

    Prompts join in their order; longest first wastes least.
    """
    how = way(model)
    if how == "generate":
        yield from _generated(model, prompts, stop_ids, max_new_tokens, slots, choose)
        return
    inner, virtual = plain(model)
    pool = _Pool(inner, frozenset(stop_ids), max_new_tokens, choose, joins=how == "continuous")
    waiting = deque((index, [*virtual, *prompt]) for index, prompt in enumerate(prompts))
    while waiting or pool.active:
        room = slots - pool.active
        if waiting and (pool.active == 0 or (pool.joins and room >= max(1, slots // _JOIN_SHARE))):
            pool.join([waiting.popleft() for _ in range(min(room, len(waiting)))])
        else:
            if (len(pool.lines) - pool.active) * _DROP_SHARE >= len(pool.lines):
                pool.keep_active()
            if pool.active:
                pool.step()
        if ended := pool.ended():
            yield ended


def way(model: Any) -> Way:
    """How :func:`stream` decodes this model.

    Returns:
        "continuous": a prompt takes the place of a reply that ended. "batches": replies that end leave, prompts join
        when all have. "generate": transformers' generate, for adapters of other programs that change its inputs.
    """
    from tasks.models import growing_cache

    if _changes_inputs(model):
        return "generate"
    inner, _ = plain(model)
    # a model that derives positions from columns could not tell where a prompt that joins later starts
    told = takes(inner, "position_ids")
    return "continuous" if told and growing_cache.grows(growing_cache.new_cache(inner.config)) else "batches"


def plain(model: Any) -> tuple[Any, list[int]]:
    """The causal language model to call in place of ``model``, and the ids that stand before every prompt.

    Those are a trained prompt's tokens. An adapter of another program that changes the inputs is called itself.
    """
    first = getattr(model, "first_id", None)
    virtual = [] if first is None else list(range(first, first + model.num_virtual_tokens))
    return (model if _changes_inputs(model) else _inner(model)), virtual


def takes(model: Any, argument: str) -> bool:
    """Whether a model's ``forward`` has an argument of that name."""
    return argument in inspect.signature(model.forward).parameters


def positions(mask: Any) -> Any:
    """The position of each token of left-padded rows, from their mask; both [b, k]."""
    return (mask.cumsum(-1) - 1).clamp(min=0)


def _changes_inputs(model: Any) -> bool:
    """PEFT's prompts and prefixes, which its own forward puts in front."""
    return bool(getattr(getattr(model, "active_peft_config", None), "is_prompt_learning", False))


def _inner(model: Any) -> Any:
    """The model inside a method's wrapper."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


@dataclass
class _Line:
    """One row that is being decoded: its prompt's index and length, its tokens so far."""

    index: int
    prompt_tokens: int
    ids: list[int] = field(default_factory=list)
    seconds: float = 0.0
    reply: Reply | None = None


class _Pool:
    """The rows that are decoded together.

    Attributes:
        lines: one a row of the tensors; those with a reply are carried along until rows are dropped.
        joins: prompts may join rows that are under way.
    """

    def __init__(self, model: Any, stops: frozenset[int], max_new_tokens: int, choose: Choose, *, joins: bool) -> None:
        self._model, self._stops, self._limit, self._choose, self.joins = model, stops, max_new_tokens, choose, joins
        self._told, self._keeps = takes(model, "position_ids"), takes(model, "logits_to_keep")
        self._look = _LOOK.get(model.device.type, 1)
        self.lines: list[_Line] = []
        self._unseen: list[Any] = []  # tokens [b] of the steps since the last look
        self._ended: list[tuple[int, Reply]] = []
        self._clock = time.monotonic()
        # ids and mask [b, k] of what the cache holds; next [b]: the tokens that follow
        self._ids: Any = None
        self._mask: Any = None
        self._next: Any = None
        self._cache: Any = None

    @property
    def active(self) -> int:
        return sum(line.reply is None for line in self.lines)

    def ended(self) -> list[tuple[int, Reply]]:
        """The replies that ended since the last call."""
        found, self._ended = self._ended, []
        return found

    def join(self, prompts: Sequence[tuple[int, list[int]]]) -> None:
        """Take in prompts with their indices, and choose their first tokens."""
        import torch

        from tasks.models.growing_cache import new_cache

        self._see()
        lines = [_Line(index, len(prompt)) for index, prompt in prompts]
        with torch.inference_mode():
            # CPM-Ant knows padding by this id alone
            ids, mask = left_padded([prompt for _, prompt in prompts], pad_id=0, device=self._model.device)
            cache = new_cache(self._model.config)
            chosen = self._forward(lines, ids, mask, cache)
            if self.active:
                self._keep(cache)
                self._ids, self._mask = _stacked(self._ids, ids), _stacked(self._mask, mask)
                self._next = torch.cat([self._next, chosen])
            else:
                self.lines = []
                self._ids, self._mask, self._next, self._cache = ids, mask, chosen, cache
        self.lines += lines
        for line, token in zip(lines, chosen.tolist(), strict=True):
            line.ids.append(token)
        self._finish()

    def keep_active(self) -> None:
        """Drop the rows whose reply has ended."""
        import torch

        self._see()
        if self.active:
            with torch.inference_mode():
                self._keep(None)

    def step(self) -> None:
        """One more token of every row."""
        import torch

        with torch.inference_mode():
            self._ids = torch.cat([self._ids, self._next[:, None]], dim=1)
            self._mask = torch.cat([self._mask, self._mask.new_ones(len(self.lines), 1)], dim=1)
            self._next = self._forward(self.lines, self._ids, self._mask, self._cache)
        self._unseen.append(self._next)
        longest = max(len(line.ids) for line in self.lines if line.reply is None)
        if len(self._unseen) >= self._look or longest + len(self._unseen) >= self._limit:
            self._see()

    def _forward(self, lines: Sequence[_Line], ids: Any, mask: Any, cache: Any) -> Any:
        """Run what ``cache`` lacks of ids [b, k]; returns the chosen next tokens [b]."""
        first = lines is not self.lines
        options: dict[str, Any] = {"logits_to_keep": 1} if self._keeps else {}
        if self._told:
            options["position_ids"] = positions(mask) if first else mask.sum(-1, keepdim=True) - 1
        inputs = self._model.prepare_inputs_for_generation(
            ids,
            next_sequence_length=None if first else 1,
            past_key_values=cache,
            attention_mask=mask,
            use_cache=True,
            is_first_iteration=first,
            **options,
        )
        logits = self._model(**inputs, return_dict=True).logits[:, -1]
        steps = [len(line.ids) + len(self._unseen) for line in lines]
        return self._choose([line.index for line in lines], [0] * len(lines) if first else steps, logits)

    def _keep(self, joining: Any) -> None:
        """Keep the rows under way; those of the cache ``joining`` follow them."""
        import torch

        from tasks.models import growing_cache

        kept = [i for i, line in enumerate(self.lines) if line.reply is None]
        self.lines = [self.lines[i] for i in kept]
        rows = torch.tensor(kept, device=self._ids.device)
        first = 0
        if self.joins:  # columns that no row needs any more go too
            first = self._ids.shape[1] - max(line.prompt_tokens + len(line.ids) - 1 for line in self.lines)
            for number, layer in enumerate(self._cache.layers):
                layer.arrange(rows, first, joining.layers[number] if joining else None)
        else:
            growing_cache.keep(self._cache, rows)
        self._ids, self._mask, self._next = self._ids[rows, first:], self._mask[rows, first:], self._next[rows]

    def _see(self) -> None:
        """Look at the tokens of the last steps."""
        import torch

        if not self._unseen:
            return
        tokens = torch.stack(self._unseen, dim=1).tolist()
        self._unseen = []
        for line, new in zip(self.lines, tokens, strict=True):
            if line.reply is None:
                line.ids += new
        self._finish()

    def _finish(self) -> None:
        """Share the time out among the rows under way, and end those that stop or are full."""
        under_way = [line for line in self.lines if line.reply is None]
        now = time.monotonic()
        for line in under_way:
            line.seconds += (now - self._clock) / len(under_way)
            if not self._stops.isdisjoint(line.ids[-self._look :]) or len(line.ids) >= self._limit:
                line.reply = cut(line.ids[: self._limit], self._stops, line.seconds)
                self._ended.append((line.index, line.reply))
        self._clock = now


def _stacked(upper: Any, lower: Any) -> Any:
    """Rows of two matrices [b, k], aligned at the last column, zeros in front."""
    import torch
    from torch.nn.functional import pad

    width = max(upper.shape[1], lower.shape[1])
    return torch.cat([pad(m, (width - m.shape[1], 0)) for m in (upper, lower)])


def _generated(
    model: Any,
    prompts: Sequence[Sequence[int]],
    stop_ids: Sequence[int],
    max_new_tokens: int,
    slots: int,
    choose: Choose,
) -> Iterator[list[tuple[int, Reply]]]:
    """transformers' ``generate``, a batch after another; ``choose`` rules all other tokens out before its argmax."""
    import torch
    from transformers import GenerationConfig, LogitsProcessorList

    settings = GenerationConfig(
        do_sample=False,
        max_new_tokens=max_new_tokens,
        eos_token_id=list(stop_ids),
        pad_token_id=stop_ids[0],
        use_cache=True,
    )
    # Set, not passed: what a model's own generation_config asks for (sampling, penalties, lengths) would be merged in.
    # On both: PEFT hands its own on to the wrong module where the base model's body is called ``model``, as in GLM.
    both = {id(m): m for m in (model, _inner(model))}.values()
    for start in range(0, len(prompts), slots):
        started = time.monotonic()
        rows = range(start, min(start + slots, len(prompts)))
        ids, mask = left_padded([prompts[i] for i in rows], pad_id=0, device=model.device)

        def only_chosen(seen: Any, logits: Any, rows: range = rows, width: int = ids.shape[1]) -> Any:
            token = choose(rows, [seen.shape[1] - width] * len(rows), logits)
            return torch.full_like(logits, float("-inf")).scatter(1, token[:, None], 0.0)

        own = [m.generation_config for m in both]
        try:
            for m in both:
                m.generation_config = settings
            with torch.inference_mode():
                output = model.generate(
                    input_ids=ids, attention_mask=mask, logits_processor=LogitsProcessorList([only_chosen])
                )
        finally:  # the model may be saved afterwards, with its own settings
            for m, before in zip(both, own, strict=True):
                m.generation_config = before
        seconds = (time.monotonic() - started) / len(rows)
        replies = [cut(row, stop_ids, seconds) for row in output[:, ids.shape[1] :].tolist()]
        yield list(zip(rows, replies, strict=True))


def cut(ids: list[int], stop_ids: Iterable[int], seconds: float = 0.0) -> Reply:
    """A row of generated ids up to its first stop token; what follows is padding."""
    stops = frozenset(stop_ids)
    end = next((i for i, token in enumerate(ids) if token in stops), None)
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
