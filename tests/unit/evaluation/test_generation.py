"""Generation on a tiny model: plan, padding, stops, memory, merging, likelihoods, interruption."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import tracemalloc
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import tiny as tiny_model
from tiny_models import FAMILIES

from tasks.conversation import Message, Row, write_rows
from tasks.errors import ResourceError, Stopped
from tasks.evaluation import predictions, scoring, worker
from tasks.evaluation.answering import generation, likelihood
from tasks.evaluation.answering.generation import Unit
from tasks.evaluation.predictions import Prediction
from tasks.methods import lora
from tasks.models import decoding
from tasks.models.decoding import Reply
from tasks.models.embedded import FOLDER
from tasks.models.fitting import fit
from tasks.models.loading import Loaded, load, load_base
from tasks.worker import Job, peak_resident_bytes

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
    assert generation.plan(lengths, 10, 80) == [
        Unit([5, 1, 4, 2, 3, 0], 1)  # 100 is over the budget, but one row is decoded at least
    ]
    units = generation.plan(lengths[:5], 10, 80)
    assert units == [Unit([1, 4, 2, 3, 0], 2)]  # 2 x 40 at a time
    many = generation.plan([30] * 40, 10, 80)
    assert [len(unit.rows) for unit in many] == [16, 16, 8] and all(unit.slots == 2 for unit in many)
    assert sorted(row for unit in many for row in unit.rows) == list(range(40))


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


@pytest.mark.parametrize(
    "error",
    [
        "torch.OutOfMemoryError",
        "DefaultCPUAllocator: can't allocate memory",
        "CUDA error: out of memory",
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
    ],
)
def test_out_of_memory_halves_what_is_decoded_together_and_gives_no_row_twice(error: str) -> None:
    import torch

    full = torch.OutOfMemoryError("full") if error == "torch.OutOfMemoryError" else RuntimeError(error)
    tried: list[int] = []

    def work(rows: Sequence[int], slots: int) -> Iterator[list[tuple[int, str]]]:
        tried.append(slots)
        for count, row in enumerate(rows):
            if slots > 2 and count == 3:
                raise full
            yield [(row, f"of {slots}")]

    memory = generation.Memory()
    found = [pair for group in memory.each(Unit(list(range(10)), 8), 5, work) for pair in group]
    assert found == [(row, "of 8") for row in range(3)] + [(row, "of 2") for row in range(3, 10)]
    assert tried == [8, 4, 2]
    assert len(list(memory.each(Unit(list(range(10)), 8), 5, work))) == 10
    assert tried[3:] == [2]  # what is known not to fit is not tried again ...
    list(memory.each(Unit([1, 2], 8), 2, work))
    assert tried[4:] == [8]  # ... but shorter rows are


def test_other_errors_and_a_row_that_never_fits_are_raised() -> None:
    def full(rows: Sequence[int], slots: int) -> Iterator[list[tuple[int, str]]]:
        raise MemoryError

    def broken(rows: Sequence[int], slots: int) -> Iterator[list[tuple[int, str]]]:
        raise RuntimeError("shape mismatch")

    with pytest.raises(ResourceError, match=r"one row of 7 tokens; lower evaluation\.max_new_tokens"):
        list(generation.Memory().each(Unit([0, 1], 2), 7, full))
    with pytest.raises(RuntimeError, match="shape mismatch"):
        list(generation.Memory().each(Unit([0, 1], 2), 7, broken))


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


@pytest.fixture(scope="module")
def adapters(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Random LoRA adapters of the embedded model, which move its logits about as much as training does."""
    import torch

    torch.set_num_threads(1)  # on a busy machine two threads wait for each other more than they compute
    folder = tmp_path_factory.mktemp("adapters")
    for step in (1, 2):
        tiny_model.build_checkpoint(FOLDER, folder / f"{step}", step)
    return [folder / f"{step}" for step in (1, 2)]


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_a_correct_merge_is_accepted_in_every_precision_and_one_at_a_wrong_scale_is_not(
    dtype: str, adapters: list[Path]
) -> None:
    renderer = load(FOLDER).renderer
    texts = (
        "水温高，风扇不转，请列出三元组",
        "糖尿病患者头晕是什么原因？",
        "油泵漏油",
        "请问这个症状怎么治疗，需要住院吗",
    )
    # so many that some choices are near ties
    asked = [renderer.prompt_ids([Message("user", text[i:])]) for text in texts for i in range(4)]

    def merged(adapter: Path, factor: float) -> bool | None:
        model = lora.load(load_base(FOLDER, "cpu", dtype), adapter, lora.Config(name="lora"), trainable=False)
        return generation.merge_if_exact(_folded_at(model.eval(), factor), asked, dtype)

    assert [merged(adapter, 1) for adapter in adapters] == [True] * 2
    assert [merged(adapters[0], factor) for factor in (0.5, 1.5)] == [False] * 2


