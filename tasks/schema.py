"""The base of every configuration section, and the difference between *what* is computed and *how*.

Fields made with :func:`Field` decide the result and enter a stage's fingerprint. Fields made with :func:`How`
say where or in which way it is computed (device, paths, micro-batch, logging) and never enter.

Workers run on bare GPU hosts that hold torch, transformers and peft only. They are given values that the
orchestrator has validated already, so where pydantic is missing a section is a plain bag of those values.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__all__ = ["Field", "How", "Section", "field_validator", "identity"]

if TYPE_CHECKING:
    from pydantic import BaseModel, ConfigDict, field_validator
    from pydantic import Field as _Field
else:
    try:
        from pydantic import BaseModel, ConfigDict, field_validator
        from pydantic import Field as _Field
    except ModuleNotFoundError:

        class BaseModel:
            """Stands in for pydantic's on a bare host: takes every value as given, checks nothing."""

            def __init__(self, **values: Any) -> None:
                self.__dict__.update(values)

        def ConfigDict(**options: Any) -> dict[str, Any]:
            return options

        def field_validator(*fields: str, **options: Any) -> Any:
            return lambda function: function

        def _Field(default: Any = None, **rules: Any) -> Any:
            return default


class Section(BaseModel):
    """A frozen configuration section that refuses unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=(), allow_inf_nan=False)


def Field(default: Any = ..., *, doc: str, **rules: Any) -> Any:
    """A field that decides the result; ``doc`` is one sentence: what, unit, effect."""
    return _Field(default, description=doc, **rules)


def How(default: Any = ..., *, doc: str, **rules: Any) -> Any:
    """A field that says how or where the work runs; it never enters a fingerprint."""
    return _Field(default, description=doc, json_schema_extra={"identity": False}, **rules)


def identity(section: Any) -> dict[str, Any]:
    """The fields of a section (and of the sections within it) that decide the result, as plain JSON values."""
    result: dict[str, Any] = {}
    for name, field in type(section).model_fields.items():
        if isinstance(field.json_schema_extra, dict) and field.json_schema_extra.get("identity") is False:
            continue
        value = getattr(section, name)
        result[name] = identity(value) if isinstance(value, Section) else _plain(value)
    return result


def _plain(value: Any) -> Any:
    from pydantic_core import to_jsonable_python

    return to_jsonable_python(value)
