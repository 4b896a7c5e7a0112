"""The plan: what a run would use and need, checked before anything long starts."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from tasks import devices, plugins
from tasks.config import PipelineConfig
from tasks.data.stage import inputs as data_files
from tasks.errors import ConfigError, ResourceError
from tasks.methods import ptuning
from tasks.models import families, quantizing, resolving, templates
from tasks.models.config import ModelConfig
from tasks.models.importing import forms, gguf_file
from tasks.serving.stage import check_port
from tasks.training import memory

log = logging.getLogger(__name__)
_GIB = 1 << 30


class Plan(BaseModel):
    """What was found.

    Attributes:
        device, precision: as resolved.
        model: the folder or file of the base model.
        importing: what it is and what becomes of it ("native ..., used in place"); None while it is not downloaded.
        data: the data files that will be read, by split.
        parameters, trainable: of the model, and about how many the method trains.
        training_bytes: estimated memory of one training process; available_bytes: what its device has.
        disk_bytes: estimated disk that checkpoints, merged model and copies take; disk_free_bytes.
        facts: of the machine.
    """

    model_config = ConfigDict(frozen=True, protected_namespaces=())

    device: str
    precision: str
    model: str
    importing: str | None
    data: dict[str, list[str]]
    parameters: int
    trainable: int
    training_bytes: int
    available_bytes: int
    disk_bytes: int
    disk_free_bytes: int
    facts: dict[str, Any]

    def summary(self) -> dict[str, Any]:
        return self.model_dump(mode="json")


def _shape(place: Path | None, model: ModelConfig) -> dict[str, int]:
    """What is known of the model before it is converted or downloaded; zeros for what is not.

    Where only the number of parameters is known, layers and hidden size are those usual for it: 12 layers x hidden²
    parameters, hidden = 128 x layers (so LLaMA-7B gets 32 x 4,096, which it has).
    """
    if place is not None and place.is_dir():
        resolving.model_files(place)
        return resolving.shape_facts(place)
    parameters = (gguf_file.parameters(place) if place is not None else model.parameters) or 0
    layers = round((parameters / (12 * 128**2)) ** (1 / 3))
    return {
        "parameters": parameters,
        "bytes": parameters * (4 if model.dtype == "float32" else 2),
        "hidden_size": layers * 128,
        "layers": layers,
        "vocabulary": 0,
        "context_tokens": model.context_tokens or 0,
    }


def _whereabouts(place: Path | None, model: ModelConfig, shape: dict[str, int]) -> str:
    """Where the model's files are, or how much will be downloaded from where."""
    if place is not None:
        return str(place)
    name = model.modelscope_id if model.source == "modelscope" and model.modelscope_id else model.hub_id
    size = f", about {shape['bytes'] / 1e9:.1f} GB" if shape["bytes"] else ""
    return f"{model.source}: {name} (will be downloaded{size})"


def _check_context(config: PipelineConfig, context_tokens: int) -> None:
    """Refuse lengths that the model cannot hold; 0 is an unknown context.

    Raises:
        ConfigError: with the arithmetic.
    """
    # P-Tuning's virtual tokens stand in the text; P-Tuning v2's prefix has no place in it
    prefix = config.method.num_virtual_tokens if isinstance(config.method, ptuning.Config) else 0
    prompt, reply = config.tokenization.max_prompt_tokens, config.evaluation.max_new_tokens
    total = prefix + prompt + max(reply, config.tokenization.max_reply_tokens)
    if context_tokens and total > context_tokens:
        raise ConfigError(
            f"tokenization.max_prompt_tokens={prompt} + evaluation.max_new_tokens={reply}"
            f"{f' + method.num_virtual_tokens={prefix}' if prefix else ''} = {total}: more than the model's context of "
            f"{context_tokens} tokens; lower one of them"
        )


def _check_family(config: PipelineConfig, family: str | None) -> None:
    """Refuse a method, a layout or labels that the model's family does not have.

    Raises:
        ConfigError: with the reason, or with what there is.
    """
    template = config.model.template
    if template is not None and template not in templates.NAMED:
        raise ConfigError(f"model.template={template!r}: unknown; {plugins.nearest(template, sorted(templates.NAMED))}")
    if config.tokenization.labels == "official" and family and not hasattr(families.named(family), "official"):
        raise ConfigError(
            f"tokenization.labels=official: only for ChatGLM3, whose official code it follows; this model's family is "
            f"{family}; use tokenization.labels=assistant"
        )
    reason = families.named(family).REFUSED.get(config.method.name) if family else None
    if reason:
        raise ConfigError(f"method={config.method.name}: not on a model of family {family}: {reason}")


def make_plan(config: PipelineConfig) -> Plan:
    """Look at every input and at the machine.

    Raises:
        UserError: an input is missing or unusable.
        ResourceError: no such device, the port is busy, or the disk is too small.
    """
    device = devices.resolve_device(config.hardware.device)
    precision = devices.resolve_precision(config.training.precision, device)
    data = data_files(config.data)
    place = resolving.locate(config.model, download=False)
    form = forms.of(place, config.model) if place is not None else None
    quantizing.require(config.model.quantization)
    _check_family(config, form.family if form else config.model.family)
    shape = _shape(place, config.model)
    _check_context(config, config.model.context_tokens or shape["context_tokens"])
    check_port(config.serving, root=config.paths.root)
    facts = devices.facts(config.paths.root.resolve())
    trainable = memory.trainable_parameters(shape, config.method.model_dump())
    needed = memory.estimate(
        shape,
        trainable=trainable,
        rows=config.training.rows_at_once(config.hardware.processes),
        tokens=config.tokenization.max_prompt_tokens + config.tokenization.max_reply_tokens,
        precision=precision,
        gradient_checkpointing=config.training.gradient_checkpointing,
        quantization=config.model.quantization,
    ).total
    available = devices.memory_bytes(device)
    imported = 0 if form is None or form.kind == "native" else shape["parameters"] * 2
    disk = imported + shape["parameters"] * 4 + trainable * 12 * (config.training.save_total_limit + 2)
    if disk > facts["disk_free_bytes"]:
        raise ResourceError(
            f"paths.root={config.paths.root}: about {disk / _GIB:.1f} GiB needed, "
            f"{facts['disk_free_bytes'] / _GIB:.1f} free; free some, or set paths.root to another disk"
        )
    log.info(
        "plan: %s, %s on %s; model %s (%.1f M parameters, about %.2f M trained); training about %.1f of %.1f GiB",
        config.method.name,
        precision,
        device,
        config.model.name,
        shape["parameters"] / 1e6,
        trainable / 1e6,
        needed / _GIB,
        available / _GIB,
    )
    log.info("plan: %s is %s", config.model.name, form or _whereabouts(place, config.model, shape))
    if needed > available:
        log.warning(
            "plan: the estimate of %.1f GiB is more than the %.1f GiB there are: lower training.micro_batch_size or "
            "the lengths in tokenization, or use method=lora",
            needed / _GIB,
            available / _GIB,
        )
    return Plan(
        device=device,
        precision=precision,
        importing=str(form) if form else None,
        model=_whereabouts(place, config.model, shape),
        data=data,
        parameters=shape["parameters"],
        trainable=trainable,
        training_bytes=needed,
        available_bytes=available,
        disk_bytes=disk,
        disk_free_bytes=facts["disk_free_bytes"],
        facts=facts,
    )
