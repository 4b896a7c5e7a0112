"""What a fine-tuning method's module offers; the modules beside this one are found by name.

Workers import the modules; torch, transformers and peft are imported inside the functions.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

from tasks.schema import Field, How, Section


class MethodConfig(Section):
    """Common to all methods; each module narrows ``name`` to its own."""

    name: str = Field(doc="Name of the method module.")
    note: str | None = How(None, doc="Free text for people, shown in MLflow; no effect.")


class Method(Protocol):
    """A method's module.

    It may also have ``learning_rate_scales(model, config) -> dict[str, float]``: for names of parameters of the model
    with its method, what training.learning_rate is multiplied by for them; 1 for all that it does not name.

    ``MERGES``: its weights can be folded into the base, so that any server can load the result.
    """

    MERGES: bool
    Config: type[MethodConfig]

    def attach(self, model: Any, config: Any) -> Any:
        """Give a loaded base model the method's trainable parameters; all others are frozen."""

    def save(self, model: Any, folder: Path) -> None:
        """Write the trained tensors as safetensors, with what is needed to load them onto the base."""

    def load(self, model: Any, folder: Path, config: Any, *, trainable: bool) -> Any:
        """Put saved tensors onto a freshly loaded base model; ``trainable``: bit by bit as they were when saved."""

    def merge(self, model: Any) -> Any:
        """The plain transformers model with the trained tensors folded in (only where ``MERGES``)."""
