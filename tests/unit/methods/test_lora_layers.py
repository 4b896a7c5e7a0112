"""LoRA's own layers: the dropout is one, and the fused layers compute what PEFT's do."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from peft.tuners.lora.layer import Linear

from tasks.methods import lora
from tasks.methods._lora_layers import Dropout, FusedLinear, fast, keep_mask

torch.set_num_threads(1)


# --- dropout --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("p", [0.05, 0.1, 0.5, 0.9])
def test_the_share_that_is_dropped_is_the_one_asked_for(p: float) -> None:
    torch.manual_seed(0)
    mask, factor = keep_mask(torch.empty(1000, 1003), p)
    # four standard deviations of a mean of a million draws, and of a quarter of them
    assert float(mask.float().mean()) == pytest.approx(1 - p, abs=4 * (p * (1 - p) / 1e6) ** 0.5)
    for place in range(4):  # the four numbers that one draw gives
        share = float(mask.view(-1)[place::4].float().mean())
        assert share == pytest.approx(1 - p, abs=4 * (p * (1 - p) / 2.5e5) ** 0.5)
    assert factor * (1 - p) == pytest.approx(1, abs=1e-4)


def test_neighbours_are_dropped_independently() -> None:
    torch.manual_seed(0)
    mask, _ = keep_mask(torch.empty(400, 1000), 0.5)
    values = mask.view(-1).float() - 0.5
    for distance in (1, 2, 3, 4, 5, 8):
        assert abs(float((values[distance:] * values[:-distance]).mean())) < 4 * 0.25 / 400_000**0.5


def test_what_stays_is_scaled_and_has_the_gradient_of_it() -> None:
    layer, x = Dropout(0.25), torch.randn(64, 33, requires_grad=True)
    torch.manual_seed(1)
    y = layer(x)
    kept = y != 0
    torch.testing.assert_close(y, torch.where(kept, x / 0.75, torch.zeros(())))
    (y * torch.arange(33.0)).sum().backward()
    assert x.grad is not None
    torch.testing.assert_close(x.grad, kept * torch.arange(33.0) / 0.75)
    assert 0.70 < float(kept.float().mean()) < 0.80


def test_a_seed_decides_the_draws() -> None:
    layer, x = Dropout(0.1), torch.ones(7, 5)
    results = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        results.append(layer(x))
    assert results[0].equal(results[1]) and not results[0].equal(results[2])


def test_nothing_is_dropped_outside_training() -> None:
    x = torch.randn(50, 50)
    assert Dropout(0.5).eval()(x) is x
    assert Dropout(0.0)(x).equal(x)


# --- the fused layer ------------------------------------------------------------------------------------------------


def model(dtype: torch.dtype = torch.float32, seed: int = 0, **settings: Any) -> Any:
    """One block of PEFT's own layers, with updates that do something."""
    from peft import LoraConfig, get_peft_model
    from transformers import GlmConfig, GlmForCausalLM

    torch.manual_seed(seed)
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4, "num_key_value_heads": 2}
    base = GlmForCausalLM(
        GlmConfig(
            vocab_size=90, num_hidden_layers=2, head_dim=8, pad_token_id=0, attention_bias=True,
            initializer_range=0.3, **sizes,
        )
    )  # fmt: skip
    tuned = get_peft_model(base.to(dtype), LoraConfig(r=3, lora_alpha=8, target_modules="all-linear", **settings))
    with torch.no_grad():
        for name, parameter in tuned.named_parameters():
            if ".lora_B." in name:
                parameter.normal_(std=0.3)
    return tuned.train()


def results(tuned: Any, *, autocast: torch.dtype | None = None) -> dict[str, torch.Tensor]:
    """Logits and every gradient, that of the embedded input among them."""
    torch.manual_seed(5)
    inputs = torch.randn(2, 6, 32, requires_grad=True)
    given = inputs if autocast is None else inputs.to(autocast)
    with torch.autocast("cpu", autocast or torch.bfloat16, enabled=autocast is not None):
        logits = tuned(inputs_embeds=given, use_cache=False).logits
    logits.float().logsumexp(-1).sum().backward()
    found = {n: p.grad for n, p in tuned.named_parameters() if p.grad is not None}
    return {**found, "logits": logits.detach(), "inputs": inputs.grad}


def fused(tuned: Any) -> list[Any]:
    return [m for m in tuned.modules() if type(m) is FusedLinear]


