"""POST /v1/completions: a text or token ids as they are, without the layout of a dialogue, and what follows them.

A text is a person's: control tokens written in it stay text, and the tokenizer's own opening tokens are put before it.
Token ids are raw, control tokens included: who renders prompts (an evaluation) sends just those. Either way only ids
of the vocabulary reach the model; ids beyond it would address a trained prompt's vectors, or nothing.

``return_token_ids`` gives the reply's ids as ``token_ids``, the one that ended it included, as vLLM does. vLLM fills
fields that a request leaves out from the model's own generation settings, so that its clients have to send the value
that means "off": ``top_k``, ``min_p`` and ``skip_special_tokens`` are accepted with that value only, which is what this
server does anyway. Temperature: the server's, where none is given.

Source: OpenAI API reference, completions; vLLM 0.33, OpenAI-compatible server, completions, extra parameters.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, field_validator
from pydantic_core import PydanticCustomError

from tasks.serving.engine import Engine, Piece, Sampling
from tasks.serving.wire import UNSUPPORTED, Form, Refusal, Reply, Request

_MAX_TOKENS = 16
TokenId = Annotated[int, Field(ge=0)]


class CompletionRequest(Request):
    """The body of POST /v1/completions; ``stop_token_ids`` and those after it are extensions, as vLLM has them."""

    unsupported: ClassVar[Mapping[str, str]] = {
        **UNSUPPORTED,
        "echo": "the prompt is not repeated; join it with the reply",
        "suffix": "text behind the gap is not supported",
        "best_of": "choosing among replies is not supported; ask for n",
    }
    prompt_field = "prompt"

    # fail_fast: a megabyte of bad ids would make 340,000 errors, of which one is shown
    prompt: Annotated[str, Field(min_length=1)] | Annotated[list[TokenId], Field(min_length=1, fail_fast=True)]
    stop_token_ids: list[TokenId] = Field(default_factory=list, max_length=64)
    return_token_ids: bool = False
    skip_special_tokens: Literal[True] = True
    top_k: Literal[0, -1] = 0
    min_p: float = Field(0.0, ge=0, le=0)

    @field_validator("prompt", mode="before")
    @classmethod
    def _one(cls, prompt: Any) -> Any:
        if isinstance(prompt, list) and any(isinstance(part, str | list) for part in prompt):
            raise PydanticCustomError("prompt", "one prompt a request: a text, or a list of token ids")
        return prompt

    @property
    def limit(self) -> int:
        return self.max_tokens or _MAX_TOKENS

    @property
    def form(self) -> Form:
        return TextForm(self.return_token_ids)

    def prompt_ids(self, engine: Engine) -> list[int]:
        if isinstance(self.prompt, str):
            return engine.text_ids(self.prompt)
        for place, token in enumerate(self.prompt):
            if token >= engine.vocabulary_size:
                message = f"prompt.{place}: {token} is no token of this model, whose ids end at "
                raise Refusal(f"{message}{engine.vocabulary_size - 1}", param=f"prompt.{place}")
        return list(self.prompt)

    def sampling(self, *, max_tokens: int, temperature: float) -> Sampling:
        made = super().sampling(max_tokens=max_tokens, temperature=temperature)
        return replace(made, stop_ids=tuple(self.stop_token_ids))


class TextForm:
    """Texts, and with ``shows_ids`` their ids."""

    id_prefix, kind, chunk_kind = "cmpl", "text_completion", "text_completion"

    def __init__(self, shows_ids: bool) -> None:
        self._shows_ids = shows_ids

    def choice(self, reply: Reply) -> dict[str, Any]:
        return {"text": reply.text, **self._ids(reply.ids)}

    def parts(self, piece: Piece, first: bool) -> Iterator[dict[str, Any]]:
        yield {"text": piece.text, "finish_reason": piece.finish, **self._ids(piece.ids)}

    def _ids(self, ids: Sequence[int]) -> dict[str, Any]:
        return {"token_ids": list(ids)} if self._shows_ids else {}
