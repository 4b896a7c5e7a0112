"""The preview: a few training rows as a table of token, id and label, to be looked at before anything is trained.

``preview.html`` in the artifact's folder is the same table for a browser; the tracker keeps it with the run.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from tasks import schema
from tasks.artifacts import BaseModelArtifact, Dataset, Preview
from tasks.files import write_atomic
from tasks.launch import run_worker
from tasks.models.config import TokenizationConfig
from tasks.store import Store

_LEARNED, _CONTEXT = "bold green", "dim"
_WIDTH = 100


def preview(
    config: TokenizationConfig, dataset: Dataset, base: BaseModelArtifact, *, rows: int, store: Store
) -> Preview:
    """Render the first ``rows`` of the training split for this base model, in a worker without torch."""

    def work(folder: Path) -> Mapping[str, Any]:
        job = {"dataset": str(dataset.path), "model": str(base.weights), "layout": base.layout, "count": rows}
        facts = run_worker("tasks.models.previewing", folder, {**job, **schema.identity(config)}, label="preview")
        screen = Console(file=io.StringIO(), record=True, width=_WIDTH, force_terminal=True)
        tables(facts, screen)
        write_atomic(folder / "preview.html", screen.export_html())
        return facts

    return store.publish(
        Preview,
        name=f"{dataset.source}-{base.family}",
        revision=2,
        config={**schema.identity(config), "layout": base.layout, "count": rows},
        inputs={"dataset": dataset.fingerprint, "base_model": base.fingerprint},
        work=work,
    )


def tables(shown: Mapping[str, Any], screen: Console) -> None:
    """Print the rows: learned tokens in one colour, context in another."""
    screen.print(Text(str(shown["layout"])))
    for row in shown["rows"]:
        learned = sum(label >= 0 for label in row["labels"])
        title = f"Sanity check {row['id']}: {len(row['input_ids'])} tokens, {learned} learned"
        screen.print(_table(Text(title + (f"; {row['problem']}" if row["problem"] else "")), row))


def _table(title: Text, row: Mapping[str, Sequence[Any]]) -> Table:
    table = Table(title=title, title_justify="left")
    table.add_column("token", overflow="fold")
    table.add_column("id", justify="right")
    table.add_column("label", justify="right")
    for token, number, label in zip(row["tokens"], row["input_ids"], row["labels"], strict=True):
        style = _LEARNED if label >= 0 else _CONTEXT
        table.add_row(Text(repr(token)), str(number), str(label), style=style)
    return table
