"""BELLE-LLaMA-EXT: files encrypted with the original LLaMA weights, decrypted and checked.

Each ``NAME.<sha256>.enc`` begins with the 32 bytes of the plain file's sha256; the rest is the plain file XOR the key
file. Both are read in chunks of 10 MiB: where the key ends, the next chunk starts at its beginning again, and a last
chunk of the key that is shorter than the data it meets is repeated within that chunk. Nothing is ever unpickled.

Source: models/decrypt.py of LianjiaTech/BELLE.
"""

from __future__ import annotations

import hashlib
import json
import re
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from tasks.errors import ModelError, ResourceError, Stopped
from tasks.files import sha256_file, write_atomic
from tasks.models import families, resolving
from tasks.models.families import Layout
from tasks.models.importing import tensors
from tasks.models.tokenizers import sentencepiece

#: The unit in which the key is read; part of the format.
CHUNK_BYTES = 10 * 1024 * 1024
KEY = "consolidated.00.pth"
_NAME = re.compile(r"^(?P<name>.+)\.(?P<sha256>[0-9a-f]{64})\.enc$")
_DIGEST_BYTES = 32
_LAYOUT = Layout("llama", "belle")


@dataclass(frozen=True)
class Encrypted:
    """One encrypted file: where it lies, what it becomes, and its sha256 in hex."""

    path: Path
    name: str
    sha256: str


def decrypt(
    encrypted: Path,
    original: Path,
    target: Path,
    *,
    progress: Callable[[int, int], None] = lambda done, total: None,
    stopping: Callable[[], bool] = lambda: False,
) -> dict[str, Any]:
    """Decrypt every file of a folder into ``target``, then make its tokenizer fast and name its layout in config.json.

    A file appears under its name when its sha256 is right; files that an earlier attempt left so are kept.

    Args:
        encrypted: folder with the encrypted files; others in it are left alone.
        target: an empty folder, or one that an earlier attempt left.
        original: LLaMA's ``consolidated.00.pth`` as Meta released it, or the folder that holds it.
        progress: called with the bytes done and all of them.
        stopping: asked between chunks; true raises Stopped.

    Raises:
        ModelError: a file is missing, cut short or damaged, or the key is another file.
    """
    key = key_file(original)
    files = encrypted_files(encrypted)
    for stale in {path.name for path in target.iterdir()} - {file.name for file in files}:
        (target / stale).unlink()  # what an earlier attempt, on another model, left
    total, done, kept, right = sum(f.path.stat().st_size for f in files), 0, 0, ""
    for file in files:  # the smallest first: a wrong key shows before gigabytes are written
        if (target / file.name).is_file() and sha256_file(target / file.name) == file.sha256:
            kept += 1
            done += file.path.stat().st_size
        else:
            for size in _decrypt_file(file, key, target, right):
                done += size
                progress(done, total)
                if stopping():
                    raise Stopped("convert: stopped by a signal; run the same command again, whole files are kept")
        right = right or file.name
    resolving.model_files(target)  # a file that was not downloaded at all
    digests = {file.name: file.sha256 for file in files}
    _make_native(target)
    return {"files": len(files), "kept": kept, "bytes": total, "sha256": digests, "layout": _LAYOUT.to_json()}


def key_file(original: Path) -> Path:
    """The key: the file given, or ``consolidated.00.pth`` of the folder given.

    Raises:
        ModelError: it is not there, or is no weight file.
    """
    key = original / KEY if original.is_dir() else original
    if not key.is_file():
        hint = " (its files in Hugging Face's form are no key)" if (original / "config.json").is_file() else ""
        raise ModelError(f"original={original}: no {KEY} there{hint}; LLaMA's own file, as Meta released it, is needed")
    tensors.refuse_pointer(key)
    if key.stat().st_size == 0:
        raise ModelError(f"{key}: empty; download it again")
    return key


def encrypted_files(folder: Path) -> list[Encrypted]:
    """The encrypted files of a folder, the smallest first.

    Raises:
        ModelError: there are none, or one's name or head is not of the form.
    """
    files: dict[str, Encrypted] = {}
    for path in sorted(folder.glob("*.enc")):
        match = _NAME.match(path.name)
        if match is None:
            raise ModelError(f"{path}: the name must be NAME.<sha256 in 64 hex digits>.enc; download it again")
        tensors.refuse_pointer(path)
        with path.open("rb") as stream:
            head = stream.read(_DIGEST_BYTES)
        if len(head) < _DIGEST_BYTES:
            raise ModelError(f"{path}: {len(head)} bytes: cut short; download it again")
        if head.hex() != match["sha256"]:
            raise ModelError(
                f"{path}: its first 32 bytes are not the sha256 in its name: renamed or damaged; download it again"
            )
        if match["name"] in files:
            raise ModelError(f"{path}: also there as {files[match['name']].path.name}; keep one of the two")
        files[match["name"]] = Encrypted(path, match["name"], match["sha256"])
    if not files:
        raise ModelError(f"encrypted={folder}: no file NAME.<sha256>.enc in it")
    return sorted(files.values(), key=lambda file: file.path.stat().st_size)


def _decrypt_file(file: Encrypted, key: Path, target: Path, right: str) -> Iterator[int]:
    """Write one file; gives the size of each piece.

    Args:
        right: a file that this key decrypted rightly before, "" for none: it tells a wrong key from a damaged file.
    """
    temporary = target / f"{file.name}.writing"
    digest = hashlib.sha256()
    try:
        with file.path.open("rb") as source, key.open("rb") as pad, temporary.open("wb") as output:
            source.seek(_DIGEST_BYTES)
            while chunk := source.read(CHUNK_BYTES):
                plain = _xor(chunk, _next_key(pad))
                digest.update(plain)
                output.write(plain)
                yield len(plain)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise ResourceError(f"{target / file.name}: {error.strerror or error}; free some disk space") from error
    if digest.hexdigest() != file.sha256:
        temporary.unlink()
        raise ModelError(_mismatch(file, key, right))
    temporary.replace(target / file.name)


def _next_key(pad: IO[bytes]) -> bytes:
    chunk = pad.read(CHUNK_BYTES)
    if not chunk:
        pad.seek(0)
        chunk = pad.read(CHUNK_BYTES)
    return chunk


def _xor(data: bytes, key: bytes) -> bytes:
    import numpy as np

    left, right = np.frombuffer(data, np.uint8), np.frombuffer(key, np.uint8)
    right = right[: len(left)] if len(right) >= len(left) else np.resize(right, len(left))  # resize repeats it
    return (left ^ right).tobytes()


def _mismatch(file: Encrypted, key: Path, right: str) -> str:
    if right:
        return (
            f"{file.path}: what it decrypts to has another sha256 than its name says, although {key} was right for "
            f"{right}: this file is cut short or damaged, or the key file is further on; download it again"
        )
    return (
        f"original={key}: not the key of {file.path.name}: what it decrypts to has another sha256; the key is LLaMA's "
        f"{KEY} as Meta released it, of the same size (7B for a 7B model)"
    )


def _make_native(target: Path) -> None:
    """Make the tokenizer a fast one, and let the folder say that BELLE's dialogues have a layout of their own."""
    if (target / "tokenizer.model").is_file():
        with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
            sentencepiece.write(target, Path(scratch))
            for file in Path(scratch).iterdir():
                file.replace(target / file.name)
    config = resolving.read_json(target / "config.json")
    config[families.CONFIG_KEY] = _LAYOUT.to_json()
    write_atomic(target / "config.json", json.dumps(config, ensure_ascii=False, indent=1))
