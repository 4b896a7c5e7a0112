"""The whole configuration: the stages' own sections, composed, and the rules that hold across them.

Every problem is collected and shown at once, as ``key=value: what is wrong; what is allowed``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Generic, Literal, TypeVar, cast

from pydantic import SerializeAsAny, TypeAdapter, ValidationError

from tasks import plugins
from tasks.data.source import SourceConfig
from tasks.errors import ConfigError
from tasks.evaluation.config import EvaluationConfig
from tasks.export.config import ExportConfig
from tasks.methods import lora
from tasks.methods._method import MethodConfig
from tasks.models.config import ModelConfig, TokenizationConfig
from tasks.schema import How, Section
from tasks.serving.config import ServingConfig
from tasks.tracking.config import TrackingConfig
from tasks.training import deepspeed_config
from tasks.training.config import HardwareConfig, TrainingConfig

S = TypeVar("S", bound=Section)
_SECRET = re.compile(r"token\b|secret|passw|api[_-]?key|authorization", re.IGNORECASE)
#: Sections whose schema is a plug-in's: section -> (the key that names it, package of the plug-ins).
_PLUGGED = {"data": ("source", "tasks.data.sources"), "method": ("name", "tasks.methods")}


class PathsConfig(Section):
    """Where things are written."""

    root: Path = How(Path("runs"), doc="Folder of all artifacts, records and the tracking database.")


class PipelineConfig(Section):
    """One experiment."""

    experiment: str = How(doc="Name of the experiment in MLflow; the configuration's name unless set.")
    orchestrator: Literal["prefect", "none"] = How(
        "prefect", doc="prefect: a flow with a task a stage, with or without a server; none: plain Python."
    )
    retries: int = How(0, ge=0, le=10, doc="How often Prefect tries a failed stage again; finished work is kept.")
    output: Literal["text", "json"] = How("text", doc="json: one JSON object as the last line of standard output.")
    paths: PathsConfig = How(default_factory=PathsConfig, doc="Where things are written.")
    data: SerializeAsAny[SourceConfig] = How(doc="The data source.")
    model: ModelConfig = How(doc="The base model.")
    method: SerializeAsAny[MethodConfig] = How(doc="The fine-tuning method.")
    tokenization: TokenizationConfig = How(default_factory=TokenizationConfig, doc="Lengths in tokens.")
    training: TrainingConfig = How(default_factory=TrainingConfig, doc="How the model learns.")
    hardware: HardwareConfig = How(default_factory=HardwareConfig, doc="Where the work runs.")
    evaluation: EvaluationConfig = How(default_factory=EvaluationConfig, doc="How models are scored, and the gate.")
    export: ExportConfig = How(default_factory=ExportConfig, doc="How the tuned model is written.")
    serving: ServingConfig = How(default_factory=ServingConfig, doc="How the model is served.")
    tracking: TrackingConfig = How(default_factory=TrackingConfig, doc="Where runs are recorded.")


def parse(values: Mapping[str, Any]) -> PipelineConfig:
    """Validate a composed configuration.

    Raises:
        ConfigError: with one line for each problem.
    """
    problems: list[str] = []
    sections: dict[str, Any] = {}
    for name, value in values.items():
        field = PipelineConfig.model_fields.get(name)
        if field is None:
            problems.append(_unknown(name, list(PipelineConfig.model_fields)))
        elif name in _PLUGGED:
            sections[name] = _collect(problems, name, partial(_plugged, name, value))
        elif isinstance(field.annotation, type) and issubclass(field.annotation, Section):
            kind = field.annotation
            sections[name] = _collect(problems, name, partial(kind.model_validate, value or {}), kind)
        else:
            kind_of_value: Any = Annotated[field.annotation, field]
            adapter: TypeAdapter[Any] = TypeAdapter(kind_of_value)
            sections[name] = _collect(problems, name, partial(adapter.validate_python, value), PipelineConfig)
    if not problems:
        config = _collect(problems, "", lambda: PipelineConfig(**sections), PipelineConfig)
        if config is not None:
            problems += _across(config)
            if not problems:
                return cast(PipelineConfig, config)
    raise ConfigError(problems)


def parse_section(kind: type[S], values: Mapping[str, Any]) -> S:
    """Validate the configuration of a verb that has one of its own.

    Raises:
        ConfigError: with one line for each problem.
    """
    problems: list[str] = []
    section = _collect(problems, "", lambda: kind.model_validate(values), kind)
    if problems:
        raise ConfigError(problems)
    return cast(S, section)


@dataclass(frozen=True)
class WithOwnKeys(Generic[S]):
    """The configuration of a verb that has keys of its own beside those of an experiment."""

    pipeline: PipelineConfig
    own: S

    @property
    def output(self) -> str:
        return self.pipeline.output


def parse_with(kind: type[S], values: Mapping[str, Any]) -> WithOwnKeys[S]:
    """Validate an experiment's configuration together with a verb's own top-level keys.

    Raises:
        ConfigError: with one line for each problem.
    """
    own = {key: value for key, value in values.items() if key in kind.model_fields}
    return WithOwnKeys(parse({k: v for k, v in values.items() if k not in own}), parse_section(kind, own))


def _plugged(name: str, value: Any) -> Section:
    key, package = _PLUGGED[name]
    chosen = value.get(key) if isinstance(value, Mapping) else None
    if not isinstance(chosen, str):
        known = ", ".join(plugins.names(package))
        raise ConfigError(f"{name}.{key}={chosen!r}: must name one of: {known}")
    kind = plugins.load(package, chosen, key=f"{name}.{key}").Config
    try:
        return cast(Section, kind.model_validate(value))
    except ValidationError as error:
        raise ConfigError(list(_lines(error, name, kind))) from error


def _collect(problems: list[str], name: str, make: Callable[[], Any], kind: type[Section] | None = None) -> Any:
    try:
        return make()
    except ConfigError as error:
        problems += error.problems
    except ValidationError as error:
        assert kind is not None
        problems += _lines(error, name, kind)
    return None


def _lines(error: ValidationError, prefix: str, kind: type[Section]) -> Iterator[str]:
    """One line a problem; a field that is a union gives its problems once."""
    seen = set()
    for problem in error.errors():
        place = [str(p) for p in problem["loc"]]
        if problem["type"] != "extra_forbidden":
            place = _without_union_tags(place, kind)
        key = ".".join(filter(None, [prefix, *place]))
        if key in seen:
            continue
        seen.add(key)
        if problem["type"] == "extra_forbidden":
            yield _unknown(key, _siblings(kind, place))
        elif problem["type"] == "missing":
            yield f"{key}: must be set"
        else:
            text = problem["msg"].removeprefix("Value error, ")
            shown = "" if isinstance(problem["input"], Mapping) else f"={_shown(key, problem['input'])}"
            yield f"{key}{shown}: {text[0].lower()}{text[1:]}" if key else text


def _without_union_tags(place: list[str], kind: type[Section]) -> list[str]:
    """pydantic adds the union's member to the place of a problem; the user typed only the field's name."""
    kept: list[str] = []
    fields: Any = kind.model_fields
    for part in place:
        if fields is None or part not in fields:
            break
        kept.append(part)
        annotation = fields[part].annotation
        fields = annotation.model_fields if isinstance(annotation, type) and issubclass(annotation, Section) else None
    return kept or place


def _siblings(kind: type[Section], place: list[str]) -> list[str]:
    for part in place[:-1]:
        annotation = kind.model_fields[part].annotation
        if not (isinstance(annotation, type) and issubclass(annotation, Section)):
            return []
        kind = annotation
    return list(kind.model_fields)


def _unknown(key: str, known: list[str]) -> str:
    return f"{key}: unknown key; {plugins.nearest(key.rpartition('.')[2], known)}"


def _shown(key: str, value: Any) -> str:
    return "<hidden>" if _SECRET.search(key) else repr(value)


def _across(config: PipelineConfig) -> Iterator[str]:
    """Rules that no section can check alone."""
    training, hardware = config.training, config.hardware
    yield from _about_method(config)
    yield from hardware.problems()
    yield from config.evaluation.problems()
    if training.batch_size < hardware.world:
        machines = f" x hardware.nodes={hardware.nodes} = {hardware.world}" if hardware.nodes > 1 else ""
        yield (
            f"training.batch_size={training.batch_size}: fewer rows than hardware.processes={hardware.processes}"
            f"{machines}; at least {hardware.world}"
        )
    if hardware.strategy != "ddp":
        yield from deepspeed_config.problems(training, hardware, config.model.quantization)
    if config.evaluation.max_new_tokens < config.tokenization.max_reply_tokens:
        yield (
            f"evaluation.max_new_tokens={config.evaluation.max_new_tokens}: shorter than the replies that are learned; "
            f"at least tokenization.max_reply_tokens={config.tokenization.max_reply_tokens}"
        )


def _about_method(config: PipelineConfig) -> Iterator[str]:
    """What a method and the base's quantisation, or two settings of a method, exclude."""
    method, quantization = config.method, config.model.quantization
    if quantization != "none" and method.name in ("freeze", "full"):
        yield (
            f"model.quantization={quantization}: not with method={method.name}, which trains the quantised weights "
            "themselves; use method=qlora, ptuning_v2, ptuning or prompt_tuning, or model.quantization=none"
        )
    if quantization == "none" and method.name == "qlora":
        yield (
            "model.quantization=none: not with method=qlora, which is LoRA over quantised weights; use nf4 or int8, "
            "or method=lora"
        )
    if isinstance(method, lora.Config):
        yield from lora.problems(method, quantized=quantization != "none")
