"""The configuration of evaluation and of the gate."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from pydantic import PositiveInt

from tasks.schema import Field, How, Section, field_validator


class GateConfig(Section):
    """When a run may go on to be merged and deployed. An action's settings: they never redo an evaluation."""

    enabled: bool = How(True, doc="false: every run is promoted, and the reason says that the gate was off.")
    floors: dict[str, float] = How(
        {},
        doc="Least values of the tuned model: score (0-1), or a task's value (CHIP-CTC.macro_f1: 0.5), as report.json "
        "holds it. Below one, or where a name is unknown, the model is refused, whatever it is compared with.",
    )
    level: float = How(
        0.05,
        gt=0,
        lt=0.5,
        doc="One-sided level of the paired permutation test: a model as good as the champion is refused so often.",
    )
    permutations: int = How(2000, ge=100, doc="Random swaps behind that test's p-value; 2000 resolve 0.0005.")

    @field_validator("floors")
    @classmethod
    def _names(cls, floors: dict[str, float]) -> dict[str, float]:
        for name in floors:
            task, dot, value = name.rpartition(".")
            if name != "score" and not (task and dot and value):
                raise ValueError(f"{name!r} is neither score nor TASK.VALUE (CHIP-CTC.macro_f1)")
        return floors


class SamplingConfig(Section):
    """How the next token is drawn. The default draws nothing: the most likely token, the same each time."""

    temperature: float = Field(0.0, ge=0, le=10, doc="0: greedy; else logits are divided by it before drawing.")
    top_p: float = Field(1.0, gt=0, le=1, doc="Draws from the likeliest tokens that hold this share of probability.")
    top_k: int = Field(0, ge=0, doc="Draws from this many of the likeliest tokens; 0: no limit.")
    seed: int = Field(42, ge=0, doc="With a row's id it seeds that row's draws, whatever batch the row is in.")


class VllmConfig(Section):
    """A vLLM server that runs already, for large sets; used where evaluation.engine=vllm."""

    url: str = How("http://127.0.0.1:8000", doc="Its address; a key, if it wants one, is taken from the environment.")
    concurrency: int = How(32, ge=1, le=1024, doc="Requests under way at once.")
    timeout_s: float = How(600.0, gt=0, doc="Longest wait for one reply, s.")
    base_served_as: str | None = Field(None, doc="Name of the untuned base there; null: the base model's folder.")
    tuned_served_as: str | None = Field(
        None, doc="Name of the tuned model there; null: the checkpoint's LoRA adapter is loaded into the server."
    )


class EvaluationConfig(Section):
    """How the base model and the checkpoints are scored."""

    max_new_tokens: int = Field(128, ge=1, doc="Longest generated reply in tokens; longer ones are cut and counted.")
    test_rows: PositiveInt | None = Field(
        None, doc="Test rows scored at most, drawn evenly over the tasks; null: all. More rows, narrower intervals."
    )
    validation_rows: PositiveInt | None = Field(
        200, doc="Validation rows that choose the checkpoint at most, drawn evenly over the tasks; null: all."
    )
    checkpoints: Literal["last", "all"] | PositiveInt = Field(
        2, doc="Candidates: all, last, or the newest so many. A single candidate needs no validation pass."
    )
    choose_by: str = Field(
        "score",
        min_length=1,
        doc="Number that chooses the checkpoint on validation: score, a value (f1_normalised), or task.value.",
    )
    text_unit: Literal["words", "characters"] = Field(
        "words", doc="What ROUGE and BLEU of free text count: jieba's words, or single characters."
    )
    seed: int = Field(42, ge=0, doc="Draws the rows where a cap is set, the resamples, and the permutations.")
    bootstrap_resamples: int = Field(2000, ge=100, doc="Resamples behind every interval; fewer make its ends unsteady.")
    permutations: int = Field(
        2000, ge=100, doc="Random exchanges of two systems' rows behind every p-value; 2000 resolve 0.0005."
    )
    level: float = Field(
        0.05, gt=0, lt=0.5, doc="Two-sided level at which a difference counts, after Holm's correction for several."
    )
    worst_rows: int = Field(10, ge=0, doc="Worst test rows that the report shows with prompt, reference, prediction.")
    batch_tokens: int = How(
        8192, ge=1, doc="Tokens of prompts and replies that a batch may hold; less is taken where memory runs out."
    )
    sampling: SamplingConfig = Field(SamplingConfig(), doc="Greedy unless temperature is set.")
    constraint: Literal["none", "triples"] = Field(
        "none", doc="triples: replies can only be lines of head_relation_tail; needs the extra 'constrained'."
    )
    engine: Literal["transformers", "vllm"] = Field(
        "transformers", doc="What generates: this project's worker, or a vLLM server that you started."
    )
    vllm: VllmConfig = Field(VllmConfig(), doc="Where that server is, and its names for the models.")
    gate: GateConfig = How(GateConfig(), doc="When a run is promoted.")

    def problems(self) -> Iterator[str]:
        """What its fields exclude among themselves."""
        if self.engine == "vllm" and self.constraint != "none":
            yield f"evaluation.constraint={self.constraint}: not with evaluation.engine=vllm; use engine=transformers"
        if self.engine == "vllm" and self.vllm.tuned_served_as and self.checkpoints not in ("last", 1):
            yield (
                f"evaluation.vllm.tuned_served_as={self.vllm.tuned_served_as}: one name cannot stand for "
                f"evaluation.checkpoints={self.checkpoints}; use checkpoints=last, or null to load LoRA adapters"
            )
