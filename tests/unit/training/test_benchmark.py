"""The training benchmark: its arithmetic, its rows, and that the recipes it compares train the same thing."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from flows.training_bench import TrainBench, shown, train_bench, write_random_rows
from tasks.errors import ConfigError, UserError
from tasks.models.tokens import TokenRows
from tasks.training import benchmark

ROOT = Path(__file__).parents[3]
LENGTHS = [(12, 4), (30, 20), (7, 3), (19, 9)]


def job(folder: Path, model: Path, **changes: Any) -> dict[str, Any]:
    """A measurement of four rows, a step each time."""
    from tasks.methods.lora import Config
    from tasks.training.config import TrainingConfig

    training = TrainingConfig(max_steps=4, batch_size=4, learning_rate=1e-3, save_steps=4, logging_steps=1)
    return {
        "model": str(model), "layout": None, "shape": None, "tokens": str(folder / "tokens"),
        "method": Config(name="lora").model_dump(mode="json"), "training": training.model_dump(mode="json"),
        "base_fingerprint": "b", "device": "cpu", "precision": "fp32", "steps": 4, "seed": 42, "warmup_steps": 1,
        "batch_size": 4, "micro_batch_size": 4, "profiles": False,
        "recipes": ["seeds", "ours"], "repeats": 1, "profile": False, "mean_row_tokens": 17.0, "rows": 4, **changes,
    }  # fmt: skip


def test_random_rows_have_the_asked_lengths_and_end_in_what_is_learned(tmp_path: Path) -> None:
    write_random_rows(tmp_path, LENGTHS, vocabulary=50)
    rows = TokenRows(tmp_path, "train")
    assert rows.lengths.tolist() == [12, 30, 7, 19]
    assert rows.targets.tolist() == [4, 20, 3, 9]
    ids, learn = rows.row(2)
    assert learn.tolist() == [0, 0, 0, 0, 1, 1, 1]
    assert ids.min() >= 4 and ids.max() < 50
    assert len(TokenRows(tmp_path, "validation")) == 1


CODE = """
import json, sys, torch
from pathlib import Path
torch.set_num_threads(1)
from tasks.training import baselines, benchmark
from tasks.worker import Job
found = {}
for name, profiles in (("seeds", False), ("trainer", False), ("ours", False), ("ours", True)):
    folder = Path(sys.argv[1]) / f"{name}{profiles}"
    folder.mkdir()
    values = {**json.loads(Path(sys.argv[2]).read_text()), "recipe": name, "profiles": profiles}
    (folder / "job.json").write_text(json.dumps(values))
    found[f"{name}{'-profile' if profiles else ''}"] = benchmark.run(Job(folder))
