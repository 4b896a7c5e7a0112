"""A system that is ready to answer: a model in this process, or one that a vLLM server holds. Imported by workers.

Owns how a system is opened, and what is to be known of it; not which rows are put to it and where answers go.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from tasks.conversation import Row
from tasks.evaluation.answering import generation
from tasks.models import decoding, families, sampling
from tasks.models.decoding import Reply
from tasks.models.families import Layout
from tasks.models.loading import DESCRIPTION, Loaded, load, load_tokenizer, read_description
from tasks.models.rendering import Renderer

log = logging.getLogger(__name__)

_PROBE_ROWS = 4
#: The metric whose rows a constraint of the same name is for.
_CONSTRAINTS = {"triples": "triples"}


class System(Protocol):
    """What a worker needs of a system.

    Attributes:
        facts: merged, generator, probe (a hash of the prompts it was looked at with), digest (of its logits there).
        model: to compute likelihoods with; None where there is none in this process.
    """

    facts: dict[str, Any]
    model: Any
    renderer: Renderer

    def replies(
        self, rows: Sequence[Row], prompts: Sequence[Sequence[int]], slots: int
    ) -> Iterator[list[tuple[int, Reply]]]:
        """Replies to rows by their place in ``rows``, as they end."""
        ...


def open_system(system: Mapping[str, Any], values: Mapping[str, Any], rows: Sequence[Row]) -> System:
    """The system as the job's engine runs it.

    Args:
        values: the job's. rows: some of those that it will answer.
    """
    if _engine(values)["name"] == "vllm":
        return _Served(system, values)
    return _Local(system, values, rows)


class _Local:
    """A model in this process, its LoRA folded in where that is exact enough."""

    def __init__(self, system: Mapping[str, Any], values: Mapping[str, Any], rows: Sequence[Row]) -> None:
        self._values = values
        loaded = _load(system, values)
        probe = [loaded.renderer.prompt_ids(r.prompt, values["max_prompt_tokens"]) for r in rows[:_PROBE_ROWS]]
        merged = generation.merge_if_exact(loaded.model, probe, values["dtype"])
        if merged is False:
            log.warning(
                "%s: folding its adapter in changes its logits; it is used as it is, which is slower", system["name"]
            )
            del loaded
            generation.release_memory()
            loaded = _load(system, values)
        self.model, self.renderer = loaded.model, loaded.renderer
        self.facts = {
            "merged": merged,
            "generator": decoding.way(loaded.model),
            "probe": hashlib.sha256(json.dumps(probe).encode()).hexdigest(),
            "digest": generation.digest(loaded.model, probe),
        }
        if self.facts["generator"] == "generate":
            log.warning(
                "%s: its adapter changes the model's inputs: transformers' generate is used, which is slower",
                system["name"],
            )
        self._constraint = _constraint(loaded, values)

    def replies(
        self, rows: Sequence[Row], prompts: Sequence[Sequence[int]], slots: int
    ) -> Iterator[list[tuple[int, Reply]]]:
        values = self._values
        return decoding.stream(
            self.model,
            prompts,
            stop_ids=self.renderer.stop_ids,
            max_new_tokens=values["max_new_tokens"],
            slots=slots,
            choose=self._choose(rows),
        )

    def _choose(self, rows: Sequence[Row]) -> sampling.Choose:
        drawn = sampling.Sampling.of(self._values.get("sampling"))
        choose: sampling.Choose = sampling.greedy_choice
        if drawn:
            choose = sampling.Sampler(drawn, [row.id for row in rows], self._values["max_new_tokens"])
        if self._constraint is None:
            return choose
        metric = _CONSTRAINTS[self._values["constraint"]]
        return sampling.Constrained(
            self._constraint, choose, frozenset(i for i, row in enumerate(rows) if row.metric == metric)
        )


class _Served:
    """A system that a vLLM server holds: prompts and replies are token ids, so only a tokenizer is needed here."""

    model = None

    def __init__(self, system: Mapping[str, Any], values: Mapping[str, Any]) -> None:
        from tasks.evaluation.answering import vllm_engine

        self._engine, self._values = vllm_engine, values
        self._server = vllm_engine.Server(**{k: v for k, v in _engine(values).items() if k != "name"})
        self._name = vllm_engine.prepare(self._server, [system])[system["name"]]
        self.renderer = _renderer(system)
        self.facts = {"merged": None, "generator": "vllm", "probe": None, "digest": None}

    def replies(
        self, rows: Sequence[Row], prompts: Sequence[Sequence[int]], slots: int
    ) -> Iterator[list[tuple[int, Reply]]]:
        found = self._engine.replies(
            self._server,
            self._name,
            prompts,
            stop_ids=self.renderer.stop_ids,
            max_new_tokens=self._values["max_new_tokens"],
            sampling=sampling.Sampling.of(self._values.get("sampling")),
            row_ids=[row.id for row in rows],
        )
        return ([one] for one in found)


def _engine(values: Mapping[str, Any]) -> Mapping[str, Any]:
    return values.get("engine") or {"name": "transformers"}


def _load(system: Mapping[str, Any], values: Mapping[str, Any]) -> Loaded:
    return load(
        Path(system["path"]),
        base=Path(system["base"]) if system.get("base") else None,
        device=values["device"],
        dtype=values["dtype"],
        layout=Layout.from_json(system["layout"]) if system.get("layout") else None,
        quantization=values.get("quantization", "none"),
        device_map=values.get("device_map", "none"),
    )


def _renderer(system: Mapping[str, Any]) -> Renderer:
    """The renderer that loading the system would give, without its weights."""
    path = Path(system["path"])
    folder = Path(system.get("base") or path)
    given = system.get("layout")
    if not given and (path / DESCRIPTION).is_file():
        given = read_description(path).get("layout")
    layout = Layout.from_json(given) if given else families.layout(folder)
    renderer: Renderer = layout.renderer(load_tokenizer(folder))
    return renderer


def _constraint(loaded: Loaded, values: Mapping[str, Any]) -> Any:
    kind = values.get("constraint") or "none"
    if kind == "none":
        return None
    from tasks.models import constraint

    width = loaded.model.config.get_text_config().vocab_size
    return constraint.load(kind, loaded.tokenizer, loaded.renderer.stop_ids, width)
