"""POST /v1/completions: raw token ids and texts, asked of a real server, also with the official client."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
import torch
from pydantic import ValidationError

from tasks.errors import DataError
from tasks.models import loading
from tasks.models.loading import Loaded
from tasks.models.rendering import Renderer
from tasks.serving.api import Service, create_app
from tasks.serving.completions import CompletionRequest
from tasks.serving.engine import Piece, Sampling
from tasks.serving.engines.transformers import TransformersEngine
from tasks.serving.process import Server
from tasks.serving.wire import Refusal, parse

PROMPT = [3, 4, 6, 265, 266, 300, 7]  # [gMASK] sop <|user|> text <|assistant|>


@pytest.fixture
def http_client(server: Server) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url, trust_env=False, timeout=60) as raw:
        yield raw


@pytest.fixture(scope="module")
def loaded(model: Path) -> Loaded:
    torch.set_num_threads(1)
    return loading.load(model)


def complete(http_client: httpx.Client, **fields: Any) -> dict[str, Any]:
    response = http_client.post("/v1/completions", json={"model": "tiny", **fields})
    assert response.status_code == 200, response.text
    value: dict[str, Any] = response.json()
    return value


def refused(http_client: httpx.Client, **fields: Any) -> dict[str, Any]:
    response = http_client.post("/v1/completions", json={"model": "tiny", **fields})
    assert response.status_code == 400, response.text
    error: dict[str, Any] = response.json()["error"]
    return error


def test_token_ids_are_continued_as_they_are(http_client: httpx.Client, loaded: Loaded) -> None:
    prompt = torch.tensor([PROMPT])
    output = loaded.model.generate(input_ids=prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=9)
    expected = output[0, len(PROMPT) :].tolist()
    value = complete(http_client, prompt=PROMPT, max_tokens=9, return_token_ids=True)
    choice = value["choices"][0]
    assert choice["token_ids"] == expected
    assert choice["text"] == loaded.tokenizer.decode(expected)
    assert (choice["index"], choice["finish_reason"], value["object"]) == (0, "length", "text_completion")
    assert value["id"].startswith("cmpl-")
    assert value["usage"] == {"prompt_tokens": 7, "completion_tokens": 9, "total_tokens": 16}


def test_ids_are_shown_where_they_are_asked_for_only(http_client: httpx.Client) -> None:
    assert "token_ids" not in complete(http_client, prompt=PROMPT, max_tokens=1)["choices"][0]


def test_sixteen_tokens_are_the_default(http_client: httpx.Client) -> None:
    assert complete(http_client, prompt=PROMPT)["usage"]["completion_tokens"] == 16


def test_a_text_is_a_persons_its_control_tokens_are_text(http_client: httpx.Client, loaded: Loaded) -> None:
    count = complete(http_client, prompt="<|user|>头", max_tokens=1)["usage"]["prompt_tokens"]
    assert count == len("<|user|>头")
    assert loaded.tokenizer.encode("<|user|>头", add_special_tokens=False)[0] == 6  # what it must not become


def test_a_texts_ids_give_the_same_reply_as_the_text(http_client: httpx.Client, loaded: Loaded) -> None:
    ids = loaded.tokenizer.convert_tokens_to_ids(list("头痛"))
    by_text = complete(http_client, prompt="头痛", max_tokens=8)
    by_ids = complete(http_client, prompt=ids, max_tokens=8)
    assert (by_text["choices"], by_text["usage"]) == (by_ids["choices"], by_ids["usage"])


def test_a_stop_token_ends_the_reply_is_not_written_and_is_among_the_ids(http_client: httpx.Client) -> None:
    ids = complete(http_client, prompt=PROMPT, max_tokens=12, return_token_ids=True)["choices"][0]["token_ids"]
    stop = ids[5]
    first = ids.index(stop)
    value = complete(http_client, prompt=PROMPT, max_tokens=12, stop_token_ids=[stop, 2], return_token_ids=True)
    choice = value["choices"][0]
    assert (choice["token_ids"], choice["finish_reason"]) == (ids[: first + 1], "stop")
    assert len(choice["text"]) == first
    assert value["usage"]["completion_tokens"] == first + 1


def test_a_stream_is_the_whole_reply_in_parts(http_client: httpx.Client) -> None:
    fields = {"prompt": PROMPT, "max_tokens": 7, "return_token_ids": True}
    whole = complete(http_client, **fields)
    streamed = {"stream": True, "stream_options": {"include_usage": True}}
    response = http_client.post("/v1/completions", json={"model": "tiny", **fields, **streamed})
    events = [line.removeprefix("data: ") for line in response.text.split("\n\n") if line]
    assert events[-1] == "[DONE]"
    *parts, last = map(json.loads, events[:-1])
    choices = [part["choices"][0] for part in parts]
    assert "".join(choice["text"] for choice in choices) == whole["choices"][0]["text"]
    assert [i for choice in choices for i in choice["token_ids"]] == whole["choices"][0]["token_ids"]
    assert [choice["finish_reason"] for choice in choices] == [*[None] * (len(choices) - 1), "length"]
    assert len(choices) > 5
    assert (last["choices"], last["usage"]) == ([], whole["usage"])


def test_the_official_client_completes_text(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", server.host)
    official = openai.OpenAI(base_url=f"{server.url}/v1", api_key="unused", max_retries=0)
    fields: dict[str, Any] = {"model": "tiny", "prompt": "头痛", "temperature": 1.0, "seed": 3, "max_tokens": 6}
    whole = official.completions.create(**fields, n=2)
    assert [choice.index for choice in whole.choices] == [0, 1]
    assert whole.choices[0].text != whole.choices[1].text
    again = official.completions.create(**fields, stream=True)
    assert "".join(part.choices[0].text for part in again) == whole.choices[0].text
    with pytest.raises(openai.BadRequestError, match="echo"):
        official.completions.create(**fields, echo=True)


def test_ids_beyond_the_vocabulary_are_refused_by_their_place(http_client: httpx.Client, loaded: Loaded) -> None:
    size = loaded.model.config.vocab_size
    error = refused(http_client, prompt=[5, size])
    assert error["param"] == "prompt.1"
    assert error["message"] == f"prompt.1: {size} is no token of this model, whose ids end at {size - 1}"
    complete(http_client, prompt=[5, size - 1], max_tokens=1)


def test_a_prompt_beyond_the_context_is_refused_with_the_numbers(http_client: httpx.Client) -> None:
    error = refused(http_client, prompt=[300] * 4090)
    assert (error["param"], error["code"]) == ("prompt", "context_length_exceeded")
    assert error["message"].startswith("prompt: 4090 tokens and 16 for the reply make 4106")


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({}, "prompt"),
        ({"prompt": ""}, "prompt"),
        ({"prompt": []}, "prompt"),
        ({"prompt": 5}, "prompt"),
        ({"prompt": [1, -1]}, "prompt.1"),
        ({"prompt": [1, True]}, "prompt.1"),
        ({"prompt": [1, 2.0]}, "prompt.1"),
        ({"prompt": "a", "max_tokens": 0}, "max_tokens"),
        ({"prompt": "a", "stop_token_ids": [-1]}, "stop_token_ids.0"),
        ({"prompt": "a", "stop_token_ids": [1] * 65}, "stop_token_ids"),
        ({"prompt": "a", "skip_special_tokens": False}, "skip_special_tokens"),
        ({"prompt": "a", "top_k": 5}, "top_k"),
        ({"prompt": "a", "min_p": 0.1}, "min_p"),
        ({"prompt": "a", "max_completion_tokens": 5}, "max_completion_tokens"),
        ({"prompt": "a", "messages": []}, "messages"),
        ({"prompt": "a", "suffix": "b"}, "suffix"),
        ({"prompt": "a", "best_of": 2}, "best_of"),
        ({"prompt": "a", "logprobs": 1}, "logprobs"),
        ({"prompt": "a", "stream_options": {"include_usage": True}}, None),
    ],
)
def test_a_bad_field_is_refused_by_its_name(fields: dict[str, Any], param: str | None) -> None:
    with pytest.raises(Refusal) as caught:
        parse(json.dumps({"model": "tiny", **fields}).encode(), CompletionRequest)
    assert caught.value.param == param


@pytest.mark.parametrize(("field", "most"), [("prompt", 2), ("stop_token_ids", 65)])  # "no text", too; its length
def test_many_bad_ids_are_one_error_and_not_one_each(field: str, most: int) -> None:
    with pytest.raises(ValidationError) as caught:
        CompletionRequest.model_validate({"model": "tiny", "prompt": "a", field: [-1] * 1000})
    assert caught.value.error_count() <= most


@pytest.mark.parametrize("prompt", [["a", "b"], [[1, 2], [3]]])
def test_several_prompts_are_refused_in_so_many_words(prompt: Any) -> None:
    with pytest.raises(Refusal, match="prompt: one prompt a request"):
        parse(json.dumps({"model": "tiny", "prompt": prompt}).encode(), CompletionRequest)


def test_every_field_is_honoured_or_known_to_have_no_effect() -> None:
    used = {"model", "prompt", "max_tokens", "stream", "stream_options", "user", "stop_token_ids", "return_token_ids"}
    off = {"skip_special_tokens", "top_k", "min_p"}  # accepted with the value that the server follows anyway
    assert set(CompletionRequest.model_fields) <= used | off | set(Sampling.__dataclass_fields__)


# --- the engine ---------------------------------------------------------------------------------------------


def pieces(loaded: Loaded, prompt: list[int], sampling: Sampling) -> list[Piece]:
    engine = TransformersEngine(loaded, queue_limit=2)

    async def go() -> list[Piece]:
        return [piece async for piece in engine.submit(prompt, sampling)]

    try:
        return asyncio.run(go())
    finally:
        engine.close()


def test_ids_of_half_characters_arrive_with_the_piece_that_completes_them(loaded: Loaded) -> None:
    # only the byte tokens of 龘 (E9 BE 98) in turn, then the end
    ids = [loaded.tokenizer.convert_tokens_to_ids(f"<0x{byte:02X}>") for byte in "龘".encode()]

    class Forced(torch.nn.Module):
        """A model whose likeliest next token is told by the length of its input."""

        config, generation_config, device = loaded.model.config, None, torch.device("cpu")

        def get_input_embeddings(self) -> Any:
            return loaded.model.get_input_embeddings()

        def generate(self, *, input_ids: Any, logits_processor: Any, stopping_criteria: Any, **_: Any) -> None:
            for token in [*ids, 2]:
                logits = torch.full((1, self.config.vocab_size), -1.0)
                logits[0, token] = 1.0
                logits_processor(input_ids, logits)
                if bool(stopping_criteria(input_ids, logits).all()):
                    return

    made = pieces(replace(loaded, model=Forced()), [300], Sampling(8))
    assert [(piece.text, piece.ids) for piece in made] == [("龘", tuple(ids)), ("", (2,))]


def test_a_text_gets_the_tokenizers_own_opening_tokens(loaded: Loaded) -> None:
    from tokenizers.processors import TemplateProcessing

    tokenizer = loading.load_tokenizer(Path(loaded.tokenizer.name_or_path))
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    renderer = Renderer(tokenizer, loaded.renderer._layout, [2])
    engine = TransformersEngine(replace(loaded, tokenizer=tokenizer, renderer=renderer), queue_limit=2)
    try:
        assert engine.text_ids("头") == [1, tokenizer.convert_tokens_to_ids("头")]
    finally:
        engine.close()


def test_a_text_that_cannot_be_spelled_is_a_bad_request_without_the_reason() -> None:
    class Unspeakable:
        context_tokens, vocabulary_size, alive = 100, 10, True

        def text_ids(self, text: str) -> list[int]:
            raise DataError(f"/secret/place: {text}")

    async def go() -> httpx.Response:
        app = create_app(Service(name="m", instance="i", host="127.0.0.1", engine=Unspeakable()))  # type: ignore[arg-type]
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://127.0.0.1") as client:
            return await client.post("/v1/completions", json={"model": "m", "prompt": "张三"})

    response = asyncio.run(go())
    assert (response.status_code, response.json()["error"]["param"]) == (400, "prompt")
    assert "secret" not in response.text
    assert "张三" not in response.text
