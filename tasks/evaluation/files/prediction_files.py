"""Predictions files of any origin, read without a model: weitiao's own, and those of the programs before it.

A row holds the system's answer beside the row's own columns. Where the answer stands in place of the reference
(PromptCBLUE's ``target``), a second file gives the references. Which columns hold the answer and the reference is
decided by a file's first row, once for the whole file. Does not know metrics, nor the official scorer's structured
files.

Source: the files of michael-wzhu/PromptCBLUE, liucongg/ChatGLM-Finetuning (ft_pt_answer.json), 5663015/LLMs_train
(generation_results.jsonl), hiyouga/LLaMA-Factory (generated_predictions.jsonl).
"""

from __future__ import annotations

import ast
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from types import NoneType
from typing import Any

from tasks import plugins
from tasks.errors import ConfigError, DataError
from tasks.evaluation import scoring
from tasks.evaluation.files import json_records, pairing
from tasks.evaluation.files.json_records import Records, shown
from tasks.evaluation.files.pairing import Row
from tasks.evaluation.predictions import Prediction

ANSWER = ("prediction", "predict", "gen_answer")
REFERENCE = ("reference", "target", "output", "answer", "response", "summary", "label", "ori_answer")
#: Stands for the column where the reference is the reply that ends a row's dialogue.
_LAST_MESSAGE = "last message"
_OWN = frozenset({"id", "task", "metric", "prompt", "reference", "prediction", "fields"})
_KEPT = ("answer_choices", "sample_id", "task_type")
#: What a system noted of its answer, and the JSON types of it: in rows of any program, and in weitiao's own alone.
_NOTED_BY_ANY: dict[str, tuple[type, ...]] = {
    "nll": (float, int, NoneType),
    "nll_tokens": (int,),
    "finish_reason": (str,),
}
_NOTED: dict[str, tuple[type, ...]] = _NOTED_BY_ANY | {
    "prompt_tokens": (int,),
    "tokens": (int,),
    "seconds": (float, int),
    "prompt_cut": (bool,),
    "turn": (int,),
    "copied": (bool, NoneType),
}


@dataclass(frozen=True)
class Columns:
    """What a person said of the rows; None: the known columns, and the rows' own metric."""

    prediction: str | None = None
    reference: str | None = None
    group: str | None = None
    metric: str | None = None


@dataclass(frozen=True)
class Answers:
    """A system's answers with their references.

    Attributes:
        predictions: their ids differ within a task.
        references: where the references came from, in words; empty: there are none, and every reference is empty.
        unanswered: where each reference without a prediction stands.
    """

    predictions: list[Prediction]
    references: str
    unanswered: list[str]


def read(path: Path, columns: Columns, references: Path | None = None, *, may_lack: bool = False) -> Answers:
    """Read a predictions file, with its references from the rows themselves or from another file.

    Args:
        may_lack: the rows may come without references, as those of a test whose gold is kept back.

    Raises:
        DataError: a file or a row cannot be used; names file:line.
        ConfigError: the rows name no metric, and none is given.
    """
    predicted = json_records.read(path)
    answer = _answer_column(predicted, columns, target=references is not None or may_lack)
    if references is None:
        reference = _reference_column(predicted, columns, answer, may_lack=may_lack)
        rows = [(index, index) for index in range(len(predicted.rows))]
        source = f"{path}, {reference}" if reference else ""
        return Answers(_Reader(predicted, predicted, answer, reference, columns).predictions(rows), source, [])
    gold = json_records.read(references)
    reader = _Reader(predicted, gold, answer, _reference_column(gold, columns), columns)
    pairs = pairing.pair(predicted, gold, reader.counts)
    source = f"{references}, {reader.reference}, paired by {pairs.by}"
    return Answers(reader.predictions(pairs.rows), source, [gold.where(index) for index in pairs.unanswered])


def _answer_column(file: Records, columns: Columns, *, target: bool) -> str:
    """The column of the answer; ``target``: PromptCBLUE's may be it."""
    row, where = file.rows[0], file.where(0)
    if columns.prediction is not None:
        return _present(file, "prediction_column", columns.prediction)
    if found := [name for name in ANSWER if name in row]:
        return found[0]
    if "task_dataset" in row and "target" in row:
        if target:
            return "target"
        raise DataError(
            f"{where}: no column {ANSWER[0]}, so that target is the prediction: references=FILE must name the file "
            "whose targets are the references"
        )
    raise DataError(
        f"{where}: no column with the prediction; known: {', '.join(ANSWER)}; prediction_column=NAME names another "
        f"one of {', '.join(row)}"
    )


def _reference_column(
    file: Records, columns: Columns, answer: str | None = None, *, may_lack: bool = False
) -> str | None:
    row = file.rows[0]
    if columns.reference is not None:
        return _present(file, "reference_column", columns.reference)
    if found := [name for name in REFERENCE if name in row and name != answer]:
        return found[0]
    if pairing.dialogue_of(row):
        return _LAST_MESSAGE
    if may_lack:
        return None
    raise DataError(
        f"{file.where(0)}: no column with the reference; known: {', '.join(REFERENCE)}; reference_column=NAME names "
        f"another one of {', '.join(row)}, references=FILE another file"
    )


def _present(file: Records, key: str, name: str) -> str:
    if name not in file.rows[0]:
        raise DataError(f"{key}={name}: no such column in {file.where(0)}; {plugins.nearest(name, [*file.rows[0]])}")
    return name


