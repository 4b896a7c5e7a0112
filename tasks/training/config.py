"""The configuration of training."""

from __future__ import annotations

from typing import Literal

from tasks.schema import Field, How, Section, field_validator
from tasks.training.hardware import HardwareConfig

__all__ = ["HardwareConfig", "TrainingConfig"]


class TrainingConfig(Section):
    """How a model learns. A step is one update of the weights, from ``batch_size`` rows."""

    epochs: float = Field(1.0, gt=0, doc="Passes over the training rows; max_steps goes before it.")
    max_steps: int | None = Field(None, ge=1, doc="Steps of the whole run; null: from epochs.")
    batch_size: int = Field(16, ge=1, doc="Rows a step, over all devices together; decides the result.")
    micro_batch_size: int | None = How(
        None, ge=1, doc="Rows a device computes at once at most; null: as many as fit. Changes dropout draws only."
    )
    micro_batch_tokens: int | None = How(
        None, ge=16, doc="Tokens a device computes at once at most (a longer row goes alone); null: as many as fit."
    )
    packing: Literal["auto", "on", "off"] = How(
        "auto",
        doc="Rows end to end without padding, none seeing another; auto: where this model computes the same loss so.",
    )
    learning_rate: float = Field(5e-5, gt=0, lt=10, doc="Peak learning rate.")
    lr_scheduler_type: Literal["linear", "cosine", "cosine_with_min_lr", "constant", "constant_with_warmup"] = Field(
        "cosine", doc="Course of the learning rate after warm-up."
    )
    min_lr_rate: float = Field(
        0.1, ge=0, lt=1, doc="Where cosine_with_min_lr ends, as a share of learning_rate; no effect on others."
    )
    warmup_ratio: float = Field(0.03, ge=0, lt=1, doc="Share of the steps in which the rate rises from 0.")
    optimizer: Literal["adamw", "adamw_8bit", "paged_adamw_8bit"] = Field(
        "adamw", doc="adamw_8bit: a quarter of its memory (needs bitsandbytes); paged: moved to the CPU when short."
    )
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
    gradient_checkpointing: Literal["none", "full", "selective"] = How(
        "none",
        doc="Compute activations again to save memory: full: whole layers, a third slower; selective: all but matrix "
        "multiplications, little slower.",
    )
    compile: bool = How(False, doc="torch.compile: minutes at the start, then faster on a GPU.")
    fused_kernels: Literal["auto", "off"] = How(
        "auto", doc="auto: Liger's kernels for norms, rotary positions and SwiGLU, where installed and on a GPU."
    )
    deterministic: bool = How(
        False, doc="On a GPU: only kernels that give the same bits every time; slower. A CPU always does."
    )
    max_skipped_steps: int = Field(
        3, ge=0, doc="Steps left out because their loss or gradient is no number or a spike, before the run fails."
    )
    spike_factor: float | None = Field(
        None, gt=1, doc="A gradient norm above so many times the median of the last 50 is a spike; null: none is."
    )
    early_stopping_patience: int | None = Field(
        None, ge=1, doc="Stop after so many checkpoints without a lower validation loss; null: never."
    )
    resume: str = How(
        "auto",
        doc="auto: from the newest whole checkpoint of this run; never: from the start; a number: from that step.",
    )
    save_steps: int = Field(100, ge=1, doc="A checkpoint every so many steps, and one at the end.")
    save_total_limit: int = Field(3, ge=1, doc="Newest checkpoints kept, beside the best.")
    eval_steps: int | None = How(None, ge=1, doc="Validation loss also every so many steps, not only with checkpoints.")
    eval_on_start: bool = How(False, doc="Validation loss before the first step too: that of the untuned model.")
    logging_steps: int = How(10, ge=1, doc="A line in metrics.jsonl every so many steps.")

    @field_validator("gradient_checkpointing", mode="before")
    @classmethod
    def _as_mode(cls, value: object) -> object:
        return {True: "full", False: "none"}.get(value, value) if isinstance(value, bool) else value

    @field_validator("packing", mode="before")
    @classmethod
    def _as_choice(cls, value: object) -> object:
        """YAML reads on and off as true and false."""
        return {True: "on", False: "off"}.get(value, value) if isinstance(value, bool) else value

    @field_validator("resume", mode="before")
    @classmethod
    def _as_text(cls, value: object) -> str:
        text = str(value)
        if text not in ("auto", "never") and not text.isdecimal():
            raise ValueError("allowed are auto, never, and the number of a saved step")
        return text

    def rows_at_once(self, processes: int) -> int:
        """Rows that one of ``processes`` computes at once."""
        share = -(-self.batch_size // processes)
        return min(self.micro_batch_size or share, share)
