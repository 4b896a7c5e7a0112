"""Shard by shard from a foreign checkpoint to a native one: what becomes of each tensor, then the writing.

The whole map is worked out on the meta device and compared with the native class before the first byte is written, so
that what cannot be converted exactly is refused at once. A shard that is whole is never written again: an interrupted
conversion goes on with the next one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tasks.errors import ModelError, Stopped
from tasks.files import write_atomic
from tasks.models import architectures
from tasks.models.families._family import Conversion
from tasks.models.importing import tensors
from tasks.models.importing.tensors import Slot


@dataclass(frozen=True)
class Shard:
    """One source file and what is made of it.

    Attributes:
        source: the file that is read; target: name of the file that is written.
        names: its tensors that are needed, in order.
        slots: the native tensors, in the order in which they are made.
    """

    source: Path
    target: str
    names: tuple[str, ...]
    slots: tuple[Slot, ...]


def outline(files: list[Path], conversion: Conversion) -> list[Shard]:
    """What is made of each source file.

    Raises:
        ModelError: a tensor is unknown, occurs twice, or the native class lacks it, wants it or has another shape.
    """
    import torch

    made: list[tuple[Path, tuple[str, ...], tuple[Slot, ...]]] = []
    origin: dict[str, str] = {}
    for file in files:
        needed: list[str] = []
        found: list[Slot] = []
        for slot in tensors.slots(file):
            meta = torch.empty(slot.shape, dtype=getattr(torch, slot.dtype.removeprefix("torch.")), device="meta")
            natives = [Slot(n, tuple(t.shape), str(t.dtype)) for n, t in conversion.tensors(slot.name, meta)]
            for native in natives:
                if native.name in origin:
                    raise ModelError(f"{file}: {native.name} is there twice (also in {origin[native.name]})")
                origin[native.name] = file.name
            needed += [slot.name] if natives else []
            found += natives
        if found:
            made.append((file, tuple(needed), tuple(found)))
    _compare({slot.name: slot.shape for _, _, found in made for slot in found}, conversion.config, files[0].parent)
    count = len(made)
    return [
        Shard(file, "model.safetensors" if count == 1 else f"model-{i:05d}-of-{count:05d}.safetensors", names, found)
        for i, (file, names, found) in enumerate(made, 1)
    ]


def skeleton(config: Mapping[str, Any]) -> Any:
    """The native model of a config.json on the meta device: shapes without memory."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    values = dict(config)
    architectures.register(values["model_type"])
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(AutoConfig.for_model(values.pop("model_type"), **values))


def _compare(made: Mapping[str, tuple[int, ...]], config: Mapping[str, Any], folder: Path) -> None:
    model = skeleton(config)
    wanted = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    tied = set(getattr(model, "all_tied_weights_keys", None) or ())
    for name, shape in wanted.items():
        if name not in made and name not in tied:
            raise ModelError(f"{folder}: no tensor becomes {name}: a shard is missing, or it is another architecture")
        if name in made and made[name] != shape:
            raise ModelError(f"{folder}: {name} has shape {made[name]}, its config.json asks for {shape}")
    unknown = sorted(set(made) - set(wanted))
    if unknown:
        raise ModelError(f"{folder}: {type(model).__name__} has no {unknown[0]} ({len(unknown)} such tensors)")


def write(
    shards: list[Shard],
    conversion: Conversion,
    target: Path,
    progress: Callable[[int, int], None],
    stopping: Callable[[], bool] = lambda: False,
) -> int:
    """Write the shards that ``target`` lacks, and their index.

    Args:
        progress: called with the tensors done and all of them.
        stopping: asked between tensors; true raises Stopped.

    Returns:
        how many shards an earlier attempt had written.
    """
    kept = done = 0
    total = sum(len(shard.slots) for shard in shards)
    for shard in shards:
        if _whole(target / shard.target, shard.slots):
            kept += 1
        else:
            tensors.write(target / shard.target, shard.slots, _converted(shard, conversion, stopping))
        done += len(shard.slots)
        progress(done, total)
    if len(shards) > 1:
        write_atomic(target / "model.safetensors.index.json", tensors.index({s.target: s.slots for s in shards}))
    return kept


def _converted(shard: Shard, conversion: Conversion, stopping: Callable[[], bool]) -> Iterator[tuple[str, Any]]:
    with tensors.opened(shard.source) as read:
        for name in shard.names:
            if stopping():
                raise Stopped("import: stopped by a signal; run the same command again, whole shards are kept")
            for native, tensor in conversion.tensors(name, read(name)):
                if not tensors.is_finite(tensor):
                    raise ModelError(f"{shard.source}: {name} holds numbers that are not finite: damaged weights")
                yield native, tensor


def _whole(path: Path, slots: tuple[Slot, ...]) -> bool:
    """Whether a shard was written to its end: files get their name when they are whole."""
    if not path.is_file():
        return False
    try:
        return tensors.slots(path) == list(slots)
    except ModelError:
        return False
