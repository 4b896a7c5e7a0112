"""What a model family's module offers; the modules beside this one are found by name.

A family is recognised twice: a hub folder whose form no transformers class loads (``converts``), and a native folder
(``recognises``). Both read JSON only. torch is imported inside functions.

Shapes: o output features, i input features of a linear layer's weight.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from tasks.models.rendering import Renderer

#: (name, tensor) pairs; a tensor has the checkpoint's type.
Tensors = Iterator[tuple[str, Any]]


@dataclass(frozen=True)
class Conversion:
    """How a checkpoint in the hub's form becomes a native one.

    Attributes:
        config: the native ``config.json``, every value that decides the result named, ``architectures`` included.
        tensors: ``tensors(name, tensor)`` gives the native tensors made of one source tensor: none where it is not
            needed, several where it is split. Only shape operations and element-wise work, so that it runs on the meta
            device too. A name that it does not know is an error: ModelError naming it.
        generation: the native ``generation_config.json``.
        assumed: one line for people for each thing that the files do not say.
    """

    config: dict[str, Any]
    tensors: Callable[[str, Any], Tensors]
    generation: dict[str, Any] = field(default_factory=dict)
    assumed: tuple[str, ...] = ()


class Family(Protocol):
    """A family's module.

    It may also have ``assumed(tokenizer) -> str``: one line on what is taken for granted where nothing tells, and
    ``official(messages) -> list[Message]``: the messages with the learn flags of ``tokenization.labels=official``.

    Attributes:
        LORA_TARGETS: names of the linear layers that LoRA updates with ``method.target_modules=family``.
        LAYERS: dotted name, within the loaded model, of its list of transformer layers.
        REFUSED: method name -> why it cannot be used on this family; empty where all work.
    """

    LORA_TARGETS: tuple[str, ...]
    LAYERS: str
    REFUSED: Mapping[str, str]

    def recognises(self, config: dict[str, Any], special_tokens: Collection[str]) -> bool:
        """Whether a native folder with this config.json and these added tokens is of this family."""

    def renderer(self, tokenizer: Any, template: str | None = None) -> Renderer:
        """The family's layout of dialogues; ``template`` names one of tasks.models.templates instead, None the own."""


class Convertible(Family, Protocol):
    """A family with a hub form that must be converted."""

    def converts(self, config: dict[str, Any], folder: Path) -> bool:
        """Whether a hub folder with this config.json is this family's hub form; by its keys, not by model_type.

        ``folder`` is for what the configuration does not tell (the tokenizer's files); it is read as data only.
        """

    def conversion(self, config: dict[str, Any], folder: Path | None = None) -> Conversion:
        """The conversion for this config.json; ``folder`` is for what it does not tell, as above.

        Raises:
            ModelError: a setting that cannot be converted exactly, as ``key=value: ...``.
        """

    def write_tokenizer(self, source: Path, target: Path, config: dict[str, Any]) -> None:
        """Write tokenizer.json, tokenizer_config.json and chat_template.jinja (where chats exist) into ``target``.

        Args:
            source: the hub folder. config: its config.json.

        Raises:
            ModelError: the tokenizer's file is missing, naming it, or is not what it should be.
        """