def _folded_at(model: Any, factor: float) -> Any:
    """The model, whose adapter is folded in at ``factor`` times its scale."""
    honest = model.merge_adapter

    def merge() -> None:
        for module in model.modules():
            if hasattr(module, "lora_A"):
                module.scaling = {name: factor * scale for name, scale in module.scaling.items()}
        honest()

    model.merge_adapter = merge
    return model


def test_logits_are_the_same_within_their_spread_and_only_clear_choices_count() -> None:
    import torch

    before = torch.tensor([[4.0, 2.0, -2.0, -4.0]] * 8)  # standard deviation sqrt(320 / 31) = 3.21, a lead of 2
    same = generation.same_but_rounding
    assert same(before, before, 0.25)
    shifted = before + 1.0
    assert same(before, shifted, 0.35) and not same(before, shifted, 0.25)  # 1.12 and 0.80 are allowed
    turned = before.clone()
    turned[3, 1] += 2.1  # the root mean square is 2.1 / sqrt(32) = 0.37
    assert same(before, turned, 0.35) and not same(before, turned, 0.25)  # leads up to 2.25, 1.61 may turn
    overflowed = before.clone()
    overflowed[0, 0] = float("nan")
    assert not same(before, overflowed, 0.35)


def test_a_model_is_probed_one_prompt_at_a_time_at_the_prompts_ends(tiny: Path, prompts: list[list[int]]) -> None:
    loaded = load(tiny / "checkpoints/step-000001", base=tiny / "base")
    seen: list[tuple[int, ...]] = []
    head = loaded.model.get_output_embeddings()
    head.register_forward_hook(lambda module, args, output: seen.append(tuple(output.shape[:2])))
    long = [prompt * 3 for prompt in prompts[:4]]
    assert generation.merge_if_exact(loaded.model, long, "float32") is True
    assert seen == [(1, 8)] * 8
    found = generation.digest(loaded.model, long)
    assert seen[8:] == [(1, 1)] * 4
    assert generation.digest(loaded.model, long) == found != generation.digest(loaded.model, long[:3])


def test_a_model_that_gives_all_logits_only_is_probed_at_its_prompts_ends(
    tiny: Path, prompts: list[list[int]], base: Loaded
) -> None:
    import torch
    from peft import PromptTuningConfig, get_peft_model

    def tuned(seed: int) -> Any:
        torch.manual_seed(seed)
        settings = PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3)
        return get_peft_model(load(tiny / "base").model, settings).eval()

    digests = [generation.digest(model, prompts[:4]) for model in (base.model, tuned(1), tuned(1), tuned(2))]
    assert digests[1] == digests[2] and len(set(digests)) == 3
    assert len({generation.digest(tuned(1), [[*prompts[0], last]]) for last in (20, 21)}) == 2


