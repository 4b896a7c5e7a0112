"""Batched greedy generation on a tiny model: plan, padding, stops, memory, merging, interruption."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from tasks.conversation import Row, write_rows
from tasks.errors import ResourceError, Stopped
from tasks.evaluation import generation, predictions, worker
from tasks.models import decoding
from tasks.models.decoding import Reply
from tasks.models.loading import Loaded, load
from tasks.worker import Job

NEW_TOKENS = 8
_ROOT = Path(worker.__file__).parents[2]


@pytest.fixture(scope="module")
def base(tiny: Path) -> Loaded:
    return load(tiny / "base")


@pytest.fixture(scope="module")
def prompts(base: Loaded, make_row: Callable[[int], Row]) -> list[list[int]]:
    return [base.renderer.prompt_ids(make_row(i).prompt) for i in range(12)]


def greedy(model: Any, prompts: Sequence[Sequence[int]], stop_ids: Sequence[int] = (1, 5, 7)) -> list[Reply]:
    return decoding.greedy(model, prompts, stop_ids=stop_ids, max_new_tokens=NEW_TOKENS)


def test_plan_covers_every_row_once_longest_first_within_the_budget() -> None:
    lengths = [5, 30, 12, 7, 30, 90]
    batches = generation.plan(lengths, 10, 80)
    assert batches == [[5], [1, 4], [2, 3, 0]]  # 100 is over the budget but alone; 2 x 40; 3 x 22


def test_a_padded_batch_answers_as_single_rows_do(base: Loaded, prompts: list[list[int]]) -> None:
    assert len({len(p) for p in prompts}) > 4
    together = [reply.ids for reply in greedy(base.model, prompts)]
    assert together == [greedy(base.model, [p])[0].ids for p in prompts]


def test_cached_generation_takes_the_most_likely_token_of_a_full_forward(
    base: Loaded, prompts: list[list[int]]
) -> None:
    import torch

    reply = greedy(base.model, prompts[:1])[0]
    ids = list(prompts[0])
    for token in reply.ids:
        with torch.inference_mode():
            assert int(base.model(torch.tensor([ids])).logits[0, -1].argmax()) == token
        ids.append(token)


def test_any_stop_token_ends_a_reply_and_is_not_part_of_it(base: Loaded, prompts: list[list[int]]) -> None:
    free = greedy(base.model, prompts)
    assert {r.finish_reason for r in free} == {"length"} and all(len(r.ids) == NEW_TOKENS for r in free)
    stop = free[0].ids[3]
    for reply, stopped in zip(free, greedy(base.model, prompts, stop_ids=(1, stop)), strict=True):
        if stop in reply.ids:
            assert stopped.finish_reason == "stop" and stopped.ids == reply.ids[: reply.ids.index(stop)]
        else:
            assert stopped.ids == reply.ids


def test_sampling_settings_shipped_with_a_model_do_not_leak_in(tiny: Path, prompts: list[list[int]]) -> None:
    from transformers import GenerationConfig

    model = load(tiny / "base").model
    expected = greedy(model, prompts)
    model.generation_config = GenerationConfig(do_sample=True, temperature=5.0, repetition_penalty=9.0, max_length=3)
    assert [r.ids for r in greedy(model, prompts)] == [r.ids for r in expected]


@pytest.mark.parametrize("error", ["cuda", "cpu"])
def test_out_of_memory_halves_the_batch_and_goes_on(error: str) -> None:
    import torch

    full = (
        torch.OutOfMemoryError("full")
        if error == "cuda"
        else RuntimeError("DefaultCPUAllocator: can't allocate memory")
    )
    tried: list[int] = []

    def generate(batch: Sequence[int]) -> list[Reply]:
        tried.append(len(batch))
        if len(batch) > 2:
            raise full
        return [Reply([i], "stop", 0.0) for i in batch]

    done = {
        i: reply.ids
        for batch, r in generation.replies([range(8), range(8, 16)], [5] * 16, generate)
        for i, reply in zip(batch, r, strict=True)
    }
    assert done == {i: [i] for i in range(16)}
    assert tried == [8, 4, 2, 2, 2, 2, 2, 2, 2, 2]  # the second batch is not tried at a size known not to fit


def test_other_errors_and_a_row_that_never_fits_are_raised() -> None:
    def full(batch: Sequence[int]) -> list[Reply]:
        raise MemoryError

    def broken(batch: Sequence[int]) -> list[Reply]:
        raise RuntimeError("shape mismatch")

    with pytest.raises(ResourceError, match=r"one row of 7 prompt tokens; lower evaluation\.max_new_tokens"):
        list(generation.replies([[0, 1]], [7, 7], full))
    with pytest.raises(RuntimeError, match="shape mismatch"):
        list(generation.replies([[0, 1]], [7, 7], broken))


def test_merging_lora_in_memory_keeps_the_replies(tiny: Path, prompts: list[list[int]], base: Loaded) -> None:
    loaded = load(tiny / "checkpoints/step-000001", base=tiny / "base")
    unmerged = [r.ids for r in greedy(loaded.model, prompts)]
    assert unmerged != [r.ids for r in greedy(base.model, prompts)]
    assert generation.merge_if_exact(loaded.model, prompts[:4], "float32") is True
    assert [r.ids for r in greedy(loaded.model, prompts)] == unmerged
    assert generation.merge_if_exact(base.model, prompts[:4], "float32") is None


def test_a_prefix_is_seen_by_every_row_of_a_padded_batch(tiny: Path, prompts: list[list[int]], base: Loaded) -> None:
    import torch

    from tasks.methods import ptuning_v2
    from tasks.models.loading import load_base

    config = ptuning_v2.Config(name="ptuning_v2", num_virtual_tokens=3)
    model = ptuning_v2.attach(load_base(tiny / "base", "cpu", "float32"), config).eval()
    torch.manual_seed(3)
    for parameter in model.prefix_encoder.parameters():
        torch.nn.init.normal_(parameter, std=2.0)
    together = [reply.ids for reply in greedy(model, prompts)]
    assert max(len(ids) for ids in together) == NEW_TOKENS
    assert together != [reply.ids for reply in greedy(base.model, prompts)]
    stop = together[0][2]
    assert greedy(model, prompts[:1], stop_ids=(1, stop))[0].ids == together[0][: together[0].index(stop)]
    assert together == [greedy(model, [p])[0].ids for p in prompts]
    assert generation.merge_if_exact(model, prompts[:4], "float32") is None
    ids = list(prompts[0])
    for token in together[0]:  # the prefix's cached keys and values, against a forward over the whole text
        with torch.inference_mode():
            assert int(model(input_ids=torch.tensor([ids])).logits[0, -1].argmax()) == token
        ids.append(token)


def test_an_inexact_merge_is_noticed(tiny: Path, prompts: list[list[int]]) -> None:
    model = load(tiny / "checkpoints/step-000001", base=tiny / "base").model
    honest = model.merge_adapter

    def merge_and_damage() -> None:
        honest()
        next(p for n, p in model.named_parameters() if "q_proj.base_layer" in n).data.mul_(1.5)

    model.merge_adapter = merge_and_damage
    assert generation.merge_if_exact(model, prompts[:4], "float32") is False


# --- the worker -------------------------------------------------------------------------------------------------


def make_job(folder: Path, tiny: Path, make_row: Callable[[int], Row], rows: int = 12) -> Path:
    folder.mkdir()
    write_rows(folder / "rows.jsonl", map(make_row, range(rows)))
    systems = [
        {"name": "base", "path": str(tiny / "base"), "base": None},
        {"name": "step-000001", "path": str(tiny / "checkpoints/step-000001"), "base": str(tiny / "base")},
    ]
    job = {
        "systems": systems,
        "rows": {"test": str(folder / "rows.jsonl")},
        "max_prompt_tokens": 14,
        "max_new_tokens": NEW_TOKENS,
        "batch_tokens": 3 * (14 + NEW_TOKENS),
        "device": "cpu",
        "dtype": "float32",
    }
    (folder / "job.json").write_text(json.dumps(job), encoding="utf-8")
    return folder


def replies_in(folder: Path) -> dict[str, list[tuple[str, str, str]]]:
    """File -> (id, prediction, finish_reason) in the order of the ids."""
    return {
        path.name: sorted((p.id, p.prediction, p.finish_reason) for p in predictions.read(path))
        for path in (folder / "predictions").iterdir()
    }


# Kills itself with half a line written, within the second system.
_KILLED = """
import os, signal, sys, torch
torch.set_num_threads(1)
from pathlib import Path
from tasks.evaluation import predictions, worker
from tasks.worker import Job
append, calls = predictions.append, []
def append_then_die(path, new):
    calls.append(path)
    if len(calls) == 7:
        append(path, new[:1])
        with path.open("ab") as file:
            file.write(b'{"id": "r0')
        os.kill(os.getpid(), signal.SIGKILL)
    append(path, new)
