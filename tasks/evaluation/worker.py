"""Worker: the replies of several systems to the rows of several splits. ``python -m tasks.evaluation.worker FOLDER``.

Each reply is appended to ``FOLDER/predictions/<system>.<split>.jsonl`` soon after it ends; after an interruption the
same command goes on with the rows that are missing. Scores nothing.

job.json: systems [{name, path, base, layout, served_as, splits (all where it is not there)}], rows {split: JSONL file},
max_prompt_tokens, max_new_tokens, batch_tokens, device, dtype, quantization, device_map; and where they are there
max_reply_tokens (training's limit, for likelihoods), sampling {temperature, top_p, top_k, seed}, constraint ("triples"
or "none"), engine ({"name": "transformers"} or {"name": "vllm", url, concurrency, timeout_s}).

``predictions/<system>.facts.json`` and result.json's systems say of each: merged (its adapter was folded in), generator
(tasks.models.decoding.way, or vllm), same_as_base (its logits are the untuned base's; null: not known),
peak_memory_bytes (of this process while it answered; null with vllm).
"""

from __future__ import annotations

import json
import time
from array import array
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tasks.conversation import Row, read_rows
from tasks.errors import ConfigError, Stopped
from tasks.evaluation import predictions
from tasks.evaluation.answering import generation, likelihood
from tasks.evaluation.answering.generation import Unit
from tasks.evaluation.answering.likelihood import Likelihood
from tasks.evaluation.answering.systems import System, open_system
from tasks.files import write_atomic
from tasks.models.decoding import Reply
from tasks.worker import Job, main, peak_memory_bytes, restart_peak_memory

#: Seconds that a reply may wait to be written: each write is made durable, which takes as long as some steps.
_APPEND_S = 1.0
#: Metrics that look at how likely the reference is; and those of them that need no reply.
_LIKELIHOOD, _NO_REPLY = ("chat", "perplexity"), ("perplexity",)


def run(job: Job) -> Mapping[str, Any]:
    splits = {split: list(read_rows(Path(path))) for split, path in job.values["rows"].items()}
    (job.folder / "predictions").mkdir(exist_ok=True)
    work = [(s, {split: splits[split] for split in s.get("splits", splits)}) for s in job.values["systems"]]
    counter = _Counter(job, total=sum(len(rows) for _, own in work for rows in own.values()))
    loaded = {system["name"]: _answer(job, system, own, counter) for system, own in work}
    return {"systems": {name: {**_compared(job, name), "loaded": was} for name, was in loaded.items()}}


def _compared(job: Job, name: str) -> dict[str, Any]:
    """What is known of a system, its logits compared with the untuned base's; kept for the stage."""
    path = _facts_file(job, name)
    own = _read_facts(path)
    others = map(_read_facts, (job.folder / "predictions").glob("*.facts.json"))
    base = next((facts for facts in others if facts["untuned"]), None)
    comparable = base is not None and own["digest"] is not None and own["probe"] == base["probe"]
    own["same_as_base"] = own["digest"] == base["digest"] if base is not None and comparable else None
    write_atomic(path, json.dumps(own, indent=1))
    return {key: own[key] for key in ("merged", "generator", "same_as_base", "peak_memory_bytes")}


def _facts_file(job: Job, name: str) -> Path:
    return job.folder / "predictions" / f"{name}.facts.json"


def _read_facts(path: Path) -> dict[str, Any]:
    return dict(json.loads(path.read_text(encoding="utf-8")))


class _Counter:
    """Progress over all systems and splits."""

    def __init__(self, job: Job, total: int) -> None:
        self.job, self.total, self.done, self.tokens = job, total, 0, 0
        self._started = time.monotonic()

    def add(self, rows: int, tokens: int = 0) -> None:
        self.done, self.tokens = self.done + rows, self.tokens + tokens
        self.job.progress(self.done, self.total, tok_s=self.tokens / max(time.monotonic() - self._started, 1e-6))


def _answer(job: Job, system: Mapping[str, Any], splits: Mapping[str, list[Row]], counter: _Counter) -> bool:
    """Append a system's missing answers, and note what is to be known of it; loads its model only if one is missing."""
    finished: dict[str, set[str]] = {}
    for split, rows in splits.items():
        finished[split] = {p.id for p in predictions.recover(_file(job, system, split))}
        counter.add(sum(row.id in finished[split] for row in rows))
    if all(row.id in finished[split] for split, rows in splits.items() for row in rows):
        return False
    opened = open_system(system, job.values, next(filter(None, splits.values())))
    restart_peak_memory()  # opening may load a model twice
    facts = {**opened.facts, "untuned": not system.get("base"), "peak_memory_bytes": None}
    write_atomic(_facts_file(job, system["name"]), json.dumps(facts, indent=1))
    for split, rows in splits.items():
        _Answers(job, opened, rows, finished[split], _file(job, system, split), counter).append_missing()
    if opened.model is not None:
        facts["peak_memory_bytes"] = peak_memory_bytes()
    write_atomic(_facts_file(job, system["name"]), json.dumps(facts, indent=1))
    del opened
    generation.release_memory()
    return True


def _file(job: Job, system: Mapping[str, Any], split: str) -> Path:
    return job.folder / "predictions" / f"{system['name']}.{split}.jsonl"


