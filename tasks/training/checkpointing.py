"""Checkpoints that survive a kill at any moment: written aside, synced, committed by one rename, verified before use.

``checkpoints/step-N/`` holds the trained weights in the form that tasks.models.loading reads; ``state/step-N/`` what
resuming needs besides (optimiser moments). The weights are committed first; a state names their manifest's digest, so a
resumable point is a state and weights that belong together.
"""

from __future__ import annotations

import json
import logging
import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tasks.files import sha256_file, sync_files, sync_folder, write_atomic

log = logging.getLogger(__name__)

MANIFEST = "MANIFEST.json"


def step_folder(root: Path, kind: str, step: int) -> Path:
    return root / kind / f"step-{step:06d}"


def commit(target: Path, write: Callable[[Path], None], facts: Mapping[str, Any]) -> str:
    """Write a folder as a whole; returns the sha256 of its manifest. A folder of that name is replaced."""
    temporary = target.with_name(f".{target.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    write(temporary)
    files = {}
    sync_files(temporary)
    for file in sorted(p for p in temporary.rglob("*") if p.is_file()):
        files[file.relative_to(temporary).as_posix()] = {"bytes": file.stat().st_size, "sha256": sha256_file(file)}
    write_atomic(temporary / MANIFEST, json.dumps({**facts, "files": files}, indent=1))
    shutil.rmtree(target, ignore_errors=True)
    temporary.replace(target)
    sync_folder(target.parent)
    return sha256_file(target / MANIFEST)


def verify(folder: Path) -> dict[str, Any] | None:
    """The folder's manifest if every file is the one that it lists, else None (the reason is logged)."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        for name, file in manifest["files"].items():
            path = folder / name
            if path.stat().st_size != file["bytes"] or sha256_file(path) != file["sha256"]:
                raise ValueError(f"{name} is not the file that was written")
    except (OSError, ValueError, KeyError) as error:
        log.warning("checkpoint %s is not used: %s", folder, error)
        return None
    return dict(manifest)


def newest(root: Path) -> int | None:
    """The last step from which a run can resume; damaged checkpoints are set aside and the one before is taken."""
    for state in sorted((root / "state").glob("step-*"), reverse=True):
        step = int(state.name.removeprefix("step-"))
        weights = step_folder(root, "checkpoints", step)
        manifest = verify(state)
        if manifest and verify(weights) and manifest["weights"] == sha256_file(weights / MANIFEST):
            return step
        for damaged in (state, weights):
            if damaged.exists():
                damaged.replace(damaged.with_name(f"corrupt-{damaged.name}-{time.time_ns()}"))
    return None


def steps(root: Path) -> list[int]:
    """Steps whose weights are committed, ascending."""
    return sorted(int(p.name.removeprefix("step-")) for p in (root / "checkpoints").glob("step-*"))


def rotate(root: Path, keep: int, every: int) -> None:
    """Keep the newest checkpoint and the ``keep - 1`` scheduled ones before it, and the newest two states.

    A checkpoint that a signal caused (no multiple of ``every``) goes as soon as there is a newer one: an interrupted
    run must end with the same checkpoints as another.
    """
    found = steps(root)
    scheduled = [step for step in found[:-1] if step % every == 0]
    kept = {found[-1], *scheduled[max(0, len(scheduled) - keep + 1) :]}
    for step in set(found) - kept:
        shutil.rmtree(step_folder(root, "state", step), ignore_errors=True)
        shutil.rmtree(step_folder(root, "checkpoints", step))
    for state in sorted((root / "state").glob("step-*"))[:-2]:
        shutil.rmtree(state)


def clear(root: Path) -> None:
    """Nothing to resume from: weights without a state would be taken for newer ones."""
    for kind in ("checkpoints", "state"):
        shutil.rmtree(root / kind, ignore_errors=True)


def finish(root: Path) -> None:
    """A complete run needs no states, and nothing that was set aside or left half-written."""
    shutil.rmtree(root / "state", ignore_errors=True)
    for folder in (root / "checkpoints").iterdir():
        if not folder.name.startswith("step-"):
            shutil.rmtree(folder)


def finished(root: Path) -> dict[str, Any] | None:
    """The result of a run that ended, but was not published any more: its result.json, if its weights are whole."""
    try:
        result = json.loads((root / "result.json").read_text(encoding="utf-8"))
        whole = all(verify(step_folder(root, "checkpoints", step)) for step in result["steps"])
    except (OSError, ValueError, KeyError):
        return None
    return dict(result) if whole and result["steps"] else None


def save_optimizer(folder: Path, optimizer: Any, names: Mapping[Any, str]) -> None:
    """The optimiser's per-parameter tensors as safetensors, keyed ``<parameter>|<moment>``."""
    from safetensors.torch import save_file

    tensors = {
        f"{names[p]}|{key}": value.detach().cpu().contiguous()
        for p, values in optimizer.state.items()
        for key, value in values.items()
    }
    save_file(tensors, folder / "optimizer.safetensors")


def load_optimizer(folder: Path, optimizer: Any, names: Mapping[Any, str]) -> None:
    """Put saved moments back; step counters stay on the CPU, as a fresh optimiser has them."""
    from safetensors.torch import load_file

    parameters = {name: p for p, name in names.items()}
    for key, value in load_file(folder / "optimizer.safetensors").items():
        name, _, moment = key.rpartition("|")
        parameter = parameters[name]
        optimizer.state[parameter][moment] = value if value.dim() == 0 else value.to(parameter.device)
