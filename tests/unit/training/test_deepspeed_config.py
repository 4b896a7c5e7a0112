"""DeepSpeed's JSON from our settings, and users' files: filled in where they say "auto", refused where they differ."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tasks.errors import ConfigError
from tasks.training.config import HardwareConfig, TrainingConfig
from tasks.training.deepspeed_config import Settings, generate, problems, read

OURS = Settings(
    stage=2,
    offload=False,
    device="cuda",
    world=4,
    batch_size=64,
    micro_batch_size=4,
    max_grad_norm=1.0,
    precision="bf16",
    hidden_size=4096,
    learning_rate=5e-5,
    betas=(0.9, 0.999),
    epsilon=1e-8,
    weight_decay=0.0,
)
#: Source: ChatGLM3 finetune_demo/configs/ds_zero_2.json and ds_zero_3.json (Apache-2.0), their keys and values.
DS_ZERO_2: dict[str, Any] = {
    "fp16": {
        "enabled": "auto",
        "loss_scale": 0,
        "loss_scale_window": 1000,
        "initial_scale_power": 12,
        "hysteresis": 2,
        "min_loss_scale": 1,
    },
    "bf16": {"enabled": "auto"},
    "zero_optimization": {
        "stage": 2,
        "allgather_partitions": True,
        "allgather_bucket_size": 5e8,
        "overlap_comm": False,
        "reduce_scatter": True,
        "reduce_bucket_size": 5e8,
        "contiguous_gradients": True,
    },
    "gradient_accumulation_steps": "auto",
    "gradient_clipping": "auto",
    "steps_per_print": 2000,
    "train_batch_size": "auto",
    "train_micro_batch_size_per_gpu": "auto",
    "wall_clock_breakdown": False,
}
DS_ZERO_3: dict[str, Any] = {
    "train_micro_batch_size_per_gpu": "auto",
    "zero_allow_untested_optimizer": True,
    "bf16": {"enabled": "auto"},
    "optimizer": {"type": "AdamW", "params": {"lr": "auto", "betas": "auto", "eps": "auto", "weight_decay": "auto"}},
    "zero_optimization": {
        "stage": 3,
        "allgather_partitions": True,
        "allgather_bucket_size": 5e8,
        "reduce_scatter": True,
        "contiguous_gradients": True,
        "overlap_comm": True,
        "sub_group_size": 1e9,
        "reduce_bucket_size": "auto",
        "stage3_prefetch_bucket_size": "auto",
        "stage3_param_persistence_threshold": "auto",
        "stage3_max_live_parameters": 1e9,
        "stage3_max_reuse_distance": 1e9,
        "stage3_gather_16bit_weights_on_model_save": True,
    },
}


def refusal(settings: Settings, own: dict[str, Any]) -> str:
    with pytest.raises(ConfigError) as caught:
        generate(settings, own, "hardware.deepspeed='my.json'")
    (line,) = caught.value.problems
    assert line.startswith("hardware.deepspeed='my.json': ")
    return line.removeprefix("hardware.deepspeed='my.json': ")


def test_chatglm3s_zero_2_file_is_taken_and_its_auto_values_are_filled() -> None:
    made = generate(OURS, DS_ZERO_2)
    assert made["zero_optimization"] == DS_ZERO_2["zero_optimization"]
    assert made["gradient_clipping"] == 1.0 and made["steps_per_print"] == 2000
    # precision and accumulation are the engine's; the loss scale's settings are kept for it
    assert not made["bf16"]["enabled"] and not made["fp16"]["enabled"]
    assert (made["fp16"]["initial_scale_power"], made["fp16"]["loss_scale_window"]) == (12, 1000)
    assert made["train_batch_size"] == 4 and made["gradient_accumulation_steps"] == 1


def test_chatglm3s_zero_3_file_gets_sizes_from_the_models_width() -> None:
    zero = generate(replace(OURS, stage=3), DS_ZERO_3)["zero_optimization"]
    assert zero["reduce_bucket_size"] == 16_777_216  # 4096 x 4096
    assert zero["stage3_prefetch_bucket_size"] == 15_099_494  # nine tenths of it
    assert zero["stage3_param_persistence_threshold"] == 40_960  # 10 x 4096
    assert zero["stage"] == 3 and zero["sub_group_size"] == 1e9


def test_offload_keeps_the_optimiser_on_the_cpu_and_under_zero_3_the_weights() -> None:
    two, three = (generate(replace(OURS, stage=n, offload=True))["zero_optimization"] for n in (2, 3))
    assert two["offload_optimizer"] == {"device": "cpu", "pin_memory": True} and "offload_param" not in two
    assert three["offload_param"] == {"device": "cpu", "pin_memory": True}
    assert "offload_optimizer" not in generate(OURS)["zero_optimization"]
    pinned = generate(
        replace(OURS, offload=True),
        {"zero_optimization": {"offload_optimizer": {"device": "cpu", "pin_memory": False}}},
    )
    assert pinned["zero_optimization"]["offload_optimizer"] == {"device": "cpu", "pin_memory": False}


@pytest.mark.parametrize(
    ("own", "message"),
    [
        ({"train_batch_size": 32}, "train_batch_size=32, but training.batch_size gives 64"),
        ({"gradient_clipping": 0.5}, "gradient_clipping=0.5, but training.max_grad_norm gives 1.0"),
        ({"fp16": {"enabled": True}}, "fp16.enabled=True, but training.precision (bf16) gives False"),
        ({"zero_optimization": {"stage": 3}}, "zero_optimization.stage=3, but hardware.strategy=zero2 gives 2"),
        ({"optimizer": {"params": {"lr": 1e-4}}}, "optimizer.params.lr=0.0001, but training.learning_rate gives 5e-05"),
        ({"optimizer": {"type": "Lamb"}}, "optimizer.type='Lamb': the optimiser is AdamW"),
        (
            {"zero_optimization": {"offload_optimizer": {"device": "nvme"}}},
            "zero_optimization.offload_optimizer.device='nvme', but hardware.offload=False gives 'none'",
        ),
        ({"scheduler": {"type": "WarmupLR"}}, "scheduler: not taken"),
        ({"zero_optimization": {"zero_quantized_gradients": True}}, "zero_optimization.zero_quantized_gradients: not"),
        ({"fp16": True}, "fp16=True: must be an object"),
        (
            {"train_micro_batch_size_per_gpu": 8},
            "train_micro_batch_size_per_gpu=8, but training.micro_batch_size gives",
        ),
        (
            {"train_micro_batch_size_per_gpu": 4, "gradient_accumulation_steps": 2},
            "train_micro_batch_size_per_gpu 4 x gradient_accumulation_steps 2 x 4 processes = 32 rows a step, but "
            "training.batch_size=64: set training.batch_size=32",
        ),
        (
            {"gradient_accumulation_steps": 5},
            "gradient_accumulation_steps=5, but training.batch_size=64 over 4 processes of 4 rows at once gives 4; "
            "nearest: training.batch_size=60 or training.batch_size=80",
        ),
        (
            {"gradient_accumulation_steps": 8},
            "gradient_accumulation_steps=8, but training.batch_size=64 over 4 processes of 4 rows at once gives 4; "
            "nearest: training.micro_batch_size=2",
        ),
    ],
)
def test_contradiction_names_the_key_and_both_values(own: dict[str, Any], message: str) -> None:
    assert refusal(OURS, own).startswith(message)


def test_file_that_says_the_same_is_taken() -> None:
    same = {
        "train_batch_size": 64,
        "train_micro_batch_size_per_gpu": 4,
        "gradient_accumulation_steps": 4,
        "gradient_clipping": 1,
        "bf16": {"enabled": True},
        "optimizer": {"type": "AdamW", "params": {"lr": 5e-5, "betas": [0.9, 0.999], "eps": 1e-8, "weight_decay": 0}},
    }
    assert generate(OURS, same) == generate(OURS)


def test_every_contradiction_is_shown_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        generate(OURS, {"train_batch_size": 1, "gradient_clipping": 9, "amp": {}})
    assert [p.split(": ")[1].split("=")[0] for p in caught.value.problems] == [
        "amp",
        "train_batch_size",
        "gradient_clipping",
    ]


def test_unreadable_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"hardware\.deepspeed='.*none\.json': cannot be read"):
        read(tmp_path / "none.json")
    for text, why in (("{", "not JSON"), ("[]", "must hold a JSON object, not list")):
        (tmp_path / "bad.json").write_text(text, encoding="utf-8")
        with pytest.raises(ConfigError, match=why):
            read(tmp_path / "bad.json")


def test_zero_excludes_what_it_cannot_divide(tmp_path: Path) -> None:
    file = tmp_path / "my.json"
    file.write_text(json.dumps({"train_batch_size": 8, "bf16": {"enabled": True}}), encoding="utf-8")
    hardware = HardwareConfig(processes=2, strategy="zero3", deepspeed=file)
    training = TrainingConfig(optimizer="adamw_8bit", compile=True, precision="auto")
    found = list(problems(training, hardware, "nf4"))
    assert [line.split(":")[0] for line in found] == [
        "model.quantization=nf4",
        "training.optimizer=adamw_8bit",
        "training.compile=True",
        f"hardware.deepspeed={str(file)!r}",
    ]
    assert "train_batch_size=8, but training.batch_size gives 16" in found[-1]
    assert not list(problems(TrainingConfig(), HardwareConfig(strategy="zero2"), "nf4"))
