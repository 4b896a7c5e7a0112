"""The typed records that pass between stages: a folder, a fingerprint and small facts; never rows or tensors."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field


class Artifact(BaseModel):
    """What a stage leaves in the store.

    Attributes:
        path: its folder.
        fingerprint: sha256 (hex) of its identity.
        reused: it was in the store already.
        seconds: how long this run worked on it (0 when reused).
    """

    stage: ClassVar[str]
    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())

    path: Path
    fingerprint: str
    reused: bool = False
    seconds: float = 0.0

    def summary(self) -> dict[str, Any]:
        """The stage's JSON for ``output=json``: path, fingerprint, reused, seconds and the facts."""
        return self.model_dump(mode="json")


class Dataset(Artifact):
    """Rows (tasks.conversation) in ``<split>.parquet``; ``report.json``, ``report.md``, plots and ``preview.md``;
    ``quarantine.jsonl`` with file, line and reason of every dropped record; ``export/`` where asked for.

    Attributes:
        source: name of the source module that read it.
        rows: the account of source records {"read": n, "kept": n, "dropped": {reason: n}}; read = kept + all dropped.
        splits: rows per split {"train": n, "validation": n, "test": n}.
        tasks: rows per task name over all splits.
    """

    stage: ClassVar[str] = "prepare"

    source: str
    rows: dict[str, Any]
    splits: dict[str, int]
    tasks: dict[str, int]

    def rows_file(self, split: str) -> Path:
        """The file of a split's rows, for ``tasks.conversation.read_rows``."""
        return self.path / f"{split}.parquet"


class BaseModelArtifact(Artifact):
    """The resolved base model: native safetensors weights, configuration and tokenizer.

    Attributes:
        weights: the folder that transformers loads; the artifact's own, or the user's where it is native already.
        form: what the files were: "native", "convert" (a hub form, converted) or "gguf".
        family: name of the family module that renders dialogues for it.
        template: name of another layout of dialogues than the model's own; quantization: "none", "int8" or "nf4".
        device_map: "auto" where the model is spread over devices for answering. These three are the run's, not the
            files': they are part of what follows, not of this artifact.
        assumed: one line for each thing that the files did not say.
        parameters: how many.
        bytes: size of its weight files.
        hidden_size, layers, vocabulary, context_tokens, key_value_heads, head_size: its shape, for memory estimates.
    """

    stage: ClassVar[str] = "base_model"

    weights: Path
    form: str
    family: str
    template: str | None = None
    quantization: str = "none"
    device_map: str = "none"
    assumed: list[str]
    parameters: int
    bytes: int
    hidden_size: int
    layers: int
    vocabulary: int
    context_tokens: int
    key_value_heads: int
    head_size: int

    @property
    def layout(self) -> dict[str, str | None]:
        """Which renderer dialogues take: the JSON of tasks.models.families.Layout."""
        return {"family": self.family, "template": self.template}


class TokenizedDataset(Artifact):
    """``<split>/shard-N.safetensors`` (tasks.models.tokens), rendered for one base model.

    Attributes:
        rows: rows per split that can be learned from.
        tokens: per split all of them ("train"), those learned ("train_learned"), and in "train_replies_cut" the rows
            whose last reply was cut, so that its end token is not learned.
        longest: tokens of the longest row.
        lengths: tokens a row, per split with rows: "mean", and "p50", "p95" and "p99", which so many % do not exceed.
        dropped: rows left out {reason: n}; truncated: rows cut to a length limit, and truncated_by {limit: n}.
    """

    stage: ClassVar[str] = "tokenize"

    rows: dict[str, int]
    tokens: dict[str, int]
    longest: int
    lengths: dict[str, dict[str, float]] = Field(default_factory=dict)
    dropped: dict[str, int]
    truncated: int
    truncated_by: dict[str, int] = Field(default_factory=dict)


