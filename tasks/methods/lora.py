"""LoRA: low-rank updates of the linear layers, by PEFT, and its variants rsLoRA, DoRA, PiSSA and LoRA+.

Whatever the variant, the saved folder is an ordinary PEFT adapter of the untouched base model.

Source: Hu et al. 2021, https://arxiv.org/abs/2106.09685; defaults are those of the ChatGLM3 fine-tuning demo. rsLoRA:
Kalajdzievski 2023, https://arxiv.org/abs/2312.03732. DoRA: Liu et al. 2024, https://arxiv.org/abs/2402.09353. LoRA+:
Hayou et al. 2024, https://arxiv.org/abs/2402.12354. PiSSA: see ``_pissa``.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Literal

from tasks.errors import ConfigError, ModelError
from tasks.methods import _layers
from tasks.methods._method import MethodConfig
from tasks.schema import Field

MERGES = True
_ALL = "all-linear"
_WEIGHTS = "adapter_model.safetensors"


class Config(MethodConfig):
    name: Literal["lora"] = Field(doc="Name of the method module.")
    r: int = Field(8, ge=1, le=1024, doc="Rank of each update; memory and capacity grow with it.")
    lora_alpha: int = Field(32, ge=1, doc="Scale of the update: it is multiplied by lora_alpha / r.")
    lora_dropout: float = Field(0.1, ge=0, lt=1, doc="Dropout on the input of each update while training.")
    target_modules: str | list[str] = Field(
        _ALL,
        doc="Names of the linear layers to update; all-linear for every one but the output layer, family for those "
        "that the model family's own fine-tuning code updates.",
    )
    use_rslora: bool = Field(
        False, doc="rsLoRA: multiply by lora_alpha / sqrt(r) instead, so that high ranks learn as fast as low ones."
    )
    use_dora: bool = Field(
        False, doc="DoRA: learn each output's magnitude apart from its direction; often better, about half as fast."
    )
    init_lora_weights: str = Field(
        "default",
        pattern=r"^(default|pissa|pissa_niter_[1-9]\d*)$",
        doc="default: updates start at zero; pissa: at the r largest singular values of each layer, which its frozen "
        "rest lacks; pissa_niter_4: the same by 4 rounds of approximation, in seconds instead of minutes.",
    )
    loraplus_lr_ratio: float = Field(
        1.0, ge=1, le=1000, doc="LoRA+: matrices B learn at this many times training.learning_rate; its authors use 16."
    )
    modules_to_save: list[str] = Field(
        [],
        doc="Names of modules that are trained whole, in float32, beside the updates, and saved with them, as "
        "embed_tokens and lm_head are for new tokens; tied ones stay tied.",
    )


def attach(model: Any, config: Config) -> Any:
    from tasks.methods import _pissa
    from tasks.methods._lora_layers import fast

    tuned = _wrapped(model, config)
    if config.init_lora_weights != "default":
        _pissa.start(tuned, config.init_lora_weights)
    return fast(tuned)


def learning_rate_scales(model: Any, config: Config) -> dict[str, float]:
    if config.loraplus_lr_ratio == 1:
        return {}
    return {name: config.loraplus_lr_ratio for name, _ in model.named_parameters() if ".lora_B." in name}


def save(model: Any, folder: Path) -> None:
    from tasks.methods import _pissa

    if _pissa.started(model):
        _pissa.save(model, folder, folder / _WEIGHTS)
    else:
        model.save_pretrained(folder, safe_serialization=True, save_embedding_layers=False)


def load(model: Any, folder: Path, config: Config, *, trainable: bool) -> Any:
    if not trainable:
        from peft import PeftModel

        return PeftModel.from_pretrained(model, folder)
    from peft import set_peft_model_state_dict
    from safetensors.torch import load_file

    from tasks.methods import _pissa
    from tasks.methods._lora_layers import fast

    tuned = _wrapped(model, config)  # made float32 before tensors arrive, so that they keep every bit
    tensors = load_file(folder / _WEIGHTS)
    if config.init_lora_weights != "default":
        tensors = _pissa.resume(tuned, tensors)
    try:
        strange = set_peft_model_state_dict(tuned, tensors).unexpected_keys
    except RuntimeError as error:
        strange = [" ".join(str(error).split())[:200]]
    if strange:
        raise ModelError(f"{folder / _WEIGHTS}: does not fit the base model and method settings: {strange[0]}")
    return fast(tuned)


def merge(model: Any) -> Any:
    return model.merge_and_unload(safe_merge=True)


def _wrapped(model: Any, config: Config) -> Any:
    from peft import LoraConfig, get_peft_model

    _layers.refuse(model, config.name)
    if found := problems(config, quantized=_layers.quantized(model)):
        raise ConfigError(found)
    settings = LoraConfig(
        task_type="CAUSAL_LM",
        r=config.r,
        lora_alpha=config.lora_alpha,
        lora_dropout=config.lora_dropout,
        target_modules=targets(model, config.target_modules),
        use_rslora=config.use_rslora,
        use_dora=config.use_dora,
        modules_to_save=_whole(model, config.modules_to_save),
        ensure_weight_tying=bool(config.modules_to_save) and _tied(model),
    )
    dtype = model.get_input_embeddings().weight.dtype
    return _whole_in_float32(get_peft_model(model, settings), dtype)


def problems(config: Config, *, quantized: bool) -> list[str]:
    """What excludes each other in the settings, a line each."""
    found: list[str] = []
    if config.init_lora_weights == "default":
        return found
    pissa = f"method.init_lora_weights={config.init_lora_weights}"
    if config.use_dora:
        found.append(
            f"{pissa}: not with method.use_dora=true: the saved update is a difference to its start, which DoRA's "
            "magnitudes are not; use one of them"
        )
    if quantized:
        found.append(
            f"{pissa}: not with model.quantization=int8 or nf4: it takes the updates' start out of the base's own "
            "weights; use default, or model.quantization=none"
        )
    return found


def targets(model: Any, wanted: str | list[str]) -> str | list[str]:
    """What PEFT is to update: names, ``all-linear``, or a pattern of whole dotted names.

    Raises:
        ConfigError: the model has no such layer.
    """
    names = list(_layers.family(model).LORA_TARGETS) if wanted == "family" else wanted
    if names == _ALL or _ALL in names:
        return _ALL
    layers = [
        name for name, module in model.named_modules() if getattr(getattr(module, "weight", None), "ndim", 0) == 2
    ]
    known = {name.rpartition(".")[2] for name in layers}
    if isinstance(names, str) and names not in known:
        missing = None if any(re.fullmatch(names, layer) for layer in layers) else names
    else:
        names = [names] if isinstance(names, str) else names  # PEFT takes a string for a pattern
        missing = next((name for name in names if name.rpartition(".")[2] not in known), None)
    if missing is not None:
        raise ConfigError(
            f"method.target_modules={wanted!r}: {type(model).__name__} has no layer {missing}; "
            f"its own: {', '.join(sorted(known))}; or all-linear, or family"
        )
    return names


def _whole(model: Any, names: list[str]) -> list[str] | None:
    """The modules that are trained whole, by their full names: to PEFT ``norm`` is ``input_layernorm`` as well.

    Raises:
        ConfigError: the model has no such module.
    """
    known = [name for name, module in model.named_modules() if any(True for _ in module.parameters(recurse=False))]
    found: list[str] = []
    for name in names:
        these = [other for other in known if f".{other}".endswith(f".{name}")]
        if not these:
            own = ", ".join(sorted({other.rpartition(".")[2] for other in known}))
            raise ConfigError(
                f"method.modules_to_save={names!r}: {type(model).__name__} has no module {name} with weights of its "
                f"own; its own: {own}"
            )
        found += these
    return found or None


def _tied(model: Any) -> bool:
    head = model.get_output_embeddings()
    return head is not None and head.weight is model.get_input_embeddings().weight


def _whole_in_float32(model: Any, dtype: Any) -> Any:
    """Train whole modules in float32 within a model that computes in ``dtype``: they convert what comes and goes."""
    import torch
    from peft.utils.other import ModulesToSaveWrapper

    def arrive(module: Any, args: tuple[Any, ...]) -> tuple[Any, ...]:
        return tuple(a.float() if isinstance(a, torch.Tensor) and a.is_floating_point() else a for a in args)

    def leave(module: Any, args: Any, output: Any) -> Any:
        return output.to(dtype)

    for module in model.modules():
        if isinstance(module, ModulesToSaveWrapper):
            module.modules_to_save.float()
            if dtype != torch.float32:
                module.register_forward_pre_hook(arrive)
                module.register_forward_hook(leave)
    return model
