"""P-Tuning v2 checkpoints of the official ChatGLM scripts (``pre_seq_len``) as checkpoints of this project.

They hold the prefix encoder alone, or the whole model with it; only the encoder is trained by those scripts, so only
it is taken. Its layout is the one that tasks.methods.ptuning_v2 has.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tasks.errors import ModelError
from tasks.models import loading, resolving
from tasks.models.importing import tensors

_MARK = "prefix_encoder."
#: The last norm of the hub forms, small enough to tell whether the whole model in a checkpoint is the base.
_NORMS = ("transformer.encoder.final_layernorm.weight", "transformer.final_layernorm.weight")
_NATIVE_NORM = "model.norm.weight"
#: Name within the encoder -> (weight file, name of the tensor there).
Found = Mapping[str, tuple[Path, str]]


def find(files: Sequence[Path]) -> Found:
    """The prefix encoder's tensors in weight files; empty where there is none."""
    found: dict[str, tuple[Path, str]] = {}
    for file in files:
        tensors.check(file)
        for slot in tensors.slots(file):
            if _MARK in slot.name:
                found[slot.name.rpartition(_MARK)[2]] = (file, slot.name)
    return found


def convert(source: Path, found: Found, base: Path, model: Any, target: Path) -> dict[str, Any]:
    """Write the prefix as a P-Tuning v2 checkpoint.

    Args:
        found: where its tensors are, by :func:`find`.
        model: the native base model, on the meta device.

    Raises:
        ModelError: it does not fit the base, or config.json's pre_seq_len.
    """
    from safetensors.torch import save_file

    from tasks.methods import _prefix, _tensors

    values = {name: _read(file, full).float().contiguous() for name, (file, full) in found.items()}
    try:
        _prefix.PrefixEncoder.of(values, _prefix.layers_shape(model))
    except ModelError as error:
        raise ModelError(f"{source}: {error}") from None
    tokens = int(values["embedding.weight"].shape[0])
    _check_length(source, tokens)
    _check_base(source, base)
    projection = values.get("trans.0.weight")
    save_file(
        {f"{_prefix.NAME}.{name}": tensor for name, tensor in values.items()},
        target / _tensors.FILE,
        metadata={"format": "pt"},
    )
    method = {
        "name": "ptuning_v2",
        "num_virtual_tokens": tokens,
        "prefix_projection": projection is not None,
        "encoder_hidden_size": None if projection is None else int(projection.shape[0]),
    }
    loading.describe(target, method=method, base=base, base_fingerprint="", step=0)
    return {"kind": "ptuning_v2", **{key: value for key, value in method.items() if key != "name"}}


def _read(file: Path, name: str) -> Any:
    with tensors.opened(file) as read:
        return read(name)


def _check_length(source: Path, tokens: int) -> None:
    config = source / "config.json"
    stated = resolving.read_json(config).get("pre_seq_len") if config.is_file() else None
    if stated is not None and stated != tokens:
        raise ModelError(f"{config}: pre_seq_len={stated}, but the prefix has {tokens} tokens: files of two trainings")


def _check_base(source: Path, base: Path) -> None:
    """Where the checkpoint holds the model as well, it must be the base: those scripts change none of its weights."""
    import torch

    trained, own = _find(source, _NORMS), _find(base, (_NATIVE_NORM,))
    if trained is None or own is None:
        return
    first, second = trained.float(), own.float()
    # a half-precision copy differs by one part in 2**8 (bfloat16) at most
    if first.shape != second.shape or not torch.allclose(first, second, rtol=2**-7, atol=1e-6):
        raise ModelError(
            f"source={source}: the model in it is not the one in base={base}; name the base it was tuned on"
        )


def _find(folder: Path, names: Sequence[str]) -> Any:
    """The first tensor with one of these names in a folder's weight files; None where there is none."""
    for file in resolving.weight_files(folder):
        for slot in tensors.slots(file):
            if slot.name in names:
                return _read(file, slot.name)
    return None
