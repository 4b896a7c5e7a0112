"""Deploying is reconciled with the release record; servers start, prove themselves and end as asked."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tasks.artifacts import ServableModel
from tasks.conversation import Message
from tasks.errors import ConfigError, CorruptArtifact, ResourceError, StageError
from tasks.serving import process, release, stage
from tasks.serving.client import Client
from tasks.serving.config import ServingConfig
from tasks.serving.process import Target
from tasks.serving.server import listen
from tasks.store import Store

QUESTION = [Message("user", "头痛发热吗")]


class Registry:
    """A registry in memory that can be down."""

    def __init__(self) -> None:
        self.models: list[Path] = []
        self.down = False

    def __call__(self, model: ServableModel) -> str | None:
        if self.down:
            raise ConnectionError("no route to the registry")
        self.models.append(model.path)
        return str(len(self.models))


def publish(root: Path, model: Path, name: str = "tuned") -> ServableModel:
    def work(folder: Path) -> dict[str, Any]:
        shutil.copytree(model, folder / "model")
        final = folder.with_name(folder.name.removesuffix(".partial"))
        facts = {"form": "merged", "model": final / "model", "adapter": None, "family": "glm"}
        return {
            **{k: str(v) if v else v for k, v in facts.items()},
            "max_logit_difference": 0.0,
            "check_tokens": 1,
            "same_tokens": 1,
        }

    return Store(root).publish(ServableModel, name=name, revision=1, config={"name": name}, inputs={}, work=work)


@pytest.fixture
def registry() -> Registry:
    return Registry()


@pytest.fixture
def root(tmp_path: Path) -> Iterator[Path]:
    """A root whose kept server, if any, ends with the test."""
    yield tmp_path
    current = release.read(tmp_path)
    if current is not None and current.running is not None:
        process.end(current.running.pid)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_a_release_is_proved_registered_recorded_and_not_repeated(
    root: Path, model: Path, config: ServingConfig, registry: Registry
) -> None:
    registry.down = True
    servable = publish(root, model)
    new = stage.deploy(config, servable, root=root, question=QUESTION, expected="x", register=registry)
    assert new.smoke.as_evaluated is False
    assert (new.reused, new.registered, new.version, new.url) == (False, False, None, None)
    assert new.smoke.prompt_tokens == 10
    assert len(new.smoke.reply) == new.smoke.completion_tokens == 24
    job = root / "serving" / "tiny" / "job.json"
    assert not (job.parent / "server.json").exists()
    job.unlink()  # a server that starts would write it again

    again = stage.deploy(config, servable, root=root, question=QUESTION, register=registry)
    assert (again.reused, again.registered) == (True, False)
    registry.down = False
    third = stage.deploy(config, servable, root=root, question=QUESTION, register=registry)
    fourth = stage.deploy(config, servable, root=root, question=QUESTION, register=registry)
    assert (third.version, fourth.version, registry.models) == ("1", "1", [servable.path])
    assert fourth.smoke == new.smoke
    assert not job.exists()
    history = (root / "release" / "history.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["event"] for line in history] == ["released", "registered"]
    assert fourth.summary()["fingerprint"] == servable.fingerprint


def test_a_kept_server_outlives_the_release_and_ends_on_sigterm_with_its_port_free(
    root: Path, model: Path, config: ServingConfig, registry: Registry
) -> None:
    servable = publish(root, model)
    config = config.model_copy(update={"keep": True, "port": free_port()})
    new = stage.deploy(config, servable, root=root, question=QUESTION, register=registry)
    running = new.running
    assert running is not None
    assert (running.port, new.url) == (config.port, f"http://127.0.0.1:{config.port}")
    assert os.getsid(running.pid) == running.pid  # a session of its own: it does not end with this one
    stage.check_port(config, root=root)  # held by this root's own release: no problem

    again = stage.deploy(config, servable, root=root, question=QUESTION, register=registry)
    assert again.reused
    assert again.server == new.server

    other = process.Server(**{**running.to_json(), "instance": "another"})
    assert not process.stop(other)  # not the server on record: left alone
    server = psutil.Process(running.pid)
    server.send_signal(signal.SIGTERM)
    assert server.wait(timeout=60) in (0, None)
    listen(running.host, running.port).close()
    assert new.running is None
    assert process.read(root / "serving" / "tiny") is None


@pytest.mark.slow
def test_a_new_release_replaces_the_kept_server_and_keeps_its_port(
    root: Path, model: Path, config: ServingConfig, registry: Registry
) -> None:
    config = config.model_copy(update={"keep": True, "port": free_port()})
    first = stage.deploy(config, publish(root, model), root=root, question=QUESTION, register=registry)
    second = stage.deploy(config, publish(root, model, "other"), root=root, question=QUESTION, register=registry)
    assert first.running is None
    assert second.running is not None
    assert second.running.port == config.port
    assert (first.version, second.version) == ("1", "2")
    process.end(second.running.pid)
    third = stage.deploy(config, publish(root, model, "other"), root=root, question=QUESTION, register=registry)
    assert third.running is not None  # started again, registered once
    assert (third.version, len(registry.models)) == ("2", 2)


def test_a_busy_port_is_one_line_before_the_model_is_loaded(
    root: Path, model: Path, config: ServingConfig, registry: Registry
) -> None:
    with socket.socket() as occupied:
        occupied.bind(("127.0.0.1", 0))
        occupied.listen()
        config = config.model_copy(update={"port": occupied.getsockname()[1]})
        line = (
            rf"^serving\.port={config.port}: cannot listen on 127\.0\.0\.1 \(Address already in use\); .*port=0[^\n]*$"
        )
        with pytest.raises(ResourceError, match=line):
            stage.check_port(config, root=root)
        with pytest.raises(ResourceError, match=line):
            stage.deploy(config, publish(root, model), root=root, question=QUESTION, register=registry)
    assert release.read(root) is None
    log = (root / "serving" / "tiny" / "server.log").read_text(encoding="utf-8")
    assert "Loading" not in log
    assert "Traceback" not in log


def test_a_damaged_model_is_not_released(root: Path, model: Path, config: ServingConfig) -> None:
    servable = publish(root, model)
    weights = servable.model / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    with pytest.raises(CorruptArtifact, match="sha256"):
        stage.deploy(config, servable, root=root, question=QUESTION, register=None)


def test_a_missing_key_variable_is_an_error_that_repeats_nothing_which_may_be_a_key(
    root: Path, model: Path, config: ServingConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("WEITIAO_TEST_KEY", raising=False)
    config = config.model_copy(update={"api_key_env": "WEITIAO_TEST_KEY"})
    with pytest.raises(ConfigError, match=r"^serving\.api_key_env: must name an environment variable that is set"):
        process.start(config, Target(model), root / "serving", port=0, attached=True)


def test_a_record_that_cannot_be_read_is_named(root: Path) -> None:
    (root / "release").mkdir()
    (root / "release" / "active.json").write_text("{", encoding="utf-8")
    with pytest.raises(StageError, match=r"active\.json: not a release record"):
        release.read(root)
    (root / "release" / "active.json").unlink()


@pytest.mark.slow
def test_a_server_with_a_key_lets_only_its_bearer_in(
    root: Path, model: Path, config: ServingConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WEITIAO_TEST_KEY", "secret-canary-4711")
    config = config.model_copy(update={"api_key_env": "WEITIAO_TEST_KEY"})
    new = stage.deploy(
        config.model_copy(update={"keep": True, "port": 0}),
        publish(root, model),
        root=root,
        question=QUESTION,
        register=None,
    )
    running = new.running  # /health needs no key
    assert running is not None
    for key in (None, "secret-canary-471", "secret-canary-47111"):
        with pytest.raises(Exception, match="401 a valid key is required"):
            Client(running.url, api_key=key).answer(QUESTION)
    assert Client(running.url, api_key="secret-canary-4711").answer(QUESTION).text == new.smoke.reply
    process.end(running.pid)
    for path in root.rglob("*"):
        assert not path.is_file() or b"secret-canary" not in path.read_bytes(), path


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_foreground_server_ends_tidily_on_a_signal(root: Path, model: Path, number: signal.Signals) -> None:
    script = (
        "import logging, sys\nfrom pathlib import Path\n"
        "from tasks.serving.config import ServingConfig\n"
        "from tasks.serving.stage import serve\n"
        "logging.basicConfig(level=logging.INFO)\n"
        "serve(ServingConfig(port=0), root=Path(sys.argv[2]), model=Path(sys.argv[1]))\n"
    )
    running = subprocess.Popen([sys.executable, "-c", script, model, root], stderr=subprocess.PIPE, text=True)
    assert running.stderr is not None
    ready = next(line for line in running.stderr if "(Ctrl-C ends it)" in line)
    [server] = psutil.Process(running.pid).children()
    [url] = [word for word in ready.split() if word.startswith("http://")]
    assert Client(url).health()["model"] == "weitiao"
    running.send_signal(number)
    rest = running.stderr.read()
    assert running.wait(timeout=60) == 0
    assert "Traceback" not in rest
    server.wait(timeout=1)
    assert list((root / "serving").iterdir()) == []


@pytest.mark.slow
def test_a_server_of_a_session_ends_when_its_parent_is_killed(root: Path, model: Path) -> None:
    script = (
        "import sys, time\nfrom pathlib import Path\n"
        "from tasks.serving.config import ServingConfig\n"
        "from tasks.serving.process import Target, session\n"
        "with session(ServingConfig(), Target(Path(sys.argv[1])), Path(sys.argv[2])) as server:\n"
        "    print(server.pid, flush=True)\n"
        "    time.sleep(600)\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", script, model, root], stdout=subprocess.PIPE)
    assert parent.stdout is not None
    server = psutil.Process(int(parent.stdout.readline()))
    parent.kill()
    parent.wait()
    server.wait(timeout=60)
    parent.stdout.close()
