"""The planner: which micro-batch is chosen, what is refused and with which advice, FLOPs, time, disk."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tasks.errors import ConfigError, ResourceError
from tasks.models import outline
from tasks.models.benchmark import CHATGLM3
from tasks.training import planning
from tasks.training.config import HardwareConfig, TrainingConfig
from tasks.training.planning import Run

GIB = 1 << 30
LORA = {"name": "lora", "r": 8, "lora_dropout": 0.1, "target_modules": "all-linear"}


def training(**changes: Any) -> TrainingConfig:
    return TrainingConfig.model_validate({"batch_size": 16, **changes})


@pytest.fixture
def run(tmp_path: Path) -> Run:
    (tmp_path / "config.json").write_text(json.dumps(CHATGLM3), encoding="utf-8")
    shape = outline.before_import(tmp_path, "chatglm3")
    assert shape is not None
    return Run(
        outline=shape,
        method=LORA,
        training=training(),
        hardware=HardwareConfig(),
        longest=768,
        device="cuda",
        precision="bf16",
        available=80 * GIB,
    )


def test_a_whole_step_is_computed_at_once_where_it_fits(run: Run) -> None:
    chosen = planning.choose_micro_batch(replace(run, available=1000 * GIB))
    assert chosen.to_json() == {"rows": 16, "tokens": 16 * 768}
    assert chosen.memory == run.estimate(16 * 768)


def test_the_largest_that_fits_is_chosen_and_one_token_more_does_not_fit(run: Run) -> None:
    tight = replace(run, available=24 * GIB)
    chosen = planning.choose_micro_batch(tight)
    assert chosen.rows == 16 and 768 <= chosen.tokens < 16 * 768
    assert chosen.memory.needed <= tight.usable < tight.estimate(chosen.tokens + 1).needed


def test_more_memory_never_chooses_less(run: Run) -> None:
    tokens = [planning.choose_micro_batch(replace(run, available=n * GIB)).tokens for n in (20, 24, 32, 48, 80)]
    assert tokens == sorted(tokens) and tokens[0] < tokens[-1]


def test_processes_share_the_rows_of_a_step(run: Run) -> None:
    shared = replace(run, hardware=HardwareConfig(processes=3), available=1000 * GIB)
    assert planning.choose_micro_batch(shared).to_json() == {"rows": 6, "tokens": 6 * 768}


def test_what_is_configured_is_kept_where_it_fits(run: Run) -> None:
    assert planning.choose_micro_batch(replace(run, training=training(micro_batch_size=2))).to_json() == {
        "rows": 2,
        "tokens": 2 * 768,
    }
    by_tokens = planning.choose_micro_batch(replace(run, training=training(micro_batch_tokens=2000)))
    assert by_tokens.to_json() == {"rows": 16, "tokens": 2000}


def test_a_configured_micro_batch_that_is_too_large_names_the_largest_that_is_not(run: Run) -> None:
    tight = replace(run, available=24 * GIB, training=training(micro_batch_size=16))
    with pytest.raises(
        ConfigError, match=r"training\.micro_batch_size=16: 16 rows of 768 tokens need .*; at most (\d+),"
    ) as found:
        planning.choose_micro_batch(tight)
    most = int(str(found.value).split("at most ")[1].split(",")[0])
    assert tight.fits(most * 768) and not tight.fits((most + 1) * 768)
    with pytest.raises(ConfigError, match=r"training\.micro_batch_tokens=12000: .*; at most \d+, or null"):
        planning.choose_micro_batch(replace(tight, training=training(micro_batch_tokens=12000)))


def refusal(run: Run) -> str:
    with pytest.raises(ResourceError) as found:
        planning.choose_micro_batch(run)
    assert "\n" not in str(found.value)
    return str(found.value)


def test_one_row_that_does_not_fit_is_refused_with_checkpointing_first(run: Run) -> None:
    # weights alone take 11.6 GiB
    text = refusal(replace(run, longest=4096, available=24 * GIB))
    assert text.startswith("training does not fit: one row of 4096 tokens needs about ")
    assert "weights 11.7" in text and "of the cuda's 24.0 GiB" in text
    assert "what would fit: training.gradient_checkpointing=full; or rows of at most " in text
    assert planning.choose_micro_batch(
        replace(run, longest=4096, available=24 * GIB, training=training(gradient_checkpointing="full"))
    )


def test_weights_that_do_not_fit_are_quantised(run: Run) -> None:
    text = refusal(replace(run, available=14 * GIB))
    assert "what would fit: method=qlora" in text
    assert "gradient_checkpointing" not in text  # it would not suffice alone


def test_full_fine_tuning_that_does_not_fit_becomes_lora(run: Run) -> None:
    text = refusal(replace(run, method={"name": "full"}, available=24 * GIB))
    assert "optimizer 46.5" in text and "method=lora" in text
    assert "zero3" not in text  # one process has nobody to share with
    shared = replace(run, method={"name": "full"}, available=80 * GIB, hardware=HardwareConfig(processes=8))
    assert "hardware.strategy=zero3" in refusal(shared)


def test_several_settings_together_are_named_where_none_suffices_alone(run: Run) -> None:
    text = refusal(replace(run, longest=8000, available=9 * GIB))
    assert "what would fit: training.gradient_checkpointing=full method=qlora" in text
    assert "no setting of this model fits" in refusal(replace(run, available=2 * GIB))


def test_flops_are_those_computed_by_hand(run: Run) -> None:
    # body of 28 layers: q 4096 x 4096, k and v 256 x 4096, o, gate_up 27392 x 4096, down 4096 x 13696
    body = 28 * (4096 * 4096 * 2 + 2 * 256 * 4096 + 27_392 * 4096 + 4096 * 13_696)
    attention = 28 * 2 * 1024 * 4096
    adapters = 28 * 594_944
    lora = planning.work(run, 1024)
    # 4 FLOPs a frozen weight; attention once forward and twice backward; 6 a trained one
    assert lora.token == pytest.approx(4 * body + 3 * attention + 6 * adapters, rel=1e-12)
    assert lora.learned == 4 * 65_024 * 4096
    again = planning.work(replace(run, training=training(gradient_checkpointing="full")), 1024)
    assert again.token - lora.token == pytest.approx(2 * body + attention, rel=1e-12)
    full = planning.work(replace(run, method={"name": "full"}), 1024)
    assert full.token == pytest.approx(6 * body + 3 * attention, rel=1e-12)
    assert full.learned == 6 * 65_024 * 4096
    # the last layer alone: nothing goes back through the others
    last = planning.work(replace(run, method={"name": "freeze", "trainable_layers": 1}), 1024)
    assert last.token == pytest.approx((2 * 27 + 6) / 28 * body + (27 + 3) / 28 * attention, rel=1e-12)


def test_work_counts_epochs_or_steps(run: Run) -> None:
    tokens, rows = {"train": 80_000, "train_learned": 20_000}, {"train": 400}
    one = planning.work(run, 200)
    by_epochs = planning.work_of(replace(run, training=training(epochs=2)), tokens, rows)
    assert by_epochs == pytest.approx(2 * one.of(80_000, 20_000))
    by_steps = planning.work_of(replace(run, training=training(max_steps=25)), tokens, rows)  # 25 x 16 rows: one pass
    assert by_steps == pytest.approx(one.of(80_000, 20_000))


def test_the_rate_is_the_newest_measured_one_else_said_to_be_assumed(run: Run, tmp_path: Path) -> None:
    gpu = {"gpus": [{"name": "NVIDIA H100 80GB HBM3"}]}
    assumed = planning.rate(tmp_path, "cuda", gpu)
    assert assumed.flops == 989e12 * 0.4 and "assumed: 40% of 989 TFLOP/s for NVIDIA H100" in assumed.source
    assert "assumed for 2 CPU cores" in planning.rate(tmp_path, "cpu", {"cpus": 2}).source
    for number, device in enumerate(("cpu", "cuda")):
        folder = tmp_path / "train" / f"lora-{number}"
        folder.mkdir(parents=True)
        (folder / "artifact.json").write_text("{}", encoding="utf-8")
        (folder / "job.json").write_text(json.dumps({"device": device}), encoding="utf-8")
        (folder / "result.json").write_text(json.dumps({"mfu": 0.5, "matmul_flops": 2e11}), encoding="utf-8")
    assert planning.rate(tmp_path, "cpu", {"cpus": 2}) == planning.Rate(1e11, "measured by lora-0")


def test_time_follows_from_work_and_rate(run: Run) -> None:
    rate = planning.Rate(100e9, "measured by x")
    assert planning.duration(run, 6e12, rate) == "6.0 TFLOP, about 60 s at 100 GFLOP/s (measured by x)"
    two = replace(run, hardware=HardwareConfig(processes=2))
    assert "about 1.0 h at 200" not in planning.duration(two, 720e12, rate)
    assert "about 60 min at 200 GFLOP/s" in planning.duration(two, 720e12, rate)


def test_disk_counts_weights_and_the_optimisers_of_points_to_resume_from(run: Run) -> None:
    # 28 x 594,944 trained: 3 checkpoints, the best, and one being written; moments of 3
    assert planning.disk_bytes(run) == 28 * 594_944 * (4 * 5 + 8 * 3)
