"""The memory estimate: by hand on ChatGLM3-6B's shape, beside what autograd keeps, and beside published figures."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tasks import plugins
from tasks.models import outline
from tasks.models.benchmark import CHATGLM3
from tasks.models.outline import Outline
from tasks.training import memory, memory_benchmark
from tasks.training.memory import Setting
from tasks.training.trainable import trained

GPU = Setting(tokens=3072, length=768, precision="bf16", device="cuda")
LORA = {"name": "lora", "r": 8, "lora_dropout": 0.1, "target_modules": ["q_proj", "k_proj", "v_proj"]}
MIB = 1 << 20


@pytest.fixture
def chatglm3(tmp_path: Path) -> Outline:
    (tmp_path / "config.json").write_text(json.dumps(CHATGLM3), encoding="utf-8")
    found = outline.before_import(tmp_path, "chatglm3")
    assert found is not None
    return found


def test_weights_gradients_and_moments_are_those_computed_by_hand(chatglm3: Outline) -> None:
    full = memory.estimate(chatglm3, {"name": "full"}, GPU)
    count = 6_243_584_000
    # float32 weights, and their half-precision copies in the products
    assert full.weights == count * 4 + count * 2
    assert (full.gradients, full.optimizer) == (count * 4, count * 8)
    lora = memory.estimate(chatglm3, LORA, GPU)
    assert lora.weights == count * 2 + 3_784_704 * (4 + 2)
    assert (lora.gradients, lora.optimizer) == (3_784_704 * 4, 3_784_704 * 8)
    eight_bit = memory.estimate(chatglm3, LORA, replace(GPU, optimizer="adamw_8bit"))
    assert eight_bit.optimizer == int(3_784_704 * (2 + 8 / 256))


def test_full_checkpointing_keeps_the_inputs_of_the_layers(chatglm3: Outline) -> None:
    found = memory.estimate(chatglm3, LORA, replace(GPU, checkpointing="full"))
    assert found.activations == pytest.approx(28 * 3072 * 4096 * 2, rel=0.1)


def test_logits_are_those_of_a_chunk_of_learned_tokens(chatglm3: Outline) -> None:
    # float32 logits and logarithms and a half-precision copy; hidden states and their gradient for all learned tokens
    few = memory.estimate(chatglm3, LORA, replace(GPU, learned=100)).logits
    assert few == 100 * 65_024 * 10 + 2 * 100 * 4096 * 2
    many = memory.estimate(chatglm3, LORA, GPU).logits
    assert many == 1024 * 65_024 * 10 + 2 * 3072 * 4096 * 2


def test_the_chunk_is_the_objectives_own() -> None:
    from tasks.training import objective

    assert memory.CHUNK == objective.CHUNK


def test_lora_with_checkpointing_is_below_the_published_memory(chatglm3: Outline) -> None:
    # ChatGLM3's repository: 14,082 MiB for LoRA at batch 4, 256 + 512 tokens, with all logits in memory
    found = memory.estimate(chatglm3, LORA, replace(GPU, checkpointing="full", learned=4 * 512)).peak / MIB
    assert 12_000 < found < 14_082


@pytest.mark.parametrize(
    "saving",
    [
        {"tokens": 768},
        {"checkpointing": "selective"},
        {"checkpointing": "full"},
        {"quantization": "int8"},
        {"quantization": "nf4"},
        {"optimizer": "adamw_8bit"},
        {"strategy": "zero3", "processes": 4},
        {"tokens": 3072, "length": 384},
    ],
    ids=str,
)
def test_what_saves_memory_lowers_the_estimate(chatglm3: Outline, saving: dict[str, Any]) -> None:
    prefix = {"name": "ptuning_v2", "num_virtual_tokens": 128}
    for method in (LORA, prefix):
        before = memory.estimate(chatglm3, method, GPU)
        if "length" in saving:  # more rows have more prefixes, but less of each other
            assert (
                memory.estimate(chatglm3, LORA, replace(GPU, **saving)).peak
                <= memory.estimate(chatglm3, LORA, GPU).peak
            )
        else:
            assert memory.estimate(chatglm3, method, replace(GPU, **saving)).peak < before.peak


def test_full_fine_tuning_is_divided_by_zero(chatglm3: Outline) -> None:
    def found(**changes: Any) -> memory.MemoryEstimate:
        return memory.estimate(chatglm3, {"name": "full"}, replace(GPU, processes=4, **changes))

    ddp, zero2, zero3 = found(), found(strategy="zero2"), found(strategy="zero3")
    assert zero2.gradients == ddp.gradients // 4 and zero2.weights == ddp.weights
    assert zero3.weights < zero2.weights and zero3.peak < zero2.peak < ddp.peak
    assert found(strategy="zero3", offload=True).optimizer == 0


def test_freezing_lower_layers_keeps_nothing_of_them(chatglm3: Outline) -> None:
    few = memory.estimate(chatglm3, {"name": "freeze", "trainable_layers": 5}, GPU)
    all_ = memory.estimate(chatglm3, {"name": "freeze", "trainable_layers": 28}, GPU)
    assert few.activations == pytest.approx(all_.activations * 5 / 28, rel=0.03)


#: Small models of the benchmark's shapes.
_SMALL = {
    "hidden_size": 96,
    "intermediate_size": 256,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "vocab_size": 128,
}


@pytest.mark.parametrize(
    ("model", "method", "checkpointing"),
    [
        ("llama", "lora", "none"),
        ("llama", "lora_attention", "none"),
        ("llama", "ptuning_v2", "none"),
        ("llama", "prompt_tuning", "none"),
        ("llama", "freeze", "none"),
        ("llama", "full", "none"),
        ("llama", "lora", "full"),
        ("llama", "full", "full"),
        ("glm", "lora", "none"),
        ("neox", "lora", "none"),
        ("neox", "full", "none"),
    ],
)
def test_activations_are_what_autograd_keeps(model: str, method: str, checkpointing: str, tmp_path: Path) -> None:
    """Bytes of all distinct tensors that the forward pass of packed rows saves, parameters left out."""
    dtype, config = memory_benchmark.MODELS[model]
    config = {**config, **_SMALL}
    config |= {"head_dim": 16} if "head_dim" in config else {}
    config |= {"num_key_value_heads": 2} if "num_key_value_heads" in config else {}
    memory_benchmark.write_model(tmp_path / "model", dtype, config)
    memory_benchmark.write_rows(tmp_path / "tokens", 64, 4, 128)
    settings = memory_benchmark.METHODS[method]
    kept = _kept(tmp_path, settings, checkpointing)
    shape = outline.of_folder(tmp_path / "model")
    assert shape is not None
    values = plugins.load("tasks.methods", settings["name"], key="method").Config(**settings).model_dump()
    setting = Setting(tokens=256, length=64, learned=128, checkpointing=checkpointing)
    assert memory.kept(shape, values, setting) == pytest.approx(kept, rel=0.05)
    assert trained(shape, values).parameters(shape) > 0


def _kept(folder: Path, settings: dict[str, Any], checkpointing: str) -> int:
    import torch

    from tasks.models import loading
    from tasks.models.tokens import TokenRows
    from tasks.training.batching import collate
    from tasks.training.config import TrainingConfig
    from tasks.training.objective import Objective
    from tasks.training.preparing import prepare

    module = plugins.load("tasks.methods", settings["name"], key="method")
    model = module.attach(loading.load_base(folder / "model", "cpu", "float32"), module.Config(**settings))
    prepare(model, TrainingConfig(gradient_checkpointing=checkpointing), torch.device("cpu"))
    objective, source = Objective(model.train()), TokenRows(folder / "tokens", "train")
    objective.choose("on", lambda packed: collate(source, np.arange(2), packed=packed))
    own = {t.untyped_storage().data_ptr() for t in (*model.parameters(), *model.buffers())}
    found: dict[int, Any] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.untyped_storage().data_ptr() not in own:
            found[tensor.untyped_storage().data_ptr()] = tensor  # held, so that its address stays its own
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        objective(collate(source, np.arange(4), packed=True))
    return sum(tensor.untyped_storage().nbytes() for tensor in found.values())