@dataclass(frozen=True)
class _Reader:
    """Two files whose rows pair up: the same one twice where a row holds its own reference, or where there is none."""

    predicted: Records
    gold: Records
    answer: str
    reference: str | None
    columns: Columns

    def predictions(self, pairs: Sequence[tuple[int, int]]) -> list[Prediction]:
        return list(_with_distinct_ids(self._prediction(ours, theirs) for ours, theirs in pairs))

    def counts(self, row: Row) -> str:
        """What a row of the references adds to the score: rows that are equal in it may change places."""
        value = pairing.dialogue_of(row) if self.reference == _LAST_MESSAGE else row.get(self.reference or "")
        return json.dumps([value, row.get("answer_choices")])

    def _prediction(self, ours: int, theirs: int) -> Prediction:
        row, where = self.predicted.rows[ours], self.predicted.where(ours)
        both = {**row, **self.gold.rows[theirs]}
        references = self._references(theirs)
        metric = self._metric(both, where)
        fields = self._fields(ours, theirs, references)
        kinds = _NOTED if row.keys() >= _OWN else _NOTED_BY_ANY
        noted = {name: _checked(row, name, kind, where) for name, kind in kinds.items() if name in row}
        return Prediction(
            id=pairing.name_of(both, "id") or pairing.name_of(both, "sample_id") or f"row {theirs + 1:07d}",
            task=pairing.task_of(both) or metric,
            metric=metric,
            prompt=pairing.prompt_of(both),
            reference=references[0],
            prediction=_text(row.get(self.answer), where, self.answer),
            fields=fields,
            group=self._group(both, fields, where),
            **{"finish_reason": "", **noted},  # unknown, where nobody noted it
        )

    def _references(self, index: int) -> list[str]:
        """One row's references, at least one."""
        if self.reference is None:
            return [""]
        row, where = self.gold.rows[index], self.gold.where(index)
        value = row.get(self.reference)
        if self.reference == _LAST_MESSAGE:
            last = (pairing.dialogue_of(row) or [None])[-1]
            if not isinstance(last, Mapping) or last.get("role") != "assistant":
                raise DataError(f"{where}: its dialogue ends with {shown(last)}; the assistant's reply must be last")
            value = last.get("content")
        if value == []:
            raise DataError(f"{where}: {self.reference}=[]: must hold one reference at least")
        return [_text(one, where, self.reference) for one in (value if isinstance(value, list) else [value])]

    def _metric(self, row: Row, where: str) -> str:
        named = self.columns.metric or row.get("metric") or ("promptcblue" if "task_dataset" in row else None)
        if isinstance(named, str):
            return named
        known = ", ".join(plugins.names(scoring.METRICS))
        raise ConfigError(f"metric: must be set, as {where} names neither a metric nor a task_dataset; known: {known}")

    def _fields(self, ours: int, theirs: int, references: list[str]) -> dict[str, Any]:
        """The row's own fields and the known columns, those of the references first."""
        file, index = (self.gold, theirs) if "fields" in self.gold.rows[theirs] else (self.predicted, ours)
        fields = _object(file.rows[index].get("fields"), file.where(index))
        both = {**self.predicted.rows[ours], **self.gold.rows[theirs]}
        fields |= {name: both[name] for name in _KEPT if both.get(name) is not None}
        if len(references) > 1:
            fields["references"] = references
        elif self.gold is not self.predicted:  # those of the predictions file's own reference
            fields.pop("references", None)
        if fields.get("answer_choices") is not None:
            fields["answer_choices"] = _choices(fields["answer_choices"], self.gold.where(theirs))
        return fields

    def _group(self, row: Row, fields: Mapping[str, Any], where: str) -> str:
        name = self.columns.group
        if name is None:
            return str(row["group"]) if row.keys() >= _OWN and "group" in row else ""
        return _text(row.get(name, fields.get(name)), where, name)


def _with_distinct_ids(predictions: Iterable[Prediction]) -> Iterator[Prediction]:
    """Rows of a task that share an id are numbered, in the order of the file."""
    seen: Counter[tuple[str, str]] = Counter()
    for prediction in predictions:
        seen[prediction.task, prediction.id] += 1
        count = seen[prediction.task, prediction.id]
        yield prediction if count == 1 else replace(prediction, id=f"{prediction.id} ({count})")


def _text(value: Any, where: str, column: str) -> str:
    """A text; a whole number, such as a label, is its digits."""
    if isinstance(value, str):
        return value
    if type(value) is int:
        return str(value)
    hint = '; an empty answer is ""' if value is None else ""
    raise DataError(f"{where}: {column}={shown(value)}: must be a text{hint}")


def _checked(row: Row, name: str, kinds: tuple[type, ...], where: str) -> Any:
    if type(row[name]) not in kinds:
        words = " or ".join({NoneType: "null"}.get(kind, kind.__name__) for kind in kinds)
        raise DataError(f"{where}: {name}={shown(row[name])}: must be {words}")
    return row[name]


def _object(fields: Any, where: str) -> dict[str, Any]:
    """A row's ``fields`` as weitiao writes them."""
    if fields is None:
        return {}
    if not isinstance(fields, dict):
        raise DataError(f"{where}: fields={shown(fields)}: must be an object; rename a column that means another thing")
    references = fields.get("references")
    if references is not None and not _are_texts(references):
        raise DataError(f"{where}: fields.references={shown(references)}: must be a list of texts, or null")
    return dict(fields)


def _are_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(one, str) for one in value)


def _choices(value: Any, where: str) -> list[str]:
    """The options as a list; some copies hold the list as text, in JSON's or in Python's way."""
    if isinstance(value, str):
        for parse in (json.loads, ast.literal_eval):
            with suppress(ValueError, SyntaxError, MemoryError, RecursionError):
                value = parse(value)
                break
    if not _are_texts(value):
        raise DataError(f"{where}: answer_choices={shown(value)}: must be a list of texts, or null")
    return list(value)
