"""Who writes a run's checkpoints, and what a disk says when it cannot be written: attempts, processes, refusals.

Standard library; torch only inside functions.
"""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from tasks.errors import ResourceError
from tasks.files import write_atomic

_MIB = 1 << 20


class Group(Protocol):
    """The processes of a run, as far as a checkpoint needs them; an engine is one."""

    rank: int

    def barrier(self) -> None: ...

    def sum(self, value: float) -> float: ...


class Processes:
    """This run's processes through torch.distributed where it is initialised, else this one alone."""

    def __init__(self, *, alone: bool = False) -> None:
        """``alone``: this one only, whatever the others do."""
        import torch.distributed as dist

        self._dist = dist if not alone and dist.is_available() and dist.is_initialized() else None
        self.rank = self._dist.get_rank() if self._dist else 0

    def barrier(self) -> None:
        if self._dist:
            self._dist.barrier()

    def sum(self, value: float) -> float:
        if not self._dist:
            return value
        import torch

        where = "cuda" if self._dist.get_backend() == "nccl" else "cpu"
        total = torch.tensor(value, dtype=torch.float64, device=where)
        self._dist.all_reduce(total)
        return float(total)


class _Alone:
    rank = 0

    def barrier(self) -> None: ...

    def sum(self, value: float) -> float:
        return value


ALONE = _Alone()


@dataclass(frozen=True)
class Attempt:
    """One start of the worker in a run's folder; only the newest may commit.

    The worker's lock file keeps two workers of one machine apart; this keeps apart those that share a folder over a
    network. Between the check and the rename lie microseconds in which a newer attempt goes unnoticed.
    """

    root: Path
    name: str

    def still_mine(self) -> bool:
        try:
            return (self.root / "state" / "ATTEMPT").read_text(encoding="utf-8") == self.name
        except FileNotFoundError:
            return False


def claim(root: Path, group: Group = ALONE) -> Attempt:
    """Make this the attempt that may write below ``root``; called by every process, before ``resume_point``."""
    file = root / "state" / "ATTEMPT"
    if group.rank == 0:
        with disk(root, "the run's folder cannot be written"):
            file.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(file, f"{time.time_ns():x}-{os.getpid()}")
    group.barrier()
    return Attempt(root, file.read_text(encoding="utf-8"))


def disk_reason(error: BaseException) -> str:
    """What the operating system said, if ``error`` is or wraps its refusal to write or read; else ""."""
    if isinstance(error, OSError):
        return error.strerror or str(error)
    # safetensors: 'I/O error: No space left on device (os error 28)'; torch.save: 'PytorchStreamWriter failed writing'
    number = re.search(r"os error (\d+)|Os \{ code: (\d+)", str(error))
    if number:
        return os.strerror(int(number[1] or number[2]))
    return "the file could not be written" if "PytorchStreamWriter failed" in str(error) else ""


@contextlib.contextmanager
def disk(root: Path, what: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ResourceError(f"{root}: {what}: {disk_reason(error)}") from None


def size(count: int) -> str:
    return f"{count / _MIB:.1f} MiB" if count < 1024 * _MIB else f"{count / (1024 * _MIB):.1f} GiB"
