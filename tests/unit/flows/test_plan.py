"""The plan of a whole run: what it says of a model that is there, of one that is not, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from flows import cli, planning
from tasks import devices
from tasks.config import parse
from tasks.errors import ConfigError, ResourceError

GIB = 1 << 30


def make(tmp_path: Path, *overrides: str) -> planning.Plan:
    values = cli.composed("full", [f"paths.root={tmp_path}", "hardware=cpu", "serving.keep=false", *overrides])
    return planning.make_plan(parse(values))


def test_the_embedded_default_is_planned_exactly(tmp_path: Path) -> None:
    plan = make(tmp_path)
    # 4 layers, rank 8: q and o 8 x 512, k and v 8 x 384, gate_up 8 x 1536, down 8 x 896
    assert (plan.parameters, plan.trainable) == (3_905_536, 4 * 8 * (2 * 512 + 2 * 384 + 1536 + 896))
    assert plan.longest == 352 and plan.micro_batch == {"rows": 16, "tokens": 16 * 352}
    assert plan.memory is not None and plan.training_bytes == plan.memory["peak"] + plan.memory["reserve"]
    assert 0.5 * GIB < plan.memory["peak"] < 2 * GIB
    assert plan.rate_from == f"assumed for {plan.facts['cpus']} CPU cores"
    assert json.loads(json.dumps(plan.summary()))["device"] == "cpu"


def test_a_model_that_is_not_there_is_unknown_and_never_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(devices, "memory_bytes", lambda device: GIB)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "empty"))
    plan = make(tmp_path, "model=pythia_70m")
    assert plan.importing is None and "will be downloaded" in plan.model
    assert plan.parameters and (plan.trainable, plan.training_bytes, plan.micro_batch) == (None, None, None)
    assert "unknown until the model is there" in planning.shown(plan.summary())


def test_a_machine_that_is_too_small_is_refused_with_what_would_fit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(devices, "memory_bytes", lambda device: int(0.85 * GIB))
    long = ["tokenization.max_prompt_tokens=1800", "tokenization.max_reply_tokens=128", "evaluation.max_new_tokens=128"]
    with pytest.raises(ResourceError, match=r"training does not fit: one row of 1928 tokens .* what would fit: "):
        make(tmp_path, *long)
    monkeypatch.setattr(devices, "memory_bytes", lambda device: GIB)
    assert make(tmp_path).micro_batch != {"rows": 16, "tokens": 16 * 352}
    with pytest.raises(ConfigError, match=r"training\.micro_batch_size=16: .* at most \d+, or null"):
        make(tmp_path, "training.micro_batch_size=16")


def test_a_disk_that_is_too_small_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    facts: dict[str, Any] = devices.facts(tmp_path) | {"disk_free_bytes": 1 << 20}
    monkeypatch.setattr(devices, "facts", lambda root: facts)
    with pytest.raises(ResourceError, match=r"paths\.root=.*: about 0\.0 GiB needed, 0\.0 free"):
        make(tmp_path)


def test_the_table_shows_every_part(tmp_path: Path) -> None:
    text = planning.shown({"seconds": 0.1, **make(tmp_path).summary()})
    for part in (
        "lora: 135,168 parameters trained (3.46%)",
        "352 tokens",
        "activations",
        "most at one time",
        "1,000 rows",
    ):
        assert part in text
    assert max(map(len, text.splitlines())) <= 118
