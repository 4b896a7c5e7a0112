"""The wire format: which requests are accepted, and what replies, streamed chunks and errors look like.

Owns what all requests for text share, and chat completions; those of plain text are in tasks.serving.completions.
Every field of a request is honoured or refused by name, none is dropped silently; a null field is not given.
Source: OpenAI API reference, chat completions (request, response object, streamed chunk object, errors).
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal, Protocol, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator
from pydantic_core import PydanticCustomError, from_json

from tasks import plugins
from tasks.conversation import Message
from tasks.serving.engine import Engine, FinishReason, Piece, Sampling

#: Fields that the API has and this server does not: refused with this reason rather than as a typing error.
UNSUPPORTED = {
    "tools": "tool calls are not supported",
    "tool_choice": "tool calls are not supported",
    "parallel_tool_calls": "tool calls are not supported",
    "functions": "function calls are not supported",
    "function_call": "function calls are not supported",
    "response_format": "constrained output is not supported",
    "logprobs": "log probabilities are not supported",
    "top_logprobs": "log probabilities are not supported",
    "logit_bias": "logit bias is not supported",
    "modalities": "only text is supported",
    "audio": "only text is supported",
}


class Refusal(Exception):
    """A request that is answered with an error.

    Attributes:
        status: HTTP status.
        param: the field to blame, if one is.
        code: a word for programs.
    """

    def __init__(
        self, message: str, *, status: int = 400, param: str | None = None, code: str = "invalid_value"
    ) -> None:
        super().__init__(message)
        self.status, self.param, self.code = status, param, code

    def body(self) -> dict[str, Any]:
        return error_body(str(self), status=self.status, param=self.param, code=self.code)


def error_body(message: str, *, status: int, param: str | None = None, code: str | None = None) -> dict[str, Any]:
    """The JSON of an error reply."""
    kinds = {401: "authentication_error", 429: "rate_limit_error"}
    kind = kinds.get(status, "server_error" if status >= 500 else "invalid_request_error")
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)


class TextPart(_Strict):
    type: Literal["text"]
    text: str


class ChatMessage(_Strict):
    role: Literal["system", "user", "assistant"]
    content: str | Annotated[list[TextPart], Field(fail_fast=True)]  # a megabyte of bad parts: one error, not 600,000

    @property
    def message(self) -> Message:
        content = self.content
        return Message(self.role, content if isinstance(content, str) else "".join(part.text for part in content))


class StreamOptions(_Strict):
    include_usage: bool = False


StopText = Annotated[str, Field(min_length=1, max_length=64)]


class Request(_Strict):
    """What all requests for text share; ``repetition_penalty`` is an extension, ``user`` has no effect.

    Attributes:
        unsupported: fields that the API has and this server does not, and what to say of them.
        prompt_field: where the prompt stands.
        form: how the replies are written.
    """

    unsupported: ClassVar[Mapping[str, str]]
    prompt_field: ClassVar[str]

    model: str
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float = Field(1.0, gt=0, le=1)
    max_tokens: int | None = Field(None, ge=1)
    stop: StopText | Annotated[list[StopText], Field(max_length=4)] = Field(default_factory=list)
    n: int = Field(1, ge=1, le=8)
    seed: int | None = Field(None, ge=-(1 << 63), lt=1 << 63)
    presence_penalty: float = Field(0.0, ge=-2, le=2)
    frequency_penalty: float = Field(0.0, ge=-2, le=2)
    repetition_penalty: float = Field(1.0, gt=0, le=2)
    stream: bool = False
    stream_options: StreamOptions | None = None
    user: str | None = None

    @model_validator(mode="after")
    def _streams(self) -> Request:
        if self.stream_options is not None and not self.stream:
            raise PydanticCustomError("stream_options", "stream_options: only allowed with stream=true")
        return self

    @property
    def limit(self) -> int | None:
        """Most tokens of a reply; None leaves it to the server."""
        return self.max_tokens

    @property
    def form(self) -> Form:
        raise NotImplementedError

    def prompt_ids(self, engine: Engine) -> list[int]:
        """The prompt's token ids, from any thread. Raises UserError, or Refusal: not a prompt for this model."""
        raise NotImplementedError

    @property
    def include_usage(self) -> bool:
        return self.stream_options is not None and self.stream_options.include_usage

    def sampling(self, *, max_tokens: int, temperature: float) -> Sampling:
        """The engine's view of the request; the arguments are the server's defaults, resolved."""
        return Sampling(
            max_tokens=max_tokens,
            temperature=temperature if self.temperature is None else self.temperature,
            top_p=self.top_p,
            presence_penalty=self.presence_penalty,
            frequency_penalty=self.frequency_penalty,
            repetition_penalty=self.repetition_penalty,
            stop=(self.stop,) if isinstance(self.stop, str) else tuple(self.stop),
            seed=self.seed,
            n=self.n,
        )


