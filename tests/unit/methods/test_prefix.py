"""P-Tuning v2: the official encoders exactly, and the same with any cache, padding or gradient checkpointing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tasks import plugins
from tasks.errors import ConfigError, ModelError
from tasks.methods import _prefix, ptuning_v2
from tasks.models import architectures, families
from tasks.models.decoding import left_padded

torch.set_num_threads(1)

TOKENS = 3
IDS = torch.tensor([[7, 21, 33, 18, 45, 52, 60], [9, 14, 71, 80, 0, 0, 0]])
MASK = torch.tensor([[1, 1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 0, 0, 0]])
SIZES = {
    "vocab_size": 90, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48,
    "max_position_embeddings": 128, "initializer_range": 0.3, "pad_token_id": 0, "eos_token_id": 1,
}  # fmt: skip
GROUPED = {**SIZES, "num_key_value_heads": 2}


def build(name: str, attention: str = "sdpa", **sizes: Any) -> Any:
    """A random model of a transformers class."""
    import transformers

    config = getattr(transformers, name + "Config")(**sizes)
    config._attn_implementation = attention
    torch.manual_seed(2)
    head = {"Gemma3Text": "Gemma3"}.get(name, name)
    return getattr(transformers, head + "ForCausalLM")(config).eval()


def prefixed(model: Any, **settings: Any) -> Any:
    torch.manual_seed(3)
    config = ptuning_v2.Config(name="ptuning_v2", **{"num_virtual_tokens": TOKENS, **settings})
    return ptuning_v2.attach(model, config).eval()


MODELS: dict[str, dict[str, Any]] = {
    "Llama": GROUPED,
    "Glm": {**GROUPED, "head_dim": 16},
    "Qwen3": {**GROUPED, "head_dim": 16},
    "GPTNeoX": SIZES,
    "Falcon": {**SIZES, "multi_query": True},
}


# --- the official encoders ------------------------------------------------------------------------------------------


def golden_model(folder: Path, family: str) -> Any:
    """The native model of a checkpoint in the hub's form."""
    from safetensors.torch import load_file
    from transformers import AutoConfig, AutoModelForCausalLM

    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    conversion = families.named(family).conversion(config)
    architectures.register(conversion.config["model_type"])
    values = dict(conversion.config)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(values.pop("model_type"), **values))
    pairs = [pair for item in load_file(folder / "model.safetensors").items() for pair in conversion.tensors(*item)]
    model.load_state_dict(dict(pairs))
    return model.float().eval()


@pytest.mark.parametrize(
    ("name", "family", "group", "tolerance"),
    [
        ("chatglm3_tiny", "chatglm3", "e0", 2e-5),
        ("chatglm3_tiny", "chatglm3", "e1", 2e-5),
        ("chatglm1_tiny", "chatglm", "f0", 1e-4),
        ("chatglm1_tiny", "chatglm", "f1", 1e-4),
    ],
)
@pytest.mark.parametrize("trainable", [True, False])
def test_official_prefix_encoders_give_the_original_logits(
    shared: Path, tmp_path: Path, name: str, family: str, group: str, tolerance: float, trainable: bool
) -> None:
    from safetensors.torch import save_file

    reference = np.load(shared / "golden" / "models" / name / "reference.npz")
    mark = f"{group}_param/transformer."
    tensors = {n.removeprefix(mark): torch.tensor(reference[n]) for n in reference.files if n.startswith(mark)}
    assert len(tensors) == (1 if group.endswith("0") else 5)
    save_file(tensors, tmp_path / "trainable.safetensors")
    config = ptuning_v2.Config(
        name="ptuning_v2", num_virtual_tokens=tensors["prefix_encoder.embedding.weight"].shape[0]
    )
    base = golden_model(shared / "golden" / "models" / name, family)
    model = ptuning_v2.load(base, tmp_path, config, trainable=trainable).eval()
    for rows in ("a", "b"):  # b is padded on the left
        if f"{group}_logits_{rows}" not in reference.files:
            continue
        expected = torch.tensor(reference[f"{group}_logits_{rows}"])
        ids = torch.tensor(reference[f"{rows}_input_ids"])
        options = {
            option: torch.tensor(reference[f"{rows}_{option}"])
            for option in ("attention_mask", "position_ids")
            if f"{rows}_{option}" in reference.files
        }
        real = options.get("attention_mask", torch.ones_like(ids)).bool()
        with torch.no_grad():
            found = model(input_ids=ids, **options).logits
        assert float((found - expected)[real].abs().max()) < tolerance


