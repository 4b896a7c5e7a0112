"""Several sources in one data set, each with its own settings, a weight and caps.

``parts`` lists them: every part has the keys of its own source (``source``, ``path``, columns, ``max_rows``, ...) and
``weight``. Weights set the proportion of the parts' training rows; the part that has least for its weight is kept
whole and the others are cut to match. What concerns all rows (split shares, duplicates, ``max_rows`` over all) is set
beside ``parts``; what is done to each row (cleaning, redaction) may be set there for all parts, and in a part for it
alone. The order of files on disk decides nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import ValidationError, field_validator, model_validator

from tasks.data import source
from tasks.data.source import SourceConfig
from tasks.errors import ConfigError
from tasks.schema import Field, How

#: What is done to each row: a value set beside the parts holds for every part that has none of its own.
_INHERITED = (
    "group_by",
    "system_prompt",
    "control_characters",
    "html_entities",
    "edge_spaces",
    "redact",
    "redact_kinds",
    "redact_names",
    "redact_allow",
)

#: What concerns all rows, which a part cannot set.
_OF_ALL_ROWS = (
    "validation_share",
    "test_share",
    "split_seed",
    "near_duplicates",
    "min_keep_ratio",
    "export_format",
    "processes",
)


class Config(SourceConfig):
    """Several sources; paths and columns belong to the parts."""

    source: Literal["mixture"] = "mixture"
    redact: bool | None = Field(  # type: ignore[assignment]
        None, doc="Replace personal data in all parts; null: as each part's source has it, chats yes, task data no."
    )
    parts: list[dict[str, Any]] = How(
        min_length=1, doc="The sources: each the keys of its own source and weight (null: all of its rows)."
    )

    @field_validator("parts")
    @classmethod
    def _valid(cls, parts: list[dict[str, Any]]) -> list[dict[str, Any]]:
        weights = [_weight(number, part) for number, part in enumerate(parts)]
        if any(weight is None for weight in weights) and any(weight is not None for weight in weights):
            raise ValueError("either every part has a weight or none; set the missing ones")
        for number, part in enumerate(parts):
            _config(number, part)
        return parts

    @model_validator(mode="after")
    def _parts_take_what_is_set_beside_them(self) -> Config:
        self.resolved()
        return self

    def resolved(self) -> list[tuple[SourceConfig, float | None]]:
        """Every part's configuration and weight."""
        fields = type(self).model_fields
        given = {name: value for name in _INHERITED if (value := getattr(self, name)) != fields[name].default}
        return [(_config(number, {**given, **part}), _weight(number, part)) for number, part in enumerate(self.parts)]


def _weight(number: int, part: Mapping[str, Any]) -> float | None:
    weight = part.get("weight")
    if weight is None:
        return None
    if isinstance(weight, bool) or not isinstance(weight, int | float) or not weight > 0:
        raise ValueError(f"parts[{number}].weight={weight!r}: must be a number above 0")
    return float(weight)


def _config(number: int, part: Mapping[str, Any]) -> SourceConfig:
    """The part's own configuration; what is wrong in it is told with its place in the list."""
    beside = [key for key in _OF_ALL_ROWS if key in part]
    if beside:
        raise ValueError(f"parts[{number}].{beside[0]}: concerns all rows; set data.{beside[0]} beside data.parts")
    name = part.get("source")
    if not isinstance(name, str) or name == "mixture":
        raise ValueError(f"parts[{number}].source={name!r}: must name a source other than mixture")
    try:
        kind = source.load(name).Config
        return kind.model_validate({key: value for key, value in part.items() if key != "weight"})
    except ConfigError as error:
        raise ValueError(f"parts[{number}]: {error}") from None
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise ValueError(f"parts[{number}].{place}: {first['msg']}") from None
