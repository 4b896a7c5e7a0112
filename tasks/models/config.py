"""The configuration of the base model and of tokenising."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from tasks.schema import Field, How, Section


class ModelConfig(Section):
    """Which base model. The identity is the content of its files, so every field says only where they are."""

    name: str = How(doc="Short name, for folders and tables.")
    path: Path | None = How(None, doc="Local folder with the model (or a .gguf file); goes before package and hub_id.")
    package: str | None = How(None, doc="Python package whose files hold the model.")
    install: str | None = How(None, doc="Command that installs that package, shown when it is missing.")
    hub_id: str | None = How(None, doc="Name on the model hub, such as THUDM/chatglm3-6b; downloaded when needed.")
    revision: str | None = How(None, doc="Branch, tag or commit on the hub.")
    offline: bool = How(False, doc="Never ask the network; use what was downloaded before.")


class TokenizationConfig(Section):
    """Lengths in tokens, the same for training and for evaluation."""

    max_prompt_tokens: int = Field(384, ge=8, doc="Longest prompt (the old max_source_length); longer ones are cut.")
    max_reply_tokens: int = Field(128, ge=1, doc="Longest learned reply (the old max_target_length).")
    overlong: Literal["truncate", "drop"] = Field(
        "truncate",
        doc="What happens to longer rows of the training and validation split: cut (oldest turns, then the middle "
        "of the longest message; a reply at its end), or left out. Both are counted.",
    )
