"""Worker: renders and tokenises a data set for one base model into memory-mapped safetensors files.

``<split>.safetensors`` holds ``ids`` (int32, all rows end to end), ``learn`` (uint8, same length) and ``offsets``
(int64, rows + 1). Needs tokenizers only, no torch.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from tasks.conversation import Row, read_rows
from tasks.models import families
from tasks.models.rendering import Rendered, Renderer
from tasks.worker import Job, main

SPLITS = ("train", "validation")


def run(job: Job) -> Mapping[str, Any]:
    from tasks.models.loading import load_tokenizer

    values = job.values
    model = Path(values["model"])
    renderer = families.recognise(model).renderer(load_tokenizer(model))
    facts: dict[str, Any] = {"rows": {}, "tokens": {}, "longest": 0, "truncated": 0}
    dropped: Counter[str] = Counter()
    for split in SPLITS:
        path = Path(values["dataset"]) / f"{split}.parquet"
        rows = list(read_rows(path)) if path.is_file() else []
        kept: list[Rendered] = []
        for index, row in enumerate(rows):
            rendered, problem = fit(renderer, row, values["max_prompt_tokens"], values["max_reply_tokens"])
            if problem and (values["overlong"] == "drop" or not any(rendered.learn)):
                dropped[problem] += 1
                continue
            facts["truncated"] += bool(problem)
            kept.append(rendered)
            job.progress(index + 1, len(rows))
        _write(job.folder / f"{split}.safetensors", kept)
        lengths = [len(r.ids) for r in kept]
        facts["rows"][split] = len(kept)
        facts["tokens"] |= {split: sum(lengths), f"{split}_learned": sum(sum(r.learn) for r in kept)}
        facts["longest"] = max([facts["longest"], *lengths])
    return {**facts, "dropped": dict(dropped)}


def fit(renderer: Renderer, row: Row, max_prompt: int, max_reply: int) -> tuple[Rendered, str]:
    """Render a row within its limits; the second value says what was too long, or is empty."""
    problem = ""
    messages = list(row.messages)
    if len(renderer.prompt_ids(row.prompt)) > max_prompt:
        problem = "prompt over tokenization.max_prompt_tokens"
        messages = [*renderer.fit_prompt(row.prompt, max_prompt), row.messages[-1]]
    rendered = renderer.dialogue(messages)
    limit = len(renderer.prompt_ids(messages[:-1])) + max_reply
    if len(rendered.ids) > limit:
        problem = problem or "reply over tokenization.max_reply_tokens"
        rendered = replace(rendered, ids=rendered.ids[:limit], learn=rendered.learn[:limit])
    if not any(rendered.learn):
        problem = "no token to learn"
    return rendered, problem


def _write(path: Path, rows: list[Rendered]) -> None:
    from safetensors.numpy import save_file

    offsets = np.cumsum([0, *(len(r.ids) for r in rows)], dtype=np.int64)
    ids = np.fromiter((i for r in rows for i in r.ids), dtype=np.int32, count=int(offsets[-1]))
    learn = np.fromiter((flag for r in rows for flag in r.learn), dtype=np.uint8, count=int(offsets[-1]))
    save_file({"ids": ids, "learn": learn, "offsets": offsets}, path)


if __name__ == "__main__":
    main(run)
