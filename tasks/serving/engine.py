"""What an engine is: it turns a rendered prompt into a stream of text. Engines live in tasks/serving/engines.

Knows nothing of HTTP. Imports without pydantic or torch: benchmarks may drive an engine on a bare host.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from tasks.conversation import Message

FinishReason = Literal["stop", "length"]


class Busy(Exception):
    """The queue is full; the caller may try again later."""


@dataclass(frozen=True)
class Sampling:
    """How the replies to one prompt are generated.

    Attributes:
        max_tokens: most tokens of one reply.
        temperature: 0 takes the likeliest token always.
        top_p: samples from the smallest set of tokens whose probabilities sum to this.
        presence_penalty, frequency_penalty: subtracted from the logit of a token that the reply holds: once, and for
            each time. Source: OpenAI API reference, chat completions.
        repetition_penalty: divides positive and multiplies negative logits of tokens in prompt and reply.
            Source: Keskar et al. 2019, CTRL, section 4.1.
        stop: texts that end the reply and are not part of it.
        stop_ids: tokens that end the reply beside those that end it anyway.
        seed: the same request with the same seed gives the same replies; None draws one.
        n: replies wanted.
    """

    max_tokens: int
    temperature: float = 0.0
    top_p: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    stop: tuple[str, ...] = ()
    stop_ids: tuple[int, ...] = ()
    seed: int | None = None
    n: int = 1


@dataclass(frozen=True)
class Piece:
    """A part of reply ``index``: text that is final, and with the last part why it ended.

    Attributes:
        tokens: tokens generated for this reply so far, the one that ended it included.
        ids: those of them that came after the last piece.
    """

    index: int
    text: str
    tokens: int
    finish: FinishReason | None = None
    ids: tuple[int, ...] = ()


class Generation(Protocol):
    """The replies to one prompt, as they come: the last piece of each reply has ``finish``."""

    def __aiter__(self) -> AsyncIterator[Piece]: ...

    def cancel(self) -> None:
        """Stop generating soon; harmless at any time, also after the end."""


class Engine(Protocol):
    """One loaded model. A module of tasks/serving/engines offers ``load(job: Mapping[str, Any]) -> Engine``.

    Attributes:
        context_tokens: most tokens of prompt and reply together.
        vocabulary_size: token ids of a prompt are below it.
    """

    context_tokens: int
    vocabulary_size: int

    def prompt_ids(self, messages: Sequence[Message]) -> list[int]:
        """The rendered prompt, from any thread. Raises UserError where the layout cannot hold it."""
        ...

    def text_ids(self, text: str) -> list[int]:
        """Ids of a text that is no dialogue, from any thread; control tokens written in it stay text.

        Raises UserError where the tokenizer can only spell it with a control token.
        """
        ...

    def submit(self, prompt: Sequence[int], sampling: Sampling) -> Generation:
        """Queue a prompt; called from the event loop that reads the generation. Raises Busy."""
        ...

    @property
    def alive(self) -> bool:
        """False once it can generate no more."""
        ...

    def close(self) -> None:
        """Cancel what runs and waits, and free the model."""


class LoadEngine(Protocol):
    """The signature of an engine module's ``load``; ``job`` is the server's job.json."""

    def __call__(self, job: Mapping[str, Any]) -> Engine: ...
