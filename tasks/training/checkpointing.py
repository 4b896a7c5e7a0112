"""Points from which a run goes on after a kill at any moment, or a damaged or full disk.

``checkpoints/step-N/`` holds the trained weights in the form that tasks.models.loading reads; ``state/step-N/`` what
resuming needs besides: the optimiser's state, and ``run.json`` (the run's own counters). Both are committed as
tasks.training.manifests does it, the weights first; the state's manifest names the weights' digest and the facts that
decide the result, so a resumable point is a state and weights that belong together and to this run. ``state/LATEST``
names the newest point, for people and scripts; resuming trusts only what it verified.

What is checked when: a save reads its files back for their digests and compares sizes after the rename (to read the
same pages of the cache a third time would find nothing new); resuming reads every digest.

Loaded by workers: standard library; torch only inside functions.
"""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from tasks.errors import ConfigError, ResourceError, StageError
from tasks.files import sha256_file, sync_folder, write_atomic
from tasks.training import manifests
from tasks.training.attempts import ALONE, Attempt, Group, Processes, claim, disk, disk_reason, size
from tasks.training.manifests import MANIFEST, Damaged, check, discard, set_aside, step_folder, step_numbers

__all__ = ["ALONE", "MANIFEST", "Attempt", "Group", "Processes", "claim", "disk_reason", "step_folder"]

log = logging.getLogger(__name__)

_KINDS = ("checkpoints", "state")
#: Points that a run can resume from at any time: should the newest be damaged, there is one before it.
_RESUMABLE = 2


# --- going on -----------------------------------------------------------------------------------------------------


def resume_point(root: Path, resume: str | int, identity: Mapping[str, Any], group: Group = ALONE) -> int | None:
    """The step after which this run goes on, None for the start; what cannot be used is out of the way afterwards.

    Called by every process of the run; all get the first one's answer.

    Args:
        resume: "auto": the newest verified point, or the start where there is none. "never": discards what is there.
            A number: exactly that step; later points are set aside.
        identity: facts that decide the result, nested as the user types them.

    Raises:
        ConfigError: ``resume`` is something else, that step cannot be used, or an identity field has changed.
    """
    step, refusal = -1, None
    if group.rank == 0:
        try:
            with disk(root, "the run's folder cannot be written"):
                step = _choose(root, str(resume), identity) or 0
        except (ConfigError, ResourceError) as error:
            refusal = error
    step = int(group.sum(step if group.rank == 0 else 0))
    if refusal:
        raise refusal
    if step < 0:
        _choose(root, str(resume), identity)  # nothing is left to set aside: it refuses with the same words
        raise StageError(f"{root}: the first process could not choose a checkpoint; its message says why")
    return step or None


def _choose(root: Path, resume: str, identity: Mapping[str, Any]) -> int | None:
    for kind in _KINDS:
        manifests.remove_half_written(root / kind)
    if resume == "never":
        clear(root)
        return None
    if resume == "auto":
        step = newest(root)
        if step is None:
            if steps(root) or any((root / "state").glob("corrupt-*")):
                log.warning("%s: no checkpoint can be resumed from: training starts anew", root)
            clear(root)
            return None
    elif re.fullmatch(r"\d+", resume):
        step = int(resume)
        try:
            _verified(root, step)
        except Damaged as reason:
            there = ", ".join(str(s) for s in step_numbers(root / "state") if _usable(root, s)) or "none"
            raise ConfigError(
                f"training.resume={resume}: {reason}; steps that can be resumed from: {there}. Name one of them, "
                "or auto (the newest one) or never (start anew)"
            ) from None
    else:
        raise ConfigError(f"training.resume={resume}: allowed are auto, never, and the number of a saved step")
    _same_run(step_folder(root, "state", step), step, identity)
    states = step_numbers(root / "state")
    for other in sorted({*steps(root), *states} - {step}):
        weights, state = (step_folder(root, kind, other) for kind in _KINDS)
        if other < step:  # kept weights, which will be published
            _check_or_set_aside(weights)
        elif other in states:
            for folder in (weights, state):
                set_aside(folder, f"the run goes on after step {step}", prefix="later")
        else:  # an attempt ended before the state followed
            discard(weights)
    return step


def newest(root: Path) -> int | None:
    """The last step from which a run can resume; damaged points are set aside and the one before is taken."""
    for step in reversed(step_numbers(root / "state")):
        try:
            _verified(root, step)
        except Damaged as reason:
            for kind in _KINDS:
                set_aside(step_folder(root, kind, step), str(reason))
        else:
            return step
    return None


