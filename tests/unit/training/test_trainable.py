"""How many parameters each method trains: by hand, by published figures, and as the attached method itself counts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tasks import plugins
from tasks.models import outline
from tasks.models.benchmark import CHATGLM3
from tasks.models.embedded import FOLDER
from tasks.models.outline import Outline
from tasks.training.trainable import trainable_parameters, trained

#: THUDM/chatglm-6b's published configuration, as it is native here.
CHATGLM = {
    "model_type": "weitiao_chatglm",
    "vocab_size": 130528,
    "hidden_size": 4096,
    "intermediate_size": 16384,
    "num_hidden_layers": 28,
    "num_attention_heads": 32,
}


@pytest.fixture
def chatglm3(tmp_path: Path) -> Outline:
    (tmp_path / "config.json").write_text(json.dumps(CHATGLM3), encoding="utf-8")
    found = outline.before_import(tmp_path, "chatglm3")
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("method", "expected"),
    [
        ({"name": "full"}, 6_243_584_000),
        # rank 8: q 8 x 8192, k and v 8 x 4352, o 8 x 8192, gate_up 8 x 31488, down 8 x 17792, in 28 layers
        ({"name": "lora", "r": 8, "target_modules": "all-linear"}, 28 * 594_944),
        # the official code adapts q, k and v, which are one matrix there: 1,949,696; three here
        ({"name": "lora", "r": 8, "target_modules": "family"}, 3_784_704),
        ({"name": "lora", "r": 8, "target_modules": ["q_proj", "k_proj", "v_proj"]}, 3_784_704),
        ({"name": "qlora", "r": 16, "target_modules": r".*\.layers\.(0|1)\.mlp\.down_proj"}, 2 * 16 * 17_792),
        # a magnitude for each of 4096 + 256 + 256 + 4096 + 27392 + 4096 outputs
        ({"name": "lora", "r": 8, "target_modules": "all-linear", "use_dora": True}, 28 * (594_944 + 40_192)),
        (
            {"name": "lora", "r": 8, "target_modules": ["q_proj"], "modules_to_save": ["embed_tokens", "lm_head"]},
            28 * 65_536 + 2 * 65_024 * 4096,
        ),
        # 128 tokens, keys and values of 2 groups of 128 in 28 layers
        ({"name": "ptuning_v2", "num_virtual_tokens": 128}, 128 * 28 * 2 * 256),
        # an embedding of 4096, then 4096 -> 512 -> 28 * 2 * 256, with biases
        (
            {"name": "ptuning_v2", "num_virtual_tokens": 128, "prefix_projection": True, "encoder_hidden_size": 512},
            128 * 4096 + 4096 * 512 + 512 + 512 * 14_336 + 14_336,
        ),
        ({"name": "ptuning", "num_virtual_tokens": 20}, 20 * 4096 + 3 * (4096 * 4096 + 4096)),
        ({"name": "prompt_tuning", "num_virtual_tokens": 20}, 20 * 4096),
        # a layer: q and k and v with biases, o, gate_up, down, two norms
        (
            {"name": "freeze", "trainable_layers": 5},
            5 * (4608 * 4097 + 4096 * 4096 + 27_392 * 4096 + 13_696 * 4096 + 2 * 4096),
        ),
        ({"name": "freeze", "trainable_modules": ["layers.27.mlp", "model.norm"]}, 3 * 13_696 * 4096 + 4096),
    ],
)
def test_chatglm3_6b_has_the_counts_computed_by_hand(chatglm3: Outline, method: dict[str, Any], expected: int) -> None:
    assert trainable_parameters(chatglm3, method) == expected


@pytest.mark.parametrize(
    ("method", "billions"),
    [
        ({"name": "freeze", "trainable_layers": 5}, 1.01),
        ({"name": "ptuning_v2", "num_virtual_tokens": 16, "prefix_projection": True}, 0.96),
        # printed there as 0.0367B and 0.06 % of 6.17B; the share is that of 0.00367B
        ({"name": "lora", "r": 8, "target_modules": ["query_key_value"]}, 0.00367),
    ],
)
def test_chatglm_6b_has_the_counts_of_the_published_comparison(method: dict[str, Any], billions: float) -> None:
    model = outline.of_config(CHATGLM)
    # 6.17B there: 6,173,286,400, in which the output layer is the embedding
    assert model is not None and model.parameters - 130_528 * 4096 == 6_173_286_400
    assert trainable_parameters(model, method) == pytest.approx(billions * 1e9, rel=0.01)


METHODS: list[dict[str, Any]] = [
    {"name": "lora", "r": 4},
    {"name": "lora", "r": 4, "target_modules": "family"},
    {"name": "lora", "r": 4, "target_modules": ["down_proj", "embed_tokens"]},
    {"name": "lora", "r": 4, "target_modules": r".*\.[02]\.self_attn\.o_proj", "use_dora": True},
    {"name": "lora", "r": 4, "modules_to_save": ["lm_head"]},
    {"name": "freeze", "trainable_layers": 2},
    {"name": "freeze", "trainable_modules": ["layers.3.mlp", "lm_head"]},
    {"name": "full"},
    {"name": "ptuning_v2", "num_virtual_tokens": 8, "prefix_projection": True},
    {"name": "ptuning", "num_virtual_tokens": 8, "encoder_reparameterization_type": "LSTM", "encoder_hidden_size": 16},
    {"name": "prompt_tuning", "num_virtual_tokens": 8},
]


@pytest.mark.parametrize("method", METHODS, ids=lambda m: "-".join(map(str, m.values())))
def test_the_count_is_that_of_the_attached_method(method: dict[str, Any]) -> None:
    from tasks.models import loading

    module = plugins.load("tasks.methods", method["name"], key="method")
    model = module.attach(loading.load_base(FOLDER, "cpu", "float32"), module.Config(**method))
    shape = outline.of_folder(FOLDER)
    assert shape is not None
    found = trained(shape, module.Config(**method).model_dump())
    assert found.parameters(shape) == sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert found.total(shape) == sum(p.numel() for p in model.parameters())


def test_activations_are_kept_from_the_first_trained_layer_on() -> None:
    shape = outline.of_folder(FOLDER)
    assert shape is not None

    def first(**method: Any) -> int:
        return trained(shape, method).first_layer(shape)

    assert first(name="freeze", trainable_layers=1) == 3
    assert first(name="freeze", trainable_modules=["layers.2.mlp"]) == 2
    assert first(name="lora", target_modules=r".*\.layers\.1\..*") == 1
    assert first(name="full") == first(name="ptuning", num_virtual_tokens=4) == 0
    # the tied output layer is the embedding
    assert first(name="freeze", trainable_modules=["lm_head"]) == 0