@pytest.mark.parametrize("settings", [{}, {"use_rslora": True}, {"target_modules": ["q_proj", "down_proj"]}])
def test_logits_and_gradients_are_pefts(settings: dict[str, Any]) -> None:
    names = settings.pop("target_modules", "all-linear")
    plain = model(**settings)
    if names != "all-linear":
        plain = model(**settings, exclude_modules=["k_proj", "v_proj", "o_proj", "gate_up_proj"])
    own = fast(copy.deepcopy(plain))
    assert len(fused(own)) == (12 if names == "all-linear" else 4)
    expected, found = results(plain), results(own)
    assert found.keys() == expected.keys() and len(found) == 2 + 2 * len(fused(own))
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-5, msg=name)


def test_under_bf16_autocast_they_are_as_near_to_the_exact_ones() -> None:
    errors: list[tuple[float, float]] = []
    for seed in range(4):
        exact = results(model(seed=seed))
        expected = results(model(torch.bfloat16, seed=seed), autocast=torch.bfloat16)
        found = results(fast(model(torch.bfloat16, seed=seed)), autocast=torch.bfloat16)
        assert {n: t.dtype for n, t in found.items()} == {n: t.dtype for n, t in expected.items()}
        for name, value in exact.items():
            ours, theirs = (float((t[name].float() - value).norm() / value.norm()) for t in (found, expected))
            errors.append((ours, theirs))
    own, pefts = (sum(side) / len(side) for side in zip(*errors, strict=True))
    assert own < 1.2 * pefts < 0.1


def test_dropout_within_is_the_same_function_of_the_draws() -> None:
    layer = next(m for m in fast(model(lora_dropout=0.3)).modules() if type(m) is FusedLinear)
    x = torch.randn(5, 7, layer.in_features, requires_grad=True)
    torch.manual_seed(9)
    y = layer(x)
    torch.manual_seed(9)
    mask, factor = keep_mask(x.detach().view(35, -1), 0.3)
    again = x.detach().requires_grad_(True)
    dropped = again * mask.view_as(x) * factor
    a, b, scale = layer.lora_A["default"].weight, layer.lora_B["default"].weight, layer.scaling["default"]
    by_hand = layer.base_layer(again) + (dropped @ a.t()) @ b.t() * scale
    torch.testing.assert_close(y, by_hand, rtol=1e-5, atol=1e-5)
    weight = torch.randn_like(y)
    found = torch.autograd.grad((y * weight).sum(), [x, a, b])
    expected = torch.autograd.grad((by_hand * weight).sum(), [again, a, b])
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_recomputed_activations_see_the_same_dropout() -> None:
    tuned = fast(model(lora_dropout=0.3))
    before = results(tuned)
    tuned.zero_grad()
    tuned.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    for name, value in results(tuned).items():
        torch.testing.assert_close(value, before[name], rtol=1e-5, atol=1e-6, msg=name)


def test_an_input_without_gradient_gets_none() -> None:
    layer = next(m for m in fast(model()).modules() if type(m) is FusedLinear)
    layer(torch.randn(4, layer.in_features)).sum().backward()
    assert layer.lora_B["default"].weight.grad is not None


def test_outside_training_the_layer_is_pefts_to_the_bit() -> None:
    plain = model()
    own = fast(copy.deepcopy(plain)).eval()
    inputs = torch.randn(2, 6, 32)
    with torch.no_grad():
        assert own(inputs_embeds=inputs).logits.equal(plain.eval()(inputs_embeds=inputs).logits)


def test_with_the_adapter_off_the_base_is_left() -> None:
    own = fast(model())
    inputs = torch.randn(2, 6, 32)
    with torch.no_grad(), own.disable_adapter():
        off = own(inputs_embeds=inputs).logits
    with torch.no_grad():
        on = own(inputs_embeds=inputs).logits
        base = own.merge_and_unload().train()(inputs_embeds=inputs).logits
    assert not off.allclose(on, atol=1e-2)
    torch.testing.assert_close(on, base, rtol=1e-4, atol=1e-4)


def test_dora_layers_stay_pefts_with_the_cheap_dropout() -> None:
    from transformers import GlmConfig, GlmForCausalLM

    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 2, "num_key_value_heads": 1}
    base = GlmForCausalLM(GlmConfig(vocab_size=90, num_hidden_layers=1, head_dim=16, pad_token_id=0, **sizes))
    tuned = lora.attach(base, lora.Config(name="lora", use_dora=True)).train()
    layers = [m for m in tuned.modules() if isinstance(m, Linear)]
    assert {type(m.lora_dropout["default"]) for m in layers} == {Dropout}
    tuned(input_ids=torch.tensor([[1, 2, 3]])).logits.sum().backward()
    assert all(m.lora_magnitude_vector["default"].weight.grad is not None for m in layers)
