"""Measures the data stage on rows of AdvertiseGen's shape, beside the plain loops that it replaces.

Every step runs in a process of its own, so that its peak memory (the whole process tree, sampled) is its own.
``python -m tasks.data.benchmark STEP FILE`` is such a process. The rows are made up: 64 % of their characters are
drawn phrase by phrase from a fixed vocabulary, 1 % repeat an earlier row, 1 % repeat one with two phrases changed.
"""

from __future__ import annotations

import json
import re
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from random import Random
from typing import Any

import psutil

from tasks.conversation import Message
from tasks.data import reading
from tasks.data.parts import Part
from tasks.data.source import DataFile, Unusable
from tasks.errors import StageError

#: What each step is, in the order of the table.
STEPS = {
    "seed_loop": "json.loads, conversations, json.dumps: no checks (the notebook's convert)",
    "checked_loop": "the same loop with the checks that convert makes",
    "datasets_map": "datasets.load_dataset + map with the plain conversion, 2 processes",
    "convert_1": "read, validate, clean, keys, Arrow file: one process",
    "convert": "the same, all processes",
    "redact": "convert with personal data replaced",
    "divide": "near duplicates, leakage, split (on the converted rows)",
    "prepare": "the whole stage, files to published data set",
}


def measure(rows: int, repeats: int, steps: Sequence[str]) -> list[dict[str, Any]]:
    """One result a step: medians of seconds and rows/s, the largest peak memory in MiB, as a ratio to checked_loop."""
    with tempfile.TemporaryDirectory(prefix="weitiao-bench-") as name:
        folder = Path(name)
        path = generate(folder / "train.json", rows)
        results: list[dict[str, Any]] = []
        for step in steps:
            runs = [run for _ in range(repeats) if (run := _run(step, path)) is not None]
            if not runs:
                continue
            seconds = statistics.median(run["seconds"] for run in runs)
            results.append(
                {
                    "subject": "data",
                    "step": step,
                    "rows": rows,
                    "bytes": path.stat().st_size,
                    "seconds": round(seconds, 3),
                    "rows_per_second": round(rows / seconds),
                    "peak_mib": round(max(run["peak"] for run in runs) / 2**20),
                    "repeats": len(runs),
                }
            )
    base = next((r["seconds"] for r in results if r["step"] == "checked_loop"), None)
    return [{**r, "speed_to_checked_loop": round(base / r["seconds"], 2)} if base else r for r in results]


def table(results: Sequence[dict[str, Any]]) -> str:
    """The results as Markdown."""
    lines = ["| rows | step | rows/s | s | peak MiB | to checked loop |", "|---:|---|---:|---:|---:|---:|"]
    for r in results:
        ratio = f"{r['speed_to_checked_loop']:.2f}x" if "speed_to_checked_loop" in r else ""
        cells = (f"{r['rows']:,}", r["step"], f"{r['rows_per_second']:,}", f"{r['seconds']:.2f}", f"{r['peak_mib']:,}")
        lines.append(f"| {' | '.join((*cells, ratio))} |")
    return "\n".join([*lines, "", *(f"{step}: {what}" for step, what in STEPS.items())])


def generate(path: Path, rows: int, seed: int = 7) -> Path:
    """Write JSONL of AdvertiseGen's shape: attributes of about 60 characters, a text of about 110."""
    rng = Random(seed)
    letters = [chr(code) for code in range(0x4E00, 0x4E00 + 2500)]
    phrases = ["".join(rng.choices(letters, k=rng.randint(4, 9))) for _ in range(20_000)]
    earlier: list[tuple[str, list[str]]] = []
    with path.open("w", encoding="utf-8", newline="\n") as file:
        for _ in range(rows):
            kind = rng.random()
            if kind < 0.02 and earlier:
                content, clauses = rng.choice(earlier)
                clauses = list(clauses)
                if kind < 0.01:
                    clauses[rng.randrange(len(clauses))] = rng.choice(phrases)
            else:
                content = "*".join(f"{rng.choice(phrases)[:2]}#{rng.choice(phrases)[:4]}" for _ in range(8))
                clauses = rng.choices(phrases, k=15)
                if len(earlier) < 10_000:
                    earlier.append((content, clauses))
            row = {"content": content, "summary": "，".join(clauses) + "。"}
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
    return path