def load_run(root: Path, step: int) -> dict[str, Any]:
    """The run's own state as it was saved with that step."""
    return dict(json.loads((step_folder(root, "state", step) / "run.json").read_text(encoding="utf-8")))


def verify(folder: Path) -> dict[str, Any] | None:
    """The folder's manifest if every file is the one that it lists, else None (the reason is logged)."""
    try:
        return check(folder)
    except Damaged as reason:
        log.warning("checkpoint %s is not used: %s", folder, reason)
        return None


def _verified(root: Path, step: int, *, digests: bool = True) -> dict[str, Any]:
    """The manifest of a step's state, once it and the weights that belong to it are verified."""
    weights, state = (step_folder(root, kind, step) for kind in _KINDS)
    if not state.is_dir():
        raise Damaged(f"step {step} is not there")
    manifest = {}
    for folder in (state, weights):
        try:
            manifest[folder] = check(folder, digests=digests)
        except Damaged as reason:
            raise Damaged(f"{folder.parent.name}/{folder.name}/{reason}") from None
    if manifest[state].get("weights") != sha256_file(weights / MANIFEST):
        raise Damaged(f"step {step}: its state belongs to other weights")
    return manifest[state]


def _usable(root: Path, step: int, *, digests: bool = True) -> bool:
    try:
        return bool(_verified(root, step, digests=digests))
    except Damaged:
        return False


def _check_or_set_aside(folder: Path) -> None:
    try:
        check(folder)
    except Damaged as reason:
        set_aside(folder, str(reason))


def _same_run(state: Path, step: int, identity: Mapping[str, Any]) -> None:
    """Raises ConfigError naming each fact in which the run differs from the one that saved ``state``."""
    before = dict(_flat(check(state, digests=False).get("identity", {})))
    now = dict(_flat(json.loads(json.dumps(identity))))
    problems = [
        f"{key}={_shown(now, key)}: the checkpoint of step {step} was made with {_shown(before, key)}; set it back to "
        "go on, or training.resume=never to start anew"
        for key in sorted({*before, *now})
        if key not in before or key not in now or before[key] != now[key]
    ]
    if problems:
        raise ConfigError(problems)


