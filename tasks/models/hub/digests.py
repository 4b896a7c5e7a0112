"""The sha256 that a model's files should have, as the hub's cache or a list beside the files states it.

Sources: the Hugging Face cache names the blob of a large file by its sha256 and links to it from the snapshot
(https://huggingface.co/docs/huggingface_hub/guides/manage-cache), keeps it in ``trees/<commit>.json``, and for
``hf download --local-dir`` in ``.cache/huggingface/download/<file>.metadata``. Lists are those of sha256sum, in its own
and in the BSD form.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

from tasks.errors import ModelError

_SHA256 = re.compile(r"[0-9a-fA-F]{64}")
_GNU = re.compile(r"\\?([0-9a-fA-F]{64})(?:[ \t]+\*?(.+))?")
_BSD = re.compile(r"SHA256 ?\((.+)\) ?= ?([0-9a-fA-F]{64})")
_LISTS = ("SHA256SUMS", "SHA256SUMS.txt", "sha256sums.txt", "sha256sum.txt")


def expected_sha256(folder: Path) -> dict[str, str]:
    """File name -> sha256 (hex, lower case) for the files of ``folder`` whose hash is stated somewhere.

    A list beside the files goes before what the hub's cache says: the person who put it there meant it.

    Raises:
        ModelError: a list is not one.
    """
    found: dict[str, str] = {}
    for file in folder.iterdir():
        if file.is_file():
            stated = _cached(file) or _metadata(file)
            if stated:
                found[file.name] = stated
    found = {**_tree(folder), **found}
    for name in _LISTS:
        if (folder / name).is_file():
            found.update(_listed(folder / name, None))
    for one in sorted(folder.glob("*.sha256")):
        found.update(_listed(one, one.name.removesuffix(".sha256")))
    return {name: digest.lower() for name, digest in sorted(found.items()) if (folder / name).is_file()}


def _cached(file: Path) -> str | None:
    """The name of the blob that a snapshot's link leads to; a short name is a git hash, of a small file."""
    if not file.is_symlink():
        return None
    blob = file.readlink()
    return blob.name if blob.parent.name == "blobs" and _SHA256.fullmatch(blob.name) else None


def _metadata(file: Path) -> str | None:
    """The second line of the file that ``hf download --local-dir`` leaves: the ETag, a large file's sha256."""
    record = file.parent / ".cache" / "huggingface" / "download" / f"{file.name}.metadata"
    if not record.is_file():
        return None
    lines = record.read_text(encoding="utf-8", errors="replace").splitlines()
    return lines[1].strip() if len(lines) > 1 and _SHA256.fullmatch(lines[1].strip()) else None


def _tree(folder: Path) -> dict[str, str]:
    """What the cache knows of a commit, for systems without links."""
    tree = folder.parent.parent / "trees" / f"{folder.name}.json"
    if folder.parent.name != "snapshots" or not tree.is_file():
        return {}
    try:
        files = json.loads(tree.read_text(encoding="utf-8"))["files"].items()
        return {name: entry["lfs_sha256"] for name, entry in files if entry.get("lfs_sha256")}
    except (ValueError, KeyError, TypeError, AttributeError):  # another version's form: only a lost check
        return {}


def _listed(path: Path, only: str | None) -> dict[str, str]:
    """A sha256sum list; ``only`` names the file that a list of one bare hash is for."""
    found: dict[str, str] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8-sig", errors="replace").splitlines(), 1):
        text = line.strip()
        if not text or text.startswith("#"):
            continue
        if bsd := _BSD.fullmatch(text):
            name, digest = bsd[1], bsd[2]
        elif (gnu := _GNU.fullmatch(text)) and (gnu[2] or only):
            name, digest = gnu[2] or str(only), gnu[1]
        else:
            raise ModelError(f"{path}:{number}: {text[:60]!r}: expected a sha256 (64 hex digits) and a file name")
        found[name.removeprefix("./")] = digest
    return found