# --- likelihoods ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["chatglm3", "chatglm", "qwen", "baichuan13b", "cpmant", "mistral"])
def test_the_prompt_and_reply_that_are_measured_are_those_of_training(family: str, tmp_path: Path) -> None:
    """The prompt that is generated from is the beginning of the training row; the rest is its learned last reply."""
    FAMILIES[family](tmp_path)
    renderer = load(tmp_path).renderer
    turns = [Message("user", "你好"), Message("assistant", "你好"), Message("user", "治疗" * 12)]
    row = Row("r", (*turns, Message("assistant", "输出好的")), "chat", "chat")
    for max_prompt, max_reply in ((200, 200), (24, 200), (200, 3)):
        trained, _ = fit(renderer, row, max_prompt, max_reply)
        prompt = renderer.prompt_ids(row.prompt, max_prompt)
        target = likelihood.target(renderer, row, max_prompt, max_reply)
        assert trained.ids[: len(prompt)] == prompt == target.ids[: len(prompt)]
        assert trained.ids[: len(target.ids)] == target.ids
        assert target.places == [i for i, learned in enumerate(trained.learn) if learned and i >= len(prompt)]
        assert (target.ids[-1] in renderer.ends) == (max_reply == 200)


@pytest.mark.parametrize("family", ["chatglm3", "chatglm", "qwen", "baichuan13b", "bloom", "cpmant", "gemma"])
def test_likelihoods_are_those_of_the_whole_logits_one_row_at_a_time(family: str, tmp_path: Path) -> None:
    import torch

    FAMILIES[family](tmp_path)
    loaded = load(tmp_path)
    texts = [("你好", "治疗病因"), ("发动机故障" * 3, "高"), ("输出", ""), ("水温" * 5, "好的")]
    rows = [Row(str(i), (Message("user", p), Message("assistant", r)), "t", "chat") for i, (p, r) in enumerate(texts)]
    targets = {i: likelihood.target(loaded.renderer, row, 64, 64) for i, row in enumerate(rows)}
    found = {i: one for group in likelihood.stream(loaded.model, targets, 3) for i, one in group}
    for i, target in targets.items():
        with torch.inference_mode():
            scores = loaded.model(input_ids=torch.tensor([target.ids])).logits[0].log_softmax(-1)
        expected = -sum(float(scores[place - 1, target.ids[place]]) for place in target.places)
        assert found[i].nll == pytest.approx(expected, rel=1e-4)
        assert found[i].tokens == len(target.places) >= len(loaded.tokenizer.tokenize(texts[i][1])) + 1


@pytest.mark.parametrize("method", ["ptuning_v2", "prompt_tuning"])
def test_likelihoods_of_tuned_models_see_the_trained_vectors(
    method: str, tiny: Path, make_row: Callable[[int], Row], base: Loaded
) -> None:
    import torch

    from tasks import plugins

    module = plugins.load("tasks.methods", method, key="method")
    model = module.attach(
        load_base(tiny / "base", "cpu", "float32"), module.Config(name=method, num_virtual_tokens=3)
    ).eval()
    for parameter in model.parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter, std=1.0)
    targets = {i: likelihood.target(base.renderer, make_row(i), 64, 64) for i in range(5)}
    together = {i: one for group in likelihood.stream(model, targets, 5) for i, one in group}
    plain = {i: one for group in likelihood.stream(base.model, targets, 5) for i, one in group}
    for i, target in targets.items():
        with torch.inference_mode():
            scores = model(input_ids=torch.tensor([target.ids])).logits[0].log_softmax(-1)
        expected = -sum(float(scores[place - 1, target.ids[place]]) for place in target.places)
        assert together[i].nll == pytest.approx(expected, rel=1e-4) != pytest.approx(plain[i].nll)


def test_a_sum_that_is_not_finite_is_no_likelihood(tiny: Path, make_row: Callable[[int], Row]) -> None:
    import torch

    broken = load(tiny / "base")
    targets = {i: likelihood.target(broken.renderer, make_row(i), 64, 64) for i in range(3)}
    never = targets[0].ids[targets[0].places[0]]
    with torch.no_grad():
        broken.model.get_output_embeddings().weight[never] = float("inf")
    found = dict(pair for group in likelihood.stream(broken.model, targets, 3) for pair in group)
    assert found[0] == likelihood.Likelihood(None, 0)


