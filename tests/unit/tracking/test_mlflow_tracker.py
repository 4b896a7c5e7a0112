"""The MLflow tracker on a real sqlite database, and on a server that is not there."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from mlflow import MlflowClient

from tasks.artifacts import Checkpoints, ServableModel
from tasks.tracking.config import TrackingConfig
from tasks.tracking.mlflow_tracker import MlflowTracker

SETTINGS = {"training": {"learning_rate": 0.1}, "method": {"name": "lora"}}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("root")


def tracker(root: Path, **config: object) -> MlflowTracker:
    return MlflowTracker(TrackingConfig(**config), root, experiment="e", run_name="full", settings=SETTINGS)


def checkpoints(folder: Path) -> Checkpoints:
    adapter = folder / "checkpoints" / "step-000002"
    adapter.mkdir(parents=True)
    (adapter / "adapter_model.safetensors").write_bytes(b"weights")
    lines = [{"step": 1, "loss": 2.5}, {"step": 2, "loss": 1.5}, {"step": 2, "validation_loss": 1.75}]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return Checkpoints(
        path=folder,
        fingerprint="f" * 64,
        steps=[2],
        method="lora",
        trainable=10,
        total=100,
        train_loss=1.5,
        validation_loss=1.75,
        tokens_per_second=10.0,
        peak_memory_bytes=1,
        train_seconds=1.0,
    )


def test_runs_are_nested_with_settings_curve_and_adapter(root: Path, tmp_path: Path) -> None:
    made = tracker(root)
    artifact = checkpoints(tmp_path / "train")
    with made.stage("train") as span:
        span.curve(artifact.path / "metrics.jsonl")
        span.done(artifact)
    made.finish("FINISHED", {"seconds": 3.0})

    client = MlflowClient(tracking_uri=f"sqlite:///{root / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("e")
    assert experiment is not None
    runs = {r.info.run_name: r for r in client.search_runs([experiment.experiment_id])}
    parent, train = runs["full"], runs["train"]
    assert train.data.tags["mlflow.parentRunId"] == parent.info.run_id
    assert parent.data.params["cfg.training.learning_rate"] == "0.1"
    assert (parent.info.status, train.info.status) == ("FINISHED", "FINISHED")
    points = [(m.step, m.value) for m in client.get_metric_history(train.info.run_id, "loss")]
    assert points == [(1, 2.5), (2, 1.5)]
    assert train.data.tags["weitiao.fingerprint"] == "f" * 64
    names = [f.path for f in client.list_artifacts(train.info.run_id, "adapter")]
    assert names == ["adapter/adapter_model.safetensors"]


def test_failed_stage_is_marked(root: Path) -> None:
    made = tracker(root)
    with pytest.raises(RuntimeError), made.stage("merge"):
        raise RuntimeError("no")
    made.finish("FAILED", {})
    client = MlflowClient(tracking_uri=f"sqlite:///{root / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("e")
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id], "tags.`weitiao.stage` = 'merge'")
    assert run.info.status == "FAILED"


def test_model_is_registered_once_and_the_alias_moves(root: Path, tmp_path: Path) -> None:
    made = tracker(root)

    def servable(fingerprint: str) -> ServableModel:
        return ServableModel(
            path=tmp_path,
            fingerprint=fingerprint * 64,
            form="merged",
            model=tmp_path,
            adapter=None,
            family="glm",
            max_logit_difference=0.0,
            check_tokens=1,
            same_tokens=1,
        )

    versions = [made.register(servable(f), "m", "champion", {"score": 0.5}) for f in "abab"]
    assert versions == ["1", "2", "1", "2"]
    client = MlflowClient(tracking_uri=f"sqlite:///{root / 'mlflow.db'}")
    assert str(client.get_model_version_by_alias("m", "champion").version) == "2"


def test_missing_server_costs_one_warning_and_nothing_else(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    made = tracker(tmp_path, uri="http://127.0.0.1:9", timeout_s=2)
    with made.stage("train") as span:
        span.done(checkpoints(tmp_path / "train"))
    made.finish("FINISHED", {"seconds": 1.0})
    warnings = [r.getMessage() for r in caplog.records if r.name.startswith("tasks.tracking")]
    assert len(warnings) == 1 and "the pipeline goes on without it" in warnings[0]
    (journal,) = (tmp_path / "tracking").glob("*.jsonl")
    events = [json.loads(line) for line in journal.read_text(encoding="utf-8").splitlines()]
    assert [next(k for k in ("stage", "finish") if k in e) for e in events] == ["stage", "finish"]


def test_a_run_below_is_nested_and_shares_the_fate_of_its_parent(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    made = tracker(tmp_path)
    child = made.below("lora", {"method": {"name": "lora"}})
    child.finish("FINISHED", {"score": 0.5})
    client = MlflowClient(tracking_uri=f"sqlite:///{tmp_path / 'mlflow.db'}")
    runs = {r.info.run_name: r for r in client.search_runs([e.experiment_id for e in client.search_experiments()])}
    assert runs["lora"].data.tags["mlflow.parentRunId"] == runs["full"].info.run_id
    assert runs["lora"].data.metrics == {"score": 0.5}
    (tmp_path / "mlflow.db").unlink()
    (tmp_path / "mlflow.db").mkdir()  # the database is lost while a comparison runs
    for name in ("freeze", "full"):
        made.below(name, {}).finish("FINISHED", {})
    made.finish("FINISHED", {})
    assert [r.levelname for r in caplog.records if r.name.startswith("tasks.tracking")] == ["WARNING"]


def test_password_of_the_database_is_never_shown(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    made = tracker(tmp_path, uri="http://user:hunter2@127.0.0.1:9", timeout_s=2)
    assert "hunter2" not in caplog.text + made.how_to_open
    assert "user:***@127.0.0.1" in made.how_to_open
