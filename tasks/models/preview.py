"""The preview: a few training rows as a table of token, id and label, to be looked at before anything is trained.

``preview.html`` in the artifact's folder is the same table for a browser; the tracker keeps it with the run.
"""

from __future__ import annotations

import html
from collections.abc import Iterator, Mapping, Sequence
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
_STYLE = "body{font-family:sans-serif} td{padding:0 1em;white-space:pre} .c{color:#777} .l{color:#080;font-weight:bold}"


def preview(
    config: TokenizationConfig, dataset: Dataset, base: BaseModelArtifact, *, rows: int, store: Store
) -> Preview:
    """Render the first ``rows`` of the training split for this base model, in a worker without torch."""

    def work(folder: Path) -> Mapping[str, Any]:
        job = {"dataset": str(dataset.path), "model": str(base.weights), "layout": base.layout, "count": rows}
        facts = run_worker("tasks.models.previewing", folder, {**job, **schema.identity(config)}, label="preview")
        write_atomic(folder / "preview.html", page(facts))
        return facts

    return store.publish(
        Preview,
        name=f"{dataset.source}-{base.family}",
        revision=3,
        config={**schema.identity(config), "layout": base.layout, "count": rows},
        inputs={"dataset": dataset.fingerprint, "base_model": base.fingerprint},
        work=work,
    )


def tables(shown: Mapping[str, Any], screen: Console) -> None:
    """Print the rows: learned tokens in one colour, context in another."""
    screen.print(Text(str(shown["layout"])))
    for row in shown["rows"]:
        screen.print(Text(_title(row), style="bold"))
        screen.print(_table(row))


def page(shown: Mapping[str, Any]) -> str:
    """The same as an HTML page."""
    parts = [f"<!doctype html><meta charset=utf-8><title>Sanity check</title><style>{_STYLE}</style>"]
    parts.append(f"<p>{html.escape(str(shown['layout']))}</p>")
    for row in shown["rows"]:
        parts.append(f"<h3>{html.escape(_title(row))}</h3><table><tr><th>token<th>id<th>label</tr>")
        for token, number, label in _cells(row):
            kind = "l" if label >= 0 else "c"
            parts.append(f"<tr class={kind}><td>{html.escape(repr(token))}<td>{number}<td>{label}</tr>")
        parts.append("</table>")
    return "\n".join(parts)


def _title(row: Mapping[str, Any]) -> str:
    learned = sum(label >= 0 for label in row["labels"])
    title = f"Sanity check {row['id']}: {len(row['input_ids'])} tokens, {learned} learned"
    return title + (f"; {row['problem']}" if row["problem"] else "")


def _cells(row: Mapping[str, Sequence[Any]]) -> Iterator[tuple[str, int, int]]:
    return zip(row["tokens"], row["input_ids"], row["labels"], strict=True)


def _table(row: Mapping[str, Sequence[Any]]) -> Table:
    table = Table()
    table.add_column("token", overflow="fold")
    table.add_column("id", justify="right")
    table.add_column("label", justify="right")
    for token, number, label in _cells(row):
        style = _LEARNED if label >= 0 else _CONTEXT
        table.add_row(Text(repr(token)), str(number), str(label), style=style)
    return table
