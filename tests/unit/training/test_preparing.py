"""Activations computed again: no mode changes a loss or a gradient, and the modes keep less and less."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from tiny import build_base

from tasks.methods import lora
from tasks.models import loading
from tasks.training.config import TrainingConfig
from tasks.training.preparing import prepare

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("base")
    build_base(folder)
    return loading.load_base(folder, "cpu", "float32")


def kept_and_gradients(base: Any, mode: str) -> tuple[int, list[torch.Tensor]]:
    """Bytes that the forward pass keeps, and the gradients, of LoRA with dropout."""
    torch.manual_seed(0)
    model = lora.attach(copy.deepcopy(base), lora.Config(name="lora", r=2, lora_dropout=0.2)).train()
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    prepare(model, TrainingConfig(gradient_checkpointing=mode), torch.device("cpu"))
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    torch.manual_seed(1)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = model(input_ids=torch.arange(10, 42)[None], use_cache=False).logits.square().mean()
    loss.backward()
    return sum(kept.values()), [p.grad for p in model.parameters() if p.grad is not None]


def test_no_mode_changes_a_gradient(base: Any) -> None:
    _, expected = kept_and_gradients(base, "none")
    assert expected
    for mode in ("selective", "full"):
        _, found = kept_and_gradients(base, mode)
        assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True)), mode


def test_whole_layers_computed_again_keep_less_than_none(base: Any) -> None:
    assert kept_and_gradients(base, "full")[0] < kept_and_gradients(base, "none")[0] / 2


def test_a_model_that_cannot_is_refused() -> None:
    class Stubborn(torch.nn.Module):
        supports_gradient_checkpointing = False

    from tasks.errors import ConfigError

    with pytest.raises(ConfigError, match="training.gradient_checkpointing=full: Stubborn cannot compute"):
        prepare(Stubborn(), TrainingConfig(gradient_checkpointing="full"), torch.device("cpu"))
