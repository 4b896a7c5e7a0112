"""A model with trained vectors in front of its prompt, which callers use as if they were not there.

The n virtual tokens have ids behind the embedding's last row and stand before each row's first real token (after its
left padding, so that they are equally far from it in every row). A hook on the embedding gives them their vectors: the
model sees ordinary ids, so whatever it derives from those (positions, masks, lengths) stays right.

Shapes: b rows, s tokens, n virtual tokens, d width of the embedding, v vocabulary.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tasks.errors import ModelError
from tasks.methods import _tensors

#: Name of the encoder's module in the wrapper.
NAME = "prompt_encoder"


class FixedPrompt(nn.Module):
    """The vectors that an encoder made, without it: for inference."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        with torch.no_grad():
            self.register_buffer("vectors", vectors(encoder))


def vectors(encoder: Any) -> Tensor:
    """The virtual tokens' embeddings, [n, d]."""
    if isinstance(encoder, FixedPrompt):
        return encoder.vectors
    indices = torch.arange(encoder.total_virtual_tokens, device=encoder.embedding.weight.device)
    made: Tensor = encoder(indices[None])[0]
    return made


def load(model: Any, encoder: Any, folder: Path, *, trainable: bool) -> PromptTuned:
    """The base model behind the saved prompt; ``encoder`` makes it while training goes on.

    Raises:
        ModelError: what was saved is not this encoder's.
    """
    model.requires_grad_(False)
    try:
        encoder.load_state_dict(_tensors.read(folder, NAME))
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        raise ModelError(
            f"{folder / _tensors.FILE}: does not fit the base model and method settings: {reason}"
        ) from None
    return PromptTuned(model, encoder if trainable else FixedPrompt(encoder), encoder.total_virtual_tokens)


class PromptTuned(nn.Module):
    """The base model behind a prompt of n trained vectors; other attributes are the base's."""

    def __init__(self, base: Any, encoder: Any, tokens: int) -> None:
        super().__init__()
        self.base = base
        self.num_virtual_tokens = tokens
        embedding = base.get_input_embeddings()
        self.first_id = embedding.num_embeddings
        self.add_module(NAME, encoder.to(embedding.weight.device))
        embedding.register_forward_pre_hook(self._clamp)
        embedding.register_forward_hook(self._place)
        self._ids: Tensor | None = None

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("base"), name)

    @property
    def generation_config(self) -> Any:
        return self.base.generation_config

    @generation_config.setter
    def generation_config(self, value: Any) -> None:
        self.base.generation_config = value

    def get_base_model(self) -> Any:
        return self.base

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        logits_to_keep: int = 0,
        **options: Any,
    ) -> Any:
        """The base's output for input_ids [b, s] behind the prompt; logits of the given tokens only, [b, s, v]."""
        self._refuse(options)
        ids, mask = self._extended(input_ids, attention_mask)
        if labels is not None:
            options["labels"] = nn.functional.pad(labels, (self.num_virtual_tokens, 0), value=-100)
        # text is at the end of both: what remains of a padded row's front is padding or virtual, as in the input
        keep = logits_to_keep or input_ids.shape[1]
        output = self.base(input_ids=ids, attention_mask=mask, **options)
        output.logits = output.logits[:, -keep:]
        return output

    def generate(
        self, input_ids: Tensor | None = None, attention_mask: Tensor | None = None, inputs: Any = None, **options: Any
    ) -> Any:
        """What the base's ``generate`` gives for the ids [b, s] behind the prompt, without the virtual tokens."""
        self._refuse(options)
        given = input_ids if input_ids is not None else inputs
        ids, mask = self._extended(given, attention_mask)
        output = self.base.generate(input_ids=ids, attention_mask=mask, **options)
        sequences = output if isinstance(output, Tensor) else output.sequences
        prompts = given.repeat_interleave(sequences.shape[0] // given.shape[0], dim=0)
        sequences = torch.cat([prompts, sequences[:, ids.shape[1] :]], dim=1)
        if isinstance(output, Tensor):
            return sequences
        output.sequences = sequences
        return output

    def prompted(self, inputs: dict[str, Any], places: Tensor) -> tuple[dict[str, Any], Tensor]:
        """The base's arguments for right-padded or packed rows, each behind its prompt, and where ``places`` went.

        Args:
            inputs: input_ids with attention_mask [b, s], or a packed batch [1, t] (see tasks.models.packed).
            places: tokens, counted through [b * s] or [t].
        """
        n, ids = self.num_virtual_tokens, inputs["input_ids"]
        if "cu_seq_lens_q" not in inputs:
            extended, mask = self._extended(ids, inputs.get("attention_mask"))
            row = places // ids.shape[1]
            return {**inputs, "input_ids": extended, "attention_mask": mask}, places + n * (row + 1)
        bounds = inputs["cu_seq_lens_q"]
        counted = torch.arange(ids.shape[1], device=ids.device)
        row = torch.searchsorted(bounds[1:], counted, right=True, out_int32=True)  # of each token
        moved = counted + n * (row + 1)
        rows = len(bounds) - 1
        longer = bounds + n * torch.arange(rows + 1, device=ids.device, dtype=bounds.dtype)
        within = torch.arange(ids.shape[1] + n * rows, device=ids.device)
        position = within - longer[torch.searchsorted(longer[1:], within, right=True)]
        extended = self.first_id + position  # the virtual tokens' places; the others are overwritten
        extended[moved] = ids[0]
        longest = inputs["max_length_q"] + n
        packed = {
            "input_ids": extended[None],
            "position_ids": position[None],
            "cu_seq_lens_q": longer,
            "cu_seq_lens_k": longer,
            "max_length_q": longest,
            "max_length_k": longest,
        }
        return {**inputs, **packed}, moved[places]

    @staticmethod
    def _refuse(options: dict[str, Any]) -> None:
        for name in ("position_ids", "inputs_embeds", "past_key_values", "max_length"):
            if options.get(name) is not None:
                raise ModelError(f"a trained prompt: {name} cannot be given: its tokens would not be counted in")

    def _extended(self, ids: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Ids and mask [b, n + s] with the virtual tokens between a row's left padding and its text."""
        n, (rows, length) = self.num_virtual_tokens, ids.shape
        virtual = torch.arange(self.first_id, self.first_id + n, device=ids.device)
        if mask is None:
            return torch.cat([virtual.expand(rows, n), ids], dim=1), None
        padding = mask.argmax(dim=1, keepdim=True)  # [b, 1], the first real token's column
        column = torch.arange(n + length, device=ids.device).expand(rows, -1) - padding  # [b, n + s]
        place = torch.where(column < 0, column, column - n) + padding
        is_virtual = (column >= 0) & (column < n)
        place = place.clamp(0, length - 1)
        extended = torch.where(is_virtual, self.first_id + column, ids.gather(1, place))
        return extended, torch.where(is_virtual, 1, mask.gather(1, place))

    def _clamp(self, embedding: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        self._ids = args[0]
        return (args[0].clamp(max=self.first_id - 1), *args[1:])

    def _place(self, embedding: nn.Module, args: Any, output: Tensor) -> Tensor:
        """Put the trained vectors where virtual ids stand; output: [b, s, d]."""
        ids, self._ids = self._ids, None
        if ids is None or ids.shape[-1] < self.num_virtual_tokens:  # a step of decoding; a look at ids would wait
            return output
        index = (ids - self.first_id).clamp(min=0).long()
        prompt = vectors(self.get_submodule(NAME)).to(output)
        return torch.where((ids >= self.first_id)[..., None], prompt[index], output)
