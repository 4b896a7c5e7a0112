"""The decoding loop beside transformers' generate: every family, methods that change inputs, rows that come and go."""

from __future__ import annotations

import functools
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[2]))

from tiny_models import FAMILIES

from tasks import plugins
from tasks.models import decoding, growing_cache, loading
from tasks.models.decoding import Reply
from tasks.models.sampling import Constrained, Sampler, Sampling, greedy_choice

torch.set_num_threads(1)

NEW_TOKENS = 12
#: Families whose positions are told by columns, or whose cache forgets: prompts cannot join rows under way.
IN_BATCHES = {"chatglm", "bloom", "cpmant", "gemma"}


@functools.cache
def base(family: str) -> Any:
    folder = Path(tempfile.mkdtemp(prefix="weitiao-decoding-")) / family
    FAMILIES[family](folder)
    return loading.load_base(folder, "cpu", "float32").eval()


@functools.cache
def tuned(method: str, **settings: Any) -> Any:
    """A ChatGLM3 with a method's random, not zero, parameters."""
    folder = Path(tempfile.mkdtemp(prefix="weitiao-decoding-")) / "base"
    FAMILIES["chatglm3"](folder)
    module = plugins.load("tasks.methods", method, key="method")
    model = module.attach(
        loading.load_base(folder, "cpu", "float32"), module.Config(name=method, **(settings or {}))
    ).eval()
    torch.manual_seed(3)
    for parameter in model.parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter, std=0.3)
    return model


def prompts(model: Any, count: int = 9) -> list[list[int]]:
    """Prompts of 3 to 14 tokens, longest first; ChatGLM-6B's end as its prompts do."""
    config, random = model.config, torch.Generator().manual_seed(1)
    end = [config.gmask_token_id, config.bos_token_id] if config.model_type == "weitiao_chatglm" else []
    lengths = sorted((int(n) for n in torch.randint(3, 15, (count,), generator=random)), reverse=True)
    return [torch.randint(20, config.vocab_size, (n,), generator=random).tolist() + end for n in lengths]


def generated(model: Any, batch: Sequence[Sequence[int]], stop_ids: Sequence[int]) -> list[Reply]:
    """transformers' own loop, as any program would call it."""
    ids, mask = decoding.left_padded(batch, pad_id=0, device="cpu")
    with torch.inference_mode():
        out = model.generate(
            input_ids=ids, attention_mask=mask, do_sample=False, max_new_tokens=NEW_TOKENS, pad_token_id=0,
            eos_token_id=list(stop_ids),
        )  # fmt: skip
    return [decoding.cut(row, stop_ids) for row in out[:, ids.shape[1] :].tolist()]


def streamed(
    model: Any, batch: Sequence[Sequence[int]], stop_ids: Sequence[int], slots: int, **more: Any
) -> list[Reply]:
    found = decoding.stream(model, batch, stop_ids=stop_ids, max_new_tokens=NEW_TOKENS, slots=slots, **more)
    pairs = [pair for group in found for pair in group]
    assert sorted(index for index, _ in pairs) == list(range(len(batch)))
    return [reply for _, reply in sorted(pairs, key=lambda pair: pair[0])]


def stops_for(model: Any, batch: Sequence[Sequence[int]]) -> list[int]:
    """Stop tokens with which replies end at different places, and some do not end."""
    free = generated(model, batch, [model.config.vocab_size - 1])
    return sorted({free[0].ids[1], free[1].ids[4], free[2].ids[8]})


def same(found: Sequence[Reply], expected: Sequence[Reply]) -> None:
    assert [(r.ids, r.finish_reason) for r in found] == [(r.ids, r.finish_reason) for r in expected]


@pytest.mark.parametrize("slots", [9, 4, 1])
@pytest.mark.parametrize("family", FAMILIES)
def test_replies_are_those_of_generate_whatever_is_decoded_together(family: str, slots: int) -> None:
    model = base(family)
    batch = prompts(model)
    stop_ids = stops_for(model, batch)
    expected = generated(model, batch, stop_ids)
    lengths = {len(reply.ids) for reply in expected}
    assert len(lengths) > 1, "rows have to end at different steps"
    same(streamed(model, batch, stop_ids, slots), expected)
    assert decoding.way(model) == ("batches" if family in IN_BATCHES else "continuous")


