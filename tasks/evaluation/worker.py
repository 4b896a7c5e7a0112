"""Worker: the replies of several systems to the rows of several splits. ``python -m tasks.evaluation.worker FOLDER``.

Each reply is appended to ``FOLDER/predictions/<system>.<split>.jsonl`` as its batch ends; after an interruption the
same command goes on with the rows that are missing. Scores nothing.

job.json: systems [{name, path, base, layout}], rows {split: JSONL file}, max_prompt_tokens, max_new_tokens,
batch_tokens, device, dtype, quantization, device_map.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tasks.conversation import Row, read_rows
from tasks.errors import Stopped
from tasks.evaluation import generation, predictions
from tasks.models import decoding
from tasks.models.families import Layout
from tasks.models.loading import Loaded, load
from tasks.worker import Job, main

log = logging.getLogger(__name__)

_PROBE_ROWS = 4


def run(job: Job) -> Mapping[str, Any]:
    splits = {split: list(read_rows(Path(path))) for split, path in job.values["rows"].items()}
    (job.folder / "predictions").mkdir(exist_ok=True)
    counter = _Counter(job, total=len(job.values["systems"]) * sum(map(len, splits.values())))
    return {"systems": {s["name"]: _answer_all(job, s, splits, counter) for s in job.values["systems"]}}


class _Counter:
    """Progress over all systems and splits."""

    def __init__(self, job: Job, total: int) -> None:
        self.job, self.total, self.done, self.tokens, self.seconds = job, total, 0, 0, 0.0

    def add(self, rows: int, tokens: int = 0, seconds: float = 0.0) -> None:
        self.done, self.tokens, self.seconds = self.done + rows, self.tokens + tokens, self.seconds + seconds
        self.job.progress(self.done, self.total, tok_s=self.tokens / self.seconds if self.seconds else 0.0)


def _answer_all(job: Job, system: Mapping[str, Any], splits: Mapping[str, list[Row]], counter: _Counter) -> Any:
    """One system's replies to every split; the model is loaded only if a reply is missing."""
    finished: dict[str, set[str]] = {}
    for split, rows in splits.items():
        path = _file(job, system, split)
        finished[split] = {p.id for p in predictions.recover(path)}
        counter.add(sum(row.id in finished[split] for row in rows))
    if all(row.id in finished[split] for split, rows in splits.items() for row in rows):
        return {"merged": None, "loaded": False}
    loaded, merged = _open(system, next(filter(None, splits.values())), job.values)
    for split, rows in splits.items():
        _answer(job, loaded, rows, finished[split], _file(job, system, split), counter)
    del loaded
    generation.release_memory()
    return {"merged": merged, "loaded": True}


def _file(job: Job, system: Mapping[str, Any], split: str) -> Path:
    return job.folder / "predictions" / f"{system['name']}.{split}.jsonl"


def _open(system: Mapping[str, Any], rows: Sequence[Row], values: Mapping[str, Any]) -> tuple[Loaded, bool | None]:
    """Load a system, its LoRA folded in where that is exact enough."""

    def fresh() -> Loaded:
        base = Path(system["base"]) if system.get("base") else None
        return load(
            Path(system["path"]),
            base=base,
            device=values["device"],
            dtype=values["dtype"],
            layout=Layout.from_json(system["layout"]) if system.get("layout") else None,
            quantization=values.get("quantization", "none"),
            device_map=values.get("device_map", "none"),
        )

    loaded = fresh()
    probe = [loaded.renderer.prompt_ids(r.prompt, values["max_prompt_tokens"]) for r in rows[:_PROBE_ROWS]]
    merged = generation.merge_if_exact(loaded.model, probe, values["dtype"])
    if merged is False:
        log.warning(
            "%s: folding its adapter in changes its logits; it is used as it is, which is slower", system["name"]
        )
        del loaded
        generation.release_memory()
        loaded = fresh()
    return loaded, merged


def _answer(job: Job, loaded: Loaded, rows: Sequence[Row], finished: set[str], path: Path, counter: _Counter) -> None:
    """Append the missing replies of one split to its file."""
    values = job.values
    prompts = [loaded.renderer.prompt_ids(row.prompt, values["max_prompt_tokens"]) for row in rows]
    lengths = [len(prompt) for prompt in prompts]
    batches = generation.plan(lengths, values["max_new_tokens"], values["batch_tokens"])
    # a batch that a kill cut in two is generated as a whole again: its replies stay those of an unbroken run
    missing = [batch for batch in batches if any(rows[i].id not in finished for i in batch)]

    def generate(batch: Sequence[int]) -> list[decoding.Reply]:
        return decoding.greedy(
            loaded.model,
            [prompts[i] for i in batch],
            stop_ids=loaded.renderer.stop_ids,
            max_new_tokens=values["max_new_tokens"],
        )

    for batch, replies in generation.replies(missing, lengths, generate):
        new = [
            predictions.answer(
                rows[i],
                loaded.renderer.decode(reply.ids),
                finish_reason=reply.finish_reason,
                prompt_tokens=lengths[i],
                tokens=len(reply.ids),
                seconds=round(reply.seconds, 4),
                prompt_cut=len(loaded.renderer.prompt_ids(rows[i].prompt)) > values["max_prompt_tokens"],
            )
            for i, reply in zip(batch, replies, strict=True)
            if rows[i].id not in finished
        ]
        predictions.append(path, new)
        counter.add(len(new), sum(p.tokens for p in new), sum(p.seconds for p in new))
        if job.stopping:
            raise Stopped("evaluation stopped, the predictions so far are kept; run it again to go on")


if __name__ == "__main__":
    main(run)
