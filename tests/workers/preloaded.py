"""Starts workers whose libraries are loaded already: ``python preloaded.py MODULE...`` forks one process for each rank.

A worker's imports take ten seconds, and a test of forty kills would consist of them. This process loads the modules
once, computes nothing, and becomes a worker by fork for each line of JSON on its standard input:
{"module", "folder", "ranks", "faults": {rank: arguments of faults.Faults}, "alone_s"}. It answers with
{"codes": [...], "events": {rank: [...]}, "resident": {rank: [...]}}. When one rank ends badly the others have
``alone_s`` seconds to end by themselves. Linux only.
"""

from __future__ import annotations

import importlib
import json
import os
import socket
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))


def main() -> None:
    import torch

    torch.set_num_threads(1)
    for module in sys.argv[1:]:
        importlib.import_module(module)
    # the answers keep their own handle: the workers' output goes to their log
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    requests = os.fdopen(os.dup(0), encoding="utf-8")
    for line in requests:
        request = json.loads(line)
        print(json.dumps(start(request)), file=answers, flush=True)


def start(request: dict[str, Any]) -> dict[str, Any]:
    """Run one job with all its ranks to its end."""
    folder, ranks = Path(request["folder"]), int(request.get("ranks", 1))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    notes = [folder / f".events-{rank}.json" for rank in range(ranks)]
    for note in notes:
        note.unlink(missing_ok=True)
    children = {}
    for rank in range(ranks):
        pid = os.fork()
        if pid == 0:
            become(request, rank, port, notes[rank])
        children[pid] = rank
    codes = wait(children, float(request.get("alone_s", 0)))
    told = {rank: json.loads(note.read_text()) for rank, note in enumerate(notes) if note.is_file()}
    return {
        "codes": [codes[rank] for rank in range(ranks)],
        "events": {rank: note["events"] for rank, note in told.items()},
        "resident": {rank: note["resident"] for rank, note in told.items()},
    }


def wait(children: dict[int, int], alone_s: float) -> dict[int, int]:
    """Each rank's exit code, negative for a signal."""
    codes: dict[int, int] = {}
    deadline: float | None = None
    while len(codes) < len(children):
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid:
            codes[children[pid]] = os.waitstatus_to_exitcode(status)
            if codes[children[pid]] and deadline is None:
                deadline = time.monotonic() + alone_s
        elif deadline is not None and time.monotonic() >= deadline:
            for pid, rank in children.items():
                if rank not in codes:
                    os.kill(pid, 9)
            deadline = None
        else:
            time.sleep(0.005)
    return codes


def become(request: dict[str, Any], rank: int, port: int, note: Path) -> None:
    """This process is the worker from here on; never returns."""
    code = 1
    try:
        folder = Path(request["folder"])
        log = os.open(folder / "worker.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        empty = os.open(os.devnull, os.O_RDONLY)
        for source, target in ((empty, 0), (log, 1), (log, 2)):
            os.dup2(source, target)
        ranks = request.get("ranks", 1)
        os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(ranks), LOCAL_WORLD_SIZE=str(ranks))
        os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
        from faults import Faults

        from tasks.worker import main as work

        faults = Faults(folder, **request.get("faults", {}).get(str(rank), {}))
        sys.argv = [request["module"], str(folder)]
        leave = os._exit

        def told(status: int) -> None:
            note.write_text(json.dumps({"events": faults.events, "resident": faults.resident}))
            leave(status)

        os._exit = told  # type: ignore[assignment]
        code = 1
        work(importlib.import_module(request["module"]).run)
        code = 0
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else 1
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    main()
