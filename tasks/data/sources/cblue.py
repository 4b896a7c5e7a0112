"""CBLUE's raw task files, made into PromptCBLUE's instruction rows through templates.

Eight tasks: CHIP-CTC, CHIP-STS, CHIP-CDN, KUAKE-QIC, KUAKE-QQR, KUAKE-QTR, CMeEE(-V2), CMeIE. Texts are kept as they
are, edge spaces and entities included. What a row offers (template, options, their order, the answer line) is drawn
from a generator seeded with ``template_seed``, the task and the record's own text: rows never change when others are
added, removed or reordered, and one text gets one prompt wherever it lies, so that duplicates stay duplicates.

Source: the files of CBLUE; the rules by which PromptCBLUE's published rows were made, as observed in them.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from tasks.conversation import Row
from tasks.data import files
from tasks.data.cblue import drawing as cblue_drawing
from tasks.data.cblue import tasks as cblue_tasks
from tasks.data.cblue import templates as cblue_templates
from tasks.data.cblue.tasks import Task
from tasks.data.columns import have
from tasks.data.source import SPLITS, Claim, DataFile, Draft, Found, Skipped, SourceConfig, Split, Unusable, single_turn
from tasks.data.sources.promptcblue import METRIC
from tasks.errors import DataError
from tasks.schema import Field

_SPLIT_WORDS: dict[str, Split] = {"train": "train", "dev": "validation", "test": "test"}
_NOT_DATA = {
    "category": "the label names, which are built in",
    "53_schemas": "the relation schemas, which are built in",
    "example_gold": "an example for the scorer",
    "example_golden": "an example for the scorer",
    "example_pred": "an example for the scorer",
}


class Config(SourceConfig):
    """CBLUE's raw files and how their rows are written."""

    source: Literal["cblue"] = "cblue"
    task: Literal[
        "auto",
        "CHIP-CTC",
        "CHIP-STS",
        "CHIP-CDN",
        "KUAKE-QIC",
        "KUAKE-QQR",
        "KUAKE-QTR",
        "CMeEE",
        "CMeEE-V2",
        "CMeIE",
        "CMeIE-V2",
    ] = Field("auto", doc="Task of the files; auto takes it from the file's or folder's name, else from the columns.")
    templates: Path | None = Field(
        None, doc="Templates file in the form of PromptCBLUE's templates.json; null: the shipped ones."
    )
    template_seed: int = Field(17, ge=0, doc="Seed of each row's template, options, their order and its answer line.")
    left_out_share: float = Field(
        0.04, ge=0, lt=1, doc="Share of rows (0-1) whose right options are not offered; their answer is that none is."
    )
    answer_line_share: float = Field(
        0.6, ge=0, le=1, doc="Share of prompts (0-1) that end with the line '答：'; CHIP-STS's all do."
    )
    ctc_multiple: Literal["none", "offer"] = Field(
        "none",
        doc="CHIP-CTC's label Multiple: none writes 非上述类型 as PromptCBLUE does; offer makes it an option.",
    )
    terms: Path | None = Field(
        None,
        doc="Standard terms that CHIP-CDN's wrong options are drawn from: a text file with one a line, or a CHIP-CDN "
        "file; null: a shipped list of common diagnoses.",
    )
    min_keep_ratio: float = Field(
        0.3,
        ge=0,
        le=1,
        doc="Smallest share of the records read (0-1) to be kept, caps apart; CBLUE's test files have no labels.",
    )


def find(config: Config) -> Found:
    """The files ``<task>_train/_dev/_test.json`` of a task's folder, or of the folders of several tasks in one.

    Raises:
        DataError: there are none, or the templates or terms cannot be used.
    """
    explicit = {split for split in SPLITS if getattr(config, split) is not None}
    if config.path is None and not explicit:
        raise DataError("data.path=null: cblue ships no sample; name a CBLUE file, a task's folder or the one above")
    path = config.path.expanduser() if config.path is not None else None
    if path is None or not path.is_dir():
        found = files.find(config)
    else:
        found = _of_folder(path, config)
        taken = tuple(file for file in found.files if file.split not in explicit)
        named = files.find(config.model_copy(update={"path": None})) if explicit else Found(())
        found = Found((*taken, *named.files), (*found.skipped, *named.skipped))
        if not any(file.split == "train" for file in found.files):
            names = ", ".join(file.name for file in taken) or "no file of this task"
            raise DataError(f"data.path={path}: no training file among {names}; name one with data.train=FILE")
    _check(config, found)
    return found