rows = [{"input_ids": [5, 6, 7], "labels": [-100, 6, 7]}, {"input_ids": [8], "labels": [-100]}]
found["collated"] = {k: v.tolist() for k, v in baselines.collate(rows).items()}
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def measured(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Every recipe once, in one process."""
    folder = tmp_path_factory.mktemp("bench")
    write_random_rows(folder / "tokens", LENGTHS, vocabulary=200)
    (folder / "values.json").write_text(json.dumps(job(folder, tiny_base)), encoding="utf-8")
    command = [sys.executable, "-c", CODE, str(folder), str(folder / "values.json")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, encoding="utf-8", check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return dict(json.loads(done.stdout.splitlines()[-1]))


def test_every_recipe_trains_the_same_rows(measured: dict[str, Any]) -> None:
    for name in ("seeds", "trainer", "ours"):
        steps = measured[name]["steps"]
        assert [(step["tokens"], step["learned"]) for step in steps] == [(68, 36)] * 4, name
        assert all(step["seconds"] > 0 for step in steps)
    # four rows padded to 30 tokens; ours has no padding
    assert [step["computed"] for step in measured["seeds"]["steps"]] == [120] * 4
    assert [step["computed"] for step in measured["ours"]["steps"]] == [68] * 4


def test_recipes_start_from_the_same_loss_and_learn(measured: dict[str, Any]) -> None:
    seeds, ours = ([step["loss"] for step in measured[name]["steps"]] for name in ("seeds", "ours"))
    assert ours[0] == pytest.approx(seeds[0], rel=1e-4)  # updates start at zero, so that dropout has no effect yet
    assert seeds[-1] < seeds[0] and ours[-1] < ours[0]


def test_the_same_work_is_counted_for_every_recipe(measured: dict[str, Any]) -> None:
    assert measured["seeds"]["flops"] == pytest.approx(measured["ours"]["flops"])
    # 4 FLOPs a frozen weight: forward, and the gradient of the inputs. 303 pieces of 32 numbers
    vocabulary = measured["ours"]["flops"][1] / (4 * 32)
    assert vocabulary == int(vocabulary) > 256


def test_the_profile_finds_the_matrix_multiplications(measured: dict[str, Any]) -> None:
    products = measured["ours-profile"]["products"]
    assert 0 < products["time_share"] < 1
    assert products["flops"] > 0
    assert measured["ours"]["products"] == {}


def test_batches_of_the_seeds_are_padded_on_the_left(measured: dict[str, Any]) -> None:
    assert measured["collated"] == {
        "input_ids": [[5, 6, 7], [0, 0, 8]],
        "attention_mask": [[1, 1, 1], [0, 0, 1]],
        "labels": [[-100, 6, 7], [-100, -100, -100]],
    }


def step(seconds: float, tokens: int, learned: int, computed: int, loss: float = 1.0) -> dict[str, Any]:
    return {"seconds": seconds, "tokens": tokens, "learned": learned, "computed": computed, "loss": loss}


def test_medians_ratios_and_shares_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first step is left out; ours needs half the time; 10 FLOPs a token and 100 a learned one."""
    seconds = {"seeds": iter([2.0, 4.0, 1.0]), "ours": iter([1.0, 1.0, 5.0])}

    def worker(values: Any, name: str, *, profile: bool = False) -> dict[str, Any]:
        if name == "matmul":
            return {"flops": next(peaks)}
        if profile:
            return {"products": {"time_share": 0.5, "flops": 2000.0}}
        asked.append(name)
        steps = [step(99, 1, 1, 1, 3.0), step(next(seconds[name]), 100, 20, 125, 2.0)]
        return {"steps": steps, "peak": 3 << 20, "flops": [10.0, 100.0]}

    peaks = iter([3000.0, 4000.0, 3500.0])
    asked: list[str] = []
    monkeypatch.setattr(benchmark, "_worker", worker)
    values = {"recipes": ["ours", "seeds"], "repeats": 3, "profile": True, "warmup_steps": 1, "mean_row_tokens": 25.0}
    found = benchmark.measure(values)
    assert asked == ["seeds", "ours", "ours", "seeds", "seeds", "ours"]  # in turns
    assert found["matmul_flops"] == 4000.0
    seeds, ours = found["results"]
    assert (seeds["tokens_per_second"], seeds["slowest"], seeds["fastest"]) == (50.0, 25.0, 100.0)
    assert (ours["tokens_per_second"], ours["learned_tokens_per_second"], ours["rows_per_second"]) == (100.0, 20.0, 4.0)
    assert ours["speed_to_first"] == 2.0
    assert ours["padding"] == pytest.approx(0.2)
    assert ours["mfu"] == pytest.approx((100 * 10 + 20 * 100) / 4000)
    text = benchmark.table(found)
    assert re.search(r"\| ours \| 100.0 \(20-100\) .* \| 75.0% \| 3 \| 50% \| 50% of the peak \| 2.00x \|", text)


@pytest.mark.parametrize(
    ("keys", "problem"),
    [
        ({"batch_size": 6}, "micro_batch_size=4: must divide batch_size=6"),
        ({"method": "full"}, "method=full: the other recipes know lora only"),
        ({"recipes": ["llamafactory"]}, "llamafactory: recipes must name it"),
        ({"shape": "chatglm3_6b"}, "shape=chatglm3_6b: has no tokenizer"),
    ],
)
def test_what_cannot_be_compared_is_one_line(keys: dict[str, Any], problem: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(problem)):
        train_bench(TrainBench(**keys))


@pytest.mark.parametrize("text", ["{}", "[[1, 2]]", "[[5]]", "no json"])
def test_a_file_of_lengths_that_is_none(tmp_path: Path, text: str) -> None:
    file = tmp_path / "lengths.json"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=r"must be a JSON list of \[tokens, learned\]"):
        train_bench(TrainBench(shape="chatglm3_6b", lengths=file, root=tmp_path / "runs"))


def test_a_job_for_another_machine_stands_alone(tmp_path: Path) -> None:
    config = TrainBench(
        shape="chatglm3_6b", layers=1, tokens=16, rows=8, device="cpu", root=tmp_path / "runs", job=tmp_path / "job",
        recipes=["ours"], repeats=2,
    )  # fmt: skip
    result = train_bench(config)
    assert shown(result) == f"run: python -m tasks.training.benchmark {tmp_path / 'job'}"
    values = json.loads((tmp_path / "job" / "job.json").read_text(encoding="utf-8"))
    assert (values["tokens"], values["model"], values["rows"], values["steps"]) == ("tokens", "", 8, 4)
    assert values["shape"]["num_hidden_layers"] == 1 and values["shape"]["vocab_size"] == 65024
    assert values["training"]["max_steps"] == 4
    assert TokenRows(tmp_path / "job" / "tokens", "train").lengths.tolist() == [16] * 8
    with pytest.raises(UserError, match="holds something already"):
        train_bench(config)


@pytest.mark.slow
def test_the_whole_comparison_in_processes_of_its_own(tmp_path: Path, tiny_base: Path) -> None:
    write_random_rows(tmp_path / "tokens", LENGTHS, vocabulary=200)
    found = benchmark.measure(job(tmp_path, tiny_base))
    assert [result["recipe"] for result in found["results"]] == ["seeds", "ours"]
    assert all(result["tokens_per_second"] > 0 and result["peak_mib"] > 100 for result in found["results"])
    assert "| ours |" in benchmark.table(found)
