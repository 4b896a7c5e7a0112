"""Worker: trains one method on one tokenised data set. ``python -m tasks.training.worker FOLDER`` (or under torchrun).

FOLDER holds job.json; after an interruption the same command goes on from the newest verified checkpoint and ends with
the same bytes as a run that was never interrupted (same device, same number of processes).

A step is a pure function of the weights, the optimiser and its number: which rows it has, how they are divided and what
dropout draws follows from (seed, step, process). So a step that a signal or a shortage of memory cuts off is dropped
and computed again later, and no generator needs to be saved.
"""

from __future__ import annotations

import json
import logging
import math
import statistics
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import get_scheduler, set_seed

from tasks import plugins
from tasks.errors import ConfigError, Diverged, Stopped
from tasks.methods._layers import counts
from tasks.models import loading
from tasks.models.families import Layout
from tasks.models.tokens import TokenRows
from tasks.training import checkpointing, engines, speed
from tasks.training.batching import BatchPlan, Limits, Rows, collate, micro_batches, worst
from tasks.training.config import TrainingConfig
from tasks.training.metrics_log import Interval, MetricsLog
from tasks.training.objective import Objective, to_device
from tasks.training.preparing import prepare
from tasks.training.run_state import RunState
from tasks.worker import Job, main, out_of_memory, peak_memory_bytes

log = logging.getLogger(__name__)

_WEIGHTS = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}
#: Gradient norms that tell what is usual.
_WINDOW = 50


def run(job: Job) -> Mapping[str, Any]:
    return checkpointing.finished(job.folder) or Run(job).train()


