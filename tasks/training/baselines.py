"""The recipes that training is compared with, re-implemented: the seeds' loop, and transformers' Trainer with PEFT.

What they have in common with the programs that they stand for is what costs time: rows padded to the longest of a
batch in random order, logits of every place, dropout in the updates' inputs, AdamW. Their texts and tokens are ours,
so that the same rows are compared.

Shapes: b rows of a batch, s tokens of its longest row.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tasks.models.tokens import TokenRows
from tasks.training import speed
from tasks.training.random_model import load_model
from tasks.training.watch import Watch
from tasks.worker import Job

_TYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
Row = dict[str, list[int]]


def train(name: str, job: Job, watch: Watch) -> None:
    """Train by the recipe ``name`` for the job's number of steps."""
    values = job.values
    model = _with_lora(load_model(values), values, recomputed=name == "seeds")
    watch.flops = speed.flops_per_token(model, recomputed=False)
    rows = Rows(TokenRows(Path(values["tokens"]), "train"))
    {"seeds": _seeds, "padded": _seeds, "trainer": _trainer}[name](model, rows, job, watch)


class Rows:
    """Rows as a data set gives them to a loader: one at a time, as lists."""

    def __init__(self, source: TokenRows) -> None:
        self._source = source

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> Row:
        ids, learn = self._source.row(int(index))
        labels = np.where(learn > 0, ids, -100)
        labels[0] = -100  # it is predicted from nothing
        return {"input_ids": ids.tolist(), "labels": labels.tolist()}


def collate(rows: Sequence[Row]) -> dict[str, Tensor]:
    """[b, s] tensors, padded on the left to the longest row, as ChatGLM3's tokenizer pads."""
    width = max(len(row["input_ids"]) for row in rows)
    batch: dict[str, list[list[int]]] = {"input_ids": [], "attention_mask": [], "labels": []}
    for row in rows:
        gap = width - len(row["input_ids"])
        batch["input_ids"].append([0] * gap + row["input_ids"])
        batch["attention_mask"].append([0] * gap + [1] * len(row["input_ids"]))
        batch["labels"].append([-100] * gap + row["labels"])
    return {name: torch.tensor(value) for name, value in batch.items()}


def _with_lora(model: Any, values: Mapping[str, Any], *, recomputed: bool) -> Any:
    """PEFT's LoRA as the seeds set it; its weights in float32. ``recomputed``: activations are computed twice."""
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(values["seed"])
    method = values["method"]
    settings = LoraConfig(
        task_type="CAUSAL_LM",
        r=method["r"],
        lora_alpha=method["lora_alpha"],
        lora_dropout=method["lora_dropout"],
        target_modules=method["target_modules"],
    )
    model = get_peft_model(model, settings)
    if recomputed:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        model.enable_input_require_grads()
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    return model.train()


def _seeds(model: Any, rows: Rows, job: Job, watch: Watch) -> None:
    """A loop over padded batches of a few rows, gradients accumulated to the batch size."""
    values, device = job.values, job.values["device"]
    trainable = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trainable, lr=values["training"]["learning_rate"])
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 1.0 / values["steps"], values["steps"])
    batches = _batches(rows, values)
    parts = values["batch_size"] // values["micro_batch_size"]
    for step in range(values["steps"]):
        watch.begin()
        tokens = learned = 0
        losses = []
        for _ in range(parts):
            batch = next(batches)
            tokens += int(batch["attention_mask"].sum())
            learned += int((batch["labels"] != -100).sum())
            watch.places += batch["input_ids"].numel()
            loss = model(**{k: v.to(device) for k, v in batch.items()}, use_cache=False).loss
            (loss / parts).backward()
            losses.append(loss.item())
        torch.nn.utils.clip_grad_norm_(trainable, 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        watch.note(tokens, learned, sum(losses) / parts)
        job.progress(step + 1, values["steps"], loss=round(losses[-1], 4))
    watch.end()


def _batches(rows: Rows, values: Mapping[str, Any]) -> Any:
    """Batches without end, every pass over the rows in another random order."""
    random = torch.Generator().manual_seed(values["seed"])
    while True:
        loader = torch.utils.data.DataLoader(
            rows,
            batch_size=values["micro_batch_size"],
            shuffle=True,
            generator=random,
            collate_fn=collate,
            drop_last=len(rows) >= values["micro_batch_size"],
        )
        yield from loader


def _trainer(model: Any, rows: Rows, job: Job, watch: Watch) -> None:
    from transformers import Trainer, TrainerCallback, TrainingArguments

    values = job.values
    seen = {"tokens": 0, "learned": 0}

    def counted(batch: Sequence[Row]) -> dict[str, Tensor]:
        made = collate(batch)
        seen["tokens"] += int(made["attention_mask"].sum())
        seen["learned"] += int((made["labels"] != -100).sum())
        seen["places"] = seen.get("places", 0) + made["input_ids"].numel()
        return made

    class Steps(TrainerCallback):
        """The Trainer fetches a step's batches before it says that the step begins: a step lasts from end to end."""

        def __init__(self) -> None:
            self.before: dict[str, int] = dict(seen)

        def on_train_begin(self, *_: Any, **__: Any) -> None:
            watch.begin()

        def on_step_end(self, arguments: Any, state: Any, control: Any, **_: Any) -> None:
            fresh = {key: seen[key] - self.before.get(key, 0) for key in seen}
            self.before = dict(seen)
            watch.places = fresh["places"]
            watch.note(fresh["tokens"], fresh["learned"], 0.0)
            job.progress(state.global_step, values["steps"])
            if state.global_step < values["steps"]:
                watch.begin()
            else:
                watch.end()

    arguments = TrainingArguments(
        output_dir=str(job.folder / "out"),
        max_steps=values["steps"],
        per_device_train_batch_size=values["micro_batch_size"],
        gradient_accumulation_steps=values["batch_size"] // values["micro_batch_size"],
        learning_rate=values["training"]["learning_rate"],
        lr_scheduler_type="linear",
        optim="adamw_torch",
        bf16=values["precision"] == "bf16",
        fp16=values["precision"] == "fp16",
        use_cpu=values["device"] == "cpu",
        remove_unused_columns=False,
        dataloader_pin_memory=values["device"] != "cpu",
        save_strategy="no",
        report_to=[],
        logging_steps=10,
        disable_tqdm=True,
        seed=values["seed"],
    )
    Trainer(model=model, args=arguments, train_dataset=rows, data_collator=counted, callbacks=[Steps()]).train()