# --- against a cache that holds the prefix --------------------------------------------------------------------------


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("name", MODELS)
def test_the_prefix_is_what_a_cache_in_front_of_unshifted_positions_is(name: str, attention: str) -> None:
    """An independent way to the same: transformers' own cache, filled by hand, and explicit positions."""
    from transformers import DynamicCache

    model = build(name, attention, **MODELS[name])
    tuned = prefixed(build(name, attention, **MODELS[name]))
    vectors = tuned.prefix_encoder()  # [2 layers * 2, heads, n, size]
    cache = DynamicCache()
    for layer in range(2):
        keys, values = vectors[2 * layer], vectors[2 * layer + 1]
        cache.update(keys.expand(2, -1, -1, -1), values.expand(2, -1, -1, -1), layer)
    positions = torch.arange(IDS.shape[1]).expand(2, -1)
    mask = torch.cat([torch.ones(2, TOKENS, dtype=torch.long), MASK], dim=1)
    with torch.no_grad():
        expected = model(input_ids=IDS, attention_mask=mask, past_key_values=cache, position_ids=positions).logits
        found = tuned(input_ids=IDS, attention_mask=MASK).logits
        unpadded = tuned(input_ids=IDS[:1]).logits  # transformers makes no mask for this one
        plain = model(input_ids=IDS, attention_mask=MASK).logits
    torch.testing.assert_close(found[MASK.bool()], expected[MASK.bool()], rtol=1e-4, atol=2e-5)
    torch.testing.assert_close(unpadded, expected[:1], rtol=1e-4, atol=2e-5)
    assert float((found - plain).abs().max()) > 1e-2


SLIDING = {**GROUPED, "sliding_window": 4}
ALIBI = {"vocab_size": 90, "hidden_size": 32, "n_layer": 2, "n_head": 4, "initializer_range": 0.3}


@pytest.mark.parametrize(
    ("name", "attention", "sizes"),
    [
        *((name, "sdpa", sizes) for name, sizes in MODELS.items()),
        ("Bloom", "eager", ALIBI),
        ("Falcon", "sdpa", {**SIZES, "multi_query": False, "alibi": True}),
        ("Falcon", "sdpa", {**SIZES, "new_decoder_architecture": True, "num_kv_heads": 2}),
        ("Mistral", "sdpa", SLIDING),
        (
            "Gemma3Text",
            "sdpa",
            {**SLIDING, "head_dim": 16, "layer_types": ["sliding_attention", "full_attention"]},
        ),
    ],
)
def test_replies_are_the_same_with_and_without_cache_padded_or_alone_with_beams_too(
    name: str, attention: str, sizes: dict[str, Any]
) -> None:
    model = prefixed(build(name, attention, **sizes))
    prompts = [IDS[0].tolist(), IDS[1, :4].tolist()]

    def replies(rows: list[list[int]], **options: Any) -> list[list[int]]:
        ids, mask = left_padded(rows, pad_id=0, device="cpu")
        output = model.generate(
            input_ids=ids,
            attention_mask=mask,
            max_new_tokens=8,
            do_sample=False,
            eos_token_id=-1,
            pad_token_id=0,
            **options,
        )
        return output[:, ids.shape[1] :].tolist()  # type: ignore[no-any-return]

    for beams in (1, 2):
        together = replies(prompts, num_beams=beams)
        assert together == replies(prompts, num_beams=beams, use_cache=False)
        assert together == [replies([p], num_beams=beams)[0] for p in prompts]
    ids = list(prompts[1])
    for token in replies(prompts)[1]:  # each token against a forward over the whole text
        with torch.no_grad():
            assert int(model(input_ids=torch.tensor([ids])).logits[0, -1].argmax()) == token
        ids.append(token)