class ChatRequest(Request):
    """The body of POST /v1/chat/completions."""

    unsupported = UNSUPPORTED
    prompt_field = "messages"

    messages: list[ChatMessage] = Field(min_length=1, max_length=1024)
    max_completion_tokens: int | None = Field(None, ge=1)

    @field_validator("messages")
    @classmethod
    def _order(cls, messages: list[ChatMessage]) -> list[ChatMessage]:
        roles = [m.role for m in messages]
        if "system" in roles[1:]:
            raise PydanticCustomError("role_order", "a system message may only be the first one")
        if roles[-1] != "user":
            raise PydanticCustomError(
                "role_order", "the last message must be the user's, not the {role}'s", {"role": roles[-1]}
            )
        return messages

    @model_validator(mode="after")
    def _consistent(self) -> ChatRequest:
        if None not in (self.max_tokens, self.max_completion_tokens) and self.max_tokens != self.max_completion_tokens:
            raise PydanticCustomError("max_tokens", "max_tokens and max_completion_tokens differ: give one of them")
        return self

    @property
    def limit(self) -> int | None:
        return self.max_completion_tokens or self.max_tokens

    @property
    def dialogue(self) -> list[Message]:
        return [m.message for m in self.messages]

    @property
    def form(self) -> Form:
        return ChatForm()

    def prompt_ids(self, engine: Engine) -> list[int]:
        return engine.prompt_ids(self.dialogue)


AnyRequest = TypeVar("AnyRequest", bound=Request)


def parse(body: bytes, kind: type[AnyRequest]) -> AnyRequest:
    """Read the body of a request of that kind. Raises Refusal: status 400, naming the field."""
    try:
        value = from_json(body, allow_inf_nan=False)
    except ValueError as error:
        raise Refusal(f"the body is not valid JSON: {error}", code="invalid_json") from None
    if not isinstance(value, dict):
        raise Refusal("the body must be a JSON object", code="invalid_json")
    given = {key: item for key, item in value.items() if item is not None}
    for name in given:
        if name in kind.unsupported:
            raise Refusal(f"{name}: {kind.unsupported[name]}", param=name, code="unsupported_parameter")
    try:
        return kind.model_validate(given)
    except ValidationError as error:
        raise _refusal(error, sorted(kind.model_fields)) from None


def _refusal(error: ValidationError, fields: list[str]) -> Refusal:
    """The first problem in one line; its text holds no input, which may be private."""
    problems = error.errors(include_url=False, include_context=False, include_input=False)
    # of a field that may have several types, the deepest problem is that of the type that was meant
    problem = max((p for p in problems if p["loc"][:1] == problems[0]["loc"][:1]), key=lambda p: len(p["loc"]))
    # pydantic adds the tried type of a union to the place: ("messages", 0, "content", "str")
    unknown = problem["type"] == "extra_forbidden"
    own = len(problem["loc"]) - 1 if unknown else None  # the client's own word, whatever it reads like
    place = [str(part) for i, part in enumerate(problem["loc"]) if i == own or not _is_type_name(part)]
    param = ".".join(place) or None
    if unknown:
        name = place[-1]
        hint = f"; {plugins.nearest(name, fields)}" if len(place) == 1 else ""
        return Refusal(f"{param}: unknown field{hint}"[:600], param=param, code="unknown_parameter")
    code = "missing_required_parameter" if problem["type"] == "missing" else "invalid_value"
    message = problem["msg"] if param is None else f"{param}: {problem['msg']}"
    return Refusal(message, param=param, code=code)


