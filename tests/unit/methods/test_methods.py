"""Every method: the parameters that it trains, and weights that say the same after saving, loading and merging."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tasks import plugins
from tasks.errors import ConfigError, ModelError
from tasks.methods import _layers

METHODS = plugins.names("tasks.methods")
SMALL: dict[str, dict[str, Any]] = {
    "lora": {"r": 4},
    "qlora": {"r": 4},
    "prompt_tuning": {"num_virtual_tokens": 3},
    "ptuning": {"num_virtual_tokens": 3},
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


@pytest.mark.parametrize("name", [m for m in METHODS if "tuning" not in m])
def test_merged_model_says_the_same(name: str, tiny_base: Path) -> None:
    import torch

    plugin, config = module(name)
    trained = disturbed(plugin.attach(base(tiny_base), config))
    expected = logits(trained)
    merged = plugin.merge(trained)
    assert type(merged).__name__ == "GlmForCausalLM"
    torch.testing.assert_close(logits(merged), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["prompt_tuning", "ptuning", "ptuning_v2"])
def test_trained_vectors_cannot_be_merged(name: str) -> None:
    plugin, _ = module(name)
    assert plugin.MERGES is False
    with pytest.raises(ModelError, match="cannot be merged"):
        plugin.merge(None)


@pytest.mark.parametrize(
    ("name", "settings", "trainable"),
    [
        # 28 layers of q (4096 -> 4096), k and v (4096 -> 256): 28 * 8 * ((4096 + 4096) + 2 * (4096 + 256))
        ("lora", {"r": 8, "target_modules": ["q_proj", "k_proj", "v_proj"]}, 3_784_704),
        ("lora", {"r": 8, "target_modules": "family"}, 3_784_704),
        # every linear layer of a block: q, k, v, o, gate and up in one, down
        (
            "qlora",
            {"r": 8},
            28 * 8 * ((4096 + 4096) * 2 + 2 * (4096 + 256) + (4096 + 2 * 13_696) + (13_696 + 4096)),
        ),
        # and a magnitude for each output
        (
            "lora",
            {"r": 8, "target_modules": ["q_proj", "k_proj", "v_proj"], "use_dora": True},
            3_784_704 + 28 * (4096 + 2 * 256),
        ),
        ("prompt_tuning", {"num_virtual_tokens": 20}, 20 * 4096),
        # 20 tokens of 4096, three linear layers of 4096 with biases
        ("ptuning", {"num_virtual_tokens": 20}, 20 * 4096 + 3 * (4096 * 4096 + 4096)),
        # 128 tokens, keys and values of 2 groups of 128 in 28 layers: 128 * 28 * 2 * 256
        ("ptuning_v2", {"num_virtual_tokens": 128}, 1_835_008),
        # a layer: q, k, v 4096 * 4608 and their biases, o 4096 * 4096, feed-forward 3 * 4096 * 13696, 2 norms
        # 128 tokens of 4096, then 4096 -> 4096 -> 28 * 2 * 256
        (
            "ptuning_v2",
            {"num_virtual_tokens": 128, "prefix_projection": True},
            128 * 4096 + 4096 * 4096 + 4096 + 4096 * 14_336 + 14_336,
        ),
        ("freeze", {"trainable_modules": ["layers.27."]}, 18_874_368 + 4_608 + 16_777_216 + 168_296_448 + 8_192),
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
            weitiao={"family": "chatglm3", "template": None},
        )
        plugin = plugins.load("tasks.methods", name, key="method")
        model = plugin.attach(GlmForCausalLM(config), plugin.Config(name=name, **settings))
    added = 0 if name in ("freeze", "full") else trainable
    assert _layers.counts(model) == (trainable, 6_243_584_000 + added)


def test_more_layers_than_there_are_is_the_users_mistake(tiny_base: Path) -> None:
    plugin, _ = module("freeze")
    with pytest.raises(ConfigError, match=r"method\.trainable_layers=3: the model has 2 layers"):
        plugin.attach(base(tiny_base), plugin.Config(name="freeze", trainable_layers=3))


FAMILY_LAYERS = {
    "chatglm3": {"q_proj", "k_proj", "v_proj"},
    "chatglm": {"query_key_value"},
    "bloom": {"query_key_value", "dense", "dense_h_to_4h", "dense_4h_to_h"},
}
ALL_LAYERS = {
    "chatglm3": {"q_proj", "k_proj", "v_proj", "o_proj", "gate_up_proj", "down_proj"},
    "chatglm": {"query_key_value", "dense", "dense_h_to_4h", "dense_4h_to_h"},
    "baichuan13b": {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"},
    "falcon": {"query_key_value", "dense", "dense_h_to_4h", "dense_4h_to_h"},
    "cpmant": {"project_q", "project_k", "project_v", "attention_out", "w_0", "w_1", "w_out"},
}
TARGETS = [("family", *item) for item in FAMILY_LAYERS.items()] + [("all-linear", *item) for item in ALL_LAYERS.items()]


@pytest.mark.parametrize(("targets", "family", "expected"), TARGETS)
def test_lora_updates_the_familys_layers_or_all_but_the_output(
    targets: str, family: str, expected: set[str], tmp_path: Path
) -> None:
    from tiny_models import FAMILIES

    FAMILIES[family](tmp_path)
    plugin, _ = module("lora")
    model = plugin.attach(base(tmp_path), plugin.Config(name="lora", target_modules=targets))
    updated = {n.split(".lora_")[0].rpartition(".")[2] for n, _ in model.named_parameters() if ".lora_" in n}
    assert updated == expected


def test_a_family_that_names_no_layers_has_them_all_updated(tiny_base: Path) -> None:
    plugin, _ = module("lora")  # of_config knows no special tokens: the tiny model is of the generic family
    model = plugin.attach(base(tiny_base), plugin.Config(name="lora", target_modules="family"))
    updated = {n.split(".lora_")[0].rpartition(".")[2] for n, _ in model.named_parameters() if ".lora_" in n}
    assert updated == ALL_LAYERS["chatglm3"]


@pytest.mark.parametrize("targets", ["q_proj", ["self_attn.q_proj"], r".*\.layers\.\d\.self_attn\.q_proj"])
def test_lora_takes_a_name_names_or_a_pattern(targets: str | list[str], tiny_base: Path) -> None:
    plugin, _ = module("lora")
    model = plugin.attach(base(tiny_base), plugin.Config(name="lora", target_modules=targets))
    updated = {n.split(".lora_")[0] for n, _ in model.named_parameters() if ".lora_" in n}
    assert updated == {f"base_model.model.model.layers.{i}.self_attn.q_proj" for i in (0, 1)}


@pytest.mark.parametrize("targets", ["query_key_value", ["q_proj", "query_key_value"]])
def test_a_layer_that_the_model_does_not_have_is_named_with_its_own(targets: str | list[str], tiny_base: Path) -> None:
    plugin, _ = module("lora")
    own = "down_proj, embed_tokens, gate_up_proj, k_proj, lm_head, o_proj, q_proj, v_proj"
    with pytest.raises(ConfigError, match=f"GlmForCausalLM has no layer query_key_value; its own: {own}; or all-lin"):
        plugin.attach(base(tiny_base), plugin.Config(name="lora", target_modules=targets))


@pytest.mark.parametrize("quantization", ["int8", "nf4"])
@pytest.mark.parametrize("name", METHODS)
def test_a_quantised_base_is_trained_around_or_the_method_refused(name: str, quantization: str, tmp_path: Path) -> None:
    import torch
    from transformers import GlmConfig, GlmForCausalLM

    from tasks.models.loading import load_base

    pytest.importorskip("bitsandbytes")
    torch.manual_seed(1)
    # bitsandbytes' blocks are 64 wide, and its CPU kernel takes no narrower layer
    wide = {
        "hidden_size": 64,
        "intermediate_size": 64,
        "num_attention_heads": 2,
        "head_dim": 32,
        "num_hidden_layers": 2,
    }
    shape = GlmConfig(vocab_size=300, num_key_value_heads=1, pad_token_id=0, initializer_range=0.3, **wide)
    GlmForCausalLM(shape).save_pretrained(tmp_path / "base")
    model = load_base(tmp_path / "base", "cpu", "float32", quantization=quantization)
    plugin, config = module(name)
    if name in ("freeze", "full"):
        with pytest.raises(ConfigError, match=rf"method={name}: not with model\.quantization=.*use method=qlora"):
            plugin.attach(model, config)
        return
    frozen = {n: p.detach().clone() for n, p in model.named_parameters()}
    trained = plugin.attach(model, config).train()
    plain = sum(p.numel() for p in GlmForCausalLM(shape).parameters())
    trainable, total = _layers.counts(trained)  # two 4-bit weights share an element, but are two
    assert (total, trainable) == (plain + trainable, sum(p.numel() for p in trained.parameters() if p.requires_grad))
    trained.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    ids = torch.tensor([[2, 3, 5, 270, 275, 280, 6]])
    trained(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False).logits.logsumexp(-1).sum().backward()
    gradients = [p.grad for p in trained.parameters() if p.requires_grad]
    assert any(float(g.abs().max()) > 0 for g in gradients) and all(torch.isfinite(g).all() for g in gradients)
    assert all(torch.equal(p, frozen[n]) for n, p in model.named_parameters() if n in frozen)
    expected = logits(disturbed(trained))
    plugin.save(trained, tmp_path)
    fresh = load_base(tmp_path / "base", "cpu", "float32", quantization=quantization)
    again = plugin.load(fresh, tmp_path, config, trainable=False)
    torch.testing.assert_close(logits(again), expected, rtol=1e-4, atol=1e-4)


def test_a_tied_matrix_is_counted_once() -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=90, hidden_size=32, num_hidden_layers=1, num_attention_heads=4, intermediate_size=48,
            tie_word_embeddings=True, pad_token_id=0,
        )
    )  # fmt: skip
    # the vocabulary; q, k, v, o; gate, up, down; three norms
    assert _layers.counts(model) == (whole := 90 * 32 + 4 * 32 * 32 + 3 * 32 * 48 + 3 * 32, whole)
