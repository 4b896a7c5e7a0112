"""Records runs in MLflow: a parent run per execution, a nested run per stage, curves, reports, weights, registry.

The artifacts in the store are the truth and MLflow is a view of them: when MLflow fails, one warning is logged, it is
left alone for the rest of the execution, and the pipeline goes on. ``<root>/tracking/<run>.jsonl`` tells what happened.
"""

from __future__ import annotations

import copy
import json
import logging
import math
import os
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from tasks.artifacts import Artifact, Checkpoints, Dataset, EvalReport, MethodComparison, Preview, ServableModel
from tasks.tracking import datasets
from tasks.tracking.config import TrackingConfig

log = logging.getLogger(__name__)
T = TypeVar("T")

#: MLflow's own limits: metrics and parameters a call, characters of a value.
_METRICS_A_CALL = 1000
_PARAMS_A_CALL = 100
_CURVE_EVERY_S = 5.0


@dataclass
class _Fate:
    """Whether MLflow failed; shared by an execution's tracker and those below it, so that each says and waits once."""

    off: bool = False


class MlflowTracker:
    """One execution's parent run."""

    def __init__(
        self, config: TrackingConfig, root: Path, *, experiment: str, run_name: str, settings: dict[str, Any]
    ) -> None:
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", str(int(config.timeout_s)))
        os.environ.setdefault("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "false")
        os.environ.setdefault("DO_NOT_TRACK", "true")
        os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")  # the database's first set-up is told at INFO
        self._config = config
        self._root = root
        self._uri = config.uri or f"sqlite:///{(root / 'mlflow.db').as_posix()}"
        self._fate = _Fate()
        self._client: Any = None
        self._experiment_id = ""
        self._run_id = ""
        self._journal = root / "tracking" / f"{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}.jsonl"
        self._try("start", lambda: self._start(experiment, run_name, settings))

    @property
    def how_to_open(self) -> str:
        shown = _without_password(self._uri)
        return f"mlflow ui --backend-store-uri {shown}" if shown.startswith("sqlite") else shown

    # --- the pipeline's run -----------------------------------------------------------------------------------

    def below(self, name: str, settings: Mapping[str, Any]) -> MlflowTracker:
        child = copy.copy(self)
        child._run_id = ""
        tags = {"weitiao.kind": "pipeline", "mlflow.parentRunId": self._run_id}
        child._try("start", lambda: child._create(name, tags, settings))
        return child

    def _start(self, experiment: str, run_name: str, settings: Mapping[str, Any]) -> None:
        from mlflow import MlflowClient

        self._root.mkdir(parents=True, exist_ok=True)
        self._client = client = MlflowClient(tracking_uri=self._uri)
        found = client.get_experiment_by_name(experiment)
        if found is None:
            location = (self._root / "mlflow-artifacts").as_uri() if self._uri.startswith("sqlite") else None
            self._experiment_id = client.create_experiment(experiment, artifact_location=location)
        else:
            self._experiment_id = found.experiment_id
        self._create(run_name, {"weitiao.kind": "pipeline", "weitiao.root": str(self._root), **_git_tags()}, settings)

    def _create(self, run_name: str, tags: Mapping[str, str], settings: Mapping[str, Any]) -> None:
        """Open this tracker's run, with its settings as parameters."""
        from mlflow.entities import Param

        if self._config.uri:
            shown = {**settings.get("tracking", {}), "uri": _without_password(self._config.uri)}
            settings = {**settings, "tracking": shown}
        self._run_id = self._client.create_run(self._experiment_id, run_name=run_name, tags=dict(tags)).info.run_id
        params = [Param(f"cfg.{k}", str(v)[:6000]) for k, v in _flat(settings)]
        for start in range(0, len(params), _PARAMS_A_CALL):
            self._client.log_batch(self._run_id, params=params[start : start + _PARAMS_A_CALL])
        self._client.log_text(self._run_id, json.dumps(settings, ensure_ascii=False, indent=1), "config.json")

    def finish(self, status: str, metrics: Mapping[str, float]) -> None:
        def close() -> None:
            self._log_metrics(self._run_id, [(k, v, 0) for k, v in metrics.items()])
            self._client.set_terminated(self._run_id, status=status)

        self._note({"finish": status, "metrics": dict(metrics)})
        self._try("finish", close)

    # --- stages -----------------------------------------------------------------------------------------------

    @contextmanager
    def stage(self, name: str) -> Iterator[_MlflowSpan]:
        span = _MlflowSpan(self, name)
        try:
            yield span
        except BaseException:
            span.close("FAILED")
            raise
        span.close("FINISHED")

    def _open(self, name: str) -> str:
        tags = {"mlflow.parentRunId": self._run_id, "weitiao.kind": "stage", "weitiao.stage": name}
        run = self._client.create_run(self._experiment_id, run_name=name, tags=tags)
        return str(run.info.run_id)

    def _log_metrics(self, run_id: str, points: list[tuple[str, float, int]]) -> None:
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        metrics = [Metric(k, float(v), now, step) for k, v, step in points if math.isfinite(v)]
        for start in range(0, len(metrics), _METRICS_A_CALL):
            self._client.log_batch(run_id, metrics=metrics[start : start + _METRICS_A_CALL])

    def _log_artifact(self, run_id: str, artifact: Artifact) -> None:
        """Facts as metrics and tags; the files that belong to this kind, unless an earlier run logged them."""
        facts = artifact.summary()
        numbers = [(k, v, 0) for k, v in _flat(facts) if isinstance(v, int | float) and not isinstance(v, bool)]
        self._log_metrics(run_id, [(_metric_name(k), float(v), s) for k, v, s in numbers])
        self._client.set_tag(run_id, "weitiao.fingerprint", artifact.fingerprint)
        self._client.set_tag(run_id, "weitiao.reused", str(artifact.reused).lower())
        self._client.set_tag(run_id, "weitiao.path", str(artifact.path))
        if isinstance(artifact, Dataset):
            for run in (run_id, self._run_id):  # on the pipeline's run too: its list of runs then shows the data set
                self._client.log_inputs(run, [datasets.as_input(artifact)])
        if isinstance(artifact, Preview):  # small, and looked for in the run that was just made
            self._client.log_artifact(run_id, str(artifact.path / "preview.html"))
        if artifact.reused:
            return
        if isinstance(artifact, Dataset):
            for file in datasets.files(artifact):
                self._client.log_artifact(run_id, str(file))
        if isinstance(artifact, EvalReport):
            for pattern in ("report.*", "*.png"):
                for file in sorted(artifact.path.glob(pattern)):
                    self._client.log_artifact(run_id, str(file))
            self._client.log_artifacts(run_id, str(artifact.path / "predictions"), "predictions")
        if isinstance(artifact, MethodComparison):
            self._client.log_artifacts(run_id, str(artifact.path), "comparison")
        if isinstance(artifact, Checkpoints):
            self._upload(run_id, artifact.checkpoint(artifact.steps[-1]), "adapter")
        if isinstance(artifact, ServableModel):
            self._upload(run_id, artifact.adapter or artifact.model, "model")

    def _upload(self, run_id: str, folder: Path, name: str) -> None:
        """Copy a folder into MLflow, or a reference to it where it is large."""
        size = sum(f.stat().st_size for f in folder.rglob("*") if f.is_file())
        if size <= self._config.upload_limit_mb << 20:
            self._client.log_artifacts(run_id, str(folder), name)
            return
        self._client.log_text(run_id, json.dumps({"path": str(folder), "bytes": size}, indent=1), f"{name}.json")

    # --- the registry -----------------------------------------------------------------------------------------

    def register(self, model: ServableModel, name: str, alias: str, metrics: Mapping[str, float]) -> str | None:
        def create() -> str:
            from mlflow.exceptions import MlflowException

            try:
                self._client.create_registered_model(name)
            except MlflowException as error:
                if error.error_code != "RESOURCE_ALREADY_EXISTS":
                    raise
            found = self._client.search_model_versions(f"name='{name}'")
            version = next((v for v in found if v.tags.get("weitiao.fingerprint") == model.fingerprint), None)
            if version is None:
                tags = {"weitiao.fingerprint": model.fingerprint, "weitiao.form": model.form}
                tags |= {f"metric.{k}": f"{v:.4f}" for k, v in metrics.items()}
                source = (model.adapter or model.model).as_uri()
                version = self._client.create_model_version(name, source=source, run_id=self._run_id, tags=tags)
            self._client.set_registered_model_alias(name, alias, version.version)
            return str(version.version)

        self._note({"register": name, "alias": alias, "fingerprint": model.fingerprint})
        return self._try("register", create)

    # --- failing softly ---------------------------------------------------------------------------------------

    def _try(self, what: str, call: Callable[[], T]) -> T | None:
        if self._fate.off:
            return None
        try:
            return call()
        except Exception as error:
            self._fate.off = True
            reason = str(error).strip().splitlines() or [type(error).__name__]
            log.warning(
                "MLflow at %s fails (%s: %s); the pipeline goes on without it, see %s",
                _without_password(self._uri),
                what,
                reason[0][:200].replace(self._uri, _without_password(self._uri)),
                self._journal,
            )
            return None

    def _note(self, event: Mapping[str, Any]) -> None:
        """Append an event to this execution's journal."""
        try:
            self._journal.parent.mkdir(parents=True, exist_ok=True)
            with self._journal.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"time": time.time(), **event}, ensure_ascii=False) + "\n")
        except OSError as error:
            log.warning("%s cannot be written: %s", self._journal, error)


