"""LoRA's layers while training: a dropout that costs a CPU little, and one function for a layer and its update.

PEFT computes ``layer(x) + B(A(dropout(x))) * scale`` operation by operation, with a copy of the whole output for the
scale and the sum each, and keeps dropout(x) of every layer for the backward pass. Here the scale goes to the [t, r]
matrix in the middle, the sums go into the matrix products, and kept are x itself (which layers of one input share) and
a mask of bytes. The results are PEFT's but for rounding.

Shapes: t tokens, i inputs, o outputs, r rank.
"""

from __future__ import annotations

from typing import Any

import torch
from peft.tuners.lora.layer import Linear
from torch import Tensor, nn
from torch.utils._python_dispatch import is_in_torch_dispatch_mode

#: Dropout is drawn in steps of 1 / 65,536.
_STEPS = 1 << 16


def fast(model: Any) -> Any:
    """Exchange the dropout and the plain linear layers of a PEFT model for those of this module; returns the model."""
    for module in model.modules():
        dropouts = getattr(module, "lora_dropout", None)
        if isinstance(dropouts, nn.ModuleDict):
            for name, layer in dropouts.items():
                if type(layer) is nn.Dropout:
                    dropouts[name] = Dropout(layer.p)
        if type(module) is Linear and type(module.base_layer) is nn.Linear:
            module.__class__ = FusedLinear
    return model


def keep_mask(x: Tensor, p: float) -> tuple[Tensor, float]:
    """Which elements stay, as x is shaped, and the factor that keeps their mean: 1 / (1 - the share really dropped).

    On a CPU one 64-bit draw serves four elements: torch's own Bernoulli numbers cost as much as a matrix product.
    """
    if x.device.type != "cpu":
        return torch.empty_like(x, dtype=torch.bool).bernoulli_(1 - p), 1 / (1 - p)
    dropped = min(round(p * _STEPS), _STEPS - 1)
    count = x.numel()
    # all 64 bits: without a lower bound the highest one stays 0
    draws = torch.empty((count + 3) // 4, dtype=torch.int64).random_(-(1 << 63), None)
    numbers = draws.view(torch.int16)[:count].view(x.shape)
    return numbers >= dropped - _STEPS // 2, _STEPS / (_STEPS - dropped)


class Dropout(nn.Dropout):
    """Dropout of :func:`keep_mask`'s draws on a CPU, the ordinary one elsewhere."""

    def forward(self, input: Tensor) -> Tensor:
        if not self.training or self.p == 0 or input.device.type != "cpu":
            return super().forward(input)
        dropped: Tensor = _Drop.apply(input, self.p)
        return dropped


class _Drop(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, p: float) -> Tensor:
        mask, ctx.factor = keep_mask(x, p)
        ctx.save_for_backward(mask)
        return (x * mask).mul_(ctx.factor)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        (mask,) = ctx.saved_tensors
        return (gradients[0] * mask).mul_(ctx.factor), None


class FusedLinear(Linear):
    """PEFT's linear layer, computed in one function while it trains; in every other case PEFT's own way."""

    def forward(self, x: Tensor, *args: Any, **options: Any) -> Tensor:
        names = self.active_adapters
        if args or options or len(names) != 1 or not self._fits(x, names[0]):
            result: Tensor = super().forward(x, *args, **options)
            return result
        name, layer = names[0], self.base_layer
        y: Tensor = _Fused.apply(
            x,
            layer.weight,
            layer.bias,
            self.lora_A[name].weight,
            self.lora_B[name].weight,
            self.scaling[name],
            getattr(self.lora_dropout[name], "p", 0.0),
        )
        return y

    def _fits(self, x: Tensor, name: str) -> bool:
        weight = self.base_layer.weight
        if not self.training or self.disable_adapters or self.merged or name not in self.lora_A:
            return False
        if name in self.lora_variant or self.lora_bias[name] or self.fan_in_fan_out:
            return False
        if hasattr(weight, "ds_id") or hasattr(self.base_layer, "_hf_hook"):
            return False  # gathered or moved by hooks on the inner modules, which would not be called
        kind = x.device.type
        mixed = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else weight.dtype
        return bool(x.dtype == weight.dtype == mixed)


class _Fused(torch.autograd.Function):
    """x W^T + bias + scale dropout(x) A^T B^T for x [..., i]; the base's weight and bias get no gradient."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, a: Tensor, b: Tensor, scale: float, p: float
    ) -> Tensor:
        flat = x.reshape(-1, x.shape[-1])  # [t, i]
        mask, factor = keep_mask(flat, p) if p else (None, 1.0)
        seen = flat if mask is None else flat * mask
        middle = (seen @ a.to(x.dtype).t()) * (scale * factor)  # [t, r]
        y = nn.functional.linear(flat, weight, bias)  # [t, o]
        # selective checkpointing keeps that very tensor: it must stay as it is
        into = torch.empty_like(y) if is_in_torch_dispatch_mode() else y
        torch.addmm(y, middle, b.to(x.dtype).t(), out=into)
        ctx.save_for_backward(flat, mask, weight, a, b, middle)
        ctx.scale = scale * factor
        return into.view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        flat, mask, weight, a, b, middle = ctx.saved_tensors
        g = gradients[0].reshape(-1, weight.shape[0])  # [t, o]
        back = (g @ b.to(g.dtype)).mul_(ctx.scale)  # [t, r]
        seen = flat if mask is None else flat * mask
        of_a = (back.t() @ seen).to(a.dtype)
        of_b = (g.t() @ middle).to(b.dtype)
        of_x = None
        if ctx.needs_input_grad[0]:
            of_x = g @ weight
            if mask is None:
                of_x.addmm_(back, a.to(g.dtype))
            else:
                of_x.add_((back @ a.to(g.dtype)).mul_(mask))
            of_x = of_x.view(*gradients[0].shape[:-1], -1)
        return of_x, None, None, of_a, of_b, None, None
