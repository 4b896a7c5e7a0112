"""The Hugging Face hub, against a real server on the loopback."""

from __future__ import annotations

import errno
import json
import os
import random
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hub_server import COMMIT, Hub, sha256
from huggingface_hub import constants

from tasks.errors import ModelError, ResourceError
from tasks.models import hub as hubs
from tasks.models import resolving
from tasks.models.config import ModelConfig
from tasks.models.hub import fetching

NAME = "someone/tiny"
WEIGHTS = random.Random(1).randbytes(3 << 20)
FILES = {
    "config.json": b'{"model_type": "llama"}',
    "tokenizer.json": b"{}",
    "tokenizer.model": random.Random(2).randbytes(2000),
    "chat_template.jinja": b"{{ x }}",
    "model.safetensors": WEIGHTS,
    "pytorch_model.bin": b"b" * 5000,
    "pytorch_model.bin.index.json": b'{"weight_map": {}}',
    "modeling_tiny.py": b"raise SystemExit",
    "README.md": b"# tiny",
    "consolidated.00.pth": b"p" * 5000,
    "original/params.json": b"{}",
    "original/tokenizer.model": b"t" * 2000,
    "onnx/model.onnx": b"o" * 5000,
    "onnx/config.json": b"{}",
    "flax_model.msgpack": b"f" * 5000,
    "tf_model.h5": b"h" * 5000,
    "training_args.bin": b"a" * 5000,
}
WANTED = {"config.json", "tokenizer.json", "tokenizer.model", "chat_template.jinja", "model.safetensors"}


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with Hub({NAME: dict(FILES)}) as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        monkeypatch.delenv("HF_TOKEN", raising=False)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(fetching, "TRIES", 2)
        yield server


def config(**changes: object) -> ModelConfig:
    return ModelConfig.model_validate({"name": "tiny", "hub_id": NAME, **changes})


def fetched(**changes: object) -> Path:
    place = resolving.locate(config(**changes))
    assert place is not None
    return place


def names(folder: Path) -> set[str]:
    return {f.relative_to(folder).as_posix() for f in folder.rglob("*") if f.is_file()}


def test_only_one_copy_of_the_weights_the_configuration_and_the_tokenizer_come(hub: Hub) -> None:
    folder = fetched()
    assert names(folder) == WANTED
    assert all((folder / name).read_bytes() == FILES[name] for name in WANTED)
    asked = " ".join(r.path for r in hub.requests)
    assert not any(name in asked for name in set(FILES) - WANTED - {"original/tokenizer.model"})


