"""What MLflow is told of a data set: the input of a run with its digest, and the files that people open.

The rows are named by the digest and stay in the store; rejected records never leave it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tasks.artifacts import Dataset

#: preview.md is the one of them that shows texts: a few, as they will be trained on.
_FILES = ("report.json", "report.md", "*.png", "preview.md")
#: MLflow's own limits: characters of a digest and of a name, bytes of a source (less what its JSON adds).
_DIGEST, _NAME, _SOURCE = 36, 500, 60_000


def files(dataset: Dataset) -> list[Path]:
    """The files of a data set that are copied into MLflow."""
    return [file for pattern in _FILES for file in sorted(dataset.path.glob(pattern))]


def as_input(dataset: Dataset) -> Any:
    """The data set as MLflow's DatasetInput; nothing of its rows is read.

    The digest begins the artifact's fingerprint: equal digests are equal data sets. The source names the files that
    were read relative to what the user named, and no folder of the machine.
    """
    from mlflow.data.meta_dataset import MetaDataset
    from mlflow.data.sources import LocalArtifactDatasetSource
    from mlflow.entities import Dataset as Record
    from mlflow.entities import DatasetInput, InputTag

    described = MetaDataset(
        LocalArtifactDatasetSource(uri=_names(_report(dataset).get("files", {}))),
        name=dataset.source[:_NAME],
        digest=dataset.fingerprint[:_DIGEST],
        schema=_schema(),
    )
    record = Record(**described.to_dict(), profile=json.dumps(_profile(dataset), ensure_ascii=False))
    return DatasetInput(record, [InputTag("mlflow.data.context", "training")])


def _report(dataset: Dataset) -> dict[str, Any]:
    path = dataset.path / "report.json"
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return content


def _names(names: Mapping[str, Any]) -> str:
    """The files' names on one line; where they are too many for MLflow, how many more there are."""
    shown: list[str] = []
    room = _SOURCE
    for name in names:
        # as the JSON of the source writes it, where a Chinese character takes six bytes
        room -= len(json.dumps(name)) + 2
        if room < 0:
            return f"{', '.join(shown)} and {len(names) - len(shown):,} more files"
        shown.append(name)
    return ", ".join(shown)


def _schema() -> Any:
    """The columns of a data set's Parquet files; ``fields`` is JSON."""
    from mlflow.types import ColSpec, DataType, Schema
    from mlflow.types.schema import Array, Object, Property

    texts = [Property(name, DataType.string) for name in ("role", "content", "metadata")]
    message = Object([*texts, Property("learn", DataType.boolean, required=False)])
    columns = [ColSpec(DataType.string, name) for name in ("id", "task", "metric", "fields")]
    return Schema([*columns, ColSpec(Array(message), "messages")])


def _profile(dataset: Dataset) -> dict[str, Any]:
    """The counts, and the whole fingerprint, of which the digest has no room for."""
    return {"rows": dataset.splits, "records": dataset.rows, "tasks": dataset.tasks, "fingerprint": dataset.fingerprint}
