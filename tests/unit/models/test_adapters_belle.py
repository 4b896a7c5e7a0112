"""Decryption of BELLE-LLaMA-EXT: by the format's own definition, with wrong keys, damaged files and interruptions."""

from __future__ import annotations

import hashlib
import json
import random
import signal
import subprocess
import sys
from collections.abc import Callable
from itertools import cycle, islice
from pathlib import Path

import pytest
from adapter_cases import PIECES, sentencepiece

from tasks.errors import ModelError, Stopped
from tasks.models.adapters import belle_ext

LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 13\n"
KEY_SIZE = 250
#: What becomes of tokenizer.model, beside it.
FAST = ("tokenizer.json", "tokenizer_config.json")
REAL_CHUNK_BYTES = belle_ext.CHUNK_BYTES


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks of 100 bytes instead of 10 MiB: a key of 250 bytes then ends in a short chunk."""
    monkeypatch.setattr(belle_ext, "CHUNK_BYTES", 100)


def encrypt(data: bytes, key: bytes) -> bytes:
    """The format from its definition, byte by byte: key chunks in turn, each repeated within its data chunk."""
    pads = cycle([key[i : i + 100] for i in range(0, len(key), 100)])
    pieces = [(data[i : i + 100], next(pads)) for i in range(0, len(data), 100)]
    body = b"".join(bytes(a ^ b for a, b in zip(piece, cycle(pad), strict=False)) for piece, pad in pieces)
    return hashlib.sha256(data).digest() + body


def noise(seed: int, size: int) -> bytes:
    return random.Random(seed).randbytes(size)


def plain_files() -> dict[str, bytes]:
    return {
        "config.json": json.dumps({"model_type": "llama", "vocab_size": 79458}).encode(),
        "tokenizer.model": sentencepiece((*PIECES, "中")),
        "pytorch_model.bin": b"\x80" + noise(3, 1033),  # many times the key
    }


@pytest.fixture
def key(tmp_path: Path) -> Path:
    path = tmp_path / "7B" / "consolidated.00.pth"
    path.parent.mkdir()
    path.write_bytes(noise(1, KEY_SIZE))
    return path


@pytest.fixture
def encrypted(tmp_path: Path, key: Path) -> Path:
    folder = tmp_path / "enc"
    folder.mkdir()
    for name, data in plain_files().items():
        path = folder / f"{name}.{hashlib.sha256(data).hexdigest()}.enc"
        path.write_bytes(encrypt(data, key.read_bytes()))
    (folder / "README.md").write_text("left alone", encoding="utf-8")
    return folder


@pytest.fixture
def target(tmp_path: Path) -> Path:
    folder = tmp_path / "out"
    folder.mkdir()
    return folder


def of(folder: Path, name: str) -> Path:
    return next(folder.glob(f"{name}.*.enc"))


def test_files_decrypt_to_the_plain_ones_and_the_folder_names_its_layout(
    encrypted: Path, key: Path, target: Path
) -> None:
    seen: list[tuple[int, int]] = []
    facts = belle_ext.decrypt(encrypted, key, target, progress=lambda done, total: seen.append((done, total)))
    plain = plain_files()
    for name in ("tokenizer.model", "pytorch_model.bin"):
        assert (target / name).read_bytes() == plain[name]
    config = json.loads((target / "config.json").read_text(encoding="utf-8"))
    assert config == {**json.loads(plain["config.json"]), "weitiao": {"family": "llama", "template": "belle"}}
    assert {f.name for f in target.iterdir()} == {*plain, *FAST}
    assert (
        facts["files"] == 3
        and facts["sha256"]["tokenizer.model"] == hashlib.sha256(plain["tokenizer.model"]).hexdigest()
    )
    assert seen == sorted(seen) and len(seen) == 1 + 3 + 11


def test_folder_of_the_key_is_enough(encrypted: Path, key: Path, target: Path) -> None:
    assert belle_ext.decrypt(encrypted, key.parent, target)["files"] == 3


def test_true_chunk_size_is_ten_mebibytes() -> None:
    """The length of a key chunk is part of the format."""
    assert REAL_CHUNK_BYTES == 10_485_760


def test_wrong_key_shows_at_the_smallest_file(encrypted: Path, key: Path, target: Path) -> None:
    key.write_bytes(noise(9, KEY_SIZE))
    with pytest.raises(ModelError, match=r"original=.*consolidated\.00\.pth: not the key of config\.json"):
        belle_ext.decrypt(encrypted, key, target)
    assert not list(target.iterdir())


def test_truncated_file_is_not_blamed_on_the_key(encrypted: Path, key: Path, target: Path) -> None:
    path = of(encrypted, "pytorch_model.bin")
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ModelError, match=r"pytorch_model\.bin\..*was right for config\.json: this file is cut short"):
        belle_ext.decrypt(encrypted, key, target)
    assert not (target / "pytorch_model.bin").exists()


def test_interrupted_decryption_goes_on_with_the_files_that_are_not_whole(
    encrypted: Path, key: Path, target: Path
) -> None:
    steps = iter(range(100))
    with pytest.raises(Stopped):  # in the middle of the last, largest file
        belle_ext.decrypt(encrypted, key, target, stopping=lambda: next(steps) == 7)
    assert (target / "tokenizer.model").exists() and not (target / "pytorch_model.bin").exists()
    (target / "tokenizer.model").write_bytes(b"damaged since")
    assert belle_ext.decrypt(encrypted, key, target)["kept"] == 1  # config.json
    assert (target / "tokenizer.model").read_bytes() == plain_files()["tokenizer.model"]


def test_killed_decryption_leaves_no_half_file_under_a_true_name(encrypted: Path, key: Path, target: Path) -> None:
    code = f"""
