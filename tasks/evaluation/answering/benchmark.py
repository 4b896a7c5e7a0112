"""Measures generation beside what it replaces: one row at a time, and transformers' ``generate`` in fixed batches.

All recipes answer the same rows with the same loaded model, greedily, within one process; they take turns, so that what
else a machine does falls on all of them. ``python -m tasks.evaluation.answering.benchmark FOLDER`` is that process.

job.json: what tasks.evaluation.worker takes, with one system and one split; sizes (of the fixed batches), repeats.
Leaves ``FOLDER/<recipe>.jsonl``, the predictions of the one-row loop, of the fastest batch size, and ours.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tasks.conversation import Row, read_rows
from tasks.evaluation import predictions
from tasks.evaluation.answering import generation
from tasks.evaluation.answering.systems import System, open_system
from tasks.models import decoding
from tasks.models.decoding import Reply
from tasks.worker import Job, main

#: What each recipe is; ``batch_N`` is batch with N rows.
RECIPES = {
    "loop": "the seeds' loop: model.generate on one row at a time (its adapter folded in, which the seeds do not)",
    "batch": "model.generate on N rows in the order of the file, padded to the longest of them",
    "ours": "tasks.evaluation.worker's plan and loop",
}


class _Bench:
    """The rows, the opened system, and how each recipe answers them."""

    def __init__(self, job: Job) -> None:
        self.values = job.values
        (path,) = self.values["rows"].values()
        (system,) = self.values["systems"]
        self.rows: list[Row] = list(read_rows(Path(path)))
        self.system: System = open_system(system, self.values, self.rows)
        renderer, limit = self.system.renderer, self.values["max_prompt_tokens"]
        self.prompts = [renderer.prompt_ids(row.prompt, limit) for row in self.rows]
        self.new_tokens: int = self.values["max_new_tokens"]

    def recipes(self) -> dict[str, Callable[[], list[Reply]]]:
        """Each recipe's replies to all rows, in the order of the file."""
        batches = {f"batch_{size}": self._fixed(size) for size in self.values["sizes"]}
        return {"loop": self._fixed(1), **batches, "ours": self.ours}

    def ours(self) -> list[Reply]:
        plan = generation.plan([len(p) for p in self.prompts], self.new_tokens, self.values["batch_tokens"])
        memory, done = generation.Memory(), dict[int, Reply]()
        for unit in plan:
            width = len(self.prompts[unit.rows[0]]) + self.new_tokens
            for group in memory.each(unit, width, self._stream):
                done.update(group)
        return [done[i] for i in range(len(self.rows))]

    def _stream(self, rows: Sequence[int], slots: int) -> Any:
        found = self.system.replies([self.rows[i] for i in rows], [self.prompts[i] for i in rows], slots)
        return ([(rows[place], reply) for place, reply in group] for group in found)

    def _fixed(self, size: int) -> Callable[[], list[Reply]]:
        batches = [self.prompts[i : i + size] for i in range(0, len(self.prompts), size)]
        return lambda: [reply for batch in batches for reply in self.generate(batch)]

    def generate(self, batch: Sequence[Sequence[int]]) -> list[Reply]:
        """transformers' own loop, called as its documentation does."""
        import torch

        model, stops = self.system.model, self.system.renderer.stop_ids
        ids, mask = decoding.left_padded(batch, pad_id=0, device=model.device)
        with torch.inference_mode():
            out = model.generate(
                input_ids=ids,
                attention_mask=mask,
                do_sample=False,
                max_new_tokens=self.new_tokens,
                eos_token_id=list(stops),
                pad_token_id=stops[0],
            )
        return [decoding.cut(row, stops) for row in out[:, ids.shape[1] :].tolist()]

    def equal_under_plan(self, size: int) -> int:
        """How many rows get the same tokens from ours and from ``generate`` where both are given the same batches."""
        equal = 0
        for start in range(0, len(self.prompts), size):
            batch = self.prompts[start : start + size]
            found = self.system.replies(self.rows[start : start + size], batch, len(batch))
            ours = dict(pair for group in found for pair in group)
            equal += sum(ours[i].ids == reply.ids for i, reply in enumerate(self.generate(batch)))
        return equal


