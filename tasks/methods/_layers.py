"""What every method needs to know of the model that it is put on: its family, its layers, what it cannot do."""

from __future__ import annotations

from types import ModuleType
from typing import Any

from tasks.errors import ConfigError, ModelError
from tasks.models import families


def family(model: Any) -> ModuleType:
    """The family's module of a loaded model, by its configuration."""
    return families.named(families.of_config(model.config.to_dict()))


def refuse(model: Any, method: str) -> None:
    """Raise where the model's family says that ``method`` cannot be used on it.

    Raises:
        ConfigError: with the family's reason.
    """
    module = family(model)
    reason = module.REFUSED.get(method)
    if reason is not None:
        raise ConfigError(f"method={method}: not on {module.__name__.rpartition('.')[2]} models: {reason}")


def refuse_quantized(model: Any, method: str) -> None:
    """Raise where weights are held as integers: ``method`` would have to change them in place.

    Raises:
        ConfigError: naming the methods that leave the base as it is.
    """
    if any(not parameter.is_floating_point() for parameter in model.parameters()):
        raise ConfigError(
            f"method={method}: not with model.quantization=int8 or nf4: it changes the base's own weights, and "
            "8 or 4 bits cannot hold small changes; use method=lora, ptuning or ptuning_v2, or model.quantization=none"
        )


def layer_list(model: Any) -> tuple[str, Any]:
    """The dotted name and the list of the transformer layers: the family's, else the one list of the right length.

    Raises:
        ModelError: there is none.
    """
    from torch.nn import ModuleList

    modules = dict(model.named_modules())
    name = family(model).LAYERS
    if name in modules and isinstance(modules[name], ModuleList):
        return name, modules[name]
    depth = model.config.get_text_config().num_hidden_layers
    for name, module in modules.items():
        if isinstance(module, ModuleList) and len(module) == depth:
            return name, module
    raise ModelError(f"{type(model).__name__}: no list of {depth} layers found; method=lora needs none")