import os, signal
from pathlib import Path
from tasks.models.adapters import belle_ext
belle_ext.CHUNK_BYTES = 100
def progress(done, total):
    if done > 1000:
        os.kill(os.getpid(), signal.SIGKILL)
belle_ext.decrypt(Path({str(encrypted)!r}), Path({str(key)!r}), Path({str(target)!r}), progress=progress)
"""
    child = subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[3], check=False)
    assert child.returncode == -signal.SIGKILL
    assert {f.name for f in target.iterdir()} == {"config.json", "tokenizer.model", "pytorch_model.bin.writing"}
    assert belle_ext.decrypt(encrypted, key, target)["kept"] == 2
    assert (target / "pytorch_model.bin").read_bytes() == plain_files()["pytorch_model.bin"]
    assert {f.name for f in target.iterdir()} == {*plain_files(), *FAST}


def test_files_of_another_attempt_do_not_get_into_the_result(encrypted: Path, key: Path, target: Path) -> None:
    (target / "pytorch_model-00001-of-00002.bin").write_bytes(b"of another model")
    belle_ext.decrypt(encrypted, key, target)
    assert {f.name for f in target.iterdir()} == {*plain_files(), *FAST}


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: f.write_bytes(f.read_bytes()[:20]), "20 bytes: cut short"),
        (lambda f: f.write_bytes(LFS), "a git-lfs pointer, not the file"),
        (lambda f: f.write_bytes(b"\0" * 32 + f.read_bytes()[32:]), "first 32 bytes are not the sha256 in its name"),
        (lambda f: f.rename(f.with_name("config.json.enc")), "the name must be NAME.<sha256 in 64 hex digits>.enc"),
        (lambda f: f.unlink(), "no config.json: not a model folder"),
    ],
)
def test_damaged_download_is_named(
    encrypted: Path, key: Path, target: Path, damage: Callable[[Path], object], message: str
) -> None:
    damage(of(encrypted, "config.json"))
    with pytest.raises(ModelError, match=message):
        belle_ext.decrypt(encrypted, key, target)


def test_two_files_of_one_name_are_refused(encrypted: Path, key: Path, target: Path) -> None:
    other = b"{}"
    digest = hashlib.sha256(other).hexdigest()
    (encrypted / f"config.json.{digest}.enc").write_bytes(encrypt(other, key.read_bytes()))
    with pytest.raises(ModelError, match="also there as .* keep one of the two"):
        belle_ext.decrypt(encrypted, key, target)


def test_folder_without_encrypted_files_is_refused(tmp_path: Path, key: Path, target: Path) -> None:
    with pytest.raises(ModelError, match=r"encrypted=.*: no file NAME\.<sha256>\.enc in it"):
        belle_ext.decrypt(tmp_path, key, target)


def test_folder_in_hugging_face_form_is_no_key(tmp_path: Path, encrypted: Path, target: Path) -> None:
    (tmp_path / "config.json").write_text("{}", encoding="utf-8")
    with pytest.raises(ModelError, match="no consolidated.00.pth there .its files in Hugging Face's form are no key"):
        belle_ext.decrypt(encrypted, tmp_path, target)


@pytest.mark.parametrize(("content", "message"), [(b"", "empty; download it again"), (LFS, "a git-lfs pointer")])
def test_key_that_is_no_file_of_weights_is_refused(
    encrypted: Path, key: Path, target: Path, content: bytes, message: str
) -> None:
    key.write_bytes(content)
    with pytest.raises(ModelError, match=message):
        belle_ext.decrypt(encrypted, key, target)


def test_key_chunk_shorter_than_its_data_is_repeated_within_it() -> None:
    data, key = bytes(7), b"abc"
    assert belle_ext._xor(data, key) == bytes(islice(cycle(key), 7))
