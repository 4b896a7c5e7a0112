"""The transformers engine chooses tokens as the API says, on models of every kind; values computed by hand."""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tasks.conversation import Message
from tasks.models import loading
from tasks.models.rendering import Renderer
from tasks.serving.engine import Piece, Sampling
from tasks.serving.engines.transformers import TransformersEngine, _Chooser

ASKED = [Message("user", "头痛发热吗")]


def chosen(logits: list[float], sampling: Sampling, *, before: list[int], prompt: list[int], seed: int = 0) -> int:
    """The token chosen after the reply's tokens ``before``; logits: [vocabulary]."""
    chooser = _Chooser(sampling, seed, lambda _: True)
    for token in before:
        forced = torch.full((1, len(logits)), -1e9)
        forced[0, token] = 1e9
        chooser.choose(torch.tensor([prompt]), forced)
    scores = chooser.choose(torch.tensor([prompt + before]), torch.tensor([logits]))
    assert torch.isfinite(scores).sum() == 1
    return int(scores.argmax())


def test_greedy_takes_the_largest() -> None:
    assert chosen([0.0, 3.0, 2.0], Sampling(9), before=[], prompt=[1]) == 1


@pytest.mark.parametrize(
    ("penalties", "token"),
    [
        ({}, 0),  # 3.0 against 2.5 and 1.0
        ({"presence_penalty": 0.4}, 0),  # 2.6 against 2.5
        ({"presence_penalty": 0.6}, 1),  # 2.4 against 2.5: once, although the reply holds it twice
        ({"frequency_penalty": 0.2}, 0),  # 3.0 - 2 * 0.2 = 2.6
        ({"frequency_penalty": 0.3}, 1),  # 3.0 - 2 * 0.3 = 2.4
        ({"repetition_penalty": 1.25}, 1),  # 3.0 / 1.25 = 2.4 against 2.5
    ],
)
def test_penalties_lower_what_the_reply_holds(penalties: dict[str, Any], token: int) -> None:
    assert chosen([3.0, 2.5, 1.0], Sampling(9, **penalties), before=[0, 0], prompt=[2]) == token


def test_presence_and_frequency_penalties_do_not_count_the_prompt_and_repetition_does() -> None:
    logits = [3.0, 2.5]
    assert chosen(logits, Sampling(9, presence_penalty=2, frequency_penalty=2), before=[], prompt=[0]) == 0
    assert chosen(logits, Sampling(9, repetition_penalty=1.25), before=[], prompt=[0]) == 1


def test_repetition_penalty_passes_over_the_virtual_tokens_of_a_trained_prompt() -> None:
    assert chosen([3.0, 2.5], Sampling(9, repetition_penalty=1.25), before=[], prompt=[2, 3, 0]) == 1


def test_a_repetition_penalty_lowers_negative_logits_too() -> None:
    assert chosen([-2.0, -2.2], Sampling(9, repetition_penalty=1.25), before=[], prompt=[0]) == 1


def test_the_nucleus_is_the_smallest_set_that_reaches_top_p() -> None:
    logits = [math.log(p) for p in (0.5, 0.3, 0.15, 0.05)]

    def seen(top_p: float) -> set[int]:
        sampling = Sampling(9, temperature=1.0, top_p=top_p)
        return {chosen(logits, sampling, before=[], prompt=[0], seed=seed) for seed in range(200)}

    assert seen(0.49) == {0}
    assert seen(0.75) == {0, 1}
    assert seen(0.9) == {0, 1, 2}
    assert seen(1.0) == {0, 1, 2, 3}


def test_temperature_divides_the_logits() -> None:
    # softmax([2 ln 3, 0] / 2) = [3/4, 1/4]; 4 sigma of 2,000 draws is 0.039
    logits = [2 * math.log(3), 0.0]
    sampling = Sampling(9, temperature=2.0)
    draws = Counter(chosen(logits, sampling, before=[], prompt=[0], seed=seed) for seed in range(2000))
    assert draws[0] / 2000 == pytest.approx(0.75, abs=0.04)


async def collect(engine: TransformersEngine, sampling: Sampling) -> list[Piece]:
    return [piece async for piece in engine.submit(engine.prompt_ids(ASKED), sampling)]


def generate(loaded: loading.Loaded, sampling: Sampling) -> list[Piece]:
    engine = TransformersEngine(loaded, queue_limit=4)
    try:
        return asyncio.run(collect(engine, sampling))
    finally:
        engine.close()


def test_the_models_own_stop_token_ends_a_reply_and_is_counted_but_not_shown(model: Path) -> None:
    loaded = loading.load(model)
    text = "".join(piece.text for piece in generate(loaded, Sampling(20)))
    stop = loaded.tokenizer.convert_tokens_to_ids(text[5])
    renderer = Renderer(loaded.tokenizer, loaded.renderer._layout, [stop])
    pieces = generate(replace(loaded, renderer=renderer), Sampling(20))
    first = text.index(text[5])
    assert "".join(piece.text for piece in pieces) == text[:first]
    assert (pieces[-1].finish, pieces[-1].tokens) == ("stop", first + 1)


def test_generation_defaults_of_a_checkpoint_are_not_mixed_in(model: Path) -> None:
    plain = generate(loading.load(model), Sampling(20))
    loaded = loading.load(model)
    config: Any = loaded.model.generation_config
    config.do_sample, config.temperature, config.repetition_penalty = True, 1.7, 1.9
    config.max_new_tokens = 3
    assert generate(loaded, Sampling(20)) == plain


def test_a_failing_generation_is_reported_and_the_next_one_works(model: Path) -> None:
    loaded = loading.load(model)
    engine = TransformersEngine(loaded, queue_limit=4)

    async def both() -> list[Piece]:
        with pytest.raises(IndexError):
            async for _ in engine.submit([10**6], Sampling(2)):  # no such token: the embedding fails
                pass
        return await collect(engine, Sampling(2))

    assert len(asyncio.run(both())) == 3
    assert engine.alive
    engine.close()
    assert not engine.alive


@pytest.mark.slow
def test_a_prefix_model_streams_what_its_own_generate_gives(model: Path) -> None:
    from peft import PrefixTuningConfig, get_peft_model

    loaded = loading.load(model)
    torch.manual_seed(3)
    prefix = get_peft_model(loaded.model, PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4)).eval()
    with torch.no_grad():
        for parameter in prefix.prompt_encoder.parameters():
            parameter.normal_()
    prompt = torch.tensor([loaded.renderer.prompt_ids(ASKED)])
    ids = prefix.generate(input_ids=prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=20)
    expected = loaded.renderer.decode(ids[0, prompt.shape[1] :].tolist())
    pieces = generate(replace(loaded, model=prefix), Sampling(20))
    assert "".join(piece.text for piece in pieces) == expected
    engine = TransformersEngine(replace(loaded, model=prefix), queue_limit=4)
    assert engine.context_tokens == 4096 - 4
    engine.close()
    plain = generate(loading.load(model), Sampling(20))
    assert "".join(piece.text for piece in plain) != expected
