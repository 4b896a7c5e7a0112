"""The configuration of a comparison: one pipeline a method and seed, equal in all else; mistakes in one line each."""

from __future__ import annotations

import pytest

from flows.compare import configure
from tasks.errors import ConfigError


def problems(*overrides: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        configure("ptuning_v2_triples", list(overrides))
    return caught.value.problems


def test_methods_and_seeds_are_crossed_with_their_recipes() -> None:
    made = configure("ptuning_v2_triples", ["compare.methods=[lora,base,full]", "compare.seeds=[1,2]", "output=json"])
    assert list(made.pipelines) == [("lora", 1), ("lora", 2), ("full", 1), ("full", 2)]
    rates = {name: config.training.learning_rate for name, config in made.pipelines.items()}
    assert rates == {("lora", 1): 5e-3, ("lora", 2): 5e-3, ("full", 1): 5e-4, ("full", 2): 5e-4}
    assert {config.training.seed for config in made.pipelines.values()} == {1, 2}
    assert made.output == "json"


def test_a_method_may_have_a_rate_of_its_own() -> None:
    made = configure(
        "full", ["compare.methods=[lora,freeze]", "compare.seeds=[1]", "compare.learning_rates={lora: 7e-4}"]
    )
    assert made.pipelines["lora", 1].training.learning_rate == 7e-4
    assert made.pipelines["freeze", 1].training.learning_rate == 1e-3


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("compare.methods=[lroa]", "compare.methods: lroa: unknown; did you mean lora"),
        ("compare.learning_rates={lroa: 1}", "compare.learning_rates: lroa: unknown; did you mean lora"),
        ("compare.methods=[base]", "compare.methods=['base']: names no method"),
        ("compare.seed=[1]", "compare.seed: unknown key; did you mean seeds?"),
        ("compare.learning_rates={full: 1e-3}", "compare.learning_rates: full: not among compare.methods=['lora'"),
        ("compare.methods=[lora", "override not understood: compare.methods=[lora"),
        ("+compare.methods=[lroa]", "compare.methods: lroa: unknown"),
        ("method=lora", "method=lora: compare.methods decides it"),
        ("training.seed=1", "training.seed=1: compare.seeds decides it"),
    ],
)
def test_a_mistake_is_one_line_that_names_the_key(override: str, expected: str) -> None:
    assert problems(override)[0].startswith(expected)
