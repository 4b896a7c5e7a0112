"""How fast training is beside what the device can do: FLOPs a token, and the measured rate of matrix multiplication.

Source: 2 FLOPs a weight and token forward, 2 for the gradient of the inputs, 2 for that of the weights, as counted by
Kaplan et al. 2020 (https://arxiv.org/abs/2001.08361); attention scores are left out: the share shown is a little low.
"""

from __future__ import annotations

import time
from typing import Any

import torch
from torch import nn

#: Side of the square matrices of the probe: a GPU needs large ones to show its rate.
_SIDES = {"cpu": 1024, "cuda": 8192}

#: Seconds of the probe: in five products (60 ms) a second thread was often not awake yet, and half the rate was shown.
_PROBE_S = 0.3


def flops_per_token(model: Any, *, recomputed: bool) -> tuple[float, float]:
    """FLOPs of a training step for each token, and for each learned token (the output layer)."""
    head = model.get_output_embeddings()
    embeddings = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
    body = output = 0.0
    for module in model.modules():
        weight = getattr(module, "weight", None)
        if not isinstance(weight, torch.Tensor) or weight.ndim != 2 or not isinstance(module, nn.Linear):
            continue
        size = float(module.in_features * module.out_features)
        passes = 2 + int(weight.requires_grad)
        if module is head:
            output += 2 * size * passes
        elif id(weight) not in embeddings:
            body += 2 * size * (passes + int(recomputed))
    return body, output


def matmul_rate(device: torch.device, precision: str) -> float:
    """FLOP/s of a large matrix multiplication on the device, the best within a moment."""
    kind = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision, torch.float32)
    side = _SIDES[device.type]
    a = torch.randn(side, side, device=device).to(kind)
    b = torch.randn(side, side, device=device).to(kind)
    best, ends = float("inf"), time.perf_counter() + _PROBE_S
    while time.perf_counter() < ends:
        began = _now(device)
        torch.mm(a, b)
        best = min(best, _now(device) - began)
    return 2 * side**3 / best


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