def test_logits_of_replies_only_are_computed_and_so_many_at_a_time() -> None:
    short, long = likelihood.Target([1] * 100, [99]), likelihood.Target([1] * 900, list(range(500, 900)))
    assert likelihood.rows_at_once([short], 8192) == 81
    assert likelihood.rows_at_once([short, long], 81920) == 2  # 400 places each, of 1024
    assert likelihood.rows_at_once([likelihood.Target([1] * 9000, list(range(4000)))], 8192) == 1


# --- the worker -------------------------------------------------------------------------------------------------


def make_job(folder: Path, tiny: Path, make_row: Callable[[int], Row], rows: int = 30, **more: Any) -> Path:
    """Every seventh row is a chat's, whose likelihood is wanted too, every eleventh one's likelihood only."""

    def row(index: int) -> Row:
        metric = "perplexity" if index % 11 == 10 else "chat" if index % 7 == 6 else None
        return replace(make_row(index), metric=metric) if metric else make_row(index)

    folder.mkdir()
    write_rows(folder / "rows.jsonl", map(row, range(rows)))
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
        **more,
    }
    (folder / "job.json").write_text(json.dumps(job), encoding="utf-8")
    return folder


def answers_in(folder: Path) -> dict[str, list[Prediction]]:
    """File -> predictions in the order of their ids, without the time they took."""
    return {
        path.name: sorted((replace(p, seconds=0.0) for p in predictions.read(path)), key=lambda p: p.id)
        for path in (folder / "predictions").glob("*.jsonl")
    }


def facts_of(folder: Path) -> dict[str, dict[str, Any]]:
    """Run the job; what the worker says of each system, without its memory, which is the process's."""
    found = worker.run(Job(folder))["systems"]
    assert all(facts["peak_memory_bytes"] > 2**20 for facts in found.values())
    return {
        name: {key: value for key, value in facts.items() if key != "peak_memory_bytes"}
        for name, facts in found.items()
    }


# Kills itself with half a line written, within the second system: its third append.
_KILLED = """
import os, signal, sys, torch
torch.set_num_threads(1)
from pathlib import Path
from tasks.evaluation import predictions, worker
from tasks.worker import Job
worker._APPEND_S = 0
append, calls = predictions.append, []
def append_then_die(path, new):
    calls.append(path.name)
    if calls.count("step-000001.test.jsonl") == 3:
        append(path, new[:1])
        with path.open("ab") as file:
            file.write(b'{"id": "r0')
        os.kill(os.getpid(), signal.SIGKILL)
    append(path, new)
predictions.append = append_then_die
worker.run(Job(Path(sys.argv[1])))
"""
SAMPLED = {"temperature": 1.5, "top_p": 0.9, "top_k": 40, "seed": 3}


@pytest.mark.parametrize("sampling", [None, SAMPLED])
def test_a_killed_evaluation_goes_on_with_the_same_answers(
    sampling: Any, tiny: Path, make_row: Callable[[int], Row], tmp_path: Path
) -> None:
    whole = make_job(tmp_path / "whole", tiny, make_row, sampling=sampling)
    result = facts_of(whole)
    assert result["step-000001"] == {
        "merged": True,
        "loaded": True,
        "generator": "continuous",
        "same_as_base": False,
    }
    killed = make_job(tmp_path / "killed", tiny, make_row, sampling=sampling)
    process = subprocess.run([sys.executable, "-c", _KILLED, str(killed)], check=False, capture_output=True, cwd=_ROOT)
    assert process.returncode == -signal.SIGKILL, process.stderr.decode()
    left = (killed / "predictions/step-000001.test.jsonl").read_bytes()
    assert left.endswith(b'{"id": "r0') and 0 < left.count(b"\n") < 20
    again = facts_of(killed)
    assert again == {**result, "base": {**result["base"], "loaded": False}}  # all the base's answers were there
    assert answers_in(killed) == answers_in(whole)
    assert all(len(rows) == 30 for rows in answers_in(killed).values())
    assert (killed / "predictions/step-000001.test.jsonl").read_bytes().startswith(left[:-10])


