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
    if quantized(model):
        raise ConfigError(
            f"method={method}: not with model.quantization=int8 or nf4: it changes the base's own weights, and "
            "8 or 4 bits cannot hold small changes; use method=qlora, prompt_tuning, ptuning or ptuning_v2, or "
            "model.quantization=none"
        )


def quantized(model: Any) -> bool:
    """Whether the model holds weights as integers."""
    return any(not parameter.is_floating_point() for parameter in model.parameters())


def counts(model: Any) -> tuple[int, int]:
    """Trainable and total parameters of a model with its method: every weight once, tied ones too.

    The total is that of the base and of what the method adds, as the tables of ChatGLM-Finetuning count (LoRA on
    ChatGLM-6B: 3,670,016 of 6,176,956,416). Where 4 bits pack two weights into one element, each is counted: those
    tables count elements, and so give P-Tuning v2 on an int4 model 4.31 billion of what are 7.13. A module that LoRA
    trains whole is there twice, as a frozen original and as its trained copy.
    """
    trainable = total = 0
    for parameter in model.parameters():
        # bitsandbytes' 4-bit tensors remember the shape that they stand for
        state = getattr(parameter, "quant_state", None)
        weights = state.shape.numel() if state is not None else parameter.numel()
        total += weights
        trainable += weights if parameter.requires_grad else 0
    return trainable, total


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
