"""What kind of answer a row has, by its metric and task: a label, free text, or neither (lists of items)."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

#: PromptCBLUE's tasks whose answers are one label, and those whose answers are free text; the others list items.
LABEL_TASKS = ("CHIP-CTC", "CHIP-STS", "KUAKE-QIC", "KUAKE-QQR", "KUAKE-QTR", "KUAKE-IR", "IMCS-V2-DAC")
TEXT_TASKS = ("IMCS-V2-MRG", "MedDG")


def are_labels(rows: pa.RecordBatch) -> npt.NDArray[np.bool_]:
    """[n] whether a row's answer is one label."""
    return _any(rows, ("classification",), LABEL_TASKS)


def are_free_text(rows: pa.RecordBatch) -> npt.NDArray[np.bool_]:
    """[n] whether a row's answer is one of many good ones, so that a prompt may have several references."""
    return _any(rows, ("generation", "chat", "perplexity"), TEXT_TASKS)


def _any(rows: pa.RecordBatch, metrics: tuple[str, ...], tasks: tuple[str, ...]) -> npt.NDArray[np.bool_]:
    metric, task = (rows.column(name).to_numpy(zero_copy_only=False) for name in ("metric", "task"))
    official: Any = np.isin(metric, ("promptcblue",)) & np.isin(task, tasks)
    return np.asarray(np.isin(metric, metrics) | official, dtype=np.bool_)
