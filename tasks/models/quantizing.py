"""Base weights in 8 or 4 bits through bitsandbytes; torch is imported inside functions.

Source: int8, Dettmers et al. 2022 (https://arxiv.org/abs/2208.07339); nf4 with doubly quantised constants, Dettmers et
al. 2023 (https://arxiv.org/abs/2305.14314).
"""

from __future__ import annotations

import importlib.util
import logging
from typing import Any

from tasks.errors import ResourceError


def require(quantization: str) -> None:
    """Say early that bitsandbytes is missing where it is needed; imports nothing.

    Raises:
        ResourceError: it is.
    """
    if quantization != "none" and importlib.util.find_spec("bitsandbytes") is None:
        raise ResourceError(
            f"model.quantization={quantization}: bitsandbytes is not installed; "
            "pip install -e '.[quantization]', or use model.quantization=none"
        )


def bitsandbytes_config(quantization: str, dtype: str) -> Any:
    """How transformers quantises a model's linear layers while it loads them; the output layer stays as it is.

    Args:
        quantization: "int8" or "nf4".
        dtype: type in which 4-bit layers compute.

    Raises:
        ResourceError: bitsandbytes is not installed, or does not work on this machine.
    """
    import torch
    from transformers import BitsAndBytesConfig

    require(quantization)
    try:
        import bitsandbytes  # noqa: F401
    except Exception as error:  # a build for another CUDA version fails in its own ways
        raise ResourceError(
            f"model.quantization={quantization}: bitsandbytes does not work here ({error}); "
            "install a version for this machine, or use model.quantization=none"
        ) from error
    # one line for every layer and call, about a cast that is meant
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    if quantization == "int8":
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=getattr(torch, dtype),
    )


def keep_packing(model: Any) -> None:
    """Keep 4-bit weights as they were packed.

    On a CPU with AVX512-BF16, bitsandbytes 0.50 packs them anew at the first pass without gradients, for a kernel that
    has none: training after a validation would go on without the layer's gradient. That packing also rounds the
    weights' constants to bf16, and fails on layers narrower than a block.
    """
    for module in model.modules():
        if getattr(module, "support_avx512bf16_for_cpu", False):
            module.support_avx512bf16_for_cpu = False
