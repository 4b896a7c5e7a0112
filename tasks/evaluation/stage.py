"""The evaluation stage: base and candidates answer, the best candidate is chosen on validation, test is scored once."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tasks import schema
from tasks.artifacts import BaseModelArtifact, Checkpoints, Dataset, EvalReport
from tasks.conversation import Message, Row, read_rows, write_rows
from tasks.errors import ConfigError, DataError
from tasks.evaluation import baselines, predictions, report, report_text, scoring, selection
from tasks.evaluation.config import EvaluationConfig
from tasks.files import write_atomic
from tasks.launch import run_worker
from tasks.store import Store

REVISION = 2
_WORKER = "tasks.evaluation.worker"


def evaluate(
    config: EvaluationConfig,
    dataset: Dataset,
    base: BaseModelArtifact,
    checkpoints: Checkpoints,
    *,
    max_prompt_tokens: int,
    dtype: str,
    device: str,
    store: Store,
) -> EvalReport:
    """Score the untouched base and the best checkpoint on the test rows.

    Args:
        max_prompt_tokens: the training's limit (tokenization.max_prompt_tokens), so that prompts are cut alike.
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
    settings = {"max_prompt_tokens": max_prompt_tokens, "dtype": dtype, "quantization": base.quantization}
    where = {"device": device, "device_map": base.device_map}
    run = _Evaluation(config, dataset, base, checkpoints, {**settings, **where})
    return store.publish(
        EvalReport,
        name=f"{checkpoints.method}-{dataset.source}",
        revision=REVISION,
        config={**schema.identity(config), **settings, "layout": base.layout},
        inputs={
            "dataset": dataset.fingerprint,
            "base_model": base.fingerprint,
            "checkpoints": checkpoints.fingerprint,
        },
        work=run.work,
        execution={"device": device, "batch_tokens": config.batch_tokens},
        resumable=True,
    )


def question(report: EvalReport, dataset: Dataset) -> tuple[tuple[Message, ...], str]:
    """A test prompt for a new server, and the tuned model's evaluated reply to it, which the server must repeat.

    A row whose prompt was not cut and whose reply was not empty is taken where there is one.
    """
    content = json.loads((report.path / "report.json").read_text(encoding="utf-8"))
    answered = {r.id: r for r in predictions.read(report.path / content["files"]["tuned"]) if not r.prompt_cut}
    rows = [r for r in read_rows(dataset.rows_file(content["split"])) if r.id in answered and _plain(r)]
    if not rows:
        return (Message("user", "你好"),), ""
    chosen = next((row for row in rows if answered[row.id].prediction.strip()), rows[0])
    return chosen.prompt, answered[chosen.id].prediction


def _plain(row: Row) -> bool:
    """Whether a chat client can ask it: no tool results, no metadata."""
    return all(m.role != "observation" and not m.metadata for m in row.prompt)


class _Evaluation:
    """One evaluation in one folder; what an interrupted attempt left there is used."""

    def __init__(
        self,
        config: EvaluationConfig,
        dataset: Dataset,
        base: BaseModelArtifact,
        checkpoints: Checkpoints,
        settings: Mapping[str, Any],
    ) -> None:
        self.config, self.dataset, self.base, self.checkpoints = config, dataset, base, checkpoints
        self.settings = settings

    def work(self, folder: Path) -> Mapping[str, Any]:
        test = self._rows("test", self.config.test_rows)
        validation = self._rows("validation", self.config.validation_rows)
        steps = selection.candidates(self.checkpoints.steps, self.config.checkpoints)
        split = "test"
        if not test:
            # nothing is chosen on them then, so they still tell a fair score
            test, validation, split, steps = validation, [], "validation", steps[-1:]
        if not test:
            raise DataError("no row to evaluate: the data set's test and validation splits are empty; set data.test")
        chosen = self._choose(folder, steps, validation)
        systems = self._answer_test(folder, split, test, chosen["step"])
        content = report.build(
            systems,
            split=split,
            chosen=chosen,
            resamples=self.config.bootstrap_resamples,
            seed=self.config.seed,
            worst_rows=self.config.worst_rows,
        )
        content["files"] = {"base": _file("base", split), "tuned": _file(_name(chosen["step"]), split)}
        write_atomic(folder / "report.json", json.dumps(content, ensure_ascii=False, indent=1, allow_nan=False))
        write_atomic(folder / "report.md", report_text.markdown(content))
        report_text.plot(content, folder / "tasks.png")
        return _facts(content)

    def _rows(self, split: str, limit: int | None) -> list[Row]:
        path = self.dataset.rows_file(split)
        return selection.rows(list(read_rows(path)) if path.is_file() else [], limit, self.config.seed)

    def _choose(self, folder: Path, steps: Sequence[int], validation: Sequence[Row]) -> dict[str, Any]:
        """The candidate with the best validation score; among equals the one that trained longest."""
        if len(steps) == 1 or not validation:
            why = "the only candidate" if len(steps) == 1 else "the last one: there are no validation rows to choose on"
            return {"step": steps[-1], "why": why, "validation": []}
        self._answer(folder, [self._checkpoint(step) for step in steps], "validation", validation)
        scores = {step: scoring.mean_score(_read(folder, _name(step), "validation")) for step in steps}
        best = max(steps, key=lambda step: (scores[step], step))
        return {
            "step": best,
            "why": f"best of {len(steps)} on {len(validation)} validation rows",
            "validation": [{"step": step, "score": score} for step, score in scores.items()],
        }

    def _answer_test(self, folder: Path, split: str, rows: Sequence[Row], step: int) -> report.Systems:
        base = {"name": "base", "path": str(self.base.weights), "base": None, "layout": self.base.layout}
        self._answer(folder, [base, self._checkpoint(step)], split, rows)
        return {
            "base": _read(folder, "base", split),
            "tuned": _read(folder, _name(step), split),
            "majority": baselines.majority(read_rows(self.dataset.rows_file("train")), rows),
            "copy": baselines.copy(rows),
        }

    def _checkpoint(self, step: int) -> dict[str, Any]:
        return {
            "name": _name(step),
            "path": str(self.checkpoints.checkpoint(step)),
            "base": str(self.base.weights),
        }

    def _answer(self, folder: Path, systems: list[dict[str, Any]], split: str, rows: Sequence[Row]) -> None:
        _check_ids(split, rows)
        (folder / "rows").mkdir(exist_ok=True)
        file = folder / "rows" / f"{split}.jsonl"
        write_rows(file, rows)
        job = {
            "systems": systems,
            "rows": {split: str(file)},
            "max_new_tokens": self.config.max_new_tokens,
            "batch_tokens": self.config.batch_tokens,
            **self.settings,
        }
        run_worker(_WORKER, folder, job, label=f"evaluate {split}", device=self.settings["device"])


def _name(step: int) -> str:
    return f"step-{step:06d}"


def _file(system: str, split: str) -> str:
    return f"predictions/{system}.{split}.jsonl"


def _read(folder: Path, system: str, split: str) -> list[predictions.Prediction]:
    return predictions.read(folder / _file(system, split))


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
        "baselines": {name: score[name]["value"] for name in ("majority", "copy")},
        "rows": content["rows"],
    }
