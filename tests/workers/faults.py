"""Faults inside a worker's process: counts what it does to files and weights, and kills it at the n-th event.

Installed by tests/workers/preloaded.py in a process that is about to become a worker. The program itself has no hooks
for this: the operating system's calls and the libraries' own are replaced around it. Each event is met twice, before
and after it happens.
"""

from __future__ import annotations

import builtins
import importlib
import io
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

#: Written by time, not by step: their number differs between runs.
_IRREGULAR = {"progress.jsonl", "worker.log", "worker.lock"}
_WRITES = frozenset("wax+")


class Faults:
    """What happened so far in this process, and where it is to end.

    Args:
        folder: only files below it count.
        kill_at: number of the event (from 0) at which the process ends by SIGKILL; None: only record.
        patch: "module:attribute" -> value, set before the worker starts.
        forget: resuming leaves out the optimiser's state: a fault that a comparison must see.
        memory: note the resident bytes after every update of the weights.
    """

    def __init__(
        self,
        folder: Path,
        kill_at: int | None = None,
        patch: dict[str, Any] | None = None,
        forget: bool = False,
        memory: bool = False,
    ) -> None:
        self.events: list[str] = []
        self.resident: list[int] = []
        self._folder = folder.resolve()
        self._kill_at = kill_at
        self._install()
        for target, value in (patch or {}).items():
            module, _, attribute = target.partition(":")
            setattr(importlib.import_module(module), attribute, value)
        if forget:
            from tasks.training import checkpointing

            checkpointing.load_optimizer = lambda *_: None
        if memory:
            self._note_memory()

    def meet(self, event: str) -> None:
        if len(self.events) == self._kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
        self.events.append(event)

    def _install(self) -> None:
        for name in ("replace", "rename", "fsync", "mkdir", "rmdir", "unlink"):
            setattr(os, name, self._around(f"{name} ", getattr(os, name), lambda path, *_: self._below(path)))
        opened = self._around("write ", builtins.open, self._written)
        builtins.open = io.open = opened  # type: ignore[assignment]
        import safetensors.numpy
        import safetensors.torch

        def second(_: Any, path: Any, *__: Any) -> str | None:
            return self._below(path)

        for module in (safetensors.numpy, safetensors.torch):  # written by a library, without Python's open
            module.serialize_file = self._around("write ", module.serialize_file, second)
        import torch

        torch.Tensor.backward = self._around("backward", torch.Tensor.backward, lambda *_: "")
        from torch.optim import optimizer

        optimizer.register_optimizer_step_pre_hook(lambda *_: self.meet("before update"))
        optimizer.register_optimizer_step_post_hook(lambda *_: self.meet("after update"))

    def _around(self, name: str, call: Callable[..., Any], told: Callable[..., str | None]) -> Callable[..., Any]:
        """``call`` with an event before and one after it; ``told`` gives the event's object, None for no event."""

        def wrapped(*args: Any, **kwargs: Any) -> Any:
            subject = told(*args)
            if subject is not None:
                self.meet(f"before {name}{subject}")
            result = call(*args, **kwargs)
            if subject is not None:
                self.meet(f"after {name}{subject}")
            return result

        return wrapped

    def _below(self, path: Any) -> str | None:
        """The path below the run's folder; None for any other file."""
        try:
            full = Path(f"/proc/self/fd/{path}").readlink() if isinstance(path, int) else Path(path).resolve()
            below = full.relative_to(self._folder)
        except (OSError, ValueError):
            return None
        return None if full.name in _IRREGULAR else below.as_posix()

    def _written(self, path: Any, mode: str = "r", *_: Any) -> str | None:
        return self._below(path) if _WRITES & set(mode) else None

    def _note_memory(self) -> None:
        from torch.optim import optimizer

        def note(*_: Any) -> None:
            pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
            self.resident.append(pages * os.sysconf("SC_PAGE_SIZE"))

        optimizer.register_optimizer_step_post_hook(note)
