"""Worker: merges a checkpoint into its base, reloads the result from disk and compares it with base + adapter.

Methods that cannot merge leave ``adapter/`` to be served on the base; it is reloaded and compared in the same way.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from tasks import plugins
from tasks.conversation import Message, read_rows
from tasks.errors import StageError
from tasks.models import loading
from tasks.models.loading import Loaded
from tasks.worker import Job, main


def run(job: Job) -> Mapping[str, Any]:
    values = job.values
    checkpoint, base, device = Path(values["checkpoint"]), Path(values["base"]), values["device"]
    method = plugins.load("tasks.methods", loading.read_description(checkpoint)["method"]["name"], key="method")
    prompts = [row.prompt for _, row in zip(range(values["check_rows"]), read_rows(Path(values["rows"])), strict=False)]

    tuned = loading.load(checkpoint, base=base, device=device, dtype="float32")
    limit = values["max_prompt_tokens"]
    expected = [answer(tuned, p, limit, values["check_tokens"]) for p in prompts]
    job.progress(1, 3)
    if method.MERGES:
        written = job.folder / "model"
        shutil.rmtree(written, ignore_errors=True)  # shards of an earlier attempt would be loaded with the new ones
        merged = method.merge(tuned.model).to(getattr(torch, values["dtype"]))
        merged.save_pretrained(written, max_shard_size=values["max_shard_size"])
        copy_tokenizer(base, written)
        del merged
    else:
        written = job.folder / "adapter"
        shutil.copytree(checkpoint, written, dirs_exist_ok=True)
    del tuned
    job.progress(2, 3)
    reloaded = loading.load(written, base=base, device=device, dtype="float32")
    worst = 0.0
    for prompt, (tokens, scores) in zip(prompts, expected, strict=True):
        again, scores_again = answer(reloaded, prompt, limit, values["check_tokens"], follow=tokens)
        worst = max(worst, float((scores - scores_again).abs().max()))
        job.progress(2, 3)
        if values["dtype"] == "float32" and again != tokens:
            raise StageError(f"merge: the reloaded model says other tokens than base + adapter: {again} not {tokens}")
    if worst > values["tolerance"]:
        raise StageError(
            f"merge: the reloaded model's log-probabilities differ by {worst:.4f} from base + adapter, "
            f"more than export.tolerance={values['tolerance']}; set export.dtype=float32"
        )
    job.progress(3, 3)
    return {"max_logit_difference": worst, "check_tokens": sum(len(t) for t, _ in expected), "merges": method.MERGES}


@torch.no_grad()
def answer(
    loaded: Loaded, prompt: Sequence[Message], limit: int, count: int, follow: list[int] | None = None
) -> tuple[list[int], torch.Tensor]:
    """Greedy tokens after a prompt and the log-probability of each: a list of n and a tensor [n].

    With ``follow`` those tokens are scored instead of generated ones, so that one early difference does not hide the
    others; the tokens returned are then the most likely ones at each place.
    """
    ids = torch.tensor([loaded.renderer.prompt_ids(prompt, limit)], device=loaded.device)
    if follow is None:
        made = loaded.model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=count,
            do_sample=False,
            eos_token_id=list(loaded.renderer.stop_ids),
            pad_token_id=loaded.renderer.stop_ids[0],
        )
        follow = made[0, ids.shape[1] :].tolist()
    whole = torch.cat([ids, torch.tensor([follow], device=loaded.device)], dim=1)
    logits = loaded.model(input_ids=whole, attention_mask=torch.ones_like(whole)).logits[0].float()
    scores = logits[ids.shape[1] - 1 : -1].log_softmax(-1)  # [n, v]
    best = scores.argmax(-1).tolist()
    return best, scores[torch.arange(len(follow)), torch.tensor(follow)].cpu()


def copy_tokenizer(base: Path, target: Path) -> None:
    """The base's tokenizer files, unchanged: saving a tokenizer anew may rewrite it."""
    for pattern in ("tokenizer*", "special_tokens_map.json", "vocab*", "merges.txt", "*.model", "chat_template*"):
        for file in base.glob(pattern):
            if file.is_file():
                shutil.copy2(file, target / file.name)


if __name__ == "__main__":
    main(run)
