"""The configuration of the base model and of tokenising."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from tasks.schema import Field, How, Section


class ModelConfig(Section):
    """Which base model. The identity is the content of its files, the layout of its dialogues and its quantisation."""

    name: str = How(doc="Short name, for folders and tables.")
    path: Path | None = How(None, doc="Local folder with the model (or a .gguf file); goes before package and hub_id.")
    package: str | None = How(None, doc="Python package whose files hold the model.")
    install: str | None = How(None, doc="Command that installs that package, shown when it is missing.")
    hub_id: str | None = How(None, doc="Name on the model hub, such as THUDM/chatglm3-6b; downloaded when needed.")
    modelscope_id: str | None = How(None, doc="Name on ModelScope, where it is another than hub_id.")
    revision: str | None = How(None, doc="Branch, tag or commit on the hub.")
    source: Literal["huggingface", "modelscope"] = How(
        "huggingface", doc="Hub that hub_id names a model on; HF_ENDPOINT names a mirror of the first."
    )
    offline: bool = How(False, doc="Never ask the network; use what was downloaded before.")
    family: str | None = Field(
        None, doc="Name of the family module, where the files do not tell which it is; null: recognised by its files."
    )
    template: str | None = Field(
        None, doc="Layout of dialogues other than the model's own, such as alpaca or chatml; null: the model's own."
    )
    quantization: Literal["none", "int8", "nf4"] = Field(
        "none", doc="Load the frozen base weights in 8 or 4 bits through bitsandbytes; trained weights stay float32."
    )
    device_map: Literal["none", "auto"] = How(
        "none", doc="auto: spread the model over all GPUs, then CPU memory, for answering; training refuses it."
    )
    parameters: int | None = How(
        None, ge=1, doc="How many, for the plan while the model is not downloaded; null: as its files say."
    )
    dtype: Literal["float32", "bfloat16", "float16"] = How(
        "float16", doc="Type its weights are published in, for the plan while the model is not downloaded."
    )
    context_tokens: int | None = How(None, ge=1, doc="Longest text it was trained for; null: as its files say.")


class TokenizationConfig(Section):
    """Lengths in tokens, the same for training and for evaluation."""

    max_prompt_tokens: int = Field(384, ge=8, doc="Longest prompt (the old max_source_length); longer ones are cut.")
    max_reply_tokens: int = Field(128, ge=1, doc="Longest learned reply (the old max_target_length).")
    overlong: Literal["truncate", "drop"] = Field(
        "truncate",
        doc="What happens to longer rows of the training and validation split: cut (oldest turns, then the middle "
        "of the longest message; a reply at its end), or left out. Both are counted.",
    )
    labels: Literal["assistant", "official"] = Field(
        "assistant",
        doc="Which turns are learned where a row does not say: the assistant's; or, for ChatGLM3, all that its "
        "official fine-tuning code learns: observations of tools too.",
    )
    processes: int | None = How(
        None, ge=1, doc="That tokenise; null: one a core, fewer for small data. The files are the same."
    )
