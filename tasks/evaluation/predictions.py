"""A model's answer to one row, and the JSONL file that answers are appended to as they come.

A predictions file stands alone: every line carries what is needed to score and to read it. Owns the format and
its repair after a kill; does not know models or metrics. Imported by workers: plain dataclasses only.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tasks.conversation import Row

#: Metrics that look at how likely the reference is; their rows are not replied to.
NO_REPLY = ("perplexity",)


@dataclass(frozen=True)
class Prediction:
    """One row with a system's answer to it.

    Attributes:
        id, task, metric, fields: the row's own (tasks.conversation.Row).
        prompt: the last user text, for reading.
        reference: the reply that the row holds.
        prediction: the system's reply, as decoded: nothing stripped.
        finish_reason: "stop" (an end token came) or "length" (the limit cut it); empty where nobody
            noted it.
        prompt_tokens, tokens: of the prompt and of the reply, its end token left out.
        prompt_cut: the prompt was over tokenization.max_prompt_tokens and was shortened as in training.
        seconds: the row's share of its batch's time.
        group: what is resampled as one (a document, a dialogue); empty: the row by itself.
        turn: which user turn of its dialogue the row answers, from 1.
        nll, nll_tokens: -log p (nats) that the system gives the reference reply, summed over so many tokens, its end
            token among them; None where it was not measured.
        copied: the reply is one of the training set's and not the reference; None where nobody looked.
    """

    id: str
    task: str
    metric: str
    prompt: str
    reference: str
    prediction: str
    fields: dict[str, Any] = field(default_factory=dict)
    finish_reason: str = "stop"
    prompt_tokens: int = 0
    tokens: int = 0
    seconds: float = 0.0
    prompt_cut: bool = False
    group: str = ""
    turn: int = 1
    nll: float | None = None
    nll_tokens: int = 0
    copied: bool | None = None


def answer(row: Row, text: str, **generation: Any) -> Prediction:
    """``row`` with the reply ``text``; ``generation`` holds what the system noted of it."""
    users = [m.content for m in row.prompt if m.role == "user"]
    return Prediction(
        id=row.id,
        task=row.task,
        metric=row.metric,
        prompt=users[-1] if users else "",
        reference=row.reference,
        prediction=text,
        fields=row.fields,
        group=row.group,
        turn=max(1, len(users)),
        **generation,
    )


def append(path: Path, predictions: Iterable[Prediction]) -> None:
    """Add lines to a predictions file and make them durable."""
    lines = [json.dumps(asdict(p), ensure_ascii=False) + "\n" for p in predictions]
    with path.open("a", encoding="utf-8", newline="\n") as file:
        file.write("".join(lines))
        file.flush()
        os.fsync(file.fileno())


def read(path: Path) -> list[Prediction]:
    """Every prediction of a whole file."""
    with path.open(encoding="utf-8") as file:
        return [Prediction(**json.loads(line)) for line in file]


def recover(path: Path) -> list[Prediction]:
    """What a killed run left in ``path``; a torn end is cut off the file, so that appending can go on."""
    if not path.exists():
        return []
    kept: list[Prediction] = []
    good_bytes = 0
    with path.open("rb") as file:
        for line in file:
            try:
                prediction = Prediction(**json.loads(line)) if line.endswith(b"\n") else None
            except (ValueError, TypeError):  # half a line, or zeros where a power cut lost a block
                prediction = None
            if prediction is None:
                break
            kept.append(prediction)
            good_bytes += len(line)
    os.truncate(path, good_bytes)
    return kept
