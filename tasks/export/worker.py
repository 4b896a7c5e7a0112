"""Worker: merges a checkpoint into its base, reloads the result from disk and compares it with base + adapter.

Methods that cannot merge leave ``adapter/`` to be served on the base; it is reloaded and compared in the same way.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from tasks import plugins
from tasks.conversation import Message, read_rows
from tasks.errors import StageError
from tasks.files import write_atomic
from tasks.models import decoding, loading
from tasks.models.families import CONFIG_KEY, Layout
from tasks.models.loading import Loaded
from tasks.worker import Job, main


def run(job: Job) -> Mapping[str, Any]:
    values = job.values
    checkpoint, base, device = Path(values["checkpoint"]), Path(values["base"]), values["device"]
    method = plugins.load("tasks.methods", loading.read_description(checkpoint)["method"]["name"], key="method")
    prompts = [row.prompt for _, row in zip(range(values["check_rows"]), read_rows(Path(values["rows"])), strict=False)]

    # into a quantised base an update cannot be folded exactly: it is folded into what quantisation left of the weights
    tuned = loading.load(checkpoint, base=base, device=device, dtype="float32", dequantized=method.MERGES)
    limit = values["max_prompt_tokens"]
    expected = [answer(tuned, p, limit, values["check_tokens"]) for p in prompts]
    job.progress(1, 3)
    if method.MERGES:
        written = job.folder / "model"
        shutil.rmtree(written, ignore_errors=True)  # shards of an earlier attempt would be loaded with the new ones
        merged = method.merge(tuned.model).to(getattr(torch, values["dtype"]))
        merged.save_pretrained(written, max_shard_size=values["max_shard_size"])
        copy_tokenizer(base, written)
        keep_layout(written, tuned.layout)
        del merged
    else:
        written = job.folder / "adapter"
        shutil.copytree(checkpoint, written, dirs_exist_ok=True)
    del tuned
    job.progress(2, 3)
    reloaded = loading.load(written, base=base, device=device, dtype="float32")
    again = [answer(reloaded, p, limit, 0, follow=e.tokens) for p, e in zip(prompts, expected, strict=True)]
    worst = max(float((e.scores - a.scores).abs().max()) for e, a in zip(expected, again, strict=True))
    if worst > values["tolerance"]:
        raise StageError(
            f"merge: the reloaded model's log-probabilities differ by {worst:.4f} from base + adapter, "
            f"more than export.tolerance={values['tolerance']}; set export.dtype=float32"
        )
    job.progress(3, 3)
    return {
        "max_logit_difference": worst,
        "check_tokens": sum(len(e.tokens) for e in expected),
        "same_tokens": sum(a.same for a in again),
        "merges": method.MERGES,
    }


_TOKENIZER_FILES = (
    "tokenizer*",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab*",
    "merges.txt",
    "*.model",
    "chat_template*",
)


@dataclass(frozen=True)
class Answer:
    """n tokens after a prompt.

    Attributes:
        tokens: their ids.
        scores: the log-probability of each, [n].
        same: how many of them are the most likely token at their place.
    """

    tokens: list[int]
    scores: torch.Tensor
    same: int


@torch.no_grad()
def answer(
    loaded: Loaded, prompt: Sequence[Message], limit: int, count: int, follow: list[int] | None = None
) -> Answer:
    """Greedy tokens after a prompt and their scores.

    With ``follow`` those tokens are scored instead of generated ones, so that one early difference does not hide the
    others.
    """
    prompt_ids = loaded.renderer.prompt_ids(prompt, limit)
    if follow is None:
        stop = loaded.renderer.stop_ids
        (reply,) = decoding.greedy(loaded.model, [prompt_ids], stop_ids=stop, max_new_tokens=count)
        follow = reply.ids or [stop[0]]  # an empty reply is compared by its stop token
    whole = torch.tensor([[*prompt_ids, *follow]], device=loaded.device)
    logits = loaded.model(input_ids=whole, attention_mask=torch.ones_like(whole)).logits[0].float()
    scores = logits[len(prompt_ids) - 1 : -1].log_softmax(-1)  # [n, v]
    same = int((scores.argmax(-1) == whole[0, len(prompt_ids) :]).sum())
    return Answer(follow, scores[torch.arange(len(follow)), whole[0, len(prompt_ids) :]].cpu(), same)


def keep_layout(folder: Path, layout: Layout) -> None:
    """Write into config.json how the model's dialogues are laid out, for whoever loads it without its history."""
    path = folder / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    config[CONFIG_KEY] = layout.to_json()
    write_atomic(path, json.dumps(config, ensure_ascii=False, indent=2))


def copy_tokenizer(base: Path, target: Path) -> None:
    """The base's tokenizer files, unchanged: saving a tokenizer anew may rewrite it."""
    for pattern in _TOKENIZER_FILES:
        for file in base.glob(pattern):
            if file.is_file():
                shutil.copy2(file, target / file.name)


if __name__ == "__main__":
    main(run)
