"""The engine that runs in the server's own process: whatever tasks.models.loading loads, adapters too.

One thread generates one reply after another. transformers' ``generate`` runs the model and its cache (it knows
PEFT prefixes); which token comes next is decided here, so every sampling field means what the API says.

Source: transformers.GenerationMixin.generate.
"""

from __future__ import annotations

import asyncio
import logging
import queue
import secrets
import threading
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tasks.conversation import Message
from tasks.serving.engine import Busy, Engine, FinishReason, Piece, Sampling
from tasks.serving.reply import ReplyText

log = logging.getLogger(__name__)

#: Logits divided by less overflow float32 long before the choice would differ from the likeliest token.
_GREEDY_BELOW = 1e-5


def load(job: Mapping[str, Any]) -> Engine:
    """Load the model of a server's job; see tasks.serving.server for its fields."""
    from tasks.models import loading

    loaded = loading.load(
        Path(job["model"]),
        base=Path(job["base"]) if job.get("base") else None,
        device=job.get("device", "cpu"),
        dtype=job.get("dtype", "float32"),
        device_map=job.get("device_map", "none"),
    )
    return TransformersEngine(
        loaded, queue_limit=job.get("queue_limit", 16), context_tokens=job.get("max_context_tokens")
    )


class TransformersEngine:
    """Serves a ``tasks.models.loading.Loaded``."""

    def __init__(self, loaded: Any, *, queue_limit: int, context_tokens: int | None = None) -> None:
        from transformers import GenerationConfig

        self._loaded = loaded
        # a checkpoint's own generation defaults (temperature, penalties) would be merged into every call
        for model in {id(m): m for m in (loaded.model, _base(loaded.model))}.values():
            model.generation_config = GenerationConfig()
        own = int(getattr(loaded.model.config, "max_position_embeddings", 0) or 1 << 30) - _virtual_tokens(loaded.model)
        self.context_tokens = min(own, context_tokens or own)
        # a trained prompt's virtual tokens have ids behind the embedding's last row: nobody may ask for those
        self.vocabulary_size = int(loaded.model.get_input_embeddings().weight.shape[0])
        # a fast tokenizer used by two threads at once raises "Already borrowed"
        self._tokenizer_lock = threading.Lock()
        self._waiting: queue.Queue[_Generation] = queue.Queue(maxsize=queue_limit)
        self._current: _Generation | None = None
        self._closing = False
        self._thread = threading.Thread(target=self._work, name="generation", daemon=True)
        self._thread.start()

    def prompt_ids(self, messages: Sequence[Message]) -> list[int]:
        with self._tokenizer_lock:
            return list(self._loaded.renderer.prompt_ids(messages))

    def text_ids(self, text: str) -> list[int]:
        from tasks.models import spelling

        speller = spelling.of(self._loaded.tokenizer)
        with self._tokenizer_lock:
            return [*speller.opening, *speller.text(text)]

    def submit(self, prompt: Sequence[int], sampling: Sampling) -> _Generation:
        generation = _Generation(prompt, sampling)
        try:
            self._waiting.put_nowait(generation)
        except queue.Full:
            raise Busy(f"{self._waiting.maxsize} requests are waiting already") from None
        return generation

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    def close(self) -> None:
        self._closing = True
        if self._current is not None:
            self._current.cancel()
        self._thread.join(timeout=5)

    def _work(self) -> None:
        while not self._closing:
            try:
                generation = self._waiting.get(timeout=0.2)
            except queue.Empty:
                continue
            self._current = generation
            try:
                self._replies(generation)
            except Exception as error:
                log.exception("generation failed")
                generation.put(error)
            self._current = None

    def _replies(self, generation: _Generation) -> None:
        seed = generation.sampling.seed
        first = secrets.randbits(62) if seed is None else seed
        for index in range(generation.sampling.n):
            if not generation.cancelled:
                self._reply(generation, index, first + index)
        generation.put(None)

    def _reply(self, generation: _Generation, index: int, seed: int) -> None:
        """Generate one reply and hand its pieces over."""
        import torch
        from transformers import GenerationConfig, LogitsProcessorList, StoppingCriteriaList

        loaded, sampling = self._loaded, generation.sampling
        text = ReplyText(self._decode, sampling.stop)
        stop_ids = {*loaded.renderer.stop_ids, *sampling.stop_ids}
        finish: FinishReason | None = None
        unsent: list[int] = []

        def accept(token: int) -> bool:
            """Take the next token in; returns whether the reply goes on."""
            nonlocal finish
            unsent.append(token)
            if token in stop_ids:
                finish = "stop"
            else:
                piece = text.push(token)
                finish = "stop" if text.stopped else "length" if text.tokens >= sampling.max_tokens else None
                if piece:
                    generation.put(Piece(index, piece, text.tokens, ids=tuple(unsent)))
                    unsent.clear()
            return finish is None and not generation.cancelled

        chooser = _Chooser(sampling, seed, accept)
        prompt = torch.tensor([list(generation.prompt)], device=loaded.device)
        with torch.inference_mode():
            loaded.model.generate(
                input_ids=prompt,
                attention_mask=torch.ones_like(prompt),
                generation_config=GenerationConfig(
                    do_sample=False,
                    max_new_tokens=sampling.max_tokens,
                    pad_token_id=0,  # never used: a batch of one has no padding
                    use_cache=True,
                ),
                logits_processor=LogitsProcessorList([chooser.choose]),
                stopping_criteria=StoppingCriteriaList([chooser.done]),
            )
        if finish is None:
            log.info("cancelled after %d of %d tokens", chooser.tokens, sampling.max_tokens)
        generation.put(Piece(index, text.finish(), chooser.tokens, finish or "length", tuple(unsent)))

    def _decode(self, ids: Sequence[int]) -> str:
        with self._tokenizer_lock:
            return str(self._loaded.renderer.decode(ids))


