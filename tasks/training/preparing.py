"""What is done to a loaded model before it is trained: recomputed activations, fused kernels, a cheaper attention path.

Source: selective checkpointing keeps the results of matrix multiplications and computes all else anew, as in
Korthikanti et al. 2022 (https://arxiv.org/abs/2205.05198), by torch's own selective checkpoint contexts.
"""

from __future__ import annotations

import contextlib
import functools
import logging
from typing import Any

import torch

from tasks.errors import ConfigError
from tasks.training.config import TrainingConfig
from tasks.training.objective import base_model

log = logging.getLogger(__name__)


def prepare(model: Any, config: TrainingConfig, device: torch.device) -> None:
    """Make ``model`` (with its method) ready, in place.

    Raises:
        ConfigError: its class cannot compute activations anew.
    """
    if config.fused_kernels == "auto" and device.type == "cuda":
        _fuse(base_model(model))
    if config.gradient_checkpointing == "none":
        return
    if not getattr(model, "supports_gradient_checkpointing", True):
        raise ConfigError(
            f"training.gradient_checkpointing={config.gradient_checkpointing}: {type(model).__name__} cannot compute "
            "activations anew; set it to none and lower training.micro_batch_size instead"
        )
    options: dict[str, Any] = {"use_reentrant": False}
    if config.gradient_checkpointing == "selective":
        options["context_fn"] = _keep_products()
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs=options)


def _keep_products() -> Any:
    """For ``torch.utils.checkpoint``: keeps what matrix multiplications and attention gave, drops the rest."""
    from torch.utils.checkpoint import create_selective_checkpoint_contexts

    aten = torch.ops.aten
    kept = [
        aten.mm.default,
        aten.addmm.default,
        aten.bmm.default,
        aten._scaled_dot_product_flash_attention_for_cpu.default,
        aten._scaled_dot_product_flash_attention.default,
        aten._scaled_dot_product_efficient_attention.default,
        aten._scaled_dot_product_cudnn_attention.default,
    ]
    with contextlib.suppress(ImportError, AttributeError):  # defined by the module's import; packed rows on a GPU
        from torch.nn.attention import varlen as _  # noqa: F401

        kept.append(torch.ops.torch_attn._varlen_attn.default)
    return functools.partial(create_selective_checkpoint_contexts, kept)


def _fuse(model: Any) -> None:
    """Liger's kernels in place of the model's own norms, rotary positions and activations, if it is installed."""
    try:
        from liger_kernel.transformers import _apply_liger_kernel_to_instance
    except ImportError:
        return
    # the loss is this project's own (tasks.training.objective)
    _apply_liger_kernel_to_instance(model, cross_entropy=False, fused_linear_cross_entropy=False)
    log.info("Liger's fused kernels are in use where they know %s", type(model).__name__)