class Run:
    """One training run: built once, then :meth:`train`."""

    def __init__(self, job: Job) -> None:
        values = job.values
        self.job = job
        self.config = TrainingConfig(**values["training"])
        self.method = plugins.load("tasks.methods", values["method"]["name"], key="method")
        self.method_config = self.method.Config(**values["method"])
        self.device, self.rank, self.world = engines.start_processes(values)
        self.train_rows = TokenRows(Path(values["tokens"]), "train")
        self.validation_rows = TokenRows(Path(values["tokens"]), "validation")
        steps = BatchPlan.steps_for(
            len(self.train_rows), self.config.batch_size, self.config.epochs, self.config.max_steps
        )
        self.plan = BatchPlan(self.train_rows.lengths, self.config.batch_size, steps, self.config.seed)
        group = checkpointing.Processes()
        self.attempt = checkpointing.claim(job.folder, group)
        identity = values.get("identity", {})
        self.done = checkpointing.resume_point(job.folder, self.config.resume, identity, group) or 0
        self.state = RunState(checkpointing.load_run(job.folder, self.done) if self.done else {})
        self.metrics = MetricsLog(job.folder / "metrics.jsonl", leader=job.leader)
        self._build()

    # --- building ---------------------------------------------------------------------------------------------

    def _build(self) -> None:
        values, config = self.job.values, self.config
        set_seed(config.seed)
        if config.deterministic and self.device.type == "cuda":
            torch.use_deterministic_algorithms(True, warn_only=True)
            torch.backends.cudnn.benchmark = False
        torch.set_float32_matmul_precision("high")  # TF32 where a GPU computes in float32; no effect on a CPU
        quantization = values.get("quantization", "none")
        # quantised weights are made where they stay
        model = loading.load_base(
            Path(values["model"]),
            "cpu" if quantization == "none" else str(self.device),
            _WEIGHTS[values["precision"]],
            quantization=quantization,
        )
        if self.done:
            folder = checkpointing.step_folder(self.job.folder, "checkpoints", self.done)
            model = self.method.load(model, folder, self.method_config, trainable=True)
        else:
            model = self.method.attach(model, self.method_config)
        prepare(model, config, self.device)
        divided = (values.get("hardware") or {}).get("strategy") == "zero3"
        # what ZeRO-3 divides need never be whole on the device
        self.model = (model if divided else loading.move(model, str(self.device))).train()
        trainable = {name: p for name, p in self.model.named_parameters() if p.requires_grad}
        if not trainable:
            raise ConfigError(f"method={self.method_config.name}: no parameter is trainable with these settings")
        for parameter in trainable.values():  # updates of 1e-4 vanish in half precision
            parameter.data = parameter.data.float()
        self.flops = speed.flops_per_token(self.model, recomputed=config.gradient_checkpointing == "full")
        self.counts = counts(self.model)
        objective = Objective(self.model)
        if not divided:  # before DDP, whose hooks count forward passes
            self._choose(objective)
        groups, self.lr_scales = self._groups(trainable)
        self.engine = engines.make(values, config, objective, groups, (self.device, self.rank, self.world))
        if divided:
            self._choose(objective)
        # all or none: processes that cut a step differently would wait for each other for ever
        objective.packs = self.engine.sum(float(objective.packs)) == self.world
        objective.chunks = self.engine.sum(float(objective.chunks)) == self.world
        self.limits = self._limits(objective.packs)
        self.rate = _schedule(config, self.plan.steps)
        self.matmul_rate = speed.matmul_rate(self.device, values["precision"])
        if self.done:
            self.engine.load(checkpointing.step_folder(self.job.folder, "state", self.done))
            log.info("resumes after step %d of %d", self.done, self.plan.steps)

    def _choose(self, objective: Objective) -> None:
        with engines.autocast(self.device, self.job.values["precision"]):  # as the engine computes
            objective.choose(self.config.packing, self._sample)

    def _sample(self, packed: bool) -> dict[str, Any]:
        """Two short training rows that differ in length where any do."""
        order = np.argsort(self.train_rows.lengths, kind="stable")
        longer = np.searchsorted(self.train_rows.lengths[order], self.train_rows.lengths[order[0]] + 1)
        rows = order[[0, min(int(longer), len(order) - 1)]]
        return to_device(collate(self.train_rows, rows, packed=packed), self.device)

    def _limits(self, packed: bool) -> Limits:
        """What is computed at once: as configured or planned, less after a shortage of memory."""
        config = self.config
        chosen: dict[str, Any] = {"rows": config.rows_at_once(self.world), "tokens": config.micro_batch_tokens}
        chosen |= self.job.values.get("micro_batch") or {}
        file = self.job.folder / "micro_batch.json"
        lower = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
        rows, tokens = ([x[name] for x in (chosen, lower) if x.get(name)] for name in ("rows", "tokens"))
        return Limits(min(rows), min(tokens, default=None), packed)

    def _groups(self, trainable: Mapping[str, Any]) -> tuple[list[dict[str, Any]], list[float]]:
        """Parameter groups of one rate each, and how those stand to the configured rate."""
        scales_of = getattr(self.method, "learning_rate_scales", None)
        scales = scales_of(self.model, self.method_config) if scales_of else {}
        by_scale: dict[float, list[Any]] = {}
        for name, parameter in trainable.items():
            by_scale.setdefault(float(scales.get(name, 1.0)), []).append(parameter)
        decay = self.config.weight_decay
        groups = [{"params": p, "lr_scale": s, "weight_decay": decay} for s, p in sorted(by_scale.items())]
        return groups, sorted(by_scale)

    # --- the loop ---------------------------------------------------------------------------------------------

    def train(self) -> Mapping[str, Any]:
        config, steps, started = self.config, self.plan.steps, time.monotonic()
        self.metrics.keep_until(self.done or -1)
        self.engine.barrier()
        if self.done < steps and not self.state.stopped:
            self._rehearse()
        if config.eval_on_start and not self.done:
            self._validate(judges=False)
        interval, record = Interval(self.state.losses), dict[str, Any](loss=0.0)
        while self.done < steps and not self.state.stopped:
            interval.start()
            outcome = self._step_or_save(interval)
            if outcome is None:
                raise self._stopped(interval)
            self.done += 1
            interval.add(*outcome)
            if self.done % config.logging_steps == 0 or self.done == steps:
                record = self._log(interval)
                interval = Interval([])
            saves = self.done % config.save_steps == 0 or self.done == steps
            if saves or (config.eval_steps and self.done % config.eval_steps == 0):
                self._validate(judges=saves)
            if self.state.stopped and interval.losses:
                record = self._log(interval)
                interval = Interval([])
            if saves:
                self._save(interval)
            self._show(interval, record)
            if self._asked_to_stop() and self.done < steps and not self.state.stopped:
                raise self._stopped(interval)
        return self._finish(round(time.monotonic() - started, 3))

    def _rehearse(self) -> None:
        """One forward and backward pass of the largest micro-batch: a shortage of memory shows before the start."""
        rows = worst(self.plan.lengths, self.limits)
        self.engine.micro_step(collate(self.train_rows, rows, packed=self.limits.packed), 0.0, last=True)
        self.engine.discard()

    def _step_or_save(self, interval: Interval) -> tuple[float, int, int] | None:
        """The next step; where it needs more memory than there is, what was done before is saved first."""
        try:
            return self._step(self.done)
        except Exception as error:
            if out_of_memory(error) and self.world == 1 and self.done:
                self.engine.discard()
                self._save(interval)
            raise

    def _step(self, step: int) -> tuple[float, int, int] | None:
        """One update: the batch's mean token loss, its tokens and learned tokens; None if a signal cut it off."""
        rows = self.plan.rows(step)
        targets = int(self.train_rows.targets[rows].sum())
        torch.manual_seed(hash_seed(self.config.seed, step, self.rank))
        total = torch.zeros((), device=self.device)
        parts = micro_batches(rows, self.plan.lengths, self.rank, self.world, self.limits)
        for index, (part, weight) in enumerate(self._with_stand_ins(parts, rows)):
            batch = collate(self.train_rows, part, packed=self.limits.packed)
            loss = self.engine.micro_step(batch, weight / max(targets, 1), last=index == len(parts) - 1)
            if weight:
                total += loss
            if self.device.type == "cpu" and index < len(parts) - 1 and self._asked_to_stop():
                self.engine.discard()
                return None
        mean = self.engine.sum(float(total)) / max(targets, 1)
        self._update(step, mean)
        return mean, int(self.plan.lengths[rows].sum()), targets

    def _with_stand_ins(self, parts: list[Rows], rows: Rows) -> Iterator[tuple[Rows, float]]:
        """Micro-batches and their weight; a process without rows still takes part, with a row that weighs nothing."""
        shortest = rows[[int(np.argmin(self.plan.lengths[rows]))]]
        for part in parts:
            yield (part, 1.0) if len(part) else (shortest, 0.0)

    def _update(self, step: int, mean: float) -> None:
        """Apply the step's gradients, unless they would do harm.

        Raises:
            Diverged: more steps were left out than training.max_skipped_steps.
        """
        config, state = self.config, self.state
        limit = math.inf
        if config.spike_factor is not None and len(state.norms) >= _WINDOW:
            limit = config.spike_factor * statistics.median(state.norms)
        if math.isfinite(mean):
            rate = config.learning_rate * self.rate(step)
            update = self.engine.update([rate * scale for scale in self.lr_scales], limit)
            state.norm = update.norm
            if update.overflow:
                return
            if update.applied:
                state.norms = [*state.norms[1 - _WINDOW :], update.norm] if config.spike_factor else []
                return
        else:
            self.engine.discard()
            state.norm = math.nan
        state.skipped += 1
        log.warning("step %d is left out: loss %.4g, gradient norm %.4g", step + 1, mean, state.norm)
        if state.skipped > config.max_skipped_steps:
            raise Diverged(
                f"training diverged: loss is {mean:.4g}, gradient norm {state.norm:.4g} at step {step + 1}, and "
                f"{state.skipped} steps were left out (training.max_skipped_steps={config.max_skipped_steps}); lower "
                "training.learning_rate or check the data"
            )

    def _validate(self, *, judges: bool) -> None:
        """Write the validation loss; ``judges``: it decides on the best checkpoint and on stopping early."""
        if not len(self.validation_rows):
            return
        self.model.eval()
        rows = np.arange(len(self.validation_rows))
        rows_at_once = self.limits.rows if self.limits.tokens is None else max(self.limits.rows, 16)
        limits = Limits(rows_at_once, self.limits.tokens, self.limits.packed)
        total = 0.0
        parts = micro_batches(rows, self.validation_rows.lengths, self.rank, self.world, limits)
        shortest = rows[[int(np.argmin(self.validation_rows.lengths))]]
        for part in parts:
            batch = collate(self.validation_rows, part if len(part) else shortest, packed=limits.packed)
            loss_sum = float(self.engine.loss(batch))
            total += loss_sum if len(part) else 0.0
        self.model.train()
        loss = self.engine.sum(total) / max(int(self.validation_rows.targets.sum()), 1)
        self.metrics.write({"step": self.done, "validation_loss": loss if math.isfinite(loss) else None})
        if judges and self.state.judge(self.done, loss, self.config.early_stopping_patience):
            log.info("stops early after step %d: the best validation loss was at step %d", self.done, self.state.best)

    # --- stopping, saving, telling ------------------------------------------------------------------------------

    def _asked_to_stop(self) -> bool:
        """Whether any process was: all must stop after the same step."""
        return self.engine.sum(float(self.job.stopping)) > 0

    def _stopped(self, interval: Interval) -> Stopped:
        self._save(interval)
        return Stopped(f"training stopped at step {self.done} of {self.plan.steps}, state saved; run it again to go on")

    def _save(self, interval: Interval) -> None:
        values, config, step = self.job.values, self.config, self.done

        def weights(folder: Path) -> None:
            self.method.save(self.model, folder)
            loading.describe(
                folder,
                method=values["method"],
                base=Path(values["model"]),
                base_fingerprint=values["base_fingerprint"],
                step=step,
                layout=Layout.from_json(values["layout"]) if values.get("layout") else None,
                quantization=values.get("quantization", "none"),
            )

        self.state.losses = interval.losses
        self.metrics.sync()
        checkpointing.save(
            self.job.folder,
            step,
            weights=weights,
            state=self.engine.save,
            run=self.state.to_json(),
            identity=values.get("identity", {}),
            group=self.engine,
            gather=self.engine.weights,
            attempt=self.attempt,
            keep=config.save_total_limit,
            every=config.save_steps,
            best=self.state.best,
            collective_state=getattr(self.engine, "collective_state", False),
        )

    def _log(self, interval: Interval) -> dict[str, Any]:
        norm, loss = self.state.norm, interval.mean_loss()
        record = {
            "step": self.done,
            "loss": round(loss, 6) if math.isfinite(loss) else None,
            "learning_rate": self.config.learning_rate * self.rate(self.done - 1),
            "grad_norm": round(norm, 6) if math.isfinite(norm) else None,
            "epoch": round(self.done * self.config.batch_size / len(self.train_rows), 4),
            "tokens_per_second": round(interval.rate(), 1),
            "learned_tokens_per_second": round(interval.learned_rate(), 1),
            "mfu": round(self._mfu(interval), 4),
            "peak_memory_bytes": peak_memory_bytes(),
        }
        self.metrics.write(record)
        return record

    def _mfu(self, interval: Interval) -> float:
        """Share of the device's measured matrix-multiplication rate."""
        body, output = self.flops
        return (interval.rate() * body + interval.learned_rate() * output) / (self.matmul_rate * self.world)

    def _show(self, interval: Interval, record: Mapping[str, Any]) -> None:
        fresh = interval.tokens > 0
        self.job.progress(
            self.done,
            self.plan.steps,
            loss=round(record["loss"] or (interval.mean_loss() if fresh else 0.0), 4),
            lr=self.config.learning_rate * self.rate(self.done - 1),
            tok_s=round(interval.rate() if fresh else record["tokens_per_second"]),
            mfu=round(self._mfu(interval) if fresh else record["mfu"], 3),
            gib=round(peak_memory_bytes() / (1 << 30), 2),
        )

    def _finish(self, seconds: float) -> Mapping[str, Any]:
        """The result; from the files: an attempt that only had to finish another's work has no numbers of its own."""
        config, state = self.config, self.state
        written = self.metrics.read()
        validation = [line["validation_loss"] for line in written if "validation_loss" in line]
        intervals = [line for line in written if "loss" in line]
        losses = [line["loss"] for line in intervals if line["loss"] is not None]
        trainable, total = self.counts
        result = {
            "method": self.method_config.name,
            "trainable": trainable,
            "total": total,
            "train_loss": losses[-1] if losses else None,
            "validation_loss": validation[-1] if validation else None,
            "best_step": state.best,
            "stopped_early": state.stopped,
            "skipped_steps": state.skipped,
            "packed": self.limits.packed,
            "micro_batch": {"rows": self.limits.rows, "tokens": self.limits.tokens},
            "tokens_per_second": _median(intervals, "tokens_per_second"),
            "learned_tokens_per_second": _median(intervals, "learned_tokens_per_second"),
            "mfu": _median(intervals, "mfu"),
            "matmul_flops": self.matmul_rate,
            "peak_memory_bytes": peak_memory_bytes(),
            "train_seconds": seconds,
        }
        if self.job.leader:
            steps = checkpointing.settle(
                self.job.folder, keep=config.save_total_limit, every=config.save_steps, best=state.best
            )
            result = {"steps": steps, **result}
            checkpointing.finish(self.job.folder, result, self.attempt)
        self.engine.barrier()
        return result


def _schedule(config: TrainingConfig, steps: int) -> Any:
    """The learning rate of a step (from 0) as a share of the configured one."""
    options = {"min_lr_rate": config.min_lr_rate} if config.lr_scheduler_type == "cosine_with_min_lr" else None
    unused = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    scheduler = get_scheduler(
        config.lr_scheduler_type,
        unused,
        num_warmup_steps=round(config.warmup_ratio * steps),
        num_training_steps=steps,
        scheduler_specific_kwargs=options,
    )
    return scheduler.lr_lambdas[0] if hasattr(scheduler, "lr_lambdas") else lambda step: 1.0


def hash_seed(*parts: int) -> int:
    """A seed below 2^63 from several numbers."""
    return int(np.random.SeedSequence(parts).generate_state(1, np.uint64)[0] >> np.uint64(1))


def _median(lines: list[dict[str, Any]], name: str) -> float | None:
    values = [line[name] for line in lines if name in line]
    return statistics.median(values) if values else None


if __name__ == "__main__":
    main(run)
