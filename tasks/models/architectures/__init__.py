"""Models that transformers has no class for, or none that can be trained: registered with the Auto classes.

One module each; torch and transformers are imported by the modules, not here.
"""

from __future__ import annotations

import importlib

#: model_type -> module that defines ``CONFIG`` and ``MODEL`` (a PretrainedConfig and a causal language model).
MODEL_TYPES = {"weitiao_chatglm": "chatglm", "weitiao_baichuan": "baichuan", "cpmant": "cpmant"}


def register(model_type: str) -> None:
    """Make AutoConfig and AutoModelForCausalLM know a model of this package; nothing for transformers' own types."""
    if model_type not in MODEL_TYPES:
        return
    from transformers import AutoConfig, AutoModelForCausalLM

    module = importlib.import_module(f"{__name__}.{MODEL_TYPES[model_type]}")
    AutoConfig.register(model_type, module.CONFIG, exist_ok=True)
    AutoModelForCausalLM.register(module.CONFIG, module.MODEL, exist_ok=True)
