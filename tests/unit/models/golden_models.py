"""Golden checkpoints made native in memory: tiny random weights under hub names, with outputs of the original code."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM

from tasks.models import architectures, families
from tasks.models.families._family import Conversion


class Golden:
    """One golden checkpoint.

    Attributes:
        family: that recognised it. conversion: that made ``model``, the native model in float32.
        reference: tensors of reference.npz by name.
    """

    def __init__(self, folder: Path) -> None:
        torch.set_num_threads(1)
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        self.family = families.convertible(config, folder)
        assert self.family is not None
        self.conversion: Conversion = families.named(self.family).conversion(config, folder)
        self.state = {
            native: tensor.clone()
            for name, source in load_file(folder / "model.safetensors").items()
            for native, tensor in self.conversion.tensors(name, source)
        }
        self.model = self.build()
        self.reference = {k: torch.from_numpy(v) for k, v in np.load(folder / "reference.npz").items()}

    def build(self, attention: str = "sdpa") -> Any:
        """The native model, made as an import makes it; every weight must have its place."""
        values = dict(self.conversion.config)
        architectures.register(values["model_type"])
        config = AutoConfig.for_model(values.pop("model_type"), **{**values, "dtype": "float32"})
        model = AutoModelForCausalLM.from_config(config, attn_implementation=attention)
        model.load_state_dict(self.state, strict=True)
        model.generation_config.eos_token_id = None  # the references go on after it
        return model.eval()

    def generated(self, prompt: str, mask: Tensor | None, count: int) -> tuple[Tensor, Tensor]:
        """``count`` greedy tokens [b, count] after the reference's prompt, with the logits [b, count, v] of each."""
        ids = self.reference[prompt]
        output = self.model.generate(
            input_ids=ids,
            attention_mask=mask,
            max_new_tokens=count,
            do_sample=False,
            pad_token_id=0,
            output_logits=True,
            return_dict_in_generate=True,
        )
        return output.sequences[:, ids.shape[1] :], torch.stack(output.logits, dim=1)


def difference(found: Tensor, wanted: Tensor) -> float:
    """The largest absolute difference."""
    assert found.shape == wanted.shape
    return float((found.detach() - wanted).abs().max())
