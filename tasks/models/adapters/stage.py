"""Runs a conversion in a worker and publishes its result as a whole, into a folder of the user's own."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from tasks.errors import UserError
from tasks.files import sync_files, sync_folder
from tasks.launch import run_worker


def convert(procedure: str, out: Path, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Run ``procedure`` and give ``{"path": out, ...its facts}``.

    The work happens in ``out.partial``, which stays, with its log, after a failure; the same call starts anew there.

    Args:
        procedure: "chinese_llama", "belle_ext" or "adapter". arguments: its own, as plain JSON values.
        out: a folder that is not there yet, or is empty.

    Raises:
        UserError: ``out`` holds something, or another process works on it.
        WeitiaoError: what the worker raised.
    """
    out = out.expanduser().absolute()
    partial = out.with_name(out.name + ".partial")
    if out.exists() and not _empty(out):
        raise UserError(f"out={out}: not empty; name a folder that is not there yet")
    if partial.exists() and not _empty(partial) and not (partial / "job.json").is_file():
        raise UserError(f"out={out}: the work would happen in {partial}, which holds other things; name another folder")
    partial.mkdir(parents=True, exist_ok=True)
    try:
        held = FileLock(partial / "convert.lock").acquire(timeout=0)
    except Timeout:
        raise UserError(f"out={out}: another process works on it, in {partial}; wait for it") from None
    with held:
        job = {"procedure": procedure, **arguments}
        facts = run_worker("tasks.models.adapters.worker", partial, job, label="convert")
        sync_files(partial / "result")
        if out.exists():
            out.rmdir()
        (partial / "result").replace(out)
        sync_folder(out.parent)
    shutil.rmtree(partial, ignore_errors=True)
    return {"path": str(out), **facts}


def _empty(folder: Path) -> bool:
    return folder.is_dir() and not any(folder.iterdir())
