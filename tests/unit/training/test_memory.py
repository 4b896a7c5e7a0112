"""The memory estimate on ChatGLM3-6B's shape, against figures computed by hand and published ones."""

from __future__ import annotations

import pytest

from tasks.training import memory

CHATGLM3 = {"parameters": 6_243_584_000, "hidden_size": 4096, "layers": 28, "vocabulary": 65024}


def estimate(**changes: object) -> memory.MemoryEstimate:
    settings = {"trainable": 1_949_696, "rows": 4, "tokens": 768, "precision": "bf16", "gradient_checkpointing": True}
    return memory.estimate(CHATGLM3, **{**settings, **changes})  # type: ignore[arg-type]


def test_parts_are_those_computed_by_hand() -> None:
    found = estimate()
    assert found.weights == 2 * 6_243_584_000
    assert found.trained == 16 * 1_949_696
    # 3072 places: 29 checkpoints of 4096 half-precision values each, and three float32 tensors over the vocabulary
    assert found.activations == 3072 * (29 * 4096 * 2 + 65024 * 12)


def test_lora_at_the_published_settings_is_near_the_published_memory() -> None:
    # ChatGLM3's repository: 14,082 MiB for LoRA at batch 4, 256 + 512 tokens, with checkpointing
    assert estimate().total / (1 << 20) == pytest.approx(14_082, rel=0.15)


def test_what_saves_memory_lowers_the_estimate() -> None:
    whole = estimate(gradient_checkpointing=False).total
    assert estimate(gradient_checkpointing=False, rows=1).total < whole
    assert estimate().total < whole
    assert estimate(precision="fp32").total > estimate().total


@pytest.mark.parametrize(
    ("method", "exact", "tolerance"),
    [
        ({"name": "full"}, 6_243_584_000, 0.0),
        # 28 layers, all linear layers, rank 8: q 65,536 k 34,816 v 34,816 o 65,536 gate_up 251,904 down 142,336
        ({"name": "lora", "r": 8}, 28 * 594_944, 0.2),
        ({"name": "freeze", "trainable_layers": 5}, 1_019_804_160, 0.05),
        # 128 tokens, keys and values of 2 groups of 128 in 28 layers
        ({"name": "ptuning_v2", "num_virtual_tokens": 128}, 128 * 28 * 2 * 256, 0.0),
        # an embedding of 4096, then 4096 -> 512 -> 28 * 2 * 256, with biases
        (
            {"name": "ptuning_v2", "num_virtual_tokens": 128, "prefix_projection": True, "encoder_hidden_size": 512},
            128 * 4096 + 4096 * 512 + 512 + 512 * 14_336 + 14_336,
            0.0,
        ),
        ({"name": "ptuning", "num_virtual_tokens": 20}, 20 * 4096 + 3 * (4096 * 4096 + 4096), 0.0),
    ],
)
def test_trainable_parameters_are_about_right(method: dict[str, object], exact: int, tolerance: float) -> None:
    shape = {**CHATGLM3, "key_value_heads": 2, "head_size": 128}
    assert memory.trainable_parameters(shape, method) == pytest.approx(exact, rel=tolerance)