def run(job: Job) -> Mapping[str, Any]:
    bench = _Bench(job)
    recipes = bench.recipes()
    names = list(recipes)
    bench.generate(bench.prompts[:2])  # what the first call sets up belongs to no recipe
    seconds: dict[str, list[float]] = {name: [] for name in names}
    replies: dict[str, list[Reply]] = {}
    total = job.values["repeats"] * len(names)
    for repeat in range(job.values["repeats"]):
        for name in names[repeat % len(names) :] + names[: repeat % len(names)]:
            started = time.monotonic()
            replies[name] = recipes[name]()
            seconds[name].append(time.monotonic() - started)
            job.progress(sum(map(len, seconds.values())), total)
    best = min((n for n in names if n.startswith("batch")), key=lambda n: statistics.median(seconds[n]))
    for name in ("loop", best, "ours"):
        _write(job.folder / f"{name}.jsonl", bench, replies[name])
    size = int(best.removeprefix("batch_"))
    return {
        "best": best,
        "generator": bench.system.facts["generator"],
        "merged": bench.system.facts["merged"],
        "rows": len(bench.rows),
        "mean_prompt_tokens": round(statistics.fmean(map(len, bench.prompts)), 1),
        "mean_reply_tokens": round(statistics.fmean(len(reply.ids) for reply in replies["ours"]), 1),
        "cut_replies": sum(reply.finish_reason == "length" for reply in replies["ours"]),
        "equal_under_plan": {"batch": size, "rows": bench.equal_under_plan(size)},
        "equal_to_best": sum(a.ids == b.ids for a, b in zip(replies["ours"], replies[best], strict=True)),
        "results": [_result(name, seconds[name], replies[name], seconds, best) for name in names],
    }


def _result(
    name: str, seconds: Sequence[float], replies: Sequence[Reply], all_seconds: Mapping[str, Sequence[float]], best: str
) -> dict[str, Any]:
    middle = statistics.median(seconds)
    return {
        "subject": "evaluate",
        "recipe": name,
        "rows_per_second": round(len(replies) / middle, 2),
        "slowest": round(len(replies) / max(seconds), 2),
        "fastest": round(len(replies) / min(seconds), 2),
        "tokens_per_second": round(sum(len(reply.ids) for reply in replies) / middle, 1),
        "speed_to_loop": round(statistics.median(all_seconds["loop"]) / middle, 2),
        "speed_to_best": round(statistics.median(all_seconds[best]) / middle, 2),
        "repeats": len(seconds),
    }


def _write(path: Path, bench: _Bench, replies: Sequence[Reply]) -> None:
    decode = bench.system.renderer.decode
    predictions.append(
        path,
        (
            predictions.answer(row, decode(reply.ids), finish_reason=reply.finish_reason, tokens=len(reply.ids))
            for row, reply in zip(bench.rows, replies, strict=True)
        ),
    )


def table(result: Mapping[str, Any]) -> str:
    """The result as Markdown."""
    lines = [
        "| recipe | rows/s | reply tokens/s | to the loop | to the best batch | score |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for r in result["results"]:
        score = result["scores"].get(r["recipe"])
        cells = (
            f"`{r['recipe']}`" + (" (best)" if r["recipe"] == result["best"] else ""),
            f"{r['rows_per_second']:,.1f} ({r['slowest']:,.1f}-{r['fastest']:,.1f})",
            f"{r['tokens_per_second']:,.0f}",
            f"{r['speed_to_loop']:.2f}x",
            f"{r['speed_to_best']:.2f}x",
            "" if score is None else f"{score:.4f}",
        )
        lines.append(f"| {' | '.join(cells)} |")
    plan = result["equal_under_plan"]
    facts = (
        f"{result['rows']:,} rows; on average {result['mean_prompt_tokens']} tokens of prompt and "
        f"{result['mean_reply_tokens']} of reply; {result['cut_replies']} replies cut at the limit",
        f"same tokens as generate in the same batches of {plan['batch']}: {plan['rows']:,} of {result['rows']:,} rows; "
        f"as {result['best']} where each has its own plan: {result['equal_to_best']:,}",
    )
    return "\n".join([*lines, "", *facts, *(f"{name}: {what}" for name, what in RECIPES.items())])


if __name__ == "__main__":
    main(run)
