"""Worker: runs one procedure of ``flows.convert`` into ``FOLDER/result``.

job.json: procedure ("chinese_llama", "belle_ext" or "adapter") and its arguments.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tasks.models.adapters import belle_ext, chinese_llama, official
from tasks.worker import Job, main


def run(job: Job) -> Mapping[str, Any]:
    values, target = job.values, job.folder / "result"
    if values["procedure"] != "belle_ext":  # its files prove themselves; those of the others are made anew
        shutil.rmtree(target, ignore_errors=True)
    target.mkdir(exist_ok=True)
    if values["procedure"] == "chinese_llama":
        return chinese_llama.merge(
            Path(values["base"]),
            [Path(folder) for folder in values["adapters"]],
            target,
            template=values["template"],
            progress=job.progress,
            stopping=lambda: job.stopping,
        )
    if values["procedure"] == "belle_ext":
        return belle_ext.decrypt(
            Path(values["encrypted"]),
            Path(values["original"]),
            target,
            progress=job.progress,
            stopping=lambda: job.stopping,
        )
    return official.convert(Path(values["source"]), Path(values["base"]), target)


if __name__ == "__main__":
    main(run)
