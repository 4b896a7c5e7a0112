"""Weight files, one tensor at a time: safetensors and torch's .bin read lazily, safetensors written as a stream.

Nothing here holds more than one tensor in memory, whatever the size of a shard. torch is imported inside functions;
headers are read without it. A .bin file is read with ``weights_only`` and memory-mapped: a pickle that asks for more
than tensors is refused.

Source: the safetensors format, https://github.com/huggingface/safetensors#format (u64 header length, JSON, data).
"""

from __future__ import annotations

import json
import math
import os
import pickle
import struct
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tasks.errors import ModelError, ResourceError

#: safetensors' name of a type -> torch's.
TYPES = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2",
    "I64": "int64",
    "I32": "int32",
    "I16": "int16",
    "I8": "int8",
    "U8": "uint8",
    "BOOL": "bool",
}
_NAMES = {f"torch.{torch_name}": name for name, torch_name in TYPES.items()}
_LFS = b"version https://git-lfs"
#: A header larger than this is not a header: the largest known models have less than 20 MB.
_LARGEST_HEADER = 100_000_000
_METADATA = "__metadata__"
#: Numbers that are looked at together: 2 or 4 MB.
_PIECE = 1 << 20


@dataclass(frozen=True)
class Slot:
    """A tensor to write: its name, its shape and its type as ``str(tensor.dtype)``."""

    name: str
    shape: tuple[int, ...]
    dtype: str


def refuse_pointer(file: Path) -> None:
    """Refuse what a clone without git-lfs leaves in a large file's place.

    Raises:
        ModelError: naming the file and what to do.
    """
    with file.open("rb") as stream:
        if stream.read(len(_LFS)) != _LFS:
            return
    raise ModelError(
        f"{file}: a git-lfs pointer, not the file ({file.stat().st_size} bytes); "
        "run 'git lfs pull' in that folder, or download the file itself"
    )


def check(file: Path) -> None:
    """Refuse a weight file that is a git-lfs pointer, cut short or something else; reads its head and its end only.

    Raises:
        ModelError: naming the file and what to do.
    """
    refuse_pointer(file)
    with file.open("rb") as stream:
        head = stream.read(1)
    if file.suffix == ".safetensors":
        read_header(file)
    elif not zipfile.is_zipfile(file) and head != b"\x80":  # before 2020 torch wrote a bare pickle
        raise ModelError(f"{file}: not a torch weight file, or cut short; download it again")


def read_header(file: Path) -> dict[str, Any]:
    """The tensors of a safetensors file: name -> {"dtype", "shape", "data_offsets"}.

    Raises:
        ModelError: the file is not one, or its size is not the one that its header states.
    """
    size = file.stat().st_size
    with file.open("rb") as stream:
        head = stream.read(8)
        length = struct.unpack("<Q", head)[0] if len(head) == 8 else 0
        if not 2 <= length <= min(_LARGEST_HEADER, size - 8):
            raise ModelError(f"{file}: not a safetensors file, or cut short; download it again")
        try:
            header = dict(json.loads(stream.read(length)))
            header.pop(_METADATA, None)
            end = max((tensor["data_offsets"][1] for tensor in header.values()), default=0)
        except (ValueError, KeyError, TypeError, IndexError) as error:
            raise ModelError(f"{file}: its safetensors header cannot be read ({error}); download it again") from error
    if 8 + length + end != size:
        raise ModelError(
            f"{file}: {size} bytes, but its header states {8 + length + end}: cut short or damaged; download it again"
        )
    return header


def parameters(file: Path) -> int:
    """How many numbers a safetensors file holds, by its header."""
    return sum(math.prod(tensor["shape"]) for tensor in read_header(file).values())


def slots(file: Path) -> list[Slot]:
    """The tensors of a weight file, in the file's order; nothing but headers is read."""
    if file.suffix == ".safetensors":
        found = []
        for name, tensor in sorted(read_header(file).items(), key=lambda item: item[1]["data_offsets"]):
            if tensor["dtype"] not in TYPES:
                raise ModelError(f"{file}: tensor {name} has type {tensor['dtype']}; known: {', '.join(TYPES)}")
            found.append(Slot(name, tuple(tensor["shape"]), f"torch.{TYPES[tensor['dtype']]}"))
        return found
    return [Slot(name, tuple(t.shape), str(t.dtype)) for name, t in _load_bin(file, "meta").items()]


@contextmanager
def opened(file: Path) -> Iterator[Callable[[str], Any]]:
    """A function that reads one tensor of the file by name."""
    if file.suffix == ".safetensors":
        header = read_header(file)
        with file.open("rb") as stream:
            start = 8 + struct.unpack("<Q", stream.read(8))[0]
            yield lambda name: _read(file, stream, start, header[name])
    else:
        yield _load_bin(file, "cpu").__getitem__