def convert(record: dict[str, Any], row_id: str, config: Config) -> Draft:
    """The row of a record; a record without its label is unusable ("no label")."""
    task = _task(record, row_id, config)
    columns = _columns(record, task)
    if record.get(task.column) in (None, ""):
        raise Unusable("no label", detail=f"no {task.column}", task=task.name)
    texts = _texts(record, columns, task)
    try:
        labelled = task.read(record[task.column])
    except Unusable as error:
        raise Unusable(error.reason, detail=error.detail, task=task.name) from error
    key = "\x1f".join(text.strip() for text in texts)
    prompt, options, target = cblue_drawing.written(task, texts, labelled.right, key, config)
    file, _, number = row_id.rpartition("#")
    fields = {
        "answer_choices": options,
        "sample_id": f"{Path(file).stem}-{number if record.get('id') is None else record['id']}",
        "task_type": task.kind,
    }
    row = Row(row_id, single_turn(prompt, target), task.name, METRIC, fields)
    return Draft(row, labelled.notes, group="" if config.group_by else f"{task.name}\x1f{key}")


def recognise(record: dict[str, Any]) -> Claim | None:
    """Claims records with the columns of a task; of those with text and label only, the ones whose label it knows."""
    task = cblue_tasks.shaped(record)
    if task is None:
        return None
    return Claim(6, f"the columns of {task.name}: {', '.join(list(record)[:6])}")


def inputs(config: Config) -> tuple[Path, ...]:
    """Files beside the data whose content decides the rows."""
    return tuple(path.expanduser() for path in (config.templates, config.terms) if path is not None)


def _task(record: dict[str, Any], row_id: str, config: Config) -> Task:
    file = row_id.rpartition("#")[0]
    task = cblue_tasks.named(file if config.task == "auto" else config.task) or cblue_tasks.shaped(record)
    if task is None:
        raise Unusable(
            "unknown task",
            detail=f"neither its file's name nor its columns show it ({have(record)}); set data.task",
        )
    return cblue_tasks.CTC_WITH_MULTIPLE if task.name == "CHIP-CTC" and config.ctc_multiple == "offer" else task


def _columns(record: dict[str, Any], task: Task) -> tuple[str, ...]:
    for names in task.texts:
        if all(name in record for name in names):
            return names
    wanted = " or ".join("+".join(names) for names in task.texts)
    raise Unusable("no such columns", detail=f"{task.name} has {wanted}; {have(record)}", task=task.name)


def _texts(record: dict[str, Any], columns: Sequence[str], task: Task) -> tuple[str, ...]:
    for name in columns:
        if not isinstance(record[name], str):
            raise Unusable("not a text", detail=f"column {name!r}", task=task.name)
        if not record[name].strip():
            raise Unusable("empty prompt", detail=f"column {name!r}", task=task.name)
    return tuple(record[name] for name in columns)


def _check(config: Config, found: Found) -> None:
    """Finds what is wrong with the templates and terms before any record is read."""
    names = [file.name for file in found.files] if config.task == "auto" else [config.task]
    cblue_templates.load(config.templates)
    for task in dict.fromkeys(map(cblue_tasks.named, names)):
        if task is not None:
            cblue_drawing.templates(config.templates, task)
    if config.terms is not None:
        cblue_drawing.terms(config.terms)


def _of_folder(folder: Path, config: Config) -> Found:
    if (folder / files.RECORD).is_file():
        raise DataError(f"{folder}: an artifact of this project, not input: name the files it was made from")
    wanted = cblue_tasks.named(config.task)
    entries = sorted(folder.iterdir())
    taken: list[DataFile] = []
    skipped: list[Skipped] = []
    for entry in entries:
        if not entry.is_dir():
            # a plain train.json takes its task from the folder
            own = entry.stem.lower() in _SPLIT_WORDS and cblue_tasks.named(folder.name) is not None
            _sort_out(entry, f"{folder.name}/{entry.name}" if own else entry.name, wanted, taken, skipped)
        elif (task := cblue_tasks.named(entry.name)) is None:
            skipped.append(Skipped(f"{entry.name}/", "its name speaks of no CBLUE task"))
        elif wanted is not None and task is not wanted:
            skipped.append(Skipped(f"{entry.name}/", f"another task than data.task={config.task}"))
        else:
            for file in sorted(entry.iterdir()):
                _sort_out(file, f"{entry.name}/{file.name}", wanted, taken, skipped)
    if not taken:
        raise DataError(f"data.path={folder}: no <task>_train.json, _dev.json or _test.json here or in a task's folder")
    return Found(tuple(sorted(taken, key=lambda file: SPLITS.index(file.split))), tuple(skipped))


def _sort_out(file: Path, name: str, wanted: Task | None, taken: list[DataFile], skipped: list[Skipped]) -> None:
    stem = file.stem.lower()
    task = cblue_tasks.named(name)
    if reason := _NOT_DATA.get(stem):
        skipped.append(Skipped(name, reason))
    elif not file.is_file() or file.suffix.lower() not in (".json", ".jsonl"):
        skipped.append(Skipped(name, "not a JSON file"))
    elif (split := _SPLIT_WORDS.get(stem.rpartition("_")[2])) is None:
        skipped.append(Skipped(name, "its name does not end with train, dev or test"))
    elif wanted is not None and task not in (None, wanted):
        skipped.append(Skipped(name, f"another task than {wanted.name}"))
    else:
        taken.append(DataFile(file, name, split))