@pytest.mark.parametrize("family", ["llama", "chatglm"])
def test_tokens_that_are_looked_at_seldom_as_on_a_gpu_make_the_same_replies(
    family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = base(family)
    batch = prompts(model)
    stop_ids = stops_for(model, batch)
    monkeypatch.setitem(decoding._LOOK, "cpu", 5)  # neither divides the limit of tokens nor any reply's length
    for slots in (9, 3):
        same(streamed(model, batch, stop_ids, slots), generated(model, batch, stop_ids))


@pytest.mark.parametrize(
    ("method", "settings"),
    [
        ("lora", {"r": 2, "lora_dropout": 0.0}),
        ("ptuning_v2", {"num_virtual_tokens": 3}),
        ("prompt_tuning", {"num_virtual_tokens": 3}),
        ("ptuning", {"num_virtual_tokens": 3}),
    ],
)
def test_replies_of_tuned_models_are_those_of_generate(method: str, settings: dict[str, Any]) -> None:
    model = tuned(method, **settings)
    batch = prompts(model)
    stop_ids = stops_for(model, batch)
    expected = generated(model, batch, stop_ids)
    assert [r.ids for r in expected] != [r.ids for r in generated(base("chatglm3"), batch, stop_ids)]
    for slots in (9, 3):
        same(streamed(model, batch, stop_ids, slots), expected)
    assert decoding.way(model) == "continuous"


def test_a_prompt_of_another_program_is_left_to_generate() -> None:
    from peft import PromptTuningConfig, get_peft_model

    torch.manual_seed(2)
    folder = Path(tempfile.mkdtemp(prefix="weitiao-decoding-")) / "base"
    FAMILIES["llama"](folder)
    plain = loading.load_base(folder, "cpu", "float32")
    model = get_peft_model(plain, PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3)).eval()
    batch = prompts(model)
    stop_ids = [model.config.vocab_size - 1]
    assert decoding.way(model) == "generate"
    # such a prompt stands before the padding, so that replies depend on the batch
    expected = [
        reply for start in range(0, len(batch), 4) for reply in generated(model, batch[start : start + 4], stop_ids)
    ]
    same(streamed(model, batch, stop_ids, 4), expected)


def test_seconds_of_the_replies_sum_to_no_more_than_the_whole_took() -> None:
    import time

    model = base("llama")
    started = time.monotonic()
    replies = streamed(model, prompts(model), [0], 4)
    assert 0 < sum(reply.seconds for reply in replies) <= time.monotonic() - started


def test_prompts_join_rows_under_way_and_replies_come_before_the_last_prompt_is_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Rows of the model's calls: with 4 slots and 9 prompts there is never more, and rows are dropped at the end."""
    model = base("llama")
    batch = prompts(model)
    stop_ids = stops_for(model, batch)
    sizes: list[tuple[int, int]] = []
    forward = type(model).forward

    def noted(self: Any, input_ids: Any, **options: Any) -> Any:
        sizes.append(tuple(input_ids.shape))
        return forward(self, input_ids=input_ids, **options)

    monkeypatch.setattr(decoding, "takes", lambda model, argument: True)
    monkeypatch.setattr(type(model), "forward", noted)
    streamed(model, batch, stop_ids, 4)
    prefills = [rows for rows, tokens in sizes if tokens > 1]
    steps = [rows for rows, tokens in sizes if tokens == 1]
    assert sum(prefills) == len(batch) and prefills[0] == 4 and len(prefills) > 3
    assert max(steps) == 4 and steps[-1] < 4
    tokens = sum(len(r.ids) + (r.finish_reason == "stop") for r in generated(model, batch, stop_ids))
    assert sum(steps) < len(batch) * NEW_TOKENS and sum(steps) >= tokens - len(batch)


def test_a_growing_layer_holds_what_a_concatenating_one_holds() -> None:
    from transformers.cache_utils import DynamicLayer

    random = torch.Generator().manual_seed(0)
    grown, plain = growing_cache.GrowingLayer(), DynamicLayer()
    for columns in (5, *[1] * 150):
        new = [torch.randn(3, 2, columns, 4, generator=random) for _ in range(2)]
        for layer in (grown, plain):
            layer.update(*new)
    assert torch.equal(grown.keys, plain.keys) and torch.equal(grown.values, plain.values)
    assert grown.get_seq_length() == 155
    other = growing_cache.GrowingLayer()
    other.update(torch.ones(1, 2, 2, 4), torch.ones(1, 2, 2, 4))
    grown.arrange(torch.tensor([2, 0]), 150, other)
    assert torch.equal(grown.keys[:2], plain.keys[[2, 0], :, 150:])
    assert torch.equal(grown.keys[2, 0, :, 0], torch.tensor([0.0, 0, 0, 1, 1]))


