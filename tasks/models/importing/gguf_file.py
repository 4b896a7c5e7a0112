"""GGUF files: told from others by their first bytes, measured by their header; the weights are read by transformers.

The gguf package reads a header too, but takes 10 s for a vocabulary of 150,000 tokens with its merges.

Source: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md (version 3)
"""

from __future__ import annotations

import math
import struct
from pathlib import Path
from typing import IO, Any

from tasks.errors import ModelError
from tasks.models.importing import tensors

_MAGIC = b"GGUF"
#: Bytes of a value by the number of its type; 8 is a text, 9 a list.
_WIDTHS = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
_TEXT, _LIST = 8, 9
_MOST_DIMENSIONS = 4
_ALIGNMENT = "general.alignment"


def check(file: Path) -> None:
    """Refuse a file that is no GGUF file, by its first bytes.

    Raises:
        ModelError: naming the file and what model.path may be.
    """
    try:
        tensors.refuse_pointer(file)
        with file.open("rb") as stream:
            head = stream.read(len(_MAGIC))
    except OSError as error:
        raise ModelError(f"{file}: cannot be read ({error.strerror})") from error
    if head != _MAGIC:
        raise ModelError(
            f"{file}: not a GGUF file; set model.path to one, or to the folder that holds config.json and the weights"
        )


def parameters(file: Path) -> int:
    """How many numbers the file holds, by its header.

    Raises:
        ModelError: the file is cut short or damaged.
    """
    size = file.stat().st_size
    try:
        with file.open("rb") as stream:
            numbers, end = _measured(stream)
    except (struct.error, ValueError, KeyError, OSError) as error:  # OSError: a jump to where no file can reach
        raise ModelError(f"{file}: its GGUF header is cut short or damaged ({error}); download it again") from error
    if end > size:
        raise ModelError(f"{file}: {size} bytes, but its header states {end}: cut short; download it again")
    return numbers


def _measured(stream: IO[bytes]) -> tuple[int, int]:
    """The numbers in all tensors, and the size that the file must have at least."""
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

    magic, version, count, values = _unpack(stream, "<4sIQQ")
    if magic != _MAGIC or version not in (2, 3):
        raise ValueError(f"version {version}: only 2 and 3 are known")
    alignment = 32
    for _ in range(values):
        key, (kind,) = _text(stream), _unpack(stream, "<I")
        if key == _ALIGNMENT.encode() and kind == 4:
            (alignment,) = _unpack(stream, "<I")
        else:
            _skip(stream, kind)
    numbers = end = 0
    for _ in range(count):
        _text(stream)
        (dimensions,) = _unpack(stream, "<I")
        if dimensions > _MOST_DIMENSIONS:
            raise ValueError(f"a tensor of {dimensions} dimensions")
        shape = _unpack(stream, f"<{dimensions}Q")
        kind, offset = _unpack(stream, "<IQ")
        block, block_bytes = GGML_QUANT_SIZES[GGMLQuantizationType(kind)]
        numbers += math.prod(shape)
        end = max(end, offset + math.prod(shape) // block * block_bytes)
    start = stream.tell()
    return numbers, start + -start % alignment + end


def _unpack(stream: IO[bytes], form: str) -> tuple[Any, ...]:
    return struct.unpack(form, stream.read(struct.calcsize(form)))


def _text(stream: IO[bytes]) -> bytes:
    (length,) = _unpack(stream, "<Q")
    return stream.read(length) if length < 1 << 16 else _skip_bytes(stream, length)


def _skip(stream: IO[bytes], kind: int) -> None:
    if kind == _TEXT:
        _text(stream)
    elif kind == _LIST:
        kind, count = _unpack(stream, "<IQ")
        if kind in _WIDTHS:
            _skip_bytes(stream, count * _WIDTHS[kind])
        else:
            for _ in range(count):
                _skip(stream, kind)
    else:
        _skip_bytes(stream, _WIDTHS[kind])


def _skip_bytes(stream: IO[bytes], count: int) -> bytes:
    stream.seek(count, 1)
    return b""
