"""The plan: what a run would use and need, checked before anything long starts."""

from __future__ import annotations

import io
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict
from rich.console import Console
from rich.table import Table

from tasks import devices, plugins
from tasks.config import PipelineConfig
from tasks.data.stage import inputs as data_files
from tasks.errors import ConfigError, ResourceError
from tasks.methods import prompt_tuning, ptuning
from tasks.models import families, outline, quantizing, resolving, templates
from tasks.models.config import ModelConfig
from tasks.models.importing import forms, gguf_file
from tasks.models.importing.forms import Form
from tasks.models.outline import Outline
from tasks.serving.stage import check_port
from tasks.training import planning
from tasks.training.trainable import trainable_parameters

log = logging.getLogger(__name__)
_GIB = 1 << 30


class Plan(BaseModel):
    """What was found. What cannot be known yet, as of a model that is not downloaded, is None.

    Attributes:
        device, precision, method: as resolved.
        model: the folder or file of the base model.
        importing: what it is and what becomes of it ("native ..., used in place"); None while it is not downloaded.
        data: the data files that will be read, by split.
        parameters, trainable: of the model, and how many the method trains.
        micro_batch: what a training process computes at once at most {"rows", "tokens"}; step: rows a step.
        memory: bytes of one training process by component (tasks.training.memory.MemoryEstimate).
        training_bytes: the most at one time; available_bytes: what its device has.
        flops_per_token: of training; flops_per_second: expected of one process, and rate_from: where that is from.
        seconds_per_1000_rows: of the longest rows, over all processes; rows are counted when they are tokenised.
        disk_bytes: estimated disk that checkpoints, merged model and copies take; disk_free_bytes.
        facts: of the machine.
    """

    model_config = ConfigDict(frozen=True, protected_namespaces=())

    device: str
    precision: str
    method: str
    model: str
    importing: str | None
    data: dict[str, list[str]]
    parameters: int
    trainable: int | None
    step: int
    longest: int
    micro_batch: dict[str, int] | None
    memory: dict[str, int] | None
    training_bytes: int | None
    available_bytes: int
    flops_per_token: float | None
    flops_per_second: float
    rate_from: str
    seconds_per_1000_rows: float | None
    disk_bytes: int
    disk_free_bytes: int
    facts: dict[str, Any]

    def summary(self) -> dict[str, Any]:
        return self.model_dump(mode="json")


def _outline(place: Path | None, form: Form | None) -> Outline | None:
    """The model's layers as training will see them; None while they cannot be known."""
    if place is None or form is None or form.kind == "gguf":
        return None
    if form.kind == "native":
        return outline.of_folder(place)
    return outline.before_import(place, str(form.family))


def _size(place: Path | None, model: ModelConfig) -> dict[str, int]:
    """Parameters, bytes and context of the model, as far as its files or its configuration say; 0 where they do not."""
    if place is not None and place.is_dir():
        resolving.model_files(place)
        return resolving.shape_facts(place)
    parameters = (gguf_file.parameters(place) if place is not None else model.parameters) or 0
    return {
        "parameters": parameters,
        "bytes": parameters * (4 if model.dtype == "float32" else 2),
        "context_tokens": model.context_tokens or 0,
    }


def _whereabouts(place: Path | None, model: ModelConfig, size: dict[str, int]) -> str:
    """Where the model's files are, or how much will be downloaded from where."""
    if place is not None:
        return str(place)
    name = model.modelscope_id if model.source == "modelscope" and model.modelscope_id else model.hub_id
    amount = f", about {size['bytes'] / 1e9:.1f} GB" if size["bytes"] else ""
    return f"{model.source}: {name} (will be downloaded{amount})"


