"""Models that transformers has no class for: small PreTrainedModels of our own, registered with the Auto classes.

One module each; torch and transformers are imported by the modules, not here.
"""

from __future__ import annotations

import importlib

#: model_type -> module that defines ``CONFIG`` and ``MODEL`` (a PretrainedConfig and a causal language model).
MODEL_TYPES = {"weitiao_chatglm": "chatglm", "weitiao_baichuan": "baichuan"}


def register() -> None:
    """Make AutoConfig and AutoModelForCausalLM know the models of this package; harmless when repeated."""
    from transformers import AutoConfig, AutoModelForCausalLM

    for model_type, name in MODEL_TYPES.items():
        module = importlib.import_module(f"{__name__}.{name}")
        AutoConfig.register(model_type, module.CONFIG, exist_ok=True)
        AutoModelForCausalLM.register(module.CONFIG, module.MODEL, exist_ok=True)
