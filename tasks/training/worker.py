"""Worker: trains one method on one tokenised data set. ``python -m tasks.training.worker FOLDER`` (or under torchrun).

FOLDER holds job.json; after an interruption the same command goes on from the newest verified checkpoint and ends with
the same bytes as a run that was never interrupted (same device, same number of processes).

Shapes: b rows, s tokens, v vocabulary.
"""

from __future__ import annotations

import json
import logging
import math
import statistics
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs, set_seed
from numpy.typing import NDArray
from transformers import get_scheduler

from tasks import plugins
from tasks.errors import ConfigError, StageError, Stopped
from tasks.models import loading
from tasks.models.families import Layout
from tasks.training import checkpointing
from tasks.training.batching import BatchPlan, TokenRows, micro_batches
from tasks.training.config import TrainingConfig
from tasks.worker import Job, main, peak_resident_bytes

log = logging.getLogger(__name__)

_MIXED = {"fp32": "no", "bf16": "bf16", "fp16": "fp16"}
_WEIGHTS = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}


def run(job: Job) -> Mapping[str, Any]:
    return Run(job).train()


class Run:
    """One training run: built once, then :meth:`train`."""

    def __init__(self, job: Job) -> None:
        values = job.values
        self.job = job
        self.config = TrainingConfig(**values["training"])
        self.method = plugins.load("tasks.methods", values["method"]["name"], key="method")
        self.method_config = self.method.Config(**values["method"])
        self.accelerator = Accelerator(
            cpu=values["device"] == "cpu",
            mixed_precision=_MIXED[values["precision"]],
            # rotary frequencies are the only buffers and the same everywhere
            kwargs_handlers=[DistributedDataParallelKwargs(broadcast_buffers=False)],
        )
        self.rank, self.world = self.accelerator.process_index, self.accelerator.num_processes
        self.train_rows = TokenRows(Path(values["tokens"]) / "train.safetensors")
        self.validation_rows = TokenRows(Path(values["tokens"]) / "validation.safetensors")
        self.steps = BatchPlan.steps_for(
            len(self.train_rows), self.config.batch_size, self.config.epochs, self.config.max_steps
        )
        self.plan = BatchPlan(self.train_rows.lengths, self.config.batch_size, self.steps, self.config.seed)
        self.micro = self.config.rows_at_once(self.world)
        with self.accelerator.main_process_first():  # the first one sets damaged checkpoints aside
            self.done = checkpointing.newest(job.folder) or 0
            if job.leader and not self.done:
                checkpointing.clear(job.folder)
        self._metrics = job.folder / "metrics.jsonl"
        self._build()

    # --- building ---------------------------------------------------------------------------------------------

    def _build(self) -> None:
        values, device = self.job.values, "cpu" if self.job.values["device"] == "cpu" else "cuda"
        set_seed(self.config.seed)
        quantization = values.get("quantization", "none")
        # quantised weights are made where they stay
        model = loading.load_base(
            Path(values["model"]),
            "cpu" if quantization == "none" else device,
            _WEIGHTS[values["precision"]],
            quantization=quantization,
        )
        if self.done:
            folder = checkpointing.step_folder(self.job.folder, "checkpoints", self.done)
            model = self.method.load(model, folder, self.method_config, trainable=True)
        else:
            model = self.method.attach(model, self.method_config)
        if self.config.gradient_checkpointing:
            if not getattr(model, "supports_gradient_checkpointing", True):
                raise ConfigError(
                    f"training.gradient_checkpointing=True: {type(model).__name__} cannot compute activations anew; "
                    "set it to false and lower training.micro_batch_size instead"
                )
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
            if hasattr(model, "enable_input_require_grads"):
                model.enable_input_require_grads()
        for parameter in model.parameters():
            if parameter.requires_grad:  # updates of 1e-4 vanish in half precision
                parameter.data = parameter.data.float()
        trainable = [p for p in model.parameters() if p.requires_grad]
        if not trainable:
            raise ConfigError(f"method={self.method_config.name}: no parameter is trainable with these settings")
        self.counts = sum(p.numel() for p in trainable), sum(p.numel() for p in model.parameters())
        optimizer = torch.optim.AdamW(
            trainable,
            lr=self.config.learning_rate,
            betas=(self.config.adam_beta1, self.config.adam_beta2),
            eps=self.config.adam_epsilon,
            weight_decay=self.config.weight_decay,
        )
        self.scheduler = get_scheduler(
            self.config.lr_scheduler_type,
            optimizer,
            num_warmup_steps=round(self.config.warmup_ratio * self.steps),
            num_training_steps=self.steps,
        )
        self.model, self.optimizer = self.accelerator.prepare(loading.move(model, device).train(), optimizer)
        self.plain = self.accelerator.unwrap_model(self.model)
        self.names = {p: name for name, p in self.plain.named_parameters() if p.requires_grad}
        if self.done:
            state = checkpointing.step_folder(self.job.folder, "state", self.done)
            checkpointing.load_optimizer(state, self._inner_optimizer, self.names)
            if self.accelerator.scaler is not None:
                self.accelerator.scaler.load_state_dict(json.loads((state / "scaler.json").read_text(encoding="utf-8")))
            for _ in range(self.done):
                self.scheduler.step()
            log.info("resumes after step %d of %d", self.done, self.steps)

    @property
    def _inner_optimizer(self) -> Any:
        return getattr(self.optimizer, "optimizer", self.optimizer)

    # --- the loop ---------------------------------------------------------------------------------------------

    def train(self) -> Mapping[str, Any]:
        config, started = self.config, time.monotonic()
        self._keep_metrics_until(self.done)
        since = _Interval()
        record: dict[str, Any] = {"loss": 0.0}
        while self.done < self.steps:
            began, rate = time.monotonic(), self.scheduler.get_last_lr()[0]
            loss, norm, tokens = self._step(self.done)
            self.done += 1
            since.add(loss, tokens, time.monotonic() - began)
            last = self.done == self.steps
            if self.done % config.logging_steps == 0 or last:
                record = self._log(since, norm, rate)
                since = _Interval()
            saves = self.done % config.save_steps == 0 or last
            evaluates = self.done % config.eval_steps == 0 if config.eval_steps else saves
            if (evaluates or last) and len(self.validation_rows):
                self._write_metrics({"step": self.done, "validation_loss": self._validation_loss()})
            stopping = self._any_rank(self.job.stopping) and not last
            if saves or stopping:
                self._save()
            self.job.progress(
                self.done,
                self.steps,
                loss=round(record["loss"] or loss, 4),
                lr=rate,
                tok_s=round(since.rate() or record.get("tokens_per_second", 0.0)),
            )
            if stopping:
                raise Stopped(
                    f"training stopped at step {self.done} of {self.steps}, state saved; run it again to go on"
                )
        if self.job.leader:
            checkpointing.finish(self.job.folder)
        # from the file: an attempt that only had to finish another's work has no numbers of its own
        written = [json.loads(line) for line in self._metrics.read_text(encoding="utf-8").splitlines()]
        validation = [line["validation_loss"] for line in written if "validation_loss" in line]
        return {
            "steps": checkpointing.steps(self.job.folder),
            "method": self.method_config.name,
            "trainable": self.counts[0],
            "total": self.counts[1],
            "train_loss": [line["loss"] for line in written if "loss" in line][-1],
            "validation_loss": validation[-1] if validation else None,
            "tokens_per_second": statistics.median(x["tokens_per_second"] for x in written if "loss" in x),
            "peak_memory_bytes": _peak_memory(),
            "train_seconds": round(time.monotonic() - started, 3),
        }

    def _step(self, step: int) -> tuple[float, float, int]:
        """One update. Returns the batch's mean token loss, the gradient norm, and its tokens, over all processes."""
        rows = self.plan.rows(step)
        targets = int(self.train_rows.targets[rows].sum())
        mine = rows[self.rank :: self.world]
        # a process without a row still takes part in the collective, with a row that weighs nothing
        parts = list(micro_batches(mine, self.micro)) or [rows[:1]]
        # dropout is a function of seed, step and process: resuming needs no generator state
        torch.manual_seed(hash_seed(self.config.seed, step, self.rank))
        total = torch.zeros((), device=self.accelerator.device)
        for index, part in enumerate(parts):
            with _sync_only(self.accelerator, self.model, index == len(parts) - 1):
                loss = self._loss_sum(self.train_rows, part)
                if not len(mine):
                    loss = loss * 0
                total += loss.detach()
                self.accelerator.backward(loss * (self.world / max(targets, 1)))
        norm = self.accelerator.clip_grad_norm_(list(self.names), self.config.max_grad_norm)
        self.optimizer.step()
        self.scheduler.step()
        self.optimizer.zero_grad()
        mean = float(self.accelerator.reduce(total, reduction="sum")) / max(targets, 1)
        if not math.isfinite(mean):
            raise StageError(
                f"training diverged: loss is {mean} at step {step + 1}; lower training.learning_rate or check the data"
            )
        return mean, float(norm), int(self.train_rows.lengths[rows].sum())

    def _loss_sum(self, source: TokenRows, rows: NDArray[np.int64]) -> torch.Tensor:
        """Cross-entropy summed over the learned tokens of the rows; a scalar."""
        batch = {k: v.to(self.accelerator.device) for k, v in source.padded(rows, pad_id=0).items()}
        labels = batch.pop("labels")[:, 1:]
        logits = self.model(**batch, use_cache=False).logits[:, :-1]  # [b, s - 1, v]
        learned = labels != -100
        return torch.nn.functional.cross_entropy(logits[learned].float(), labels[learned], reduction="sum")

    @torch.no_grad()
    def _validation_loss(self) -> float:
        """Mean token loss over the validation split, over all processes."""
        self.model.eval()
        order = np.argsort(self.validation_rows.lengths, kind="stable")
        total = torch.zeros((), device=self.accelerator.device, dtype=torch.float64)
        for part in micro_batches(order[self.rank :: self.world], max(self.micro, 16)):
            with self.accelerator.no_sync(self.model):
                total += self._loss_sum(self.validation_rows, part).double()
        self.model.train()
        return float(self.accelerator.reduce(total, reduction="sum")) / max(int(self.validation_rows.targets.sum()), 1)

    def _any_rank(self, flag: bool) -> bool:
        """Whether any process was asked to stop: all must stop after the same step."""
        if self.world == 1:
            return flag
        return bool(self.accelerator.reduce(torch.tensor(float(flag), device=self.accelerator.device)).item())

    # --- writing ----------------------------------------------------------------------------------------------

    def _save(self) -> None:
        if self.job.leader:
            values, root, step = self.job.values, self.job.folder, self.done

            def weights(folder: Path) -> None:
                self.method.save(self.plain, folder)
                loading.describe(
                    folder,
                    method=values["method"],
                    base=Path(values["model"]),
                    base_fingerprint=values["base_fingerprint"],
                    step=step,
                    layout=Layout.from_json(values["layout"]) if values.get("layout") else None,
                    quantization=values.get("quantization", "none"),
                )

            digest = checkpointing.commit(checkpointing.step_folder(root, "checkpoints", step), weights, {"step": step})

            def state(folder: Path) -> None:
                checkpointing.save_optimizer(folder, self._inner_optimizer, self.names)
                if self.accelerator.scaler is not None:  # fp16
                    scaler = json.dumps(self.accelerator.scaler.state_dict())
                    (folder / "scaler.json").write_text(scaler, encoding="utf-8")

            facts = {"step": step, "weights": digest}
            checkpointing.commit(checkpointing.step_folder(root, "state", step), state, facts)
            checkpointing.rotate(root, self.config.save_total_limit, self.config.save_steps)
        self.accelerator.wait_for_everyone()

    def _log(self, since: _Interval, norm: float, learning_rate: float) -> dict[str, Any]:
        record = {
            "step": self.done,
            "loss": round(since.mean_loss(), 6),
            "learning_rate": learning_rate,
            "grad_norm": round(norm, 6),
            "epoch": round(self.done * self.config.batch_size / len(self.train_rows), 4),
            "tokens_per_second": round(since.rate(), 1),
        }
        self._write_metrics(record)
        return record

    def _write_metrics(self, record: Mapping[str, Any]) -> None:
        if self.job.leader:
            with self._metrics.open("a", encoding="utf-8") as file:
                file.write(json.dumps(record) + "\n")

    def _keep_metrics_until(self, step: int) -> None:
        """Drop the lines that a killed attempt wrote after its last checkpoint."""
        if self.job.leader and self._metrics.is_file():
            complete = [line for line in self._metrics.read_text(encoding="utf-8").splitlines() if line.endswith("}")]
            kept = [line for line in complete if json.loads(line)["step"] <= step]
            self._metrics.write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")
        self.accelerator.wait_for_everyone()


class _Interval:
    """Losses, tokens and seconds of the steps between two lines of the log."""

    def __init__(self) -> None:
        self.losses: list[float] = []
        self.tokens = 0
        self.seconds = 0.0

    def add(self, loss: float, tokens: int, seconds: float) -> None:
        self.losses.append(loss)
        self.tokens += tokens
        self.seconds += seconds

    def mean_loss(self) -> float:
        return statistics.fmean(self.losses)

    def rate(self) -> float:
        return self.tokens / max(self.seconds, 1e-9)


def hash_seed(*parts: int) -> int:
    """A seed below 2^63 from several numbers."""
    return int(np.random.SeedSequence(parts).generate_state(1, np.uint64)[0] >> np.uint64(1))


def _sync_only(accelerator: Accelerator, model: Any, last: bool) -> Any:
    """Gradients are exchanged in a step's last micro-batch only."""
    import contextlib

    return contextlib.nullcontext() if last else accelerator.no_sync(model)


def _peak_memory() -> int:
    """Most memory that this process used so far: of the GPU where there is one, else resident."""
    if torch.cuda.is_available():
        return int(torch.cuda.max_memory_allocated())
    return peak_resident_bytes()


if __name__ == "__main__":
    main(run)