def refuse_sockets(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("a socket was used")

    for name in ("connect", "connect_ex"):
        monkeypatch.setattr(socket.socket, name, refuse)


def test_what_was_downloaded_before_is_used_without_a_request(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    first = fetched()
    hub.requests.clear()
    refuse_sockets(monkeypatch)
    assert fetched() == first and resolving.locate(config(), download=False) == first
    assert fetched(offline=True) == first
    assert hub.requests == []


def test_nothing_is_downloaded_for_a_plan(hub: Hub) -> None:
    assert resolving.locate(config(), download=False) is None
    assert hub.requests == []


def test_offline_and_not_downloaded_asks_nobody_and_says_so(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    refuse_sockets(monkeypatch)
    with pytest.raises(ModelError, match=f"model.hub_id={NAME}: not downloaded, and model.offline=true forbids"):
        fetched(offline=True)
    assert hub.requests == []


def test_offline_and_partly_downloaded_names_what_is_missing(hub: Hub) -> None:
    folder = fetched()
    (folder / "model.safetensors").unlink()
    hub.requests.clear()
    with pytest.raises(ModelError, match=r"only a part of it was downloaded before \(the weights missing\)"):
        fetched(offline=True)
    assert hub.requests == []
    assert names(fetched()) == WANTED  # and online it is completed, out of the cache
    assert hub.asked("/store/") == []


def test_a_connection_that_breaks_is_resumed_with_a_range_request(hub: Hub) -> None:
    hub.cuts["model.safetensors"] = [1 << 20, 1 << 19]
    folder = fetched()
    assert (folder / "model.safetensors").read_bytes() == WEIGHTS
    ranges = [r.range for r in hub.asked("/store/someone/tiny/model.safetensors")]
    assert ranges == [None, f"bytes={1 << 20}-", f"bytes={(1 << 20) + (1 << 19)}-"]


def test_a_hub_that_never_gets_further_is_one_line_and_the_next_run_goes_on(hub: Hub) -> None:
    hub.cuts["model.safetensors"] = [1 << 20, 0, 0, 0]
    with pytest.raises(ModelError, match=r"the download goes on where it stopped.*HF_ENDPOINT.*model.path") as caught:
        fetched()
    assert "\n" not in str(caught.value) and caught.value.exit_code == 2
    hub.cuts.clear()
    hub.requests.clear()
    assert (fetched() / "model.safetensors").read_bytes() == WEIGHTS
    assert [r.range for r in hub.asked("/store/someone/tiny/model.saf")] == [f"bytes={1 << 20}-"]


@pytest.mark.parametrize("ignores", [False, True])
def test_what_lies_there_wrong_is_fetched_again_from_the_start(hub: Hub, tmp_path: Path, ignores: bool) -> None:
    partial = tmp_path / "cache" / "models--someone--tiny" / "blobs" / f"{sha256(WEIGHTS)}.incomplete"
    partial.parent.mkdir(parents=True)
    partial.write_bytes(WEIGHTS[:1000] + b"x")
    if ignores:
        hub.whole.add("model.safetensors")
    assert (fetched() / "model.safetensors").read_bytes() == WEIGHTS
    ranges = [r.range for r in hub.asked("/store/someone/tiny/model.saf")]
    assert ranges == (["bytes=1001-"] if ignores else ["bytes=1001-", None])


def test_damaged_bytes_are_found_and_never_reach_the_cache(hub: Hub, tmp_path: Path) -> None:
    hub.damaged.add("model.safetensors")
    with pytest.raises(ModelError, match=rf"model.safetensors: sha256 .*the hub states {sha256(WEIGHTS)[:12]}"):
        fetched()
    assert not [f for f in (tmp_path / "cache").rglob("*") if f.is_file() and f.stat().st_size >= len(WEIGHTS)]
    hub.damaged.clear()
    assert (fetched() / "model.safetensors").read_bytes() == WEIGHTS


def test_more_bytes_than_stated_are_refused(hub: Hub) -> None:
    hub.longer.add("model.safetensors")
    with pytest.raises(ModelError, match=f"more than the {len(WEIGHTS)} bytes that the hub states"):
        fetched()


def test_the_hubs_sha256_of_large_files_is_known_afterwards(hub: Hub) -> None:
    assert hubs.expected_sha256(fetched()) == {
        "model.safetensors": sha256(WEIGHTS),
        "tokenizer.model": sha256(FILES["tokenizer.model"]),
    }


def test_without_links_files_lie_in_the_snapshot_and_their_sha256_is_known(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_SYMLINKS", True)
    folder = fetched()
    assert not (folder / "model.safetensors").is_symlink()
    assert (folder / "model.safetensors").read_bytes() == WEIGHTS
    assert hubs.expected_sha256(folder)["model.safetensors"] == sha256(WEIGHTS)
    assert len([f for f in folder.parents[1].rglob("*") if f.is_file() and f.stat().st_size == len(WEIGHTS)]) == 1


def test_a_branch_that_moves_meanwhile_never_gives_a_mixture(hub: Hub) -> None:
    hub.moved["main"] = "e" * 40
    with pytest.raises(ModelError, match="its branch moved while it was read; run again"):
        fetched()
    assert fetched().name == "e" * 40 and names(fetched()) == WANTED


def test_shards_come_as_the_index_lists_them_and_other_shardings_do_not(hub: Hub) -> None:
    del hub.repositories[NAME]["model.safetensors"]
    shards = {f"model-0000{i}-of-00002.safetensors": bytes([i]) * 2000 for i in (1, 2)}
    others = {f"model-0000{i}-of-00003.safetensors": bytes([i]) * 1500 for i in (1, 2, 3)}
    index = json.dumps({"weight_map": {f"t{i}": name for i, name in enumerate(shards)}}).encode()
    hub.repositories[NAME].update({**shards, **others, "model.safetensors.index.json": index})
    expected = (WANTED - {"model.safetensors"}) | set(shards) | {"model.safetensors.index.json"}
    assert names(fetched()) == expected


def test_an_index_that_lists_what_the_hub_lacks_is_an_error(hub: Hub) -> None:
    del hub.repositories[NAME]["model.safetensors"]
    index = json.dumps({"weight_map": {"t": "model-00001-of-00001.safetensors"}}).encode()
    hub.repositories[NAME]["model.safetensors.index.json"] = index
    with pytest.raises(ModelError, match="its index lists model-00001-of-00001.safetensors"):
        fetched()


def test_bin_weights_come_where_there_are_no_safetensors(hub: Hub) -> None:
    del hub.repositories[NAME]["model.safetensors"]
    assert names(fetched()) == (WANTED - {"model.safetensors"}) | {"pytorch_model.bin"}


def test_an_adapter_beside_the_weights_stays_where_it_is(hub: Hub) -> None:
    hub.repositories[NAME] |= {"adapter_config.json": b"{}", "adapter_model.safetensors": b"a"}
    assert names(fetched()) == WANTED


@pytest.mark.parametrize(
    ("files", "hint"),
    [
        ({"adapter_config.json": b"{}", "adapter_model.bin": b"a"}, "adapter.*flows.convert"),
        ({"config.json": b"{}", "pytorch_model.bin.00ff.enc": b"a"}, "encrypted.*flows.convert"),
        ({"tiny-q4.gguf": b"a"}, "GGUF.*model.path"),
        ({"README.md": b"a"}, "it holds README.md"),
    ],
)
def test_a_repository_without_usable_weights_says_what_it_is(hub: Hub, files: dict[str, bytes], hint: str) -> None:
    hub.repositories[NAME] = files
    with pytest.raises(ModelError, match=hint):
        fetched()


def test_a_revision_is_a_folder_of_its_own(hub: Hub) -> None:
    main = fetched()
    hub.commits["v2"] = "d" * 40
    hub.repositories[NAME]["model.safetensors"] = b"new" * 1000
    old, new = fetched(), fetched(revision="v2")
    assert old == main and new.name == "d" * 40
    assert (new / "model.safetensors").read_bytes() == b"new" * 1000
    assert fetched(revision="d" * 40, offline=True) == new and main.name == COMMIT
    with pytest.raises(ModelError, match="model.revision=v3: no such branch, tag or commit of someone/tiny"):
        fetched(revision="v3")


@pytest.mark.parametrize(
    ("refusal", "token", "said"),
    [
        ((404, "RepoNotFound"), "", r"no such model on http://127.*\(404\).*check the name"),
        ((401, "RepoNotFound"), "", r"no such model.*\(401\).*licence on http://127.*/someone/tiny and set HF_TOKEN"),
        ((401, ""), "hf_wrong", r"HF_TOKEN is not accepted.*\(401\)"),
        ((403, "GatedRepo"), "", r"access refused \(403\): accept the licence.*HF_TOKEN"),
        ((403, ""), "hf_other", r"access refused \(403\)"),
        ((503, ""), "", "answers 503.*HF_ENDPOINT.*model.path"),
    ],
)
def test_a_refusal_is_one_line_with_the_next_step(
    hub: Hub, monkeypatch: pytest.MonkeyPatch, refusal: tuple[int, str], token: str, said: str
) -> None:
    hub.refused[NAME] = refusal
    if token:
        monkeypatch.setenv("HF_TOKEN", token)
    with pytest.raises(ModelError, match=said) as caught:
        fetched()
    assert "\n" not in str(caught.value) and str(caught.value).startswith(f"model.hub_id={NAME}: ")
    assert token not in str(caught.value) or not token


def test_a_gated_model_whose_listing_is_public_says_to_accept_the_licence(hub: Hub) -> None:
    hub.locked.add(NAME)
    with pytest.raises(ModelError, match=r"access refused \(403\): accept the licence"):
        fetched()


def test_the_token_goes_to_the_hub_and_not_to_its_file_store(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    fetched()
    at_store = [r for r in hub.requests if r.path.startswith("/store/")]
    assert at_store and all(r.authorization is None for r in at_store)
    assert {r.authorization for r in hub.requests if r not in at_store} == {"Bearer hf_secret"}


def test_no_hub_at_that_address_is_one_line(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:1")
    with pytest.raises(ModelError, match=r"http://127.0.0.1:1 cannot be reached \(.*HF_ENDPOINT") as caught:
        fetched()
    assert "\n" not in str(caught.value)
    monkeypatch.setenv("HF_ENDPOINT", "hf-mirror.com")
    with pytest.raises(ModelError, match="HF_ENDPOINT=hf-mirror.com: must start with https://"):
        fetched()


def test_a_name_that_no_hub_can_have_is_an_error(hub: Hub) -> None:
    with pytest.raises(ModelError, match="model.hub_id=a/b/c: not a name on the hub"):
        fetched(hub_id="a/b/c")


def test_too_small_a_disk_is_refused_before_the_download(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = type("Usage", (), {"free": 1000})()
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage)
    with pytest.raises(ResourceError, match=r"GiB to download, 0.0 free in .*HF_HOME") as caught:
        fetched()
    assert caught.value.exit_code == 1 and hub.asked("/store/") == []


def test_a_disk_that_fills_up_is_one_line_and_the_bytes_stay(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: fetching._Partial, chunk: bytes) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(fetching._Partial, "write", full)
        with pytest.raises(ResourceError, match="the disk of the cache is full.*HF_HOME"):
            fetched()
    assert names(fetched()) == WANTED


SCRIPT = f"""
import pathlib, sys
from tasks.models import resolving
from tasks.models.config import ModelConfig
place = resolving.locate(ModelConfig(name="tiny", hub_id="{NAME}"))
print(place)
"""


def environment(hub: Hub, cache: Path, **more: str) -> dict[str, str]:
    return {**os.environ, "HF_ENDPOINT": hub.url, "HF_HOME": str(cache), **more}


def test_the_environment_alone_names_the_mirror_and_the_cache(hub: Hub, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], env=environment(hub, tmp_path / "home"), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert names(Path(done.stdout.strip())) == WANTED and (tmp_path / "home") in Path(done.stdout.strip()).parents
    assert done.stderr == ""  # no bars in a log
    hub.requests.clear()
    again = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        env=environment(hub, tmp_path / "empty", HF_HUB_OFFLINE="1"),
        capture_output=True,
        text=True,
    )
    assert "HF_HUB_OFFLINE forbids asking the network" in again.stderr and hub.requests == []


def test_a_killed_download_is_resumed_by_the_next_process(hub: Hub, tmp_path: Path) -> None:
    home = tmp_path / "home"
    kill = """
import os, signal
from tasks.models.hub import fetching
write = fetching._Partial.write
def deadly(self, chunk):
    write(self, chunk)
    if self.size > 1 << 20:
        self._file.flush()
        os.kill(os.getpid(), signal.SIGKILL)
fetching._Partial.write = deadly
"""
    dead = subprocess.run([sys.executable, "-c", kill + SCRIPT], env=environment(hub, home), capture_output=True)
    assert dead.returncode == -signal.SIGKILL, dead.stderr.decode()
    hub.requests.clear()
    done = subprocess.run([sys.executable, "-c", SCRIPT], env=environment(hub, home), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (Path(done.stdout.strip()) / "model.safetensors").read_bytes() == WEIGHTS
    (request,) = hub.asked("/store/someone/tiny/model.saf")
    assert request.range is not None and int(request.range.removeprefix("bytes=").rstrip("-")) > 1 << 20