def test_sampled_replies_depend_on_their_seed_and_row_not_on_batches(
    tiny: Path, make_row: Callable[[int], Row], tmp_path: Path
) -> None:
    def replies(name: str, **settings: Any) -> dict[str, str]:
        folder = make_job(tmp_path / name, tiny, make_row, **settings)
        worker.run(Job(folder))
        return {p.id: p.prediction for p in predictions.read(folder / "predictions/base.test.jsonl")}

    first = replies("first", sampling=SAMPLED)
    assert replies("wide", sampling=SAMPLED, batch_tokens=10_000) == first
    assert replies("seed", sampling={**SAMPLED, "seed": 4}) != first
    greedy = replies("greedy")
    assert greedy != first and replies("cold", sampling={**SAMPLED, "temperature": 0}) == greedy
    few = replies("few", sampling=SAMPLED, rows=11)
    assert few == {key: first[key] for key in few} and len(few) == 11


def test_likelihoods_are_measured_where_the_metric_asks_and_perplexity_alone_generates_nothing(
    base: Loaded, tiny: Path, make_row: Callable[[int], Row], tmp_path: Path
) -> None:
    folder = make_job(tmp_path / "job", tiny, make_row, max_reply_tokens=6)
    worker.run(Job(folder))
    found = {p.id: p for p in predictions.read(folder / "predictions/base.test.jsonl")}
    for i in range(30):
        p = found[f"r{i:03d}"]
        assert (p.nll is not None) == (p.metric in ("chat", "perplexity")) == (p.nll_tokens > 0)
        assert (p.tokens == 0) == (p.metric == "perplexity")
        if p.nll is not None:
            row = replace(make_row(i), metric=p.metric)
            target = likelihood.target(base.renderer, row, 14, 6)
            ((_, alone),) = next(likelihood.stream(base.model, {0: target}, 1))
            assert p.nll == pytest.approx(alone.nll, rel=1e-4) and p.nll_tokens == alone.tokens <= 6
    assert {p.metric for p in found.values()} == {"triples", "classification", "chat", "perplexity"}
    assert found["r010"].prediction == "" and found["r010"].finish_reason == "stop"


def test_rows_whose_reference_cannot_be_measured_end_no_evaluation_and_are_counted(tiny: Path, tmp_path: Path) -> None:
    def row(name: str, prompt: tuple[Message, ...]) -> Row:
        return Row(name, (*prompt, Message("assistant", "治疗")), "t", "perplexity")

    short, system = (Message("user", "问"),), tuple(Message("system", "") for _ in range(9))
    job = Job(make_job(tmp_path / "job", tiny, tiny_model.make_row, max_reply_tokens=6))
    rows = [row("a", short), row("b", (*system, *short)), row("c", short)]  # b: empty messages are over the limit
    write_rows(job.folder / "rows.jsonl", rows)
    worker.run(job)
    found = predictions.read(job.folder / "predictions/base.test.jsonl")
    assert {p.id: (p.nll is None, p.nll_tokens > 0) for p in found} == {
        "a": (False, True), "b": (True, False), "c": (False, True)
    }  # fmt: skip
    assert scoring.score(found)["t"].scores.facts["rows_without_likelihood"] == 1


