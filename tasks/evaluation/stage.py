"""The evaluation stage: base and candidates answer, the best candidate is chosen on validation, test is scored once."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tasks import schema
from tasks.artifacts import Answers, BaseModelArtifact, Checkpoints, Dataset, EvalReport
from tasks.conversation import Message, Row, read_rows, write_rows
from tasks.errors import ConfigError, DataError
from tasks.evaluation import baselines, copying, predictions, scoring, selection
from tasks.evaluation.config import EvaluationConfig
from tasks.evaluation.files import replies
from tasks.evaluation.metric import Options
from tasks.evaluation.predictions import Prediction
from tasks.evaluation.reporting import report
from tasks.evaluation.reporting import text as report_text
from tasks.files import sha256_file
from tasks.launch import run_worker
from tasks.store import Store

REVISION = 3
#: Bumped when the worker's replies change, which are kept by themselves.
ANSWERS_REVISION = 1
_WORKER = "tasks.evaluation.worker"

log = logging.getLogger(__name__)


def evaluate(
    config: EvaluationConfig,
    dataset: Dataset,
    base: BaseModelArtifact,
    checkpoints: Checkpoints,
    *,
    max_prompt_tokens: int,
    max_reply_tokens: int,
    dtype: str,
    device: str,
    store: Store,
) -> EvalReport:
    """Score the untouched base and the best checkpoint on the test rows.

    Args:
        max_prompt_tokens, max_reply_tokens: training's limits (tokenization), so that prompts, and references whose
            likelihood is looked at, are cut alike.
        dtype: of the weights, resolved ("float32", ...); decides the result.
        device: "cpu" or "cuda".

    Raises:
        ConfigError: prompts and replies together do not fit the model's context.
        DataError: there is no row to score.
    """
    if max_prompt_tokens + config.max_new_tokens > base.context_tokens:
        raise ConfigError(
            f"evaluation.max_new_tokens={config.max_new_tokens} + tokenization.max_prompt_tokens={max_prompt_tokens} "
            f"= {config.max_new_tokens + max_prompt_tokens} is more than the model's context of {base.context_tokens} "
            "tokens; lower one of them"
        )
    limits = {"max_prompt_tokens": max_prompt_tokens, "max_reply_tokens": max_reply_tokens}
    settings = {**limits, "dtype": dtype, "quantization": base.quantization}
    where = {"device": device, "device_map": base.device_map}
    run = _Evaluation(config, dataset, base, checkpoints, {**settings, **where}, store)
    return store.publish(
        EvalReport,
        name=f"{checkpoints.method}-{dataset.source}",
        revision=REVISION,
        config={**_identity(config), **settings, "layout": base.layout},
        inputs={
            "dataset": dataset.fingerprint,
            "base_model": base.fingerprint,
            "checkpoints": checkpoints.fingerprint,
        },
        work=run.work,
        execution={"device": device, "batch_tokens": config.batch_tokens},
        resumable=True,
    )


def question(config: EvaluationConfig, report: EvalReport, dataset: Dataset) -> tuple[tuple[Message, ...], str | None]:
    """A test prompt for a new server, and the tuned model's evaluated reply to it, which the server must repeat.

    A row whose prompt was not cut and whose reply was not empty is taken where there is one. The reply is None where
    the evaluation did not reply as a server does: it drew tokens, held them to a grammar, or asked another program.
    """
    content = json.loads((report.path / "report.json").read_text(encoding="utf-8"))
    answered = {r.id: r for r in predictions.read(report.path / content["files"]["tuned"]) if not r.prompt_cut}
    rows = [r for r in read_rows(dataset.rows_file(content["split"])) if r.id in answered and _askable(r)]
    if not rows:
        return (Message("user", "你好"),), ""
    chosen = next((row for row in rows if answered[row.id].prediction.strip()), rows[0])
    alike = not config.sampling.temperature and config.constraint == "none" and config.engine == "transformers"
    return chosen.prompt, answered[chosen.id].prediction if alike else None


def _askable(row: Row) -> bool:
    """Whether a chat client can ask it, and was answered: no tool results, no metadata, not only its likelihood."""
    return row.metric not in predictions.NO_REPLY and all(
        m.role != "observation" and not m.metadata for m in row.prompt
    )


class _Evaluation:
    """One evaluation in one folder; what an interrupted attempt left there is used."""

    def __init__(
        self,
        config: EvaluationConfig,
        dataset: Dataset,
        base: BaseModelArtifact,
        checkpoints: Checkpoints,
        settings: Mapping[str, Any],
        store: Store,
    ) -> None:
        self.config, self.dataset, self.base, self.checkpoints = config, dataset, base, checkpoints
        self.settings, self.store = settings, store
        self.options = Options(config.text_unit)
        self.resampling = {"resamples": config.bootstrap_resamples, "seed": config.seed}

    def work(self, folder: Path) -> Mapping[str, Any]:
        test = self._rows("test", self.config.test_rows)
        validation = self._rows("validation", self.config.validation_rows)
        steps = selection.candidates(self.checkpoints.steps, self.config.checkpoints, self.checkpoints.best_step)
        split = "test"
        if not test:
            # no checkpoint is chosen on them then, so that they still tell a fair score
            test, validation, split, steps = validation, [], "validation", steps[-1:]
        if not test:
            raise DataError("no row to evaluate: the data set's test and validation splits are empty; set data.test")
        if not validation:
            steps = steps[-1:]
        else:
            likelihoods = self.config.engine != "vllm"
            selection.check(self.config.choose_by, validation, self.options, likelihoods=likelihoods)
        chosen = self._answer_all(folder, split, test, validation, steps)
        tuned = _name(chosen["step"])
        worker = {"base": _worker_facts(folder, "base"), "tuned": _worker_facts(folder, tuned)}
        content = report.build(
            self._systems(folder, split, test, tuned),
            split=split,
            chosen=chosen,
            worst_rows=self.config.worst_rows,
            permutations=self.config.permutations,
            level=self.config.level,
            options=self.options,
            worker_facts=worker,
            **self.resampling,
        )
        content["worker"] = worker
        content["base_parameters"] = self.base.parameters
        content["files"] = {"base": _file("base", split), "tuned": _file(tuned, split)}
        report_text.write(folder, content)
        return _facts(content)

    def _rows(self, split: str, limit: int | None) -> list[Row]:
        path = self.dataset.rows_file(split)
        rows = selection.rows(list(read_rows(path)) if path.is_file() else [], limit, self.config.seed)
        _check_ids(split, rows)
        return rows

    def _answer_all(
        self, folder: Path, split: str, test: Sequence[Row], validation: Sequence[Row], steps: Sequence[int]
    ) -> dict[str, Any]:
        """Every reply that is needed, in as few worker processes as can be; returns what was chosen, and why."""
        several = len(steps) > 1
        rows = {split: _rows_file(folder, split, test)}
        if several:
            rows["validation"] = _rows_file(folder, "validation", validation)
        candidates = [self._checkpoint(step, "validation" if several else split) for step in steps]
        self._answer(folder, [self._base(split), *candidates], rows)
        if not several:
            only = len(self.checkpoints.steps) == 1 or self.config.checkpoints in ("last", 1)
            why = "the only candidate" if only else "the last one: there are no rows to choose on"
            return {"step": steps[-1], "why": why, "by": self.config.choose_by, "validation": []}
        chosen = self._choose(folder, steps, len(validation))
        self._answer(folder, [self._checkpoint(chosen["step"], split)], rows)
        return chosen

    def _choose(self, folder: Path, steps: Sequence[int], rows: int) -> dict[str, Any]:
        """The candidate that is best on validation; among equals the one that trained longest."""
        by = self.config.choose_by
        systems = {
            step: scoring.sampled(_read(folder, _name(step), "validation"), options=self.options, **self.resampling)
            for step in steps
        }
        intervals = {step: selection.value(system, by).interval() for step, system in systems.items()}
        sign = -1 if selection.lower_is_better(by) else 1
        return {
            "step": max(steps, key=lambda step: (sign * intervals[step].value, step)),
            "why": f"best {by} of {len(steps)} on {rows} validation rows",
            "by": by,
            "validation": [
                {"step": step, "score": interval.value, "low": interval.low, "high": interval.high}
                for step, interval in intervals.items()
            ],
        }

    def _systems(self, folder: Path, split: str, rows: Sequence[Row], tuned: str) -> report.Systems:
        systems = {"base": self._marked(folder, "base", split), "tuned": self._marked(folder, tuned, split)}
        if any(row.metric in predictions.NO_REPLY for row in rows):
            return systems  # it looks at a model's likelihoods, which an answer without a model does not have
        train = read_rows(self.dataset.rows_file("train"))
        return {**systems, "majority": baselines.majority(train, rows), "copy": baselines.copy(rows)}

    def _marked(self, folder: Path, system: str, split: str) -> list[Prediction]:
        """A system's replies, those of free text marked where they are copies of training replies."""
        given = _read(folder, system, split)
        free = [reply for reply in given if reply.metric in ("chat", "generation")]
        if not free:
            return given
        marked = {reply.id: reply for reply in copying.mark(free, read_rows(self.dataset.rows_file("train")))}
        return [marked.get(reply.id, reply) for reply in given]

    # --- replies, which are kept by themselves: other methods, and other settings of the report, take them ----------

    def _base(self, split: str) -> dict[str, Any]:
        """The untuned base, as the worker's job has it, asked for one split."""
        return {
            "name": "base",
            "path": str(self.base.weights),
            "base": None,
            "layout": self.base.layout,
            "splits": [split],
            "served_as": self.config.vllm.base_served_as or str(self.base.weights),
        }

    def _checkpoint(self, step: int, split: str) -> dict[str, Any]:
        return {
            "name": _name(step),
            "path": str(self.checkpoints.checkpoint(step)),
            "base": str(self.base.weights),
            "splits": [split],
            "served_as": self.config.vllm.tuned_served_as,
            "base_served_as": self.config.vllm.base_served_as,
        }

    def _answer(self, folder: Path, systems: Sequence[dict[str, Any]], rows: Mapping[str, Path]) -> None:
        """The systems' replies to their splits: those that were published are copied, a worker makes the others."""
        kept = {system["name"]: self._kept(system, rows) for system in systems}
        missing = [s for s in systems if not self._take(folder, s, kept[s["name"]])]
        if missing:
            self._run_worker(folder, missing, rows)
        for system in missing:
            self._give(folder, system, kept[system["name"]])

    def _kept(self, system: Mapping[str, Any], rows: Mapping[str, Path]) -> dict[str, Any]:
        """The identity of a system's replies (arguments of ``Store.find`` and ``Store.publish``)."""
        chosen = _identity(self.config)
        settings = ("max_prompt_tokens", "max_reply_tokens", "dtype", "quantization")
        trained = {} if system["base"] is None else {"checkpoints": self.checkpoints.fingerprint}
        who = "base" if system["base"] is None else f"{self.checkpoints.method}-{system['name']}"
        (split,) = system["splits"]
        return {
            "kind": Answers,
            "name": f"{who}-{self.dataset.source}",
            "revision": ANSWERS_REVISION,
            "config": {
                **{key: self.settings[key] for key in settings},
                **{key: chosen[key] for key in ("max_new_tokens", "sampling", "constraint", "engine", "vllm")},
                "layout": self.base.layout,
                "system": system["name"],
            },
            "inputs": {"base_model": self.base.fingerprint, "rows": sha256_file(rows[split]), **trained},
        }

    def _take(self, folder: Path, system: Mapping[str, Any], kept: Mapping[str, Any]) -> bool:
        found = self.store.find(**kept)
        if found is None:
            return False
        log.info("evaluate: the replies of %s are those of %s", system["name"], found.path.name)
        (folder / "predictions").mkdir(exist_ok=True)
        for source, target in _kept_files(system):
            shutil.copyfile(found.path / source, folder / target)
        return True

    def _give(self, folder: Path, system: Mapping[str, Any], kept: Mapping[str, Any]) -> None:
        def work(target: Path) -> Mapping[str, Any]:
            for name, source in _kept_files(system):
                shutil.copyfile(folder / source, target / name)
            return {"rows": len(predictions.read(target / "predictions.jsonl"))}

        self.store.publish(**kept, work=work, quiet=True)

    def _run_worker(self, folder: Path, systems: Sequence[dict[str, Any]], rows: Mapping[str, Path]) -> None:
        config = self.config
        splits = {split: str(rows[split]) for system in systems for split in system["splits"]}
        job = {
            "systems": list(systems),
            "rows": splits,
            "max_new_tokens": config.max_new_tokens,
            "batch_tokens": config.batch_tokens,
            "sampling": config.sampling.model_dump() if config.sampling.temperature else None,
            "constraint": config.constraint,
            "engine": {"name": config.engine, **config.vllm.model_dump(include={"url", "concurrency", "timeout_s"})},
            **self.settings,
        }
        label = f"evaluate {' and '.join(sorted(splits))}"
        run_worker(_WORKER, folder, job, label=label, device=self.settings["device"])