def _read(file: Path, stream: Any, start: int, place: Mapping[str, Any]) -> Any:
    """One tensor by a plain read: a mapped file's pages would stay in memory, up to the size of the shard."""
    import torch

    dtype, (begin, end) = getattr(torch, TYPES[place["dtype"]]), place["data_offsets"]
    buffer = torch.empty(end - begin, dtype=torch.uint8)
    try:
        stream.seek(start + begin)
        count = stream.readinto(memoryview(buffer.numpy())) if end > begin else 0
    except OSError as error:
        raise ResourceError(f"{file}: cannot be read ({error.strerror or error})") from error
    if count != end - begin:  # else the rest would be whatever was in memory
        raise ModelError(f"{file}: became shorter while it was read; import it again when it is whole")
    return buffer.view(dtype).reshape(place["shape"])


def is_finite(tensor: Any) -> bool:
    """Whether a tensor holds neither infinities nor NaN.

    16- and 32-bit numbers are looked at as integers, a piece that fits the cache at a time: their exponent bits tell.
    torch.isfinite took 28 times as long for float16 on a CPU (0.46 against 12.8 GB/s).
    """
    import torch

    exponent = {torch.float16: 0x7C00, torch.bfloat16: 0x7F80, torch.float32: 0x7F800000}.get(tensor.dtype)
    if exponent is None:
        return not tensor.is_floating_point() or tensor.element_size() == 1 or bool(torch.isfinite(tensor).all())
    whole = torch.int32 if tensor.dtype == torch.float32 else torch.int16
    values = tensor.contiguous().view(whole).numpy().reshape(-1)
    pieces = (values[i : i + _PIECE] for i in range(0, len(values), _PIECE))
    return all(int((piece & exponent).max()) != exponent for piece in pieces)


def _load_bin(file: Path, device: str) -> Mapping[str, Any]:
    import torch

    try:
        mapped = device == "cpu" and zipfile.is_zipfile(file)
        value = torch.load(file, map_location=device, weights_only=True, mmap=mapped)
    except (pickle.UnpicklingError, RuntimeError, OSError, EOFError, ValueError) as error:
        reason = str(error).strip().splitlines()[0][:160] if str(error).strip() else type(error).__name__
        raise ModelError(
            f"{file}: cannot be read as plain tensors ({reason}); download it again, as safetensors if there are any"
        ) from error
    if not isinstance(value, Mapping) or not all(isinstance(v, torch.Tensor) for v in value.values()):
        raise ModelError(f"{file}: holds other things than named tensors")
    return value


def write(path: Path, wanted: Sequence[Slot], tensors: Iterable[tuple[str, Any]]) -> None:
    """Write a safetensors file as a stream; it appears under its name when it is whole and durable.

    Args:
        wanted: what will be written, in the order in which ``tensors`` gives it.

    Raises:
        ModelError: ``tensors`` gives something else than ``wanted``.
        ResourceError: the disk is full.
    """
    temporary = path.with_name(path.name + ".writing")
    try:
        with temporary.open("wb") as file:
            file.write(_header(wanted))
            count = 0
            for slot, (name, tensor) in zip(wanted, tensors, strict=False):
                if (name, tuple(tensor.shape), str(tensor.dtype)) != (slot.name, slot.shape, slot.dtype):
                    raise ModelError(f"{path.name}: {name} {tuple(tensor.shape)} {tensor.dtype} instead of {slot}")
                _write_tensor(file, tensor)
                count += 1
            if count != len(wanted):
                raise ModelError(f"{path.name}: {count} of {len(wanted)} tensors were made")
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        raise ResourceError(f"{path}: cannot be written ({error.strerror or error}); free some disk space") from error
    finally:
        temporary.unlink(missing_ok=True)  # a part of a shard is worth nothing, and may be gigabytes


def _header(wanted: Sequence[Slot]) -> bytes:
    value: dict[str, Any] = {_METADATA: {"format": "pt"}}
    place = 0
    for slot in wanted:
        size = math.prod(slot.shape) * _width(slot.dtype)
        value[slot.name] = {
            "dtype": _NAMES[slot.dtype],
            "shape": list(slot.shape),
            "data_offsets": [place, place + size],
        }
        place += size
    text = json.dumps(value, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # data starts at a multiple of 8
    return struct.pack("<Q", len(text)) + text


def _width(dtype: str) -> int:
    import torch

    return int(getattr(torch, dtype.removeprefix("torch.")).itemsize)


def _write_tensor(file: Any, tensor: Any) -> None:
    import torch

    flat = tensor.detach().cpu().contiguous().reshape(-1)
    file.write(memoryview(flat.view(torch.uint8).numpy()) if flat.numel() else b"")


def index(shards: Mapping[str, Sequence[Slot]]) -> str:
    """The text of ``model.safetensors.index.json`` for shards {file name: its tensors}."""
    total = sum(math.prod(s.shape) * _width(s.dtype) for wanted in shards.values() for s in wanted)
    places = {slot.name: file for file, wanted in shards.items() for slot in wanted}
    return json.dumps({"metadata": {"total_size": total}, "weight_map": dict(sorted(places.items()))}, indent=1)
