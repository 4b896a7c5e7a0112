"""The loss of a micro-batch, computed at learned tokens only and without ever holding all their logits.

A vocabulary of 65,024 takes 260 kB of float32 logits a token, three times with its gradient: for 8,000 tokens that is
more than a 6B model's activations. Here the output layer sees only tokens whose next one is learned, a chunk at a time;
where it is not trained itself, its gradient is made along with the loss and no logits are kept.

Shapes: b rows, s tokens (t where rows are packed), m learned tokens, d hidden size, v vocabulary.
Source: the idea of a chunked cross-entropy as in torchtune and Liger; the code is this project's.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from tasks.errors import ConfigError, ModelError
from tasks.models import packed

log = logging.getLogger(__name__)

#: Learned tokens whose logits exist at one time.
CHUNK = 1024
#: Largest relative difference of two ways to compute the same loss that is taken for rounding, by type.
_TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 3e-2, torch.float16: 1e-2}


class Objective(nn.Module):
    """A model with its method, whose output is the loss: what is wrapped for several devices.

    Attributes:
        packs: the model takes packed batches.
        chunks: the output layer is applied by this module, chunk by chunk.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model
        self.packs = False
        self.chunks = False

    def forward(self, batch: dict[str, Any]) -> Tensor:
        """Cross-entropy summed over the batch's learned tokens; a scalar in float32."""
        inputs = dict(batch)
        places, targets = inputs.pop("places"), inputs.pop("targets")
        if hasattr(self.model, "prompted"):  # virtual tokens before every row
            inputs, places = self.model.prompted(inputs, places)
        causal = base_model(self.model)
        if not self.chunks:
            logits = causal(**inputs, use_cache=False).logits
            return functional.cross_entropy(logits.flatten(0, 1)[places].float(), targets, reduction="sum")
        hidden = causal.base_model(**inputs, use_cache=False).last_hidden_state.flatten(0, 1)[places]  # [m, d]
        return summed_cross_entropy(hidden, causal.get_output_embeddings(), targets)

    def choose(self, packing: str, sample: Callable[[bool], dict[str, Any]]) -> None:
        """Find out how this model's loss can be computed, by computing that of a few rows in several ways.

        Args:
            packing: "auto" packs where packed rows give the loss of padded ones, "on" insists, "off" does not.
            sample: the same rows of the data, packed (True) or padded, on the model's device.

        Raises:
            ConfigError: packing is "on", and this model cannot.
        """
        training = self.model.training
        self.model.eval()
        try:
            expected = self._loss_of(sample(False))
            # a cap on the logits may change the loss by less than half precision's rounding
            capped = getattr(base_model(self.model).config.get_text_config(), "final_logit_softcapping", None)
            self.chunks = capped is None
            if self.chunks:
                self.chunks = self._same(lambda: self._loss_of(sample(False)), expected, "the output layer apart")
            if packing != "off":
                self._enable_packing(packing, lambda: self._loss_of(sample(True)), expected)
        finally:
            self.model.train(training)

    def _enable_packing(self, packing: str, way: Callable[[], float], expected: float) -> None:
        causal = base_model(self.model)
        before = causal.config._attn_implementation
        reason = "packed rows do not have the loss of rows alone"
        try:
            packed.enable(causal)
            self.packs = self._same(way, expected, "packed rows")
        except ModelError as error:
            reason = str(error)
        if self.packs:
            return
        if causal.config._attn_implementation != before:
            causal.set_attn_implementation(before)
        if packing == "on":
            raise ConfigError(f"training.packing=on: {reason}; use training.packing=auto or off")
        log.info("rows are padded, not packed: %s", reason)

    def _same(self, way: Callable[[], float], expected: float, what: str) -> bool:
        """Whether another way to compute the sample's loss gives the expected one."""
        try:
            found = way()
        except (TypeError, ValueError, RuntimeError, AttributeError, ModelError) as error:
            log.info("%s: not for this model: %s", what, " ".join(str(error).split())[:200])
            return False
        limit = _TOLERANCE.get(self._compute_type(), 3e-2)
        if abs(found - expected) <= limit * abs(expected):
            return True
        log.info("%s: not for this model: a loss of %.4f in place of %.4f", what, found, expected)
        return False

    def _compute_type(self) -> torch.dtype:
        for device in ("cuda", "cpu"):
            if torch.is_autocast_enabled(device):
                return torch.get_autocast_dtype(device)
        kind: torch.dtype = next(self.model.parameters()).dtype
        return kind

    @torch.no_grad()
    def _loss_of(self, batch: dict[str, Any]) -> float:
        return float(self(batch))


def base_model(model: Any) -> Any:
    """The plain causal language model inside a method's wrapper."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def to_device(batch: dict[str, Any], device: Any) -> dict[str, Any]:
    return {k: v.to(device, non_blocking=True) if isinstance(v, Tensor) else v for k, v in batch.items()}


@torch.compiler.disable
def summed_cross_entropy(hidden: Tensor, head: Any, targets: Tensor) -> Tensor:
    """Cross-entropy of ``head(hidden)`` [m, v] with targets [m], summed, in float32, a chunk of tokens at a time."""
    plain = type(head) is nn.Linear and not any(p.requires_grad for p in head.parameters())
    if plain and hidden.requires_grad:
        loss: Tensor = _FrozenHead.apply(hidden, head.weight, head.bias, targets)
        return loss
    total = hidden.new_zeros((), dtype=torch.float32)
    for part, wanted in zip(hidden.split(CHUNK), targets.split(CHUNK), strict=True):
        if torch.is_grad_enabled() and len(hidden) > CHUNK:
            total = total + checkpoint(_loss, head, part, wanted, use_reentrant=False)
        else:
            total = total + _loss(head, part, wanted)
    return total


def _loss(head: Any, hidden: Tensor, targets: Tensor) -> Tensor:
    return functional.cross_entropy(head(hidden).float(), targets, reduction="sum")


class _FrozenHead(torch.autograd.Function):
    """Loss and gradient of the hidden states in one pass over the chunks: logits are computed once and not kept."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor) -> Tensor:
        total = torch.zeros((), dtype=torch.float32, device=hidden.device)
        gradient = torch.empty_like(hidden)
        for start in range(0, len(hidden), CHUNK):
            part, wanted = hidden[start : start + CHUNK].to(weight.dtype), targets[start : start + CHUNK]
            logits = functional.linear(part, weight, bias).float()
            log_p = torch.log_softmax(logits, dim=-1)
            total -= log_p.gather(1, wanted[:, None]).sum()
            p = log_p.exp_()
            p[torch.arange(len(wanted), device=p.device), wanted] -= 1
            gradient[start : start + CHUNK] = p.to(weight.dtype) @ weight
        ctx.save_for_backward(gradient)
        return total

    @staticmethod
    def backward(ctx: Any, *outputs: Tensor) -> tuple[Tensor, None, None, None]:
        (gradient,) = ctx.saved_tensors
        # in float32: a loss scale of 2^16 is no float16 number
        return (gradient.float() * outputs[0]).to(gradient.dtype), None, None, None