def _identity(config: EvaluationConfig) -> dict[str, Any]:
    """The settings that decide the result; those that are without effect beside others are left out."""
    value = schema.identity(config)
    unused = {"sampling": not config.sampling.temperature, "vllm": config.engine != "vllm"}
    return {key: None if unused.get(key) else setting for key, setting in value.items()}


def _rows_file(folder: Path, split: str, rows: Sequence[Row]) -> Path:
    (folder / "rows").mkdir(exist_ok=True)
    file = folder / "rows" / f"{split}.jsonl"
    write_rows(file, rows)
    return file


def _name(step: int) -> str:
    return f"step-{step:06d}"


def _file(system: str, split: str) -> str:
    return f"predictions/{system}.{split}.jsonl"


def _kept_files(system: Mapping[str, Any]) -> list[tuple[str, str]]:
    """(name among kept replies, place in an evaluation's folder); replies last: they are whole only with the facts."""
    (split,) = system["splits"]
    name = system["name"]
    return [("facts.json", f"predictions/{name}.facts.json"), ("predictions.jsonl", _file(name, split))]


def _worker_facts(folder: Path, system: str) -> dict[str, Any]:
    return dict(json.loads((folder / "predictions" / f"{system}.facts.json").read_text(encoding="utf-8")))


def _read(folder: Path, system: str, split: str) -> list[Prediction]:
    return replies.read(folder / _file(system, split))


def _check_ids(split: str, rows: Iterable[Row]) -> None:
    seen: set[str] = set()
    for row in rows:
        if row.id in seen:
            raise DataError(f"{split}: two rows have the id {row.id!r}; ids must be unique within a split")
        seen.add(row.id)


def _facts(content: Mapping[str, Any]) -> dict[str, Any]:
    """The record's facts, out of report.json."""
    score, difference = content["score"], content["differences"]["base"]
    return {
        "headline": content["headline"],
        "chosen_step": content["chosen"]["step"],
        "base": score["base"],
        "tuned": score["tuned"],
        "difference": {key: difference[key] for key in ("value", "low", "high")},
        "baselines": {name: score[name]["value"] for name in ("majority", "copy") if name in score},
        "rows": content["rows"],
    }
