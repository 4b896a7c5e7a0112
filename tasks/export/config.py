"""The configuration of the merge."""

from __future__ import annotations

from typing import Literal

from tasks.schema import Field, How, Section


class ExportConfig(Section):
    """How the tuned model is written."""

    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto", doc="Type of the merged weights; auto keeps the base model's. The merge itself is done in float32."
    )
    tolerance: float = Field(
        0.05,
        gt=0,
        doc="Largest difference of the log-probabilities that the reloaded model may show against base + adapter in "
        "the same type; a merge beyond it is refused.",
    )
    check_rows: int = Field(8, ge=1, doc="Test prompts on which the reloaded model is compared.")
    check_tokens: int = Field(24, ge=1, doc="Greedy tokens compared on each of them.")
    device: Literal["auto", "cpu", "cuda"] = How(
        "auto", doc="Where the merge runs, in float32 (4 bytes a parameter); auto: where training ran. cpu is slower."
    )
    max_shard_size: str = Field("5GB", doc="Largest weight file written.")
