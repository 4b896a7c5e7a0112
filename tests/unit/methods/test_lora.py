"""LoRA's variants: what they compute, and that each is saved as an ordinary adapter of the untouched base."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tasks.errors import ConfigError, ModelError
from tasks.methods import lora

torch.set_num_threads(1)

IDS = torch.tensor([[7, 21, 33, 18, 45, 52, 60]])


def build(folder: Path, *, tied: bool = False, dtype: torch.dtype = torch.float32) -> Path:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(2)
    config = LlamaConfig(
        vocab_size=90, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48,
        num_key_value_heads=2, initializer_range=0.3, pad_token_id=0, eos_token_id=1, tie_word_embeddings=tied,
    )  # fmt: skip
    LlamaForCausalLM(config).to(dtype).save_pretrained(folder)
    return folder


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return build(tmp_path / "base")


def loaded(folder: Path, dtype: str = "float32") -> Any:
    from tasks.models.loading import load_base

    return load_base(folder, "cpu", dtype)


def config(**settings: Any) -> lora.Config:
    return lora.Config(**{"name": "lora", "r": 4, "lora_alpha": 8, "lora_dropout": 0.0, **settings})


def tuned(folder: Path, settings: lora.Config, dtype: str = "float32") -> Any:
    torch.manual_seed(3)
    return lora.attach(loaded(folder, dtype), settings)


def disturb(model: Any) -> Any:
    torch.manual_seed(4)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter) * 0.1)
    return model


def logits(model: Any) -> torch.Tensor:
    model.eval()
    with torch.no_grad():
        return model(input_ids=IDS).logits.float()  # type: ignore[no-any-return]


VARIANTS: list[dict[str, Any]] = [
    {"use_rslora": True},
    {"use_dora": True},
    {"init_lora_weights": "pissa"},
    {"init_lora_weights": "pissa_niter_4"},
    {"init_lora_weights": "pissa", "use_rslora": True},
    {"modules_to_save": ["embed_tokens", "lm_head"]},
    {"modules_to_save": ["norm"], "init_lora_weights": "pissa"},
]


@pytest.mark.parametrize("settings", VARIANTS, ids=lambda s: "-".join(map(str, s)))
def test_every_variant_is_an_adapter_of_the_untouched_base(
    base: Path, tmp_path: Path, settings: dict[str, Any]
) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    model = disturb(tuned(base, config(**settings)))
    expected, target = logits(model), tmp_path / "saved"
    assert float((expected - logits(loaded(base))).abs().max()) > 1e-2
    lora.save(model, target)
    # by transformers and PEFT alone
    plain = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), target)
    torch.testing.assert_close(logits(plain), expected, rtol=1e-4, atol=1e-4)
    merged = lora.merge(lora.load(loaded(base), target, config(**settings), trainable=False))
    torch.testing.assert_close(logits(merged), expected, rtol=1e-4, atol=1e-4)
    merged.save_pretrained(tmp_path / "merged")
    torch.testing.assert_close(logits(loaded(tmp_path / "merged")), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("settings", VARIANTS, ids=lambda s: "-".join(map(str, s)))
def test_going_on_with_training_finds_every_bit_again(
    base: Path, tmp_path: Path, settings: dict[str, Any], dtype: str
) -> None:
    model = disturb(tuned(base, config(**settings), dtype))
    lora.save(model, tmp_path / "saved")
    torch.manual_seed(77)  # nothing may depend on the generator
    again = lora.load(loaded(base, dtype), tmp_path / "saved", config(**settings), trainable=True)
    expected, found = dict(model.named_parameters()), dict(again.named_parameters())
    assert found.keys() == expected.keys()
    for name, parameter in expected.items():
        assert found[name].dtype == parameter.dtype and found[name].equal(parameter), name
        assert found[name].requires_grad == parameter.requires_grad, name
        assert not parameter.requires_grad or parameter.dtype == torch.float32, name
    assert logits(again).equal(logits(model))
    lora.save(again, tmp_path / "again")
    one, other = (load_file(tmp_path / name / "adapter_model.safetensors") for name in ("saved", "again"))
    assert one.keys() == other.keys() and all(one[name].equal(other[name]) for name in one)


# --- rsLoRA, DoRA, LoRA+ --------------------------------------------------------------------------------------------


def updated(model: Any) -> Any:
    return model.base_model.model.model.layers[0].self_attn.q_proj


def test_rslora_divides_by_the_square_root_of_the_rank(base: Path) -> None:
    assert updated(tuned(base, config(r=4, lora_alpha=8))).scaling == {"default": 2.0}
    assert updated(tuned(base, config(r=4, lora_alpha=8, use_rslora=True))).scaling == {"default": 4.0}


def test_doras_rows_have_the_learned_magnitude_and_the_updates_direction(base: Path) -> None:
    model = disturb(tuned(base, config(use_dora=True)))
    layer = updated(model)
    w = layer.base_layer.weight
    direction = w + 2.0 * layer.lora_B["default"].weight @ layer.lora_A["default"].weight
    magnitude = layer.lora_magnitude_vector["default"].weight
    expected = magnitude[:, None] * direction / direction.norm(dim=1, keepdim=True)
    merged = lora.merge(model).model.layers[0].self_attn.q_proj.weight
    torch.testing.assert_close(merged, expected, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(magnitude, direction.norm(dim=1), rtol=1e-3)


def test_loraplus_names_every_b_and_nothing_else(base: Path) -> None:
    model = tuned(base, config(loraplus_lr_ratio=16.0, use_dora=True, modules_to_save=["norm"]))
    scales = lora.learning_rate_scales(model, config(loraplus_lr_ratio=16.0))
    names = [name for name, p in model.named_parameters() if p.requires_grad]
    assert len(scales) == 14 and set(scales.values()) == {16.0} and scales.keys() <= set(names)
    assert all("lora_B" in name for name in scales)
    assert not any("lora_B" in name for name in set(names) - scales.keys())
    assert lora.learning_rate_scales(model, config()) == {}


# --- PiSSA ----------------------------------------------------------------------------------------------------------


def test_pissa_starts_at_the_largest_singular_values_and_changes_nothing(base: Path) -> None:
    model = tuned(base, config(init_lora_weights="pissa"))
    torch.testing.assert_close(logits(model), logits(loaded(base)), rtol=1e-4, atol=1e-4)
    weight = loaded(base).model.layers[0].self_attn.q_proj.weight.detach()
    layer = updated(model)
    values = torch.linalg.svdvals(weight)
    update = 2.0 * layer.lora_B["default"].weight @ layer.lora_A["default"].weight
    torch.testing.assert_close(torch.linalg.svdvals(update)[:4], values[:4], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(torch.linalg.svdvals(layer.base_layer.weight)[:28], values[4:], rtol=1e-3, atol=1e-4)


def test_pissa_by_rounds_leaves_hardly_more_of_the_weight(base: Path) -> None:
    exact, near = (updated(tuned(base, config(init_lora_weights=how))) for how in ("pissa", "pissa_niter_4"))
    least = float(exact.base_layer.weight.norm())
    assert least * (1 - 1e-5) <= float(near.base_layer.weight.norm()) < 1.02 * least


def test_a_pissa_adapter_has_twice_the_rank_and_the_same_scale(base: Path, tmp_path: Path) -> None:
    for settings, alpha in (({}, 16), ({"use_rslora": True}, 8 * math.sqrt(2))):
        lora.save(tuned(base, config(init_lora_weights="pissa", **settings)), tmp_path)
        written = json.loads((tmp_path / "adapter_config.json").read_text(encoding="utf-8"))
        assert written["r"] == 8 and written["lora_alpha"] == pytest.approx(alpha)
        assert written["init_lora_weights"] is True and written["inference_mode"] is True
        assert written["base_model_name_or_path"] == str(base)


def test_another_adapter_is_not_split_as_pissas(base: Path, tmp_path: Path) -> None:
    lora.save(tuned(base, config()), tmp_path)
    with pytest.raises(ModelError, match=r"lora_A.weight: not the update of rank 8 that PiSSA saves for method\.r=4"):
        lora.load(loaded(base), tmp_path, config(init_lora_weights="pissa"), trainable=True)


def test_an_adapter_of_other_settings_does_not_go_on(base: Path, tmp_path: Path) -> None:
    lora.save(tuned(base, config()), tmp_path)
    for settings in ({"r": 2}, {"target_modules": ["q_proj"]}):
        with pytest.raises(ModelError, match=r"adapter_model\.safetensors: does not fit the base model and method"):
            lora.load(loaded(base), tmp_path, config(**settings), trainable=True)


def test_what_excludes_each_other_is_one_line() -> None:
    both = config(use_dora=True, init_lora_weights="pissa")
    first, second = lora.problems(both, quantized=True)
    assert first.startswith("method.init_lora_weights=pissa: not with method.use_dora=true: ")
    assert second.startswith("method.init_lora_weights=pissa: not with model.quantization=int8 or nf4: ")
    assert lora.problems(config(use_dora=True), quantized=True) == []
    assert lora.problems(config(init_lora_weights="pissa_niter_4"), quantized=False) == []


# --- modules that are trained whole ---------------------------------------------------------------------------------


@pytest.mark.parametrize("names", [["embed_tokens"], ["lm_head"], ["embed_tokens", "lm_head"]])
def test_tied_embeddings_stay_one_matrix_through_training_merging_and_reloading(
    tmp_path: Path, names: list[str]
) -> None:
    base = build(tmp_path / "base", tied=True)
    model = disturb(tuned(base, config(modules_to_save=names)))
    expected = logits(model)
    whole = {p for n, p in model.named_parameters() if p.requires_grad and "lora_" not in n}
    assert [tuple(p.shape) for p in whole] == [(90, 32)]
    assert model.get_input_embeddings().weight is model.get_output_embeddings().weight
    lora.save(model, tmp_path / "saved")
    settings = config(modules_to_save=names)
    again = lora.load(loaded(base), tmp_path / "saved", settings, trainable=True)
    assert again.get_input_embeddings().weight is again.get_output_embeddings().weight
    assert logits(again).equal(expected)
    merged = lora.merge(lora.load(loaded(base), tmp_path / "saved", settings, trainable=False))
    merged.save_pretrained(tmp_path / "merged")
    reloaded = loaded(tmp_path / "merged")
    torch.testing.assert_close(logits(reloaded), expected, rtol=1e-4, atol=1e-4)
    assert reloaded.lm_head.weight is reloaded.model.embed_tokens.weight


def test_whole_modules_learn_in_float32_within_a_bf16_model(tmp_path: Path) -> None:
    base = build(tmp_path / "base", dtype=torch.bfloat16)
    names = ["embed_tokens", "norm", "lm_head"]
    model = tuned(base, config(modules_to_save=names), "bfloat16").train()
    types: list[torch.dtype] = []
    model.base_model.model.model.layers[1].register_forward_pre_hook(lambda m, args: types.append(args[0].dtype))
    for mixed in (True, False):
        model.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=mixed):
            output = model(input_ids=IDS, use_cache=False).logits
        assert output.dtype == torch.bfloat16
        output.float().logsumexp(-1).sum().backward()
        gradients = {n: p.grad for n, p in model.named_parameters() if ".modules_to_save." in n}
        assert len(gradients) == 3
        assert all(g is not None and g.dtype == torch.float32 and float(g.abs().max()) > 0 for g in gradients.values())
    assert types == [torch.bfloat16] * 2


def test_a_module_that_the_model_lacks_is_named_with_its_own(base: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"method\.modules_to_save=\['head'\]: Llama\w+ has no module head .*: down_pr"
    ):
        tuned(base, config(modules_to_save=["head"]))