def _flat(value: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, item in value.items():
        if isinstance(item, Mapping) and item:
            yield from _flat(item, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", item


def _shown(facts: Mapping[str, Any], key: str) -> str:
    return json.dumps(facts[key], ensure_ascii=False) if key in facts else "(not set)"


# --- saving -------------------------------------------------------------------------------------------------------


def save(
    root: Path,
    step: int,
    *,
    weights: Callable[[Path], None],
    state: Callable[[Path], None],
    run: Mapping[str, Any],
    identity: Mapping[str, Any],
    group: Group = ALONE,
    gather: Callable[[], AbstractContextManager[Any]] = contextlib.nullcontext,
    attempt: Attempt | None = None,
    keep: int = 1,
    every: int = 1,
    best: int | None = None,
    collective_state: bool = False,
) -> None:
    """Commit a resumable point, then delete those that it replaces. Called by every process; nobody leaves early.

    Args:
        weights: writes the weights into the folder given; called by the first process only, inside ``gather()``.
        state: writes a process's own files of the optimiser's state; called by every process.
        run: the run's own state, JSON.
        identity: facts that decide the result, JSON (see ``resume_point``).
        keep, every, best: which checkpoints stay (see ``rotate``).
        collective_state: ``state`` lets processes wait for each other; one that fails in it then raises at once
            instead of agreeing with the others, who will be ended by their launcher.

    Raises:
        ResourceError: the disk is full, read-only or broken. What was half-written is gone, the former point intact.
        StageError: another attempt has taken over the folder.
    """
    saving = _Saving(root, step, group, attempt)
    if group.sum(float(group.rank == 0 and _usable(root, step, digests=False))):
        return  # resumed from it, and told to stop before the next step
    with saving.together():
        saving.prepare()
    with saving.together(), gather():
        if group.rank == 0:
            weights(saving.written[0])
    with saving.together(agree=not collective_state):
        state(saving.written[1])
        if group.rank == 0:
            (saving.written[1] / "run.json").write_text(json.dumps(run, indent=1), encoding="utf-8")
        for folder in saving.written:
            manifests.sync_tree(folder)
    with saving.together():
        if group.rank == 0:
            saving.commit({"best": best, "identity": identity})
            rotate(root, keep, every, best)


class _Saving:
    """One save in progress: two folders written aside, which become a point or are gone."""

    def __init__(self, root: Path, step: int, group: Group, attempt: Attempt | None) -> None:
        self.root, self.step, self.group, self.attempt = root, step, group, attempt
        self.targets = [step_folder(root, kind, step) for kind in _KINDS]
        name = attempt.name if attempt else "0"
        self.written = [target.with_name(f".{target.name}.{name}.tmp") for target in self.targets]
        self.former = max((s for s in step_numbers(root / "state") if s != step), default=None)
        self.half = False  # the weights are in place, their state is not
        self.needed = 0
        if self.former is not None:
            former = sum(manifests.total_bytes(step_folder(root, kind, self.former)) for kind in _KINDS)
            self.needed = round(former * 1.05)  # whole blocks, folders, manifests

    @contextlib.contextmanager
    def together(self, *, agree: bool = True) -> Iterator[None]:
        """Every process does its part of the body, or the whole save is given up by all of them."""
        failure: Exception | None = None
        try:
            yield
        except Exception as error:  # whatever it is, nothing half-written may stay
            failure = error
        # 1: only disks failed; 1024 and more: something else too
        failed = 0.0 if failure is None else 1.0 if disk_reason(failure) else 1024.0
        if agree:
            failed = self.group.sum(failed)
        if not failed:
            return
        if self.attempt and not self._mine():
            self._give_up()
            raise StageError(
                f"{self.root}: a newer attempt works in this folder; this one stops without saving step {self.step}"
            ) from None
        self.needed = max(self.needed, sum(manifests.total_bytes(folder) for folder in self.written))
        self._give_up()
        if failure is None and failed >= 1024:
            raise StageError(f"step {self.step} was not saved: another process failed; its message says why")
        if failure is None or disk_reason(failure):
            failure = self._no_room(disk_reason(failure) if failure else "another process could not write its part")
        raise failure from None

    def prepare(self) -> None:
        """Make the folders, unless the former point already shows that there is no room for this one."""
        if self.group.rank != 0:
            return
        for home in (target.parent for target in self.targets):
            home.mkdir(parents=True, exist_ok=True)
        if self._free() < self.needed:
            for folder in (
                f for kind in _KINDS for p in ("corrupt", "later") for f in (self.root / kind).glob(p + "-*")
            ):
                log.warning("%s: deleted to make room for a checkpoint", folder)
                shutil.rmtree(folder, ignore_errors=True)
            if self._free() < self.needed:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        for folder in self.written:
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
        sync_folder(self.root)

    def commit(self, facts: Mapping[str, Any]) -> None:
        """The renames that make a point of what was written, and the pointer to it."""
        self._check_mine()
        digest = manifests.seal(self.written[0], self.targets[0], {"step": self.step})
        self.half = True
        self._check_mine()
        point = manifests.seal(self.written[1], self.targets[1], {"step": self.step, "weights": digest, **facts})
        self.half = False
        try:
            _verified(self.root, self.step, digests=False)
        except Damaged as reason:
            for target in self.targets:
                set_aside(target, str(reason))
            raise OSError(errno.EIO, f"what was written came back damaged: {reason}") from None
        write_atomic(self.root / "state" / "LATEST", json.dumps({"step": self.step, "manifest": point}))

    def _check_mine(self) -> None:
        if not self._mine():
            raise StageError("superseded")  # together() says it in full

    def _mine(self) -> bool:
        return self.attempt is None or self.attempt.still_mine()

    def _give_up(self) -> None:
        """Delete what was half-written, and weights whose state did not follow: only a state makes a point of them."""
        if self.half:
            discard(self.targets[0])
        for folder in self.written:
            shutil.rmtree(folder, ignore_errors=True)

    def _free(self) -> int:
        return shutil.disk_usage(self.root).free

    def _no_room(self, reason: str) -> ResourceError:
        former = "nothing was saved before" if self.former is None else f"step {self.former} is intact"
        return ResourceError(
            f"step {self.step} was not saved: {self.root}: {reason} (at least {size(self.needed)} needed, "
            f"{size(self._free())} free; {former}); mend it and run the same command again"
        )


# --- which checkpoints stay ---------------------------------------------------------------------------------------


def steps(root: Path) -> list[int]:
    """Steps whose weights are committed, ascending."""
    return step_numbers(root / "checkpoints")


def rotate(root: Path, keep: int, every: int, best: int | None = None) -> None:
    """Delete what is no longer needed while the run goes on.

    What stays: the newest two points (to resume from), and of the weights those that ``settle`` leaves, and the best of
    every point that stays: going on from it takes that one for the best again.
    """
    states = step_numbers(root / "state")
    resumable = states[-_RESUMABLE:]
    bests = {best}
    for step in resumable:
        with contextlib.suppress(Damaged):
            bests.add(check(step_folder(root, "state", step), digests=False).get("best"))
    kept = {*_kept(steps(root), keep, every), *resumable, *bests}
    for kind, gone in (("state", set(states) - {*resumable}), ("checkpoints", {*steps(root)} - kept)):
        for step in sorted(gone):
            discard(step_folder(root, kind, step))


def settle(root: Path, keep: int, every: int, best: int | None = None) -> list[int]:
    """The checkpoints of a run that has ended: all others are deleted. The same after any number of interruptions.

    The newest stays, the ``keep - 1`` multiples of ``every`` before it, and the best. One that a signal caused goes.
    """
    found = steps(root)
    kept = {step for step in found if step == best} | _kept(found, keep, every)
    for step in {*found} - kept:
        discard(step_folder(root, "checkpoints", step))
    return sorted(kept)


def _kept(found: list[int], keep: int, every: int) -> set[int]:
    scheduled = [step for step in found[:-1] if step and step % every == 0]  # 0: told to stop at once
    return {*found[-1:], *scheduled[max(0, len(scheduled) - keep + 1) :]}


def clear(root: Path) -> None:
    """Nothing to resume from: weights without a state would be taken for newer ones."""
    for kind in _KINDS:
        for step in step_numbers(root / kind):
            discard(step_folder(root, kind, step))
    (root / "state" / "LATEST").unlink(missing_ok=True)


def finish(root: Path, result: Mapping[str, Any] | None = None, attempt: Attempt | None = None) -> None:
    """A complete run needs no states, and nothing that was set aside or left half-written.

    With ``result`` its result.json is written first: a kill after that costs none of the work.

    Raises:
        StageError: another attempt has taken over the folder.
    """
    if attempt and not attempt.still_mine():
        raise StageError(f"{root}: a newer attempt works in this folder; this one stops")
    if result is not None:
        write_atomic(root / "result.json", json.dumps(result, ensure_ascii=False, indent=1))
    shutil.rmtree(root / "state", ignore_errors=True)
    for folder in (root / "checkpoints").iterdir():
        if not folder.name.startswith("step-"):
            shutil.rmtree(folder, ignore_errors=True)


def finished(root: Path) -> dict[str, Any] | None:
    """The result of a run that ended, but was not published any more: its result.json, if its weights are whole."""
    try:
        result = json.loads((root / "result.json").read_text(encoding="utf-8"))
        whole = all(verify(step_folder(root, "checkpoints", step)) for step in result["steps"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    if not (whole and result["steps"]):
        return None
    finish(root)
    return dict(result)


# --- the optimiser of a run without DeepSpeed -----------------------------------------------------------------------


def save_optimizer(folder: Path, optimizer: Any, names: Mapping[Any, str]) -> None:
    """The optimiser's per-parameter values, keyed ``<parameter>|<moment>``: tensors as safetensors, numbers as JSON."""
    import torch
    from safetensors.torch import save_file

    values = {f"{names[p]}|{key}": value for p, of in optimizer.state.items() for key, value in of.items()}
    # copies: 8-bit optimisers share their tables between parameters, which safetensors refuses
    tensors = {
        k: v.detach().to("cpu", copy=True).contiguous() for k, v in values.items() if isinstance(v, torch.Tensor)
    }
    numbers = {k: v for k, v in values.items() if k not in tensors}
    save_file(tensors, folder / "optimizer.safetensors")
    (folder / "optimizer.json").write_text(json.dumps(numbers), encoding="utf-8")


def load_optimizer(folder: Path, optimizer: Any, names: Mapping[Any, str]) -> None:
    """Put saved values back where a fresh optimiser has them: step counters on the CPU, unless a kernel counts.

    Raises:
        StageError: the values belong to other parameters.
    """
    from safetensors.torch import load_file

    parameters = {name: p for p, name in names.items()}
    on_device = {p for g in optimizer.param_groups if g.get("fused") or g.get("capturable") for p in g["params"]}
    values = {
        **load_file(folder / "optimizer.safetensors"),
        **json.loads((folder / "optimizer.json").read_text(encoding="utf-8")),
    }
    for key, value in values.items():
        name, _, moment = key.rpartition("|")
        if name not in parameters:
            raise StageError(f"{folder}: holds the state of {name}, which is no trainable parameter of this run")
        parameter = parameters[name]
        moves = hasattr(value, "dim") and (value.dim() > 0 or parameter in on_device)
        optimizer.state[parameter][moment] = value.to(parameter.device) if moves else value
