"""A worker that does what its job says: for tests of tasks.launch."""

from __future__ import annotations

import ctypes
import logging
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from typing import Any

from tasks.errors import ConfigError, Diverged, Stopped
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
    if what == "memory":
        raise RuntimeError(f"[enforce fail at alloc_cpu.cpp:124] DefaultCPUAllocator: can't allocate memory: {1 << 50}")
    if what == "diverge":
        raise Diverged("loss is nan")
    if what == "hang":
        # a child in a session of its own, as torchrun's are, and a main thread that waits in C code for ever, as in a
        # collective: Python runs no signal handler there
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
        (job.folder / "pids").write_text(f"{os.getpid()} {child.pid}", encoding="utf-8")
        job.progress(2, 2)
        mutex, library = ctypes.create_string_buffer(64), ctypes.CDLL(None)
        library.pthread_mutex_lock(mutex)
        library.pthread_mutex_lock(mutex)
    if what == "tell":
        logging.getLogger("tasks.somewhere").warning("step 3 is set aside")
        logging.getLogger("tasks.somewhere").warning("step 3 is set aside")
        logging.getLogger("transformers").warning("a library's advice")
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