def messages(part: Part, file: DataFile) -> Iterator[Message]:
    """The messages of a file's rows as the source makes them, nothing replaced."""
    if hasattr(part.module, "read"):
        drafts = (entry.draft for entry in part.module.read(file, part.config))
        yield from (message for draft in drafts if draft for message in draft.row.messages)
        return
    for record in reading.records(file):
        try:
            yield from () if record.problem else part.module.convert(record.value, "", part.config).row.messages
        except Unusable:
            continue


def _run(step: str, path: Path) -> dict[str, float] | None:
    """Seconds of the work itself and peak memory of the process tree; None where the step cannot run."""
    command = [sys.executable, "-m", "tasks.data.benchmark", step, str(path)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    peak, done = [0], threading.Event()
    watcher = threading.Thread(target=_watch, args=(process.pid, peak, done))
    watcher.start()
    try:
        output, _ = process.communicate()
    finally:
        done.set()
        watcher.join()
    if process.returncode != 0:
        raise StageError(f"bench: step {step} ended with code {process.returncode}; its message is above")
    result = json.loads(output.splitlines()[-1])
    return None if result["seconds"] is None else {"seconds": result["seconds"], "peak": float(peak[0])}


def _watch(pid: int, peak: list[int], done: threading.Event) -> None:
    try:
        process = psutil.Process(pid)
        while not done.wait(0.05):
            tree = [process, *process.children(recursive=True)]
            peak[0] = max(peak[0], sum(_resident(one) for one in tree))
    except psutil.NoSuchProcess:
        return


def _resident(process: psutil.Process) -> int:
    try:
        return int(process.memory_info().rss)
    except psutil.NoSuchProcess:
        return 0


# --- the steps, each in a process of its own ---------------------------------------------------------------------


def _seed_loop(path: Path, folder: Path) -> None:
    with path.open(encoding="utf-8") as source, (folder / "out.jsonl").open("w", encoding="utf-8") as target:
        for line in source:
            row = json.loads(line)
            turns = [{"role": "user", "content": row["content"]}, {"role": "assistant", "content": row["summary"]}]
            target.write(json.dumps({"conversations": turns}, ensure_ascii=False) + "\n")


_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ufeff]")
_TOKEN = re.compile(r"<[|｜]\w+[|｜]>|\[/?(?:gMASK|sMASK|MASK|INST)\]|</?s>|<(?:bos|eos|pad|unk|sop|eop)>")


def _checked_loop(path: Path, folder: Path) -> None:
    """What someone would write who wants the same checks: broken rows, repeated keys, types, empty and odd texts."""
    dropped: Counter[str] = Counter()
    notes: Counter[str] = Counter()

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        value = dict(pairs)
        if len(value) != len(pairs):
            raise ValueError("repeated key")
        return value

    def refuse(constant: str) -> Any:
        raise ValueError(f"{constant} is not JSON")

    decoder = json.JSONDecoder(object_pairs_hook=unique, parse_constant=refuse)
    with path.open(encoding="utf-8") as source, (folder / "out.jsonl").open("w", encoding="utf-8") as target:
        for number, line in enumerate(source, start=1):
            try:
                row = decoder.decode(line)
            except ValueError:
                dropped["broken JSON"] += 1
                continue
            texts: list[Any] = [row.get("content"), row.get("summary")] if isinstance(row, dict) else [None]
            if not all(isinstance(text, str) for text in texts):
                dropped["no such columns"] += 1
                continue
            if not all(text.strip() for text in texts):
                dropped["empty"] += 1
                continue
            cleaned = []
            for text in texts:
                text.encode("utf-8")  # refuses half of a surrogate pair
                if "\r" in text or _CONTROL.search(text):
                    text = _CONTROL.sub("", text.replace("\r\n", "\n").replace("\r", "\n"))
                    notes["control characters"] += 1
                if _TOKEN.search(text):
                    notes["control tokens"] += 1
                cleaned.append(text)
            turns = [{"role": "user", "content": cleaned[0]}, {"role": "assistant", "content": cleaned[1]}]
            value = {"id": f"{path.name}#{number}", "line": number, "conversations": turns}
            target.write(json.dumps(value, ensure_ascii=False) + "\n")


