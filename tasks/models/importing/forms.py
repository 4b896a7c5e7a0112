"""What the files of a base model are: a native folder, a hub form that a family converts, or a GGUF file.

Reads JSON and headers only, so that the plan can say what an import will do before it starts.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tasks import plugins
from tasks.errors import ModelError
from tasks.models import architectures, families, resolving
from tasks.models.config import ModelConfig
from tasks.models.importing import gguf_file


@dataclass(frozen=True)
class Form:
    """What a base model's files are and what is done with them.

    Attributes:
        kind: "native": used in place; "convert": made native by its family; "gguf": dequantised once.
        family: name of the family module; None while it is not known (a GGUF file before it is read).
        target: class of the native model, for people.
    """

    kind: Literal["native", "convert", "gguf"]
    family: str | None
    target: str

    def __str__(self) -> str:
        if self.kind == "convert":
            return f"hub form of {self.family}, converted once to {self.target}"
        return {"native": f"native {self.target}, used in place", "gguf": "GGUF file, dequantised once"}[self.kind]


def of(place: Path, config: ModelConfig) -> Form:
    """The form of the model in ``place``.

    Raises:
        ModelError: no family converts it and transformers has no class for it, a setting cannot be converted, or it is
            no base model at all.
    """
    if config.family is not None and config.family not in families.names():
        raise ModelError(f"model.family={config.family!r}: unknown; {plugins.nearest(config.family, families.names())}")
    if place.is_file():
        gguf_file.check(place)
        return Form("gguf", config.family, "")
    resolving.refuse_adapter(place)
    value = resolving.read_json(place / "config.json")
    resolving.other_files(place)  # a git-lfs pointer for a tokenizer says so, before a family reads it
    architecture = (value.get("architectures") or [value.get("model_type")])[0]
    family = families.convertible(value, place)
    if family is None and (native := families.recognise(place)) and (native != families.GENERIC or is_native(value)):
        return Form("native", config.family or native, str(architecture))
    family = config.family or family
    if family is None or not hasattr(families.named(family), "conversion"):
        known = [name for name in families.names() if hasattr(families.named(name), "conversion")]
        raise ModelError(
            f"{place / 'config.json'}: model_type={value.get('model_type')!r} ({architecture}) has no class in "
            "transformers, and remote code is never run; hub forms that can be converted: "
            f"{', '.join(known)} (model.family=NAME if it is one of them)"
        )
    made = families.named(family).conversion(value, place).config
    return Form("convert", family, str(made["architectures"][0]))


def is_native(config: dict[str, object]) -> bool:
    """Whether transformers, or this project, has a class for a config.json as it is; takes seconds to import."""
    from transformers import CONFIG_MAPPING

    model_type = config.get("model_type")
    return model_type in CONFIG_MAPPING or model_type in architectures.MODEL_TYPES