def test_tokens_do_not_see_what_follows_them() -> None:
    model = prefixed(build("Llama", **GROUPED))
    other = IDS[:1].clone()
    other[0, -1] = 5
    with torch.no_grad():
        same = model(input_ids=IDS[:1]).logits[:, :-1] - model(input_ids=other).logits[:, :-1]
    assert float(same.abs().max()) < 1e-5


# --- training -------------------------------------------------------------------------------------------------------


def gradients(model: Any) -> list[torch.Tensor]:
    model.train()
    model.zero_grad()
    model(input_ids=IDS, attention_mask=MASK, use_cache=False).logits[MASK.bool()].logsumexp(-1).sum().backward()
    assert all(p.grad is None for n, p in model.named_parameters() if not p.requires_grad)
    return [p.grad.clone() for p in model.parameters() if p.requires_grad]


@pytest.mark.parametrize("projection", [False, True])
@pytest.mark.parametrize("name", ["Glm", "GPTNeoX", "Falcon"])
def test_gradient_checkpointing_changes_no_gradient(name: str, projection: bool) -> None:
    model = prefixed(build(name, **MODELS[name]), prefix_projection=projection, encoder_hidden_size=8)
    plain = gradients(model)
    calls = []
    layer = model.get_submodule(layers_of(model))[0]
    attention = next(m for m in layer.children() if "Attention" in type(m).__name__)
    attention.register_forward_pre_hook(lambda *_: calls.append(1))
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    again = gradients(model)
    assert len(calls) == 2, "the layer must have been computed twice"
    assert len(plain) == (5 if projection else 1)
    for before, after in zip(plain, again, strict=True):
        assert float(before.abs().max()) > 0
        torch.testing.assert_close(after, before, rtol=1e-5, atol=1e-7)


def layers_of(model: Any) -> str:
    return {"glm": "model.layers", "gpt_neox": "gpt_neox.layers", "falcon": "transformer.h"}[model.config.model_type]


