"""A model's outline: names and shapes as the classes of transformers, and this project's own, make them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import transformers

from tasks.models import architectures, outline, resolving
from tasks.models.benchmark import CHATGLM3
from tasks.models.embedded import FOLDER

SIZES: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 160,
    "num_attention_heads": 4,
    "num_hidden_layers": 3,
    "vocab_size": 101,
    "pad_token_id": 0,
    "bos_token_id": 2,
    "eos_token_id": 1,
}
GROUPED = {**SIZES, "num_key_value_heads": 2, "head_dim": 32}
CONFIGS: dict[str, Any] = {
    "llama": lambda: transformers.LlamaConfig(**GROUPED),
    "llama, biases, tied": lambda: transformers.LlamaConfig(
        **GROUPED, attention_bias=True, mlp_bias=True, tie_word_embeddings=True
    ),
    "mistral": lambda: transformers.MistralConfig(**GROUPED),
    "qwen2": lambda: transformers.Qwen2Config(**SIZES, num_key_value_heads=2),
    "qwen3": lambda: transformers.Qwen3Config(**GROUPED),
    "gemma": lambda: transformers.GemmaConfig(**GROUPED),
    "gemma2": lambda: transformers.Gemma2Config(**GROUPED),
    "gemma3": lambda: transformers.Gemma3TextConfig(**GROUPED),
    "glm": lambda: transformers.GlmConfig(**GROUPED, attention_bias=True),
    "glm4": lambda: transformers.Glm4Config(**GROUPED),
    "gpt_neox": lambda: transformers.GPTNeoXConfig(**SIZES),
    "bloom": lambda: transformers.BloomConfig(hidden_size=64, n_layer=3, n_head=4, vocab_size=101),
    "falcon": lambda: transformers.FalconConfig(**SIZES),
    "falcon, grouped": lambda: transformers.FalconConfig(
        **SIZES, new_decoder_architecture=True, num_kv_heads=2, bias=True
    ),
    "falcon, one by one": lambda: transformers.FalconConfig(
        **SIZES, multi_query=False, parallel_attn=False, alibi=True
    ),
    "chatglm": lambda: architectures.register("weitiao_chatglm").config_class(
        **SIZES, mask_token_id=3, gmask_token_id=4
    ),
    "baichuan": lambda: architectures.register("weitiao_baichuan").config_class(**SIZES, num_key_value_heads=4),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_the_outline_of_a_configuration_is_that_of_the_model(name: str, tmp_path: Path) -> None:
    model = transformers.AutoModelForCausalLM.from_config(CONFIGS[name]())
    expected = {n: tuple(p.shape) for n, p in model.named_parameters()}
    made = outline.of_config(model.config.to_dict())
    assert made is not None and made.tensors == expected
    assert len(made.layers) == 3 and sum(map(len, made.layers)) == sum("." in n and ".0." in n for n in expected) * 3
    model.save_pretrained(tmp_path)
    read = outline.of_folder(tmp_path)
    assert read is not None and read.parameters == sum(p.numel() for p in model.parameters())


def test_an_unknown_architecture_has_none() -> None:
    assert outline.of_config({"model_type": "something_new", "hidden_size": 64}) is None


def test_the_embedded_model_is_read_from_its_headers() -> None:
    found = outline.of_folder(FOLDER)
    assert (
        found is not None
        and found.tied
        and found.parameters == 3_905_536 == resolving.shape_facts(FOLDER)["parameters"]
    )
    assert (found.hidden_size, found.heads, found.key_value_heads, found.head_size) == (256, 4, 2, 64)
    assert {one.leaf: (one.outputs, one.inputs) for one in found.linears(0)} == {
        "q_proj": (256, 256),
        "k_proj": (128, 256),
        "v_proj": (128, 256),
        "o_proj": (256, 256),
        "gate_up_proj": (1280, 256),
        "down_proj": (256, 640),
    }


def test_a_hub_form_has_the_outline_of_what_it_becomes(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(CHATGLM3), encoding="utf-8")
    found = outline.before_import(tmp_path, "chatglm3")
    # THUDM/chatglm3-6b's published size
    assert found is not None and found.parameters == 6_243_584_000


def test_experts_are_no_layers_that_methods_adapt_and_count_as_far_as_a_token_meets_them() -> None:
    layer = "model.layers.0"
    tensors: outline.Tensors = {
        "model.embed_tokens.weight": (10, 8),
        f"{layer}.self_attn.q_proj.weight": (8, 8),
        f"{layer}.mlp.gate.weight": (4, 8),
        **{f"{layer}.mlp.experts.{n}.up_proj.weight": (16, 8) for n in range(4)},
    }
    found = outline.Outline(tensors, {"hidden_size": 8, "num_experts": 4, "num_experts_per_tok": 2}, "generic")
    assert [one.leaf for one in found.linears(0)] == ["q_proj"]
    assert found.active == (8 * 8 + 4 * 8 + 4 * 16 * 8 // 2,)