def _is_type_name(part: str | int) -> bool:
    return isinstance(part, str) and (part == "str" or part.startswith(("list[", "constrained-str")))


# --- replies ----------------------------------------------------------------------------------------------


def usage(prompt: int, completion: int) -> dict[str, int]:
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}


@dataclass
class Reply:
    """One reply as it is put together from its pieces.

    Attributes:
        ids: its tokens, the one that ended it included.
    """

    text: str = ""
    finish: FinishReason = "length"
    tokens: int = 0
    ids: list[int] = field(default_factory=list)

    def add(self, piece: Piece) -> None:
        self.text += piece.text
        self.ids += piece.ids
        if piece.finish:
            self.finish, self.tokens = piece.finish, piece.tokens


class Form(Protocol):
    """How the replies to one kind of request are written.

    Attributes:
        id_prefix: of a reply's id.
        kind: "object" of a whole reply; chunk_kind: that of a streamed part.
    """

    id_prefix: str
    kind: str
    chunk_kind: str

    def choice(self, reply: Reply) -> dict[str, Any]:
        """What a whole reply holds beside its index and finish reason."""
        ...

    def parts(self, piece: Piece, first: bool) -> Iterator[dict[str, Any]]:
        """The same for the streamed parts that one piece becomes; ``first``: nothing of this reply was sent yet."""
        ...


class ChatForm:
    """Messages, and deltas of them: the role, the text in parts, and an empty one with the finish reason."""

    id_prefix, kind, chunk_kind = "chatcmpl", "chat.completion", "chat.completion.chunk"

    def choice(self, reply: Reply) -> dict[str, Any]:
        return {"message": {"role": "assistant", "content": reply.text}}

    def parts(self, piece: Piece, first: bool) -> Iterator[dict[str, Any]]:
        if first:
            yield {"delta": {"role": "assistant", "content": ""}}
        if piece.text:
            yield {"delta": {"content": piece.text}}
        if piece.finish:
            yield {"delta": {}, "finish_reason": piece.finish}


def completion(form: Form, id: str, model: str, replies: Sequence[Reply], prompt_tokens: int) -> dict[str, Any]:
    """The whole answer, one choice a reply."""
    choices = [
        {"index": i, "logprobs": None, "finish_reason": reply.finish, **form.choice(reply)}
        for i, reply in enumerate(replies)
    ]
    counts = usage(prompt_tokens, sum(reply.tokens for reply in replies))
    return {**_head(id, model, form.kind), "choices": choices, "usage": counts}


def chunks(form: Form, id: str, model: str, piece: Piece, first: bool) -> Iterator[dict[str, Any]]:
    """The streamed parts of one piece."""
    for part in form.parts(piece, first):
        choice = {"index": piece.index, "logprobs": None, "finish_reason": None, **part}
        yield {**_head(id, model, form.chunk_kind), "choices": [choice]}


def usage_chunk(form: Form, id: str, model: str, counts: dict[str, int]) -> dict[str, Any]:
    """The last part of a stream whose request asked for usage: no choices."""
    return {**_head(id, model, form.chunk_kind), "choices": [], "usage": counts}


def event(value: dict[str, Any] | str) -> bytes:
    """One server-sent event."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return f"data: {text}\n\n".encode()


def _head(id: str, model: str, kind: str) -> dict[str, Any]:
    return {"id": id, "object": kind, "created": int(time.time()), "model": model}