# --- sampling ---------------------------------------------------------------------------------------------------


def test_draws_do_not_depend_on_what_is_decoded_together() -> None:
    model = base("llama")
    batch = prompts(model)
    sampler = Sampler(Sampling(temperature=1.0, seed=5), [f"r{i}" for i in range(len(batch))], NEW_TOKENS)
    together = streamed(model, batch, [0], 9, choose=sampler)
    assert [r.ids for r in together] != [r.ids for r in streamed(model, batch, [0], 9)]
    for slots in (4, 1):
        same(streamed(model, batch, [0], slots, choose=sampler), together)
    shuffled = list(reversed(range(len(batch))))
    again = Sampler(Sampling(temperature=1.0, seed=5), [f"r{i}" for i in shuffled], NEW_TOKENS)
    same(streamed(model, [batch[i] for i in shuffled], [0], 4, choose=again), [together[i] for i in shuffled])
    other = Sampler(Sampling(temperature=1.0, seed=6), [f"r{i}" for i in range(len(batch))], NEW_TOKENS)
    assert [r.ids for r in streamed(model, batch, [0], 9, choose=other)] != [r.ids for r in together]


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, [0.1, 0.2, 0.3, 0.4]),
        ({"top_k": 2}, [0, 0, 3 / 7, 4 / 7]),
        ({"top_p": 0.65}, [0, 0, 3 / 7, 4 / 7]),  # 0.4 does not reach it, the second does
        ({"top_p": 0.3}, [0, 0, 0, 1]),
        ({"top_k": 3, "top_p": 0.7}, [0, 0, 3 / 7, 4 / 7]),  # of the three: 0.44 and 0.33 reach it
        ({"temperature": 0.5}, [1 / 30, 4 / 30, 9 / 30, 16 / 30]),  # squares
    ],
)
def test_tokens_are_drawn_as_often_as_their_probabilities_say(settings: dict[str, Any], expected: list[float]) -> None:
    rows = 4000
    sampler = Sampler(Sampling(seed=1, **settings), [str(i) for i in range(rows)], 1)
    logits = torch.tensor([0.1, 0.2, 0.3, 0.4]).log().expand(rows, -1)
    drawn = torch.bincount(sampler(range(rows), [0] * rows, logits), minlength=4) / rows
    # four standard deviations of a share of 4000 are below 0.032
    assert drawn.tolist() == pytest.approx(expected, abs=0.032)
    assert [share > 0 for share in drawn.tolist()] == [p > 0 for p in expected]


def test_a_temperature_of_zero_is_greedy() -> None:
    assert Sampling.of(None) is None
    assert Sampling.of({"temperature": 0.0, "top_p": 1.0, "top_k": 0, "seed": 1}) is None
    assert Sampling.of({"temperature": 0.7, "top_p": 0.9, "top_k": 5, "seed": 1}) == Sampling(0.7, 5, 0.9, 1)
    assert greedy_choice([0], [0], torch.tensor([[0.0, 2.0, 1.0]])).tolist() == [1]


# --- constraints ------------------------------------------------------------------------------------------------


def test_a_constraint_holds_in_its_rows_and_changes_no_others() -> None:
    pytest.importorskip("xgrammar")
    from tasks.models import constraint

    folder = Path(tempfile.mkdtemp(prefix="weitiao-decoding-")) / "base"
    FAMILIES["chatglm3"](folder)
    loaded = loading.load(folder)
    batch, stop_ids = prompts(loaded.model), loaded.renderer.stop_ids
    rule = constraint.load("triples", loaded.tokenizer, stop_ids, loaded.model.config.vocab_size)
    free = streamed(loaded.model, batch, stop_ids, 9)
    held = {0, 2, 3, 7, 8}
    found = streamed(loaded.model, batch, stop_ids, 4, choose=Constrained(rule, greedy_choice, held))
    same([r for i, r in enumerate(found) if i not in held], [r for i, r in enumerate(free) if i not in held])
    for i in held:
        assert found[i].ids != free[i].ids
        state = rule.start(1)
        for token in found[i].ids:
            allowed = rule.mask(state, torch.zeros(1, loaded.model.config.vocab_size))
            assert allowed[0, token] == 0  # not minus infinity
            rule.accept(state, [token])
    same(streamed(loaded.model, batch, stop_ids, 2, choose=Constrained(rule, greedy_choice, held)), found)
