"""The configuration of tracking."""

from __future__ import annotations

from typing import Literal

from tasks.schema import How, Section


class TrackingConfig(Section):
    """Where runs are recorded."""

    tracker: Literal["mlflow", "none"] = How("mlflow", doc="mlflow, or none: only the artifacts' own records.")
    uri: str | None = How(None, doc="MLflow tracking URI; null: sqlite database mlflow.db under paths.root.")
    upload_limit_mb: int = How(
        200, ge=0, doc="Adapters and merged models up to this size are copied into MLflow, larger ones referenced."
    )
    timeout_s: float = How(10, gt=0, doc="Longest wait for an MLflow server's answer.")
