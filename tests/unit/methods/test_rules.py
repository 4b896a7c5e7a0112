"""What a method and the rest of a configuration exclude, and that qlora brings its quantisation along."""

from __future__ import annotations

import pytest

from flows.cli import composed
from tasks.config import parse
from tasks.errors import ConfigError


def problems(*overrides: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        parse(composed("full", list(overrides)))
    return list(caught.value.problems)


@pytest.mark.parametrize("name", ["full", "lora_medical", "freeze_triples"])
def test_qlora_quantises_to_4_bits_unless_told_otherwise(name: str) -> None:
    config = parse(composed(name, ["method=qlora"]))
    assert (config.method.name, config.model.quantization) == ("qlora", "nf4")
    assert config.training.learning_rate == 5e-3  # recipe/embedded_qlora.yaml
    assert parse(composed(name, ["method=qlora", "model.quantization=int8"])).model.quantization == "int8"
    assert parse(composed(name, ["method=lora", "model.quantization=nf4"])).method.name == "lora"


def test_qlora_without_quantisation_is_lora() -> None:
    (line,) = problems("method=qlora", "model.quantization=none")
    assert line.startswith("model.quantization=none: not with method=qlora, ") and "method=lora" in line


@pytest.mark.parametrize("method", ["freeze", "full"])
def test_quantised_weights_cannot_be_trained_themselves(method: str) -> None:
    (line,) = problems(f"method={method}", "model.quantization=int8")
    assert line.startswith(f"model.quantization=int8: not with method={method}, ")


def test_what_loras_variants_exclude_is_said_before_the_run() -> None:
    (line,) = problems("method=qlora", "method.init_lora_weights=pissa")
    assert line.startswith("method.init_lora_weights=pissa: not with model.quantization=int8 or nf4: ")
    (line,) = problems("method.init_lora_weights=pissa", "method.use_dora=true")
    assert line.startswith("method.init_lora_weights=pissa: not with method.use_dora=true: ")
    (line,) = problems("method.init_lora_weights=pissa_niter_0")
    assert line.startswith("method.init_lora_weights='pissa_niter_0': string should match pattern")