def _check_context(config: PipelineConfig, context_tokens: int) -> None:
    """Refuse lengths that the model cannot hold; 0 is an unknown context.

    Raises:
        ConfigError: with the arithmetic.
    """
    # P-Tuning's virtual tokens stand in the text; P-Tuning v2's prefix has no place in it
    method = config.method
    prefix = method.num_virtual_tokens if isinstance(method, ptuning.Config | prompt_tuning.Config) else 0
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
        ResourceError: no such device, the port is busy, the disk is too small, or training does not fit the device.
    """
    device = devices.resolve_device(config.hardware.device)
    precision = devices.resolve_precision(config.training.precision, device)
    data = data_files(config.data)
    place = resolving.locate(config.model, download=False)
    form = forms.of(place, config.model) if place is not None else None
    quantizing.require(config.model.quantization)
    _check_family(config, form.family if form else config.model.family)
    size = _size(place, config.model)
    _check_context(config, config.model.context_tokens or size["context_tokens"])
    check_port(config.serving, root=config.paths.root)
    facts = devices.facts(config.paths.root.resolve())
    shape = _outline(place, form)
    run = _run(config, shape, device, precision) if shape is not None else None
    disk = _disk_bytes(config, form, size["parameters"], run, facts["disk_free_bytes"])
    chosen = planning.choose_micro_batch(run) if run is not None else None
    rate = planning.rate(config.paths.root, device, facts)
    work = planning.work(run, run.longest) if run is not None else None
    plan = Plan(
        device=device,
        precision=precision,
        method=config.method.name,
        importing=str(form) if form else None,
        model=_whereabouts(place, config.model, size),
        data=data,
        parameters=shape.parameters if shape is not None else size["parameters"],
        trainable=trainable_parameters(shape, config.method.model_dump()) if shape is not None else None,
        step=config.training.batch_size,
        longest=_longest(config),
        micro_batch=chosen.to_json() if chosen else None,
        memory=chosen.memory.components() if chosen else None,
        training_bytes=chosen.memory.needed if chosen else None,
        available_bytes=devices.memory_bytes(device),
        flops_per_token=work.token if work else None,
        flops_per_second=rate.flops,
        rate_from=rate.source,
        seconds_per_1000_rows=_seconds(config, run, work, rate),
        disk_bytes=disk,
        disk_free_bytes=facts["disk_free_bytes"],
        facts=facts,
    )
    for line in _lines(plan, config, form, run, chosen):
        log.info("plan: %s", line)
    return plan


def _longest(config: PipelineConfig) -> int:
    return config.tokenization.max_prompt_tokens + config.tokenization.max_reply_tokens


def _run(config: PipelineConfig, shape: Outline, device: str, precision: str) -> planning.Run:
    return planning.Run(
        outline=shape,
        method=config.method.model_dump(),
        training=config.training,
        hardware=config.hardware,
        longest=_longest(config),
        reply=config.tokenization.max_reply_tokens,
        device=device,
        precision=precision,
        quantization=config.model.quantization,
        available=devices.memory_bytes(device),
    )


def _disk_bytes(config: PipelineConfig, form: Form | None, parameters: int, run: planning.Run | None, free: int) -> int:
    """Bytes of the converted base, the checkpoints and the merged model.

    Raises:
        ResourceError: more than is free.
    """
    imported = 0 if form is None or form.kind == "native" else parameters * 2
    merged = parameters * 4 if plugins.load("tasks.methods", config.method.name, key="method").MERGES else 0
    disk = imported + merged + (planning.disk_bytes(run) if run is not None else 0)
    if disk > free:
        raise ResourceError(
            f"paths.root={config.paths.root}: about {disk / _GIB:.1f} GiB needed, {free / _GIB:.1f} free; free some, "
            "set paths.root to another disk, or lower training.save_total_limit"
        )
    return disk


def _seconds(
    config: PipelineConfig, run: planning.Run | None, work: planning.Work | None, rate: planning.Rate
) -> float | None:
    """Seconds that 1,000 of the longest rows take, over all processes."""
    if run is None or work is None:
        return None
    return work.of(1000 * run.longest, 1000 * config.tokenization.max_reply_tokens) / (rate.flops * run.world)


def _lines(
    plan: Plan, config: PipelineConfig, form: Form | None, run: planning.Run | None, chosen: planning.MicroBatch | None
) -> list[str]:
    """The plan in the log of a run."""
    head = f"{plan.method}, {plan.precision} on {plan.device}; model {config.model.name}"
    size = f" ({plan.parameters / 1e6:,.1f} M parameters" if plan.parameters else " (size unknown"
    what = f", {plan.trainable:,} trained)" if plan.trainable is not None else ")"
    lines = [f"{head}{size}{what}", f"{config.model.name} is {form or plan.model}"]
    if run is None or chosen is None:
        return [*lines, "the memory that training needs is known when the model is there"]
    return [*lines, planning.described(run, chosen)]


#: Names of the components of memory for people, in the order of the table.
_COMPONENTS = {
    "weights": "weights",
    "gradients": "gradients",
    "optimizer": "optimiser",
    "activations": "activations",
    "logits": "logits",
    "work": "running operations",
    "holes": "lost by the allocator",
    "fixed": "libraries",
    "loading": "while loading",
    "reserve": "kept free",
}


def shown(result: dict[str, Any]) -> str:
    """The plan for people: what will be used, and what it needs."""
    plan = Plan.model_validate({k: v for k, v in result.items() if k in Plan.model_fields})
    screen = Console(file=io.StringIO(), width=118, force_terminal=False)
    table = Table(show_header=False, title="Plan", title_justify="left")
    table.add_column()
    table.add_column(overflow="fold")
    for name, text in _rows(plan):
        table.add_row(name, text)
    screen.print(table)
    if plan.memory is not None:
        table = Table(title="Memory of one training process, MiB", title_justify="left")
        table.add_column("")
        table.add_column("", justify="right")
        for key, name in _COMPONENTS.items():
            if plan.memory[key]:
                table.add_row(name, f"{plan.memory[key] / 2**20:,.0f}")
        table.add_section()
        table.add_row("most at one time", f"{(plan.training_bytes or 0) / 2**20:,.0f}")
        table.add_row(f"of the {plan.device}", f"{plan.available_bytes / 2**20:,.0f}")
        screen.print(table)
    return str(screen.file.getvalue()).rstrip()  # type: ignore[attr-defined]


def _rows(plan: Plan) -> Iterator[tuple[str, str]]:
    size = f"{plan.parameters / 1e6:,.1f} M parameters" if plan.parameters else "size unknown"
    yield "model", f"{plan.model}\n{plan.importing or 'not there yet'}, {size}"
    trained = "parameters to train: unknown until the model is there"
    if plan.trainable is not None:
        trained = f"{plan.trainable:,} parameters trained ({plan.trainable / max(plan.parameters, 1):.2%})"
    yield "method", f"{plan.method}: {trained}"
    cores = "" if plan.facts["gpus"] and plan.device == "cuda" else f", {plan.facts['cpus']} cores"
    name = f" ({plan.facts['gpus'][0]['name']})" if plan.facts["gpus"] and plan.device == "cuda" else ""
    yield "device", f"{plan.device}{name}{cores}, {plan.precision}, {plan.available_bytes / _GIB:.1f} GiB"
    yield "data", "\n".join(f"{split}: {', '.join(files)}" for split, files in plan.data.items())
    yield "longest row", f"{plan.longest:,} tokens"
    if plan.micro_batch is not None:
        rows, tokens = plan.micro_batch["rows"], plan.micro_batch["tokens"]
        yield "at once", f"{rows} rows of up to {tokens:,} tokens together, of the {plan.step} rows of a step"
    if plan.flops_per_token is not None and plan.seconds_per_1000_rows is not None:
        rate = f"{plan.flops_per_second / 1e9:,.0f} GFLOP/s a process, {plan.rate_from}"
        yield "work", f"{plan.flops_per_token / 1e9:,.3f} GFLOP a token; {rate}"
        yield "time", f"at most {plan.seconds_per_1000_rows:,.0f} s for 1,000 rows, once"
    yield "disk", f"{plan.disk_bytes / _GIB:.2f} of {plan.disk_free_bytes / _GIB:.1f} GiB free"