class _MlflowSpan:
    """One stage's nested run; created when there is something to say."""

    def __init__(self, tracker: MlflowTracker, name: str) -> None:
        self._tracker, self._name = tracker, name
        self._run_id: str | None = tracker._try(name, lambda: tracker._open(name))
        self._path: Path | None = None
        self._position = 0
        self._looked_at = 0.0

    def curve(self, path: Path) -> None:
        self._path = path
        if time.monotonic() - self._looked_at >= _CURVE_EVERY_S:
            self._send_curve()

    def _send_curve(self) -> None:
        self._looked_at = time.monotonic()
        if self._path is None or not self._path.is_file():
            return
        with self._path.open(encoding="utf-8") as file:
            file.seek(self._position)
            text = file.read()
        complete = text[: text.rfind("\n") + 1]
        self._position += len(complete.encode("utf-8"))
        records = [json.loads(line) for line in complete.splitlines()]
        points = [(k, float(v), r["step"]) for r in records for k, v in r.items() if k != "step" and v is not None]
        if points and self._run_id:
            run_id = self._run_id
            self._tracker._try(self._name, lambda: self._tracker._log_metrics(run_id, points))

    def done(self, artifact: Artifact) -> None:
        if self._path is not None:
            self._path = artifact.path / self._path.name  # the folder was renamed when it was published
            self._send_curve()
        self._tracker._note({"stage": self._name, "artifact": str(artifact.path), "reused": artifact.reused})
        if self._run_id:
            run_id = self._run_id
            self._tracker._try(self._name, lambda: self._tracker._log_artifact(run_id, artifact))

    def close(self, status: str) -> None:
        if self._run_id:
            run_id = self._run_id
            self._tracker._try(self._name, lambda: self._tracker._client.set_terminated(run_id, status=status))


def _without_password(uri: str) -> str:
    """The URI with the password of its user left out."""
    return re.sub(r"(://[^/@:]*):[^@/]*@", r"\1:***@", uri)


def _flat(value: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, item in value.items():
        if isinstance(item, Mapping):
            yield from _flat(item, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", item


def _metric_name(key: str) -> str:
    """MLflow allows letters and digits of any script and _ - . space :; a / only where it makes a path."""
    return re.sub(r"[^\w\-. :]", "_", key)[:250]


def _git_tags() -> dict[str, str]:
    git = shutil.which("git")
    if git is None:
        return {}
    done = subprocess.run(
        [git, "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--abbrev=12"],
        capture_output=True,
        text=True,
        check=False,
    )
    return {"mlflow.source.git.commit": done.stdout.strip()} if done.returncode == 0 else {}