def test_prompts_are_held_at_4_bytes_a_token(base: Loaded, tiny: Path, tmp_path: Path) -> None:
    job = Job(make_job(tmp_path / "job", tiny, tiny_model.make_row, rows=1, max_prompt_tokens=400))
    rows = [Row(str(i), (Message("user", "治疗" * 150), Message("assistant", "a")), "t", "chat") for i in range(40)]
    system: Any = SimpleNamespace(renderer=base.renderer, model=base.model)

    def answers(rows: list[Row]) -> worker._Answers:
        return worker._Answers(job, system, rows, set(), job.folder / "p.jsonl", worker._Counter(job, len(rows)))

    answers(rows[:1])  # what is made once
    tracemalloc.start()
    held = answers(rows)
    used, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    tokens = sum(map(len, held._prompts))
    assert tokens > 40 * 300 and used < 6 * tokens


@pytest.mark.skipif(sys.platform != "linux", reason="a resident peak can be restarted on Linux only")
def test_what_opening_a_system_took_is_not_what_answering_took(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest, during = worker.open_system, []

    def twice(system: Mapping[str, Any], values: Mapping[str, Any], rows: Sequence[Row]) -> Any:
        block = bytearray(b"x" * (300 << 20))
        during.append(peak_resident_bytes())
        del block
        return honest(system, values, rows)

    monkeypatch.setattr(worker, "open_system", twice)
    found = worker.run(Job(make_job(tmp_path / "job", tiny, tiny_model.make_row, rows=3)))["systems"]
    assert all(found[name]["peak_memory_bytes"] < peak - (200 << 20) for name, peak in zip(found, during, strict=True))


def test_an_adapter_of_norm_zero_is_the_base_also_when_all_was_answered_before(
    tiny: Path, make_row: Callable[[int], Row], tmp_path: Path
) -> None:
    from tasks.models import loading

    method = {"name": "lora", "target_modules": ["q_proj", "v_proj"]}
    fresh = lora.attach(loading.load_base(tiny / "base", "cpu", "float32"), lora.Config(**method))  # B is zero
    lora.save(fresh, tmp_path / "zero")
    loading.describe(tmp_path / "zero", method=method, base=tiny / "base", base_fingerprint="0" * 64, step=1)
    folder = make_job(tmp_path / "job", tiny, make_row)
    values = json.loads((folder / "job.json").read_text(encoding="utf-8"))
    values["systems"].append({"name": "zero", "path": str(tmp_path / "zero"), "base": str(tiny / "base")})
    (folder / "job.json").write_text(json.dumps(values), encoding="utf-8")
    first, again = (facts_of(folder) for _ in range(2))
    assert {name: facts["same_as_base"] for name, facts in first.items()} == {
        "base": True, "step-000001": False, "zero": True
    }  # fmt: skip
    assert {name: {**facts, "loaded": True} for name, facts in again.items()} == first
    assert not any(facts["loaded"] for facts in again.values())
    kept = json.loads((folder / "predictions/zero.facts.json").read_text(encoding="utf-8"))
    assert kept["same_as_base"] is True and kept["merged"] is True


def test_systems_answer_their_own_splits_and_other_prompts_are_not_compared(
    tiny: Path, make_row: Callable[[int], Row], tmp_path: Path
) -> None:
    folder = make_job(tmp_path / "job", tiny, make_row)
    values = json.loads((folder / "job.json").read_text(encoding="utf-8"))
    write_rows(folder / "others.jsonl", map(make_row, range(40, 46)))
    values["rows"]["validation"] = str(folder / "others.jsonl")
    for system, split in zip(values["systems"], ("test", "validation"), strict=True):
        system["splits"] = [split]
    (folder / "job.json").write_text(json.dumps(values), encoding="utf-8")
    result = worker.run(Job(folder))["systems"]
    assert {name: len(rows) for name, rows in answers_in(folder).items()} == {
        "base.test.jsonl": 30, "step-000001.validation.jsonl": 6
    }  # fmt: skip
    assert result["step-000001"]["same_as_base"] is None


def test_a_signal_stops_soon_with_the_replies_so_far_kept(
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
    job = Job(make_job(tmp_path / "job", tiny, make_row, rows=12))
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
