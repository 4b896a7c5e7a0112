"""Freeze: which parameters are trained, and that what is saved belongs to one base."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tasks.errors import ConfigError, ModelError
from tasks.methods import freeze, full

torch.set_num_threads(1)


def base(*, tied: bool = False, layers: int = 12, seed: int = 2) -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=90, hidden_size=16, num_hidden_layers=layers, num_attention_heads=2, intermediate_size=24,
            num_key_value_heads=1, initializer_range=0.3, pad_token_id=0, eos_token_id=1, tie_word_embeddings=tied,
        )
    )  # fmt: skip


def config(*patterns: str, **settings: Any) -> freeze.Config:
    return freeze.Config(**{"name": "freeze", "trainable_modules": list(patterns), **settings})


def trained(model: Any) -> list[str]:
    return [name for name, p in model.named_parameters() if p.requires_grad]


@pytest.mark.parametrize(
    ("patterns", "expected"),
    [
        (["layers.1"], r"model\.layers\.1\..*"),  # not layers 10 and 11
        (["layers.1."], r"model\.layers\.1\..*"),
        (["model.layers.11", "layers.0.mlp"], r"model\.layers\.(11\..*|0\.mlp\..*)"),
        (["self_attn.q_proj"], r".*\.q_proj\.weight"),
        ([r"layers\.1[01]\.mlp"], r"model\.layers\.1[01]\.mlp\..*"),
        ([r"^model\.norm", "lm_head"], r"model\.norm\.weight|lm_head\.weight"),
    ],
)
def test_names_parts_of_names_and_expressions(patterns: list[str], expected: str) -> None:
    import re

    model = freeze.attach(base(), config(*patterns))
    names = [name for name, _ in model.named_parameters()]
    assert trained(model) == [name for name in names if re.fullmatch(expected, name)]
    assert trained(model)


def test_names_go_before_the_number_of_layers() -> None:
    assert trained(freeze.attach(base(), config("model.norm", trainable_layers=2))) == ["model.norm.weight"]
    last = trained(freeze.attach(base(), config(trainable_layers=1)))
    assert last and all(name.startswith("model.layers.11.") for name in last)


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        (
            "layers.12.",
            r"'layers\.12\.' matches no parameter of LlamaForCausalLM; its own: lm_head\.weight, .*layers\.0\.",
        ),
        ("layer", "matches no parameter"),  # not a whole part of a name
        ("layers[", r"'layers\[' is no regular expression: unterminated"),
    ],
)
def test_a_name_that_matches_nothing_is_the_users_mistake(pattern: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        freeze.attach(base(), config("layers.1.", pattern))


def test_a_tied_output_layer_is_trained_by_either_name(tmp_path: Path) -> None:
    for name in ("lm_head", "embed_tokens"):
        model = freeze.attach(base(tied=True), config(name))
        assert trained(model) == ["model.embed_tokens.weight"]
        with torch.no_grad():
            model.model.embed_tokens.weight.add_(1.0)
        freeze.save(model, tmp_path)
        again = freeze.load(base(tied=True), tmp_path, config(name), trainable=False)
        assert again.lm_head.weight.equal(model.lm_head.weight)


def test_only_what_is_trained_is_saved(tmp_path: Path) -> None:
    freeze.save(freeze.attach(base(), config("layers.3.mlp")), tmp_path)
    assert sorted(load_file(tmp_path / "trainable.safetensors")) == [
        f"model.layers.3.mlp.{name}_proj.weight" for name in ("down", "gate", "up")
    ]


@pytest.mark.parametrize("trainable", [True, False])
def test_another_base_of_the_same_shape_is_refused(tmp_path: Path, trainable: bool) -> None:
    freeze.save(freeze.attach(base(), config("layers.3.")), tmp_path)
    for other in (base(seed=3), base(layers=11)):
        with pytest.raises(ModelError, match=r"trained on another base model: \S+ is not the tensor"):
            freeze.load(other, tmp_path, config("layers.3."), trainable=trainable)


def test_the_base_in_another_type_is_the_same_base(tmp_path: Path) -> None:
    model = base()
    stored = copy.deepcopy(model).to(torch.bfloat16)
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        freeze.save(freeze.attach(copy.deepcopy(stored).to(dtype), config("layers.3.")), tmp_path)
        for other in (torch.float32, torch.float16, torch.bfloat16):
            freeze.load(copy.deepcopy(model).to(other), tmp_path, config("layers.3."), trainable=False)


def test_files_without_samples_and_full_ones_load(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    full.save(full.attach(base(), full.Config(name="full")), tmp_path)
    full.load(base(seed=3), tmp_path, full.Config(name="full"), trainable=True)
    save_file({"model.norm.weight": torch.full((16,), 3.0)}, tmp_path / "trainable.safetensors")
    loaded = freeze.load(base(), tmp_path, config("model.norm"), trainable=True)
    assert loaded.model.norm.weight.tolist() == [3.0] * 16
