"""Worker: greedy replies of the untuned model and of a checkpoint to the same prompts, to see what training changed.

job.json: model, layout, tokens (folders), checkpoint (a folder or null), prompts (how many), max_new_tokens, device.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tasks.models import decoding, loading
from tasks.models.families import Layout
from tasks.models.tokens import TokenRows
from tasks.worker import Job, main


def run(job: Job) -> Mapping[str, Any]:
    values = job.values
    layout = Layout.from_json(values["layout"]) if values["layout"] else None
    rows = TokenRows(Path(values["tokens"]), "validation")
    prompts = [_prompt(*rows.row(index)) for index in range(min(values["prompts"], len(rows)))]
    replies = {}
    for name, folder in (("base", values["model"]), ("tuned", values["checkpoint"])):
        loaded = loading.load(
            Path(folder),
            base=Path(values["model"]) if name == "tuned" else None,
            device=values["device"],
            layout=layout,
        )
        stops = sorted(loaded.renderer.ends)
        made = decoding.greedy(loaded.model, prompts, stop_ids=stops, max_new_tokens=values["max_new_tokens"])
        replies[name] = [reply.ids for reply in made]
    changed = sum(base != tuned for base, tuned in zip(replies["base"], replies["tuned"], strict=True))
    return {"prompts": len(prompts), "changed": changed}


def _prompt(ids: Any, learn: Any) -> list[int]:
    """What stands before the first learned token of a row."""
    return [int(i) for i in ids[: int(learn.argmax())]]


if __name__ == "__main__":
    main(run)
