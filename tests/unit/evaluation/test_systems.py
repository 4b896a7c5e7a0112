"""A worker whose replies come from a server: this project's own, whose /v1/completions is like vLLM's."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tasks.conversation import Row, write_rows
from tasks.errors import ConfigError
from tasks.evaluation import predictions, worker
from tasks.models.embedded import FOLDER
from tasks.serving.config import ServingConfig
from tasks.serving.process import Target, session
from tasks.worker import Job

ROWS = 6


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    config = ServingConfig(model_name="embedded", start_timeout_s=120, queue_limit=8)
    with session(config, Target(FOLDER), tmp_path_factory.mktemp("server")) as running:
        yield running.url


def answer(folder: Path, rows: list[Row], engine: dict[str, Any] | None) -> tuple[dict[str, Any], list[Any]]:
    """The worker's result, and what each row was answered, in the order of the rows."""
    folder.mkdir(exist_ok=True)
    write_rows(folder / "rows.jsonl", rows)
    job = {
        "systems": [{"name": "base", "path": str(FOLDER), "base": None, "served_as": "embedded"}],
        "rows": {"test": str(folder / "rows.jsonl")},
        "max_prompt_tokens": 64,
        "max_new_tokens": 12,
        "batch_tokens": 200,
        "device": "cpu",
        "dtype": "float32",
        "engine": engine,
    }
    (folder / "job.json").write_text(json.dumps(job), encoding="utf-8")
    result = dict(worker.run(Job(folder))["systems"]["base"])
    found = {p.id: p for p in predictions.read(folder / "predictions/base.test.jsonl")}
    assert len(found) == len(rows)
    return result, [(found[r.id].prediction, found[r.id].finish_reason, found[r.id].tokens) for r in rows]


def test_a_servers_replies_are_those_of_a_model_in_the_process_and_only_missing_ones_are_asked_for(
    url: str, make_row: Callable[[int], Row], tmp_path: Path
) -> None:
    rows = [make_row(index) for index in range(ROWS)]
    _, expected = answer(tmp_path / "own", rows, None)
    engine = {"name": "vllm", "url": url, "concurrency": 2, "timeout_s": 60}
    result, found = answer(tmp_path / "served", rows, engine)
    assert found == expected
    assert result == {
        "loaded": True,
        "merged": None,
        "generator": "vllm",
        "same_as_base": None,
        "peak_memory_bytes": None,
    }
    file = tmp_path / "served/predictions/base.test.jsonl"
    kept = file.read_text(encoding="utf-8").splitlines(keepends=True)[:2]
    file.write_text("".join(kept), encoding="utf-8")
    assert answer(tmp_path / "served", rows, engine)[1] == expected
    assert file.read_text(encoding="utf-8").splitlines(keepends=True)[:2] == kept


def test_a_server_has_no_likelihoods_which_perplexity_needs_and_chat_can_do_without(
    url: str, make_row: Callable[[int], Row], tmp_path: Path
) -> None:
    engine = {"name": "vllm", "url": url}
    answer(tmp_path / "chat", [replace(make_row(1), metric="chat")], engine)
    (found,) = predictions.read(tmp_path / "chat/predictions/base.test.jsonl")
    assert found.nll is None and found.nll_tokens == 0
    with pytest.raises(ConfigError, match=r"perplexity needs .*evaluation\.engine=transformers"):
        answer(tmp_path / "perplexity", [replace(make_row(1), metric="perplexity")], engine)