def test_gradients_are_those_of_finite_differences() -> None:
    model = prefixed(build("GPTNeoX", **SIZES)).double()  # its norms stay in double precision
    (gradient,) = gradients(model)
    weight = model.prefix_encoder.embedding.weight
    for row, column in ((0, 3), (1, 40), (2, 127)):  # of layer 0's keys, layer 0's values and layer 1's values
        values = []
        for step in (1e-5, -1e-5):
            with torch.no_grad():
                weight[row, column] += step
                output = model(input_ids=IDS, attention_mask=MASK, use_cache=False).logits[MASK.bool()]
                values.append(float(output.logsumexp(-1).sum()))
                weight[row, column] -= step
        assert float(gradient[row, column]) == pytest.approx((values[0] - values[1]) / 2e-5, rel=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("method", ["ptuning", "ptuning_v2"])
def test_trained_vectors_stay_float32_on_a_half_precision_base(method: str, dtype: torch.dtype) -> None:
    module = plugins.load("tasks.methods", method, key="method")
    base = build("Glm", **MODELS["Glm"]).to(dtype)
    model = module.attach(base, module.Config(name=method, num_virtual_tokens=TOKENS)).train()
    trained = [p for p in model.parameters() if p.requires_grad]
    assert trained and all(p.dtype == torch.float32 for p in trained)
    logits = model(input_ids=IDS, attention_mask=MASK).logits
    assert logits.dtype == dtype
    logits[MASK.bool()].float().logsumexp(-1).sum().backward()
    assert all(torch.isfinite(p.grad).all() and p.grad.abs().max() > 0 for p in trained)


# --- saving and refusing --------------------------------------------------------------------------------------------


def test_projection_is_evaluated_once_for_inference_and_kept_for_training(tmp_path: Path) -> None:
    model = prefixed(build("Glm", **MODELS["Glm"]), prefix_projection=True, encoder_hidden_size=8)
    ptuning_v2.save(model, tmp_path)
    config = ptuning_v2.Config(
        name="ptuning_v2", num_virtual_tokens=TOKENS, prefix_projection=True, encoder_hidden_size=8
    )
    flat = ptuning_v2.load(build("Glm", **MODELS["Glm"]), tmp_path, config, trainable=False)
    # keys and values of 2 heads of 16 in 2 layers
    assert {n: tuple(p.shape) for n, p in flat.prefix_encoder.named_parameters()} == {"embedding.weight": (3, 128)}
    assert not any(p.requires_grad for p in flat.parameters())
    again = ptuning_v2.load(build("Glm", **MODELS["Glm"]), tmp_path, config, trainable=True)
    shapes = {n: tuple(p.shape) for n, p in again.named_parameters() if p.requires_grad}
    assert shapes == {
        "prefix_encoder.embedding.weight": (3, 32),
        "prefix_encoder.trans.0.weight": (8, 32),
        "prefix_encoder.trans.0.bias": (8,),
        "prefix_encoder.trans.2.weight": (128, 8),
        "prefix_encoder.trans.2.bias": (128,),
    }


def test_a_prefix_for_another_shape_is_named(tmp_path: Path) -> None:
    ptuning_v2.save(prefixed(build("Glm", **MODELS["Glm"])), tmp_path)
    config = ptuning_v2.Config(name="ptuning_v2", num_virtual_tokens=TOKENS)
    with pytest.raises(ModelError, match=r"trainable\.safetensors: the prefix does not fit a model of .*\(2, 2, 8\)"):
        ptuning_v2.load(build("Llama", **GROUPED), tmp_path, config, trainable=False)


def test_another_methods_tensors_are_refused(tmp_path: Path) -> None:
    from tasks.methods import freeze

    freeze.save(freeze.attach(build("Llama", **GROUPED), freeze.Config(name="freeze", trainable_layers=1)), tmp_path)
    config = ptuning_v2.Config(name="ptuning_v2", num_virtual_tokens=TOKENS)
    with pytest.raises(ModelError, match="another method or an older version"):
        ptuning_v2.load(build("Llama", **GROUPED), tmp_path, config, trainable=False)


def test_latent_attention_is_refused_with_the_reason() -> None:
    from transformers import DeepseekV3Config, DeepseekV3ForCausalLM

    config = DeepseekV3Config(
        **{**SIZES, "num_key_value_heads": 4}, q_lora_rank=8, kv_lora_rank=8, qk_nope_head_dim=8, qk_rope_head_dim=8,
        v_head_dim=8, n_routed_experts=4, n_group=1, topk_group=1, num_experts_per_tok=2, first_k_dense_replace=2,
    )  # fmt: skip
    model = DeepseekV3ForCausalLM(config)
    with pytest.raises(ConfigError, match=r"method=ptuning_v2: not on DeepseekV3ForCausalLM: .*use method=lora"):
        prefixed(model)


def test_a_mask_of_another_kind_is_refused() -> None:
    model = prefixed(build("Llama", **GROUPED))
    with pytest.raises(ModelError, match="mask of type dict cannot be widened"):
        model.model.layers[0].self_attn(
            hidden_states=torch.zeros(1, 2, 32), position_embeddings=None, attention_mask={"block": 1}
        )


def test_layers_of_the_configuration_are_all_prefixed() -> None:
    assert _prefix.layers_shape(build("Glm", **MODELS["Glm"])) == (2, 2, 16)
    assert _prefix.layers_shape(build("Falcon", **MODELS["Falcon"])) == (2, 1, 8)


def test_layers_share_a_widened_mask_and_a_forward_pass_keeps_none_of_the_last() -> None:
    model = prefixed(build("Llama", **GROUPED))
    (start,) = model.model._forward_pre_hooks.values()
    for _ in range(2):
        model(input_ids=IDS, attention_mask=MASK)
        assert len(start.__self__._masks) == 1


def test_new_tokens_behind_a_cache_see_the_prefix_the_cache_and_what_precedes_them() -> None:
    state = _prefix._Prefix(_prefix.PrefixEncoder((1, 1, 1), 2))
    seen = state.widened(None, queries=2, past=3, device=torch.device("cpu"))
    assert seen.tolist() == [[[[True] * 6 + [False], [True] * 7]]]
