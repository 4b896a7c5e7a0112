"""An evaluation's own predictions, as every reader of them must see them."""

from __future__ import annotations

from pathlib import Path

from tasks.evaluation import predictions
from tasks.evaluation.files import structured_scoring
from tasks.evaluation.predictions import Prediction


def read(path: Path) -> list[Prediction]:
    """A system's replies; PromptCBLUE's are read by the rules of the edition that their tasks are of."""
    return structured_scoring.with_dialect(predictions.read(path), None)
