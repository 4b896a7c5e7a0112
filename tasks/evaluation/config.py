"""The configuration of evaluation and of the gate."""

from __future__ import annotations

from typing import Literal

from pydantic import PositiveInt

from tasks.schema import Field, How, Section


class GateConfig(Section):
    """When a run may go on to be merged and deployed. An action's settings: they never redo an evaluation."""

    enabled: bool = How(True, doc="false: every run is promoted, and the reason says that the gate was off.")
    minimum_score: float | None = How(
        None, ge=0, le=1, doc="A tuned model whose score (0-1) is below this is refused, whatever it is compared with."
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
    seed: int = Field(42, ge=0, doc="Draws the rows where a cap is set, and the bootstrap's resamples.")
    bootstrap_resamples: int = Field(2000, ge=100, doc="Resamples behind every interval; fewer make its ends unsteady.")
    worst_rows: int = Field(10, ge=0, doc="Worst test rows that the report shows with prompt, reference, prediction.")
    batch_tokens: int = How(
        8192, ge=1, doc="Tokens of prompts and replies that a batch may hold; less is taken where memory runs out."
    )
    gate: GateConfig = How(GateConfig(), doc="When a run is promoted.")
