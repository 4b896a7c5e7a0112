"""Every method: the parameters that it trains, and weights that say the same after saving, loading and merging."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tasks import plugins
from tasks.errors import ConfigError, ModelError

METHODS = plugins.names("tasks.methods")
SMALL: dict[str, dict[str, Any]] = {
    "lora": {"r": 4},
    "ptuning_v2": {"num_virtual_tokens": 3},
    "freeze": {"trainable_layers": 1},
    "full": {},
}


def base(folder: Path) -> Any:
    from tasks.models.loading import load_base

    return load_base(folder, "cpu", "float32")


def module(name: str) -> tuple[Any, Any]:
    plugin = plugins.load("tasks.methods", name, key="method")
    return plugin, plugin.Config(name=name, **SMALL[name])


def logits(model: Any) -> Any:
    import torch

    model.eval()
    with torch.no_grad():
        ids = torch.tensor([[2, 3, 5, 270, 275, 280, 6]])
        return model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits


def disturbed(model: Any) -> Any:
    """The model with its trainable parameters moved away from their start values."""
    import torch

    torch.manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter) * 0.1)
    return model


def test_the_methods_are_these() -> None:
    assert sorted(SMALL) == METHODS


@pytest.mark.parametrize("name", [*METHODS, "ptuning_v2 with projection"])
def test_saved_weights_say_the_same_on_a_fresh_base(name: str, tiny_base: Path, tmp_path: Path) -> None:
    import torch

    plugin, config = module(name.partition(" ")[0])
    if name.endswith("projection"):
        config = config.model_copy(update={"prefix_projection": True})
    trained = disturbed(plugin.attach(base(tiny_base), config))
    expected = logits(trained)
    assert float((expected - logits(base(tiny_base))).abs().max()) > 1e-2, "the method must have an effect"
    plugin.save(trained, tmp_path)
    for trainable in (False, True):
        loaded = plugin.load(base(tiny_base), tmp_path, config, trainable=trainable)
        torch.testing.assert_close(logits(loaded), expected, rtol=0, atol=0)
    names = [n for n, p in loaded.named_parameters() if p.requires_grad]
    assert names == [n for n, p in trained.named_parameters() if p.requires_grad]
    assert not list(tmp_path.glob("*.bin"))


@pytest.mark.parametrize("name", [m for m in METHODS if m != "ptuning_v2"])
def test_merged_model_says_the_same(name: str, tiny_base: Path) -> None:
    import torch

    plugin, config = module(name)
    trained = disturbed(plugin.attach(base(tiny_base), config))
    expected = logits(trained)
    merged = plugin.merge(trained)
    assert type(merged).__name__ == "GlmForCausalLM"
    torch.testing.assert_close(logits(merged), expected, rtol=1e-4, atol=1e-4)


def test_prefix_cannot_be_merged() -> None:
    plugin, _ = module("ptuning_v2")
    assert plugin.MERGES is False
    with pytest.raises(ModelError, match="cannot be merged"):
        plugin.merge(None)


@pytest.mark.parametrize(
    ("name", "settings", "trainable"),
    [
        # 28 layers of q (4096 -> 4096), k and v (4096 -> 256): 28 * 8 * ((4096 + 4096) + 2 * (4096 + 256))
        ("lora", {"r": 8, "target_modules": ["q_proj", "k_proj", "v_proj"]}, 3_784_704),
        # 128 tokens, keys and values of 2 groups of 128 in 28 layers: 128 * 28 * 2 * 256
        ("ptuning_v2", {"num_virtual_tokens": 128}, 1_835_008),
        # a layer: q, k, v 4096 * 4608 and their biases, o 4096 * 4096, feed-forward 3 * 4096 * 13696, 2 norms
        ("freeze", {"trainable_layers": 5}, 5 * (18_874_368 + 4_608 + 16_777_216 + 168_296_448 + 8_192)),
        ("full", {}, 6_243_584_000),  # the published size of ChatGLM3-6B
    ],
)
def test_parameter_counts_on_chatglm3s_shape(name: str, settings: dict[str, Any], trainable: int) -> None:
    import torch
    from transformers import GlmConfig, GlmForCausalLM

    with torch.device("meta"):
        config = GlmConfig(
            vocab_size=65024,
            hidden_size=4096,
            intermediate_size=13696,
            num_hidden_layers=28,
            num_attention_heads=32,
            num_key_value_heads=2,
            head_dim=128,
            attention_bias=True,
            tie_word_embeddings=False,
            pad_token_id=0,
            eos_token_id=2,
        )
        plugin = plugins.load("tasks.methods", name, key="method")
        model = plugin.attach(GlmForCausalLM(config), plugin.Config(name=name, **settings))
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == trainable


def test_more_layers_than_there_are_is_the_users_mistake(tiny_base: Path) -> None:
    plugin, _ = module("freeze")
    with pytest.raises(ConfigError, match=r"method\.trainable_layers=3: the model has 2 layers"):
        plugin.attach(base(tiny_base), plugin.Config(name="freeze", trainable_layers=3))
