"""A key-value cache whose rows come and go: written in place, rearranged when replies end and new prompts join.

transformers' DynamicLayer copies all it holds at every token; this one reserves columns ahead. Imported by
tasks.models.decoding; torch at import, as transformers' own classes need it.

Shapes: b rows, h key-value heads, k columns, d head size.
"""

from __future__ import annotations

from dataclasses import fields, is_dataclass, replace
from typing import Any

from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

#: Columns that are reserved at a time.
_ROOM = 64


class GrowingLayer(DynamicLayer):
    """One layer's keys and values [b, h, k, d]: the front of buffers that have room for more columns."""

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Add columns; returns all keys and values."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
            self._buffers = (reserved(key_states), reserved(value_states))
        past = self.get_seq_length()
        end = past + key_states.shape[-2]
        if end > self._buffers[0].shape[-2]:
            self._buffers = (
                reserved(self.keys, end - past, past),
                reserved(self.values, end - past, past),
            )
        for buffer, new in zip(self._buffers, (key_states, value_states), strict=True):
            buffer[:, :, past:end] = new
        self._show(end)
        return self.keys, self.values

    def arrange(self, rows: Tensor, first: int, other: GrowingLayer | None = None) -> None:
        """Keep ``rows`` [b'] without the columns before ``first``; the rows of ``other`` follow.

        All end in the last column; what a shorter one lacks in front is zeros.
        """
        joined = [None, None] if other is None else [other.keys, other.values]
        index = rows.to(self.keys.device)
        held = self.get_seq_length() - first
        columns = max(held, other.get_seq_length() if other else 0)
        made = []
        for kept, new in zip((self.keys, self.values), joined, strict=True):
            more = 0 if new is None else new.shape[0]
            buffer = kept.new_zeros((len(rows) + more, kept.shape[1], columns + _ROOM, kept.shape[3]))
            buffer[: len(rows), :, columns - held : columns] = kept[index, :, first:]
            if new is not None:
                buffer[len(rows) :, :, columns - new.shape[2] : columns] = new
            made.append(buffer)
        self._buffers = (made[0], made[1])
        self._show(columns)

    def batch_select_indices(self, indices: Tensor) -> None:
        self.arrange(indices, 0)

    def _show(self, columns: int) -> None:
        self.keys, self.values = (buffer[:, :, :columns] for buffer in self._buffers)


def reserved(states: Tensor, more: int = 0, held: int = 0) -> Tensor:
    """A buffer for ``states`` [b, h, k, d] and ``more`` columns, with room; the first ``held`` are copied."""
    rows, heads, columns, size = states.shape
    buffer = states.new_zeros((rows, heads, columns + more + _ROOM, size))
    buffer[:, :, :held] = states[:, :, :held]
    return buffer


def new_cache(config: Any) -> DynamicCache:
    """An empty cache for a model of ``config``: layers that keep all tokens grow in place, others are as they are."""
    cache = DynamicCache(config=config)
    cache.layers = [GrowingLayer() if type(layer) is DynamicLayer else layer for layer in cache.layers]
    if cache.layer_class_to_replicate is DynamicLayer:
        cache.layer_class_to_replicate = GrowingLayer
    return cache


def grows(cache: DynamicCache) -> bool:
    """Whether every layer keeps all tokens in order, so that rows of other lengths can join."""
    kinds = [type(layer) for layer in cache.layers] or [cache.layer_class_to_replicate]
    return all(kind is GrowingLayer for kind in kinds)


def keep(cache: DynamicCache, rows: Tensor) -> None:
    """Keep ``rows`` [b'] only, also in what a model notes about its rows on the cache (ChatGLM-6B: where prompts end).

    Such notes are dataclasses; their tensors are [b, ...].
    """
    cache.batch_select_indices(rows)
    for name, value in list(vars(cache).items()):
        if is_dataclass(value) and not isinstance(value, type):
            tensors = {f.name: v for f in fields(value) if isinstance(v := getattr(value, f.name), Tensor)}
            setattr(cache, name, replace(value, **{key: v[rows.to(v.device)] for key, v in tensors.items()}))