class _Chooser:
    """Chooses each token of one reply, in ``generate``'s loop: all other tokens are ruled out before its argmax."""

    def __init__(self, sampling: Sampling, seed: int, accept: Callable[[int], bool]) -> None:
        import torch

        self._sampling = sampling
        self._accept = accept
        self._random = torch.Generator().manual_seed(seed)
        self._counts: Counter[int] = Counter()
        self._going = True

    @property
    def tokens(self) -> int:
        return self._counts.total()

    def choose(self, ids: Any, logits: Any) -> Any:
        """ids: [1, s] prompt and reply so far; logits: [1, vocabulary]."""
        import torch

        if not self._going:
            return logits
        token = self._next(ids[0], logits[0].float())
        self._counts[token] += 1
        self._going = self._accept(token)
        chosen = torch.full_like(logits, float("-inf"))
        chosen[0, token] = 0.0
        return chosen

    def done(self, ids: Any, logits: Any, **_: Any) -> Any:
        import torch

        return torch.full((ids.shape[0],), not self._going, dtype=torch.bool, device=ids.device)

    def _next(self, ids: Any, logits: Any) -> int:
        import torch

        s = self._sampling
        if s.repetition_penalty != 1.0:
            seen = ids.unique()
            seen = seen[seen < logits.shape[-1]]  # a trained prompt's virtual tokens have ids behind the vocabulary
            values = logits[seen]
            logits[seen] = torch.where(values > 0, values / s.repetition_penalty, values * s.repetition_penalty)
        if self._counts and (s.presence_penalty or s.frequency_penalty):
            used = torch.tensor(list(self._counts), device=logits.device)
            times = torch.tensor(list(self._counts.values()), dtype=logits.dtype, device=logits.device)
            logits[used] -= s.presence_penalty + s.frequency_penalty * times
        if s.temperature < _GREEDY_BELOW:
            return int(logits.argmax())
        # on the CPU, so that a seed means the same on every device
        probabilities, order = (logits / s.temperature).softmax(-1).cpu().sort(descending=True, stable=True)
        if s.top_p < 1:
            # a token belongs to the nucleus while those before it sum to less than top_p: the first always does
            before = probabilities.cumsum(-1) - probabilities
            before[0] = -1.0
            probabilities = probabilities.masked_fill(before >= s.top_p, 0.0)
        return int(order[torch.multinomial(probabilities, 1, generator=self._random)])


class _Generation:
    """A queued request, and the bridge from the generation thread to the event loop that submitted it."""

    def __init__(self, prompt: Sequence[int], sampling: Sampling) -> None:
        self.prompt = prompt
        self.sampling = sampling
        self.cancelled = False
        self._loop = asyncio.get_running_loop()
        self._items: asyncio.Queue[Piece | Exception | None] = asyncio.Queue()

    def put(self, item: Piece | Exception | None) -> None:
        """Called from the generation thread."""
        try:
            self._loop.call_soon_threadsafe(self._items.put_nowait, item)
        except RuntimeError:  # the loop has ended: nobody reads any more
            self.cancelled = True

    def cancel(self) -> None:
        self.cancelled = True

    async def __aiter__(self) -> AsyncIterator[Piece]:
        while (item := await self._items.get()) is not None:
            if isinstance(item, Exception):
                raise item
            yield item


def _base(model: Any) -> Any:
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def _virtual_tokens(model: Any) -> int:
    """Positions of the context that a trained prompt takes; a prefix within attention (ptuning_v2) takes none."""
    config = getattr(model, "active_peft_config", model)  # of another program's adapter, else the model itself
    return int(getattr(config, "num_virtual_tokens", 0) or 0)