predictions.append = append_then_die
worker.run(Job(Path(sys.argv[1])))
"""


def test_a_killed_evaluation_goes_on_with_the_same_replies(
    tiny: Path, make_row: Callable[[int], Row], tmp_path: Path
) -> None:
    whole = make_job(tmp_path / "whole", tiny, make_row)
    assert worker.run(Job(whole))["systems"]["step-000001"] == {"merged": True, "loaded": True}
    killed = make_job(tmp_path / "killed", tiny, make_row)
    process = subprocess.run([sys.executable, "-c", _KILLED, str(killed)], check=False, capture_output=True, cwd=_ROOT)
    assert process.returncode == -signal.SIGKILL, process.stderr.decode()
    left = (killed / "predictions/step-000001.test.jsonl").read_bytes()
    assert left.endswith(b'{"id": "r0') and 0 < left.count(b"\n") < 12
    result = worker.run(Job(killed))
    assert result["systems"]["base"]["loaded"] is False  # all its replies were there
    assert replies_in(killed) == replies_in(whole)
    assert all(len(rows) == 12 for rows in replies_in(killed).values())
    assert (killed / "predictions/step-000001.test.jsonl").read_bytes().startswith(left[:-10])


def test_a_signal_stops_after_a_batch_with_its_replies_kept(
    tiny: Path, make_row: Callable[[int], Row], tmp_path: Path
) -> None:
    job = Job(make_job(tmp_path / "job", tiny, make_row))
    job.stop()
    with pytest.raises(Stopped):
        worker.run(job)
    assert 0 < len(predictions.read(job.folder / "predictions/base.test.jsonl")) < 12


def test_prompts_are_those_of_training_and_cuts_are_marked(
    base: Loaded, tiny: Path, make_row: Callable[[int], Row], tmp_path: Path
) -> None:
    from tasks.models.fitting import fit

    job = Job(make_job(tmp_path / "job", tiny, make_row))
    worker.run(job)
    marked = {p.id: p for p in predictions.read(job.folder / "predictions/base.test.jsonl")}
    cut = 0
    for row in map(make_row, range(12)):
        trained, problem = fit(base.renderer, row, 14, NEW_TOKENS)
        prompt = base.renderer.prompt_ids(row.prompt, 14)
        assert trained.ids[: len(prompt)] == prompt and not any(trained.learn[: len(prompt)])
        assert marked[row.id].prompt_cut == problem.startswith("prompt")
        assert marked[row.id].prompt_tokens == len(prompt)
        cut += marked[row.id].prompt_cut
    assert 0 < cut < 12


def test_the_worker_imports_without_pydantic() -> None:
    code = "import sys; sys.modules['pydantic'] = None; import tasks.evaluation.worker"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=_ROOT)
