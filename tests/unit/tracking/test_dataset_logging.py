"""What MLflow knows of a data set, on a real sqlite database."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import mlflow.data
import pytest
from mlflow import MlflowClient
from mlflow.entities import Run

from tasks.artifacts import Dataset
from tasks.tracking import datasets
from tasks.tracking.config import TrackingConfig
from tasks.tracking.mlflow_tracker import MlflowTracker

FINGERPRINT = "0123456789abcdef" * 4


def dataset(folder: Path, files: Sequence[str] = ("a/train.json", "dev.json"), **facts: Any) -> Dataset:
    folder.mkdir(parents=True)
    report = {"files": {name: {"split": "train"} for name in files}}
    (folder / "report.json").write_text(json.dumps(report), encoding="utf-8")
    for name in ("report.md", "preview.md", "funnel.png", "quarantine.jsonl", "train.parquet"):
        (folder / name).write_bytes(b"x")
    values: dict[str, Any] = {
        "source": "promptcblue",
        "rows": {"read": 12, "kept": 10, "dropped": {"empty reply": 2}},
        "splits": {"train": 7, "validation": 2, "test": 1},
        "tasks": {"医疗": 6, "法律": 4},
    }
    return Dataset(path=folder, fingerprint=FINGERPRINT, **(values | facts))


def tracked(root: Path, *artifacts: Dataset) -> tuple[MlflowClient, dict[str, Run]]:
    """The runs, by name, after a pipeline of one stage whose artifacts these are."""
    tracker = MlflowTracker(TrackingConfig(), root, experiment="e", run_name="full", settings={})
    with tracker.stage("prepare") as span:
        for artifact in artifacts:
            span.done(artifact)
    tracker.finish("FINISHED", {})
    client = MlflowClient(tracking_uri=f"sqlite:///{root / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("e")
    assert experiment is not None
    return client, {str(r.info.run_name): r for r in client.search_runs([experiment.experiment_id])}


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> tuple[MlflowClient, dict[str, Run], Path]:
    root = tmp_path_factory.mktemp("root")
    return *tracked(root, dataset(root / "prepare" / "set")), root


def test_report_plots_and_preview_are_copied_but_no_rows_and_no_quarantine(
    recorded: tuple[MlflowClient, dict[str, Run], Path],
) -> None:
    client, runs, _ = recorded
    names = sorted(f.path for f in client.list_artifacts(runs["prepare"].info.run_id))
    assert names == ["funnel.png", "preview.md", "report.json", "report.md"]


@pytest.mark.parametrize("run", ["prepare", "full"])
def test_stage_and_pipeline_name_the_data_set_by_its_digest(
    recorded: tuple[MlflowClient, dict[str, Run], Path], run: str
) -> None:
    _, runs, root = recorded
    (found,) = runs[run].inputs.dataset_inputs
    assert (found.dataset.name, found.dataset.digest) == ("promptcblue", FINGERPRINT[:36])
    assert json.loads(found.dataset.source) == {"uri": "a/train.json, dev.json"}
    assert str(root) not in json.dumps(dict(found.dataset))
    assert [(tag.key, tag.value) for tag in found.tags] == [("mlflow.data.context", "training")]
    profile = json.loads(found.dataset.profile)
    assert profile["rows"] == {"train": 7, "validation": 2, "test": 1}
    assert profile["records"] == {"read": 12, "kept": 10, "dropped": {"empty reply": 2}}
    assert profile["fingerprint"] == FINGERPRINT
    columns = json.loads(found.dataset.schema)["mlflow_colspec"]
    assert {column["name"] for column in columns} == {"id", "task", "metric", "messages", "fields"}


def test_mlflow_reads_the_source_back(recorded: tuple[MlflowClient, dict[str, Run], Path]) -> None:
    _, runs, _ = recorded
    source = mlflow.data.get_source(runs["prepare"].inputs.dataset_inputs[0].dataset)
    assert source.uri == "a/train.json, dev.json"


def test_tasks_with_chinese_names_keep_metrics_of_their_own(
    recorded: tuple[MlflowClient, dict[str, Run], Path],
) -> None:
    _, runs, _ = recorded
    metrics = runs["prepare"].data.metrics
    assert (metrics["tasks.医疗"], metrics["tasks.法律"]) == (6, 4)
    assert metrics["rows.dropped.empty reply"] == 2


def test_names_that_mlflow_refuses_are_mended(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    tasks = {"a/../b": 1, "c//d": 2, "e（f）": 3, "/": 4}
    _, runs = tracked(tmp_path / "root", dataset(tmp_path / "set", tasks=tasks))
    metrics = runs["prepare"].data.metrics
    assert {name: n for name, n in metrics.items() if name.startswith("tasks.")} == {
        "tasks.a_.._b": 1,
        "tasks.c__d": 2,
        "tasks.e_f_": 3,
        "tasks._": 4,
    }
    assert not [r for r in caplog.records if r.name.startswith("tasks.tracking")]


def test_reused_data_set_is_an_input_again_without_its_files(tmp_path: Path) -> None:
    client, runs = tracked(tmp_path / "root", dataset(tmp_path / "set", reused=True))
    assert client.list_artifacts(runs["prepare"].info.run_id) == []
    assert [i.dataset.digest for i in runs["prepare"].inputs.dataset_inputs] == [FINGERPRINT[:36]]


def test_very_many_files_fit_into_mlflow(tmp_path: Path) -> None:
    names = [f"联系人{i:05}/聊天记录_train.json" for i in range(5000)]
    _, runs = tracked(tmp_path / "root", dataset(tmp_path / "set", files=names))
    (found,) = runs["prepare"].inputs.dataset_inputs
    uri = json.loads(found.dataset.source)["uri"]
    assert uri.startswith("联系人00000/聊天记录_train.json, ")
    assert uri.endswith(f" and {5000 - uri.count('_train.json'):,} more files")
    assert len(found.dataset.source) <= 65535


def test_data_set_without_a_report_is_still_an_input(tmp_path: Path) -> None:
    made = dataset(tmp_path / "set")
    (made.path / "report.json").unlink()
    assert datasets.as_input(made).dataset.digest == FINGERPRINT[:36]


def test_broken_report_costs_a_warning_and_nothing_else(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    made = dataset(tmp_path / "set")
    (made.path / "report.json").write_text("{", encoding="utf-8")
    tracked(tmp_path / "root", made)
    warnings = [r.getMessage() for r in caplog.records if r.name.startswith("tasks.tracking")]
    assert len(warnings) == 1 and "the pipeline goes on without it" in warnings[0]
