"""A worker that does what its job says: for tests of tasks.launch."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Mapping
from typing import Any

from tasks.errors import ConfigError, Stopped
from tasks.worker import Job, main


def run(job: Job) -> Mapping[str, Any]:
    what = job.values["what"]
    job.progress(1, 2, loss=0.5)
    if what == "config":
        raise ConfigError("method.r=9: too large")
    if what == "crash":
        raise RuntimeError("boom")
    if what == "die":
        print("last words", flush=True)
        os.kill(os.getpid(), 9)
    if what == "exit":
        print("leaving", file=sys.stderr)
        sys.exit(3)
    if what == "wait":
        (job.folder / "pid").write_text(str(os.getpid()), encoding="utf-8")
        job.progress(2, 2)
        while not job.stopping:
            time.sleep(0.01)
        raise Stopped("state saved")
    job.progress(2, 2, loss=0.25)
    return {"answer": 42, "cuda": os.environ.get("CUDA_VISIBLE_DEVICES")}


if __name__ == "__main__":
    main(run)
