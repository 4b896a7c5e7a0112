"""Looks at the files and takes the source that fits them; ``tasks.data.detect`` does it, this is its configuration.

Source: none; the formats are those of the other modules.
"""

from __future__ import annotations

from typing import Any, Literal

from tasks.data.source import Draft, SourceConfig
from tasks.schema import Field


class Config(SourceConfig):
    """What is given here holds for the source that is found; null takes what that source does by itself."""

    source: Literal["auto"] = "auto"
    # wider than the base's types: null is what lets each source keep its own default
    prompt_column: str | None = Field(  # type: ignore[assignment]
        None, doc="Column of the prompt, or several joined by '+'; null: as the source has it."
    )
    response_column: str | None = Field(  # type: ignore[assignment]
        None, doc="Column of the reply; null: as the source has it."
    )
    validation_share: float | None = Field(  # type: ignore[assignment]
        None, ge=0, lt=1, doc="Share of the training groups (0-1) for validation; null: as the source has it."
    )
    test_share: float | None = Field(  # type: ignore[assignment]
        None, ge=0, lt=1, doc="Share of the training groups (0-1) for testing; null: as the source has it."
    )
    redact: bool | None = Field(  # type: ignore[assignment]
        None, doc="Replace personal data by pseudonyms; null: as the source has it, chat logs do."
    )
    min_keep_ratio: float | None = Field(  # type: ignore[assignment]
        None, ge=0, le=1, doc="Smallest share of the records read (0-1) to be kept; null: as the source has it."
    )


#: Fields whose null means the found source's own default; null in any other field is a value of its own.
LEFT_TO_THE_SOURCE = (
    "prompt_column",
    "response_column",
    "validation_share",
    "test_share",
    "redact",
    "min_keep_ratio",
)


def convert(record: dict[str, Any], row_id: str, config: Config) -> Draft:
    """Never called: the source that was found converts."""
    raise NotImplementedError("data.source=auto is replaced by the source that fits before records are read")
