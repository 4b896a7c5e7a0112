"""The configuration of training and of the hardware it runs on."""

from __future__ import annotations

from typing import Literal

from tasks.schema import Field, How, Section


class TrainingConfig(Section):
    """How a model learns. A step is one update of the weights, from ``batch_size`` rows."""

    epochs: float = Field(1.0, gt=0, doc="Passes over the training rows; max_steps goes before it.")
    max_steps: int | None = Field(None, ge=1, doc="Steps of the whole run; null: from epochs.")
    batch_size: int = Field(16, ge=1, doc="Rows a step, over all devices together; decides the result.")
    micro_batch_size: int | None = How(
        None,
        ge=1,
        doc="Rows a device computes at once; null: all of its share. Only memory and dropout draws change.",
    )
    learning_rate: float = Field(5e-5, gt=0, lt=10, doc="Peak learning rate.")
    lr_scheduler_type: Literal["linear", "cosine", "constant", "constant_with_warmup"] = Field(
        "cosine", doc="Course of the learning rate after warm-up."
    )
    warmup_ratio: float = Field(0.03, ge=0, lt=1, doc="Share of the steps in which the rate rises from 0.")
    weight_decay: float = Field(0.0, ge=0, doc="AdamW's decoupled weight decay.")
    adam_beta1: float = Field(0.9, ge=0, lt=1, doc="AdamW's first moment decay.")
    adam_beta2: float = Field(0.999, ge=0, lt=1, doc="AdamW's second moment decay.")
    adam_epsilon: float = Field(1e-8, gt=0, doc="AdamW's epsilon.")
    max_grad_norm: float = Field(1.0, gt=0, doc="Gradients are scaled down to this norm.")
    seed: int = Field(42, ge=0, doc="Row order, dropout and the start values of new parameters.")
    precision: Literal["auto", "fp32", "bf16", "fp16"] = Field(
        "auto",
        doc="Arithmetic; auto: bf16 or fp16 on a GPU by its generation, fp32 on a CPU. Resolved in the identity.",
    )
    gradient_checkpointing: bool = How(False, doc="Compute activations twice to save memory; a third slower.")
    save_steps: int = Field(100, ge=1, doc="A checkpoint every so many steps, and one at the end.")
    save_total_limit: int = Field(3, ge=1, doc="Newest checkpoints kept.")
    eval_steps: int | None = How(None, ge=1, doc="Validation loss every so many steps; null: with each checkpoint.")
    logging_steps: int = How(10, ge=1, doc="A line in metrics.jsonl every so many steps.")

    def rows_at_once(self, processes: int) -> int:
        """Rows that one of ``processes`` computes at once."""
        share = -(-self.batch_size // processes)
        return min(self.micro_batch_size or share, share)


class HardwareConfig(Section):
    """Where the work runs; nothing of it decides a result."""

    device: Literal["auto", "cpu", "cuda"] = How("auto", doc="auto: a GPU where torch can use one, else the CPU.")
    processes: int = How(1, ge=1, doc="Training processes on this machine (one a device), through torchrun.")