class _Answers:
    """The answers of one system to the rows of one split."""

    def __init__(
        self, job: Job, system: System, rows: Sequence[Row], finished: set[str], path: Path, counter: _Counter
    ) -> None:
        self._job, self._system, self._rows, self._finished = job, system, rows, finished
        self._path, self._counter = path, counter
        self._limit, self._new_tokens = job.values["max_prompt_tokens"], job.values["max_new_tokens"]
        rendered = [self._rendered(row) for row in rows]
        self._prompts, self._cut = [prompt for prompt, _ in rendered], [cut for _, cut in rendered]
        self._memory, self._likelihood_memory = generation.Memory(), generation.Memory()
        self._unwritten: list[predictions.Prediction] = []
        self._written = time.monotonic()

    def append_missing(self) -> None:
        """Answer what is missing, by the plan's units; one that was cut in two is answered as a whole again."""
        asked = [i for i, row in enumerate(self._rows) if row.metric not in _NO_REPLY]
        told = [i for i, row in enumerate(self._rows) if row.metric in _NO_REPLY]
        if told and self._system.model is None:
            raise ConfigError(
                "evaluation.engine=vllm: the metric perplexity needs the model's own likelihoods; use "
                "evaluation.engine=transformers"
            )
        for unit in self._missing(asked, self._new_tokens):
            likelihoods = self._likelihoods(unit)
            width = len(self._prompts[unit.rows[0]]) + self._new_tokens
            for group in self._memory.each(unit, width, self._replies):
                for i, reply in group:
                    self._note(i, reply, likelihoods.get(i))
                self._write()
            self._write(now=True)
        for unit in self._missing(told, self._reply_tokens):
            for i, found in self._likelihoods(unit).items():
                self._note(i, Reply([], "stop", 0.0), found)
            self._write(now=True)

    def _rendered(self, row: Row) -> tuple[array[int], bool]:
        """A row's prompt, and whether it was cut. 4 bytes a token, where a list of Python's numbers takes 36."""
        prompt = self._system.renderer.prompt_ids(row.prompt)
        cut = len(prompt) > self._limit
        return array("i", self._system.renderer.prompt_ids(row.prompt, self._limit) if cut else prompt), cut

    @property
    def _reply_tokens(self) -> int:
        """How many tokens of a reference reply are looked at: training's limit."""
        return int(self._job.values.get("max_reply_tokens") or self._new_tokens)

    def _missing(self, rows: Sequence[int], more_tokens: int) -> list[Unit]:
        """The plan's units over ``rows`` of which an answer is missing.

        A server's replies do not depend on what is asked together: it is asked for all that are missing.
        """
        if self._system.model is None:
            missing = [i for i in rows if self._rows[i].id not in self._finished]
            return [Unit(missing, 1)] if missing else []
        plan = generation.plan([len(self._prompts[i]) for i in rows], more_tokens, self._job.values["batch_tokens"])
        units = [Unit([rows[i] for i in unit.rows], unit.slots) for unit in plan]
        return [unit for unit in units if any(self._rows[i].id not in self._finished for i in unit.rows)]

    def _replies(self, rows: Sequence[int], slots: int) -> Iterator[list[tuple[int, Reply]]]:
        found = self._system.replies([self._rows[i] for i in rows], [self._prompts[i] for i in rows], slots)
        return ([(rows[place], reply) for place, reply in group] for group in found)

    def _likelihoods(self, unit: Unit) -> dict[int, Likelihood]:
        """Of the references of those rows whose metric asks for it; of none where a server holds the model."""
        wanted = [i for i in unit.rows if self._rows[i].metric in _LIKELIHOOD]
        if not wanted or self._system.model is None:
            return {}
        renderer = self._system.renderer
        targets = {i: likelihood.target(renderer, self._rows[i], self._limit, self._reply_tokens) for i in wanted}
        slots = likelihood.rows_at_once(list(targets.values()), self._job.values["batch_tokens"])
        width = max(len(target.ids) for target in targets.values())

        def measure(rows: Sequence[int], slots: int) -> Iterator[list[tuple[int, Likelihood]]]:
            return likelihood.stream(self._system.model, {i: targets[i] for i in rows}, slots)

        found = self._likelihood_memory.each(Unit(wanted, min(slots, len(wanted))), width, measure)
        return dict(pair for group in found for pair in group)

    def _note(self, i: int, reply: Reply, found: Likelihood | None) -> None:
        row = self._rows[i]
        if row.id in self._finished:
            return
        self._finished.add(row.id)
        self._unwritten.append(
            predictions.answer(
                row,
                self._system.renderer.decode(reply.ids),
                finish_reason=reply.finish_reason,
                prompt_tokens=len(self._prompts[i]),
                tokens=len(reply.ids),
                seconds=round(reply.seconds, 4),
                prompt_cut=self._cut[i],
                nll=found.nll if found else None,
                nll_tokens=found.tokens if found else 0,
            )
        )

    def _write(self, *, now: bool = False) -> None:
        """Append what was noted, if it has waited long enough or a signal came."""
        if now or self._job.stopping or time.monotonic() - self._written >= _APPEND_S:
            predictions.append(self._path, self._unwritten)
            self._counter.add(len(self._unwritten), sum(p.tokens for p in self._unwritten))
            self._unwritten, self._written = [], time.monotonic()
        if self._job.stopping:
            raise Stopped("evaluation stopped, the predictions so far are kept; run it again to go on")


if __name__ == "__main__":
    main(run)
