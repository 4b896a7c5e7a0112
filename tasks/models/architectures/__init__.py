"""Models that transformers has no class for, or none that can be trained: registered with the Auto classes.

One module each; torch and transformers are imported by the modules, not here.
"""

from __future__ import annotations

import importlib
from typing import Any

#: model_type -> module that defines ``CONFIG`` and ``MODEL`` (a PretrainedConfig and a causal language model).
MODEL_TYPES = {"weitiao_chatglm": "chatglm", "weitiao_baichuan": "baichuan", "cpmant": "cpmant"}


def register(model_type: str) -> Any:
    """The class whose ``from_pretrained`` makes a model of this type.

    One of this package is made known to AutoConfig and AutoModelForCausalLM too, for libraries that go through them;
    which class those prefer where transformers has its own differs between its versions.
    """
    from transformers import AutoConfig, AutoModelForCausalLM

    if model_type not in MODEL_TYPES:
        return AutoModelForCausalLM
    module = importlib.import_module(f"{__name__}.{MODEL_TYPES[model_type]}")
    AutoConfig.register(model_type, module.CONFIG, exist_ok=True)
    AutoModelForCausalLM.register(module.CONFIG, module.MODEL, exist_ok=True)
    return module.MODEL