class Checkpoints(Artifact):
    """``checkpoints/step-N/`` of one training run, ``metrics.jsonl`` and ``result.json``.

    Attributes:
        steps: the checkpoints kept, ascending.
        method: name of the method module.
        trainable, total: parameters.
        train_loss: mean token loss of the last logged interval; validation_loss: of the last evaluation, if any.
        tokens_per_second: median over the run, all tokens of the batches.
        peak_memory_bytes: of the training process; predicted_memory_bytes: what the plan said, None where it could not.
        train_seconds: time in the loop.
        learned_tokens_per_second: the same of learned tokens; mfu: share of the measured matrix-multiplication rate.
        matmul_flops: that rate, FLOP/s. micro_batch: what was computed at once, {"rows", "tokens"}.
        best_step: checkpoint with the lowest validation loss; packed: rows stood end to end.
        stopped_early: because of the validation loss; skipped_steps: left out, their numbers being none.
    """

    stage: ClassVar[str] = "train"

    steps: list[int]
    method: str
    trainable: int
    total: int
    train_loss: float
    validation_loss: float | None
    tokens_per_second: float
    peak_memory_bytes: int
    train_seconds: float
    learned_tokens_per_second: float | None = None
    mfu: float | None = None
    matmul_flops: float | None = None
    micro_batch: dict[str, int | None] = Field(default_factory=dict)
    best_step: int | None = None
    packed: bool = False
    stopped_early: bool = False
    skipped_steps: int = 0
    predicted_memory_bytes: int | None = None

    def checkpoint(self, step: int) -> Path:
        return self.path / "checkpoints" / f"step-{step:06d}"


class Answers(Artifact):
    """A model's replies to some rows, which every evaluation of it on them shares: ``predictions.jsonl``.

    Attributes:
        rows: how many.
    """

    stage: ClassVar[str] = "answers"

    rows: int


class EvalReport(Artifact):
    """``predictions/*.jsonl``, ``report.json``, ``report.md`` and plots.

    Attributes:
        headline: name of the number that decides ("score": mean of the tasks' primary metrics, 0-1).
        chosen_step: the checkpoint chosen on validation.
        base: the untouched model's headline on test; tuned: the chosen checkpoint's; with 95 % intervals.
        difference: tuned - base with its paired interval {"value", "low", "high"}.
        baselines: headline of trivial answers {"majority": x, "copy": x}.
    """

    stage: ClassVar[str] = "evaluate"

    headline: str
    chosen_step: int
    base: dict[str, float]
    tuned: dict[str, float]
    difference: dict[str, float]
    baselines: dict[str, float]
    rows: int


class MethodComparison(Artifact):
    """Methods on the same data, side by side: comparison.md, .json, .csv, .png.

    Attributes:
        rows: test rows that all were scored on.
        systems: per system (methods, and the untuned base) its score with its 95 % interval, its parameters, memory
            and times.
        failed: "method, seed n" -> why it is not among them.
        conclusions: what may be said, in sentences.
    """

    stage: ClassVar[str] = "compare"

    rows: int
    systems: dict[str, dict[str, Any]]
    failed: dict[str, str]
    conclusions: list[str]


class ServableModel(Artifact):
    """What a server loads: ``model/`` (merged weights with tokenizer), or ``adapter/`` beside the base it needs.

    Attributes:
        form: "merged", or "base+adapter" for methods that cannot merge.
        model: folder of the weights to load (merged, or the base).
        adapter: folder of the adapter for "base+adapter", else None.
        family: renderer of dialogues.
        max_logit_difference: largest difference of a token's log-probability, reloaded model against base + adapter.
        check_tokens: greedy tokens compared; same_tokens: how many are the reloaded model's most likely ones too.
    """

    stage: ClassVar[str] = "merge"

    form: str
    model: Path
    adapter: Path | None
    family: str
    max_logit_difference: float
    check_tokens: int
    same_tokens: int


class Preview(Artifact):
    """A few training rows, token by token; ``preview.html`` shows them.

    Attributes:
        layout: one line on the layout of dialogues that is used.
        rows: for each its id, input_ids, labels, tokens as text, and what was wrong with it.
    """

    stage: ClassVar[str] = "preview"

    layout: str
    rows: list[dict[str, Any]]