def _datasets_map(path: Path, folder: Path) -> None:
    import datasets

    datasets.disable_progress_bars()
    rows = datasets.load_dataset("json", data_files=str(path), split="train", cache_dir=str(folder))
    rows.map(
        lambda row: {
            "conversations": [
                {"role": "user", "content": row["content"]},
                {"role": "assistant", "content": row["summary"]},
            ]
        },
        remove_columns=["content", "summary"],
        num_proc=2,
    )


def _converted(path: Path, folder: Path, *, processes: int | None = None, redact: bool = False) -> Any:
    from tasks.data.parts import resolve
    from tasks.data.personal_data.protection import protection
    from tasks.data.sources.advertisegen import Config
    from tasks.data.stage import Preparation
    from tasks.data.writing import Quarantine

    given = resolve(Config(path=path, processes=processes, redact=redact))
    with (folder / "quarantine.jsonl").open("w", encoding="utf-8") as file:
        preparation = Preparation(folder, given, protection(given, folder))
        return preparation, preparation.spooled(Quarantine(file))


def _divide(path: Path, folder: Path) -> float:
    preparation, spool = _converted(path, folder)
    started = time.perf_counter()
    preparation.divided(spool)
    return time.perf_counter() - started


def _prepare(path: Path, folder: Path) -> None:
    from tasks.data.sources.advertisegen import Config
    from tasks.data.stage import prepare
    from tasks.store import Store

    prepare(Config(path=path), store=Store(folder))


_WORK: dict[str, Callable[[Path, Path], Any]] = {
    "seed_loop": _seed_loop,
    "checked_loop": _checked_loop,
    "datasets_map": _datasets_map,
    "convert_1": lambda path, folder: _converted(path, folder, processes=1),
    "convert": _converted,
    "redact": lambda path, folder: _converted(path, folder, redact=True),
    "divide": _divide,
    "prepare": _prepare,
}


def _step(name: str, path: Path) -> float | None:
    """Seconds of one step; None where a package that it needs is not installed."""
    if name == "datasets_map":
        try:
            import datasets  # noqa: F401
        except ModuleNotFoundError:
            return None
    else:
        import tasks.data.sources.advertisegen
        import tasks.data.stage  # noqa: F401  importing is not what is measured
    with tempfile.TemporaryDirectory(prefix="weitiao-bench-", dir=path.parent) as folder:
        started = time.perf_counter()
        own = _WORK[name](path, Path(folder))
        return own if isinstance(own, float) else time.perf_counter() - started


def linear(results: Sequence[dict[str, Any]]) -> dict[str, float]:
    """By step, how much longer a row takes at the largest size than at the one before (1: time grows linearly)."""
    found = {}
    for step in STEPS:
        runs = sorted((r for r in results if r["step"] == step), key=lambda r: r["rows"])
        for one, other in list(pairwise(runs))[-1:]:
            found[step] = round(other["seconds"] / other["rows"] / (one["seconds"] / one["rows"]), 2)
    return found


if __name__ == "__main__":
    print(json.dumps({"seconds": _step(sys.argv[1], Path(sys.argv[2]))}))
