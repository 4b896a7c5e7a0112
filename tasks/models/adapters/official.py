"""What the official ChatGLM and Baichuan fine-tuning scripts leave, made into a checkpoint of this project.

Owns what a folder is: LoRA (``official_lora``), P-Tuning v2 (``official_prefix``), or a whole model, which needs no
conversion here.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tasks.errors import ModelError
from tasks.models import families, resolving
from tasks.models.adapters import official_lora, official_prefix, peft_files
from tasks.models.importing import conversion, forms


def convert(source: Path, base: Path, target: Path) -> dict[str, Any]:
    """Write the adapter in ``source`` into ``target`` as a checkpoint on the native model in ``base``.

    Raises:
        ModelError: it is none, or does not fit the base.
    """
    model = _base(base)
    if (source / peft_files.CONFIG).is_file():
        return official_lora.convert(source, base, model, target)
    names = official_prefix.find(_weights(source))
    if names:
        return official_prefix.convert(source, names, base, model, target)
    raise ModelError(
        f"source={source}: a whole model without a prefix (freeze or full fine-tuning), not an adapter: "
        f"take it as a base model, python -m flows.import_model model.path={source} out=DIR"
    )


def _base(base: Path) -> Any:
    """The native base model on the meta device: its layers' names and shapes."""
    if not (base / "config.json").is_file():
        raise ModelError(f"base={base}: no config.json: not a model folder")
    config = resolving.read_json(base / "config.json")
    if not forms.is_native(config):
        raise ModelError(
            f"base={base}: model_type={config.get('model_type')!r}: a hub form, not a native model; convert it first: "
            f"python -m flows.import_model model.path={base} out=DIR, then base=DIR"
        )
    values = {key: value for key, value in config.items() if key not in ("architectures", families.CONFIG_KEY)}
    return conversion.skeleton(values)


def _weights(source: Path) -> list[Path]:
    try:
        return resolving.weight_files(source)
    except ModelError:
        steps = sorted(folder.name for folder in source.glob("checkpoint-*"))
        hint = f"; it holds {', '.join(steps)}: name one of them" if steps else ""
        raise ModelError(
            f"source={source}: no {peft_files.CONFIG} and no weight file: not what a fine-tuning script leaves{hint}"
        ) from None
