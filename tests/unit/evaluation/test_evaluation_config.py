"""The shipped evaluation settings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from tasks import schema
from tasks.evaluation.config import EvaluationConfig, GateConfig

_FOLDER = Path(__file__).parents[3] / "conf" / "evaluation"


def settings(name: str) -> dict[str, Any]:
    value = yaml.safe_load((_FOLDER / f"{name}.yaml").read_text(encoding="utf-8"))
    assert isinstance(value, dict)
    return value


def test_both_shipped_settings_are_valid_and_write_every_field() -> None:
    names = sorted(path.stem for path in _FOLDER.glob("*.yaml"))
    assert names == ["default", "thorough"]
    for name in names:
        value = settings(name)
        EvaluationConfig(**value)
        assert set(value) == set(EvaluationConfig.model_fields)
        assert set(value["gate"]) == set(GateConfig.model_fields)


def test_default_settings_are_those_of_the_schema() -> None:
    assert EvaluationConfig(**settings("default")) == EvaluationConfig()


@pytest.mark.parametrize(
    ("name", "value"), [("checkpoints", 0), ("checkpoints", "best"), ("test_rows", -1), ("gat", {})]
)
def test_wrong_settings_are_refused(name: str, value: Any) -> None:
    with pytest.raises(ValidationError):
        EvaluationConfig(**{name: value})


def test_gate_batching_and_addresses_are_no_part_of_the_identity() -> None:
    assert set(schema.identity(EvaluationConfig())["vllm"]) == {"base_served_as", "tuned_served_as"}
    assert set(EvaluationConfig.model_fields) - set(schema.identity(EvaluationConfig())) == {
        "batch_tokens",
        "gate",
    }
