"""ModelScope, through its own client, against a real server on the loopback."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hub_server import Hub, sha256

from tasks.errors import ModelError
from tasks.models import hub as hubs
from tasks.models import resolving
from tasks.models.config import ModelConfig

NAME = "ZhipuAI/tiny"
WEIGHTS = random.Random(1).randbytes(1 << 20)
FILES = {
    "config.json": b'{"model_type": "llama"}',
    "configuration.json": b"{}",
    "tokenizer.model": b"t" * 2000,
    "model.safetensors": WEIGHTS,
    "pytorch_model.bin": b"b" * 5000,
    "modeling_tiny.py": b"raise SystemExit",
    "original/params.json": b"{}",
}
WANTED = {"config.json", "configuration.json", "tokenizer.model", "model.safetensors"}


def config(**changes: object) -> ModelConfig:
    return ModelConfig.model_validate(
        {"name": "tiny", "hub_id": "someone/tiny", "modelscope_id": NAME, "source": "modelscope", **changes}
    )


def fetched(**changes: object) -> Path:
    place = resolving.locate(config(**changes))
    assert place is not None
    return place


def names(folder: Path) -> set[str]:
    return {f.relative_to(folder).as_posix() for f in folder.rglob("*") if f.is_file()}


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    pytest.importorskip("modelscope_hub", reason="the optional extra modelscope is not installed")
    from modelscope_hub import _download, constants

    monkeypatch.setattr(_download, "DOWNLOAD_RETRY_TIMES", 1)
    monkeypatch.setattr(_download, "DOWNLOAD_HASH_RETRY_TIMES", 1)
    monkeypatch.setattr(constants, "API_MAX_RETRIES", 1)
    with Hub({NAME: dict(FILES)}) as server:
        monkeypatch.setenv("MODELSCOPE_ENDPOINT", server.url)
        monkeypatch.setenv("MODELSCOPE_CACHE", str(tmp_path / "cache"))
        monkeypatch.setenv("MODELSCOPE_HOME", str(tmp_path / "home"))
        monkeypatch.delenv("MODELSCOPE_API_TOKEN", raising=False)
        yield server


def test_one_copy_of_the_weights_the_configuration_and_the_tokenizer_come(
    hub: Hub, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = fetched()
    assert names(folder) == WANTED | {"SHA256SUMS"}
    assert all((folder / name).read_bytes() == FILES[name] for name in WANTED)
    assert hubs.expected_sha256(folder) == {name: sha256(FILES[name]) for name in WANTED}
    assert capfd.readouterr().err == ""  # no bars in a log


def test_what_was_downloaded_before_is_used_without_a_request(hub: Hub) -> None:
    with pytest.raises(ModelError, match=f"model.modelscope_id={NAME}: not downloaded, and model.offline=true"):
        fetched(offline=True)
    assert resolving.locate(config(), download=False) is None and hub.requests == []
    first = fetched()
    hub.requests.clear()
    assert fetched() == first == fetched(offline=True)
    assert hub.requests == []


def test_a_connection_that_breaks_is_resumed_with_a_range_request(hub: Hub) -> None:
    hub.cuts["model.safetensors"] = [600_000]
    assert (fetched() / "model.safetensors").read_bytes() == WEIGHTS
    first, *others = hub.asked("FilePath=model.safetensors")
    assert first.range is None and others and all(r.range for r in others)


def test_damaged_bytes_are_found(hub: Hub) -> None:
    hub.damaged.add("model.safetensors")
    with pytest.raises(ModelError, match=r"a file came damaged \(.*model.safetensors"):
        fetched()
    hub.damaged.clear()
    assert (fetched() / "model.safetensors").read_bytes() == WEIGHTS


def test_an_unknown_name_and_a_closed_model_are_one_line(hub: Hub) -> None:
    with pytest.raises(ModelError, match="model.modelscope_id=No/body: no such model on ModelScope; check the name"):
        fetched(modelscope_id="No/body")
    with pytest.raises(ModelError, match="or it has no model.revision=v9"):
        fetched(revision="v9")
    hub.refused[NAME] = (403, "")
    with pytest.raises(ModelError, match="access refused.*MODELSCOPE_API_TOKEN") as caught:
        fetched()
    assert "\n" not in str(caught.value) and caught.value.exit_code == 2


def test_without_the_package_the_error_says_how_to_install_it(tmp_path: Path) -> None:
    script = f"""
import sys
sys.modules["modelscope_hub"] = None
from tasks.models import resolving
from tasks.models.config import ModelConfig
resolving.locate(ModelConfig(name="tiny", hub_id="{NAME}", source="modelscope"), download=False)
"""
    done = subprocess.run([sys.executable, "-c", script], env=os.environ, capture_output=True, text=True)
    assert "modelscope-hub is not installed; install it with: pip install" in done.stderr.splitlines()[-1]
