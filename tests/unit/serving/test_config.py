"""The serving section: its YAML files, its rules, and what importing it costs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from pydantic import ValidationError

from tasks import plugins, schema
from tasks.serving.config import ENGINES, ServingConfig

CONF = Path(__file__).resolve().parents[3] / "conf" / "serving"


def test_every_engine_has_its_yaml_and_every_yaml_its_engine() -> None:
    files = sorted(path.stem for path in CONF.glob("*.yaml"))
    assert files == plugins.names(ENGINES) == ["transformers"]


def test_the_yaml_shows_every_field_with_its_default() -> None:
    value = yaml.safe_load((CONF / "transformers.yaml").read_text(encoding="utf-8"))
    assert set(value) == set(ServingConfig.model_fields)
    assert ServingConfig(**value) == ServingConfig()


@pytest.mark.parametrize(
    ("values", "line"),
    [
        ({"engine": "transformer"}, "did you mean transformers"),
        ({"host": "0.0.0.0"}, "can be reached from other machines: set serving.api_key_env"),
        ({"host": "example.org"}, "can be reached from other machines"),
        ({"port": 65536}, "less than or equal to 65535"),
        ({"port": -1}, "greater than or equal to 0"),
        ({"model_name": "../x"}, "pattern"),
        ({"model_name": "a/b"}, "pattern"),
        ({"api_key": "secret"}, "Extra inputs"),
        ({"temperature": float("nan")}, "finite"),
    ],
)
def test_a_wrong_value_is_refused(values: dict[str, object], line: str) -> None:
    with pytest.raises(ValidationError, match=line):
        ServingConfig(**values)


def test_other_machines_may_be_served_with_a_key() -> None:
    assert ServingConfig(host="0.0.0.0", api_key_env="KEY").host == "0.0.0.0"
    assert ServingConfig(host="127.0.0.2").api_key_env is None
    assert ServingConfig(host="::1").api_key_env is None


@pytest.mark.parametrize(
    ("port", "stays", "bound"), [(None, True, 8000), (None, False, 0), (0, True, 0), (9000, False, 9000)]
)
def test_the_port_that_is_bound(port: int | None, stays: bool, bound: int) -> None:
    assert ServingConfig(port=port).listen_port(stays=stays) == bound


def test_nothing_of_it_is_identity() -> None:
    assert schema.identity(ServingConfig()) == {}


def test_the_orchestrators_side_loads_neither_torch_nor_a_web_server() -> None:
    code = (
        "import sys, tasks.serving.stage, tasks.serving.chat, tasks.serving.config\n"
        "loaded = {m.split('.')[0] for m in sys.modules}\n"
        "print(sorted(loaded & {'torch', 'transformers', 'peft', 'uvicorn', 'fastapi'}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_engine_loads_without_pydantic() -> None:
    code = (
        "import sys\nsys.modules['pydantic'] = None\n"
        "import tasks.serving.engines.transformers, tasks.serving.reply\nprint('ok')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "ok"
