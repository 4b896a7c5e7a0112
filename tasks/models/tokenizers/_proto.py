"""Reads a SentencePiece ``.model`` file: its pieces and the settings that decide how text becomes pieces.

Owns the wire format only (a few of ModelProto's fields), so that neither sentencepiece nor protobuf is needed. What the
settings mean is in ``_pieces``.

Source: sentencepiece_model.proto (field numbers and defaults), the protocol buffers encoding.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tasks.errors import ModelError

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6
UNIGRAM, BPE = 1, 2

#: A field of a message: its number and value (an int, a float, or the bytes of a string or message).
_Field = tuple[int, "int | float | bytes"]


@dataclass(frozen=True)
class Piece:
    """A vocabulary entry; its id is its place in the file. ``score``: log probability (Unigram) or merge priority."""

    text: str
    score: float
    kind: int


@dataclass(frozen=True)
class Model:
    """What a ``.model`` file says.

    Attributes:
        algorithm: UNIGRAM or BPE (WORD and CHAR models exist, too).
        rule: name of the normalisation rule, such as "identity" or "nmt_nfkc".
        charsmap: the compiled rule, empty for "identity".
    """

    pieces: tuple[Piece, ...]
    algorithm: int = UNIGRAM
    byte_fallback: bool = False
    whitespace_as_suffix: bool = False
    bos_id: int = 1
    eos_id: int = 2
    pad_id: int = -1
    rule: str = ""
    charsmap: bytes = b""
    add_dummy_prefix: bool = True
    remove_extra_whitespaces: bool = True
    escape_whitespaces: bool = True
    denormalizes: bool = False

    @property
    def unknown_id(self) -> int:
        return next(i for i, piece in enumerate(self.pieces) if piece.kind == UNKNOWN)


def read(path: Path) -> Model:
    """The model in ``path``.

    Raises:
        ModelError: the file is missing, is a git-lfs pointer, is cut short or is something else.
    """
    return parse(read_bytes(path), path)


def parse(content: bytes, path: Path | str) -> Model:
    """The model in ``content``; ``path`` is for errors."""
    try:
        model = _model(content)
    except (ValueError, IndexError, struct.error, UnicodeDecodeError) as error:
        raise ModelError(
            f"{path}: not a whole SentencePiece model ({error}; {len(content)} bytes); download it again"
        ) from error
    _check(model, path)
    return model


def read_bytes(path: Path) -> bytes:
    """A tokenizer file's bytes, which must be the file itself and not its stand-in."""
    if not path.is_file():
        raise ModelError(f"{path}: the tokenizer's file is missing; download it with the model's other files")
    content = path.read_bytes()
    if content.startswith(b"version https://git-lfs"):
        raise ModelError(f"{path}: a git-lfs pointer instead of the file; run `git lfs pull` or download it again")
    return content


def _check(model: Model, path: Path | str) -> None:
    unknown = sum(piece.kind == UNKNOWN for piece in model.pieces)
    if unknown != 1:
        raise ModelError(f"{path}: {unknown} pieces for unknown text, one is needed; not a usable SentencePiece model")
    if len({piece.text for piece in model.pieces}) != len(model.pieces):
        raise ModelError(f"{path}: the same piece stands in it twice; not a usable SentencePiece model")


def _model(content: bytes) -> Model:
    pieces: list[Piece] = []
    trainer: dict[int, int | float | bytes] = {}
    normalizer: dict[int, int | float | bytes] = {}
    denormalizer: dict[int, int | float | bytes] = {}
    seen: set[int] = set()
    for number, value in _fields(content):
        seen.add(number)
        if number == 1:
            pieces.append(_piece(_bytes(value)))
        elif number == 2:
            trainer.update(_fields(_bytes(value)))
        elif number == 3:
            normalizer.update(_fields(_bytes(value)))
        elif number == 5:
            denormalizer.update(_fields(_bytes(value)))
    if missing := {1: "pieces", 2: "trainer_spec", 3: "normalizer_spec"}.keys() - seen:
        raise ValueError(f"field {min(missing)} is missing")

    def flag(fields: dict[int, int | float | bytes], number: int, default: bool) -> bool:
        return bool(fields.get(number, default))

    return Model(
        pieces=tuple(pieces),
        algorithm=_int(trainer.get(3, UNIGRAM)),
        byte_fallback=flag(trainer, 35, False),
        whitespace_as_suffix=flag(trainer, 24, False),
        bos_id=_int(trainer.get(41, 1)),
        eos_id=_int(trainer.get(42, 2)),
        pad_id=_int(trainer.get(43, -1)),
        rule=_bytes(normalizer.get(1, b"")).decode(),
        charsmap=_bytes(normalizer.get(2, b"")),
        add_dummy_prefix=flag(normalizer, 3, True),
        remove_extra_whitespaces=flag(normalizer, 4, True),
        escape_whitespaces=flag(normalizer, 5, True),
        denormalizes=bool(denormalizer.get(2)),
    )


def _piece(content: bytes) -> Piece:
    fields = dict(_fields(content))
    score = fields.get(2, 0.0)
    if not isinstance(score, float):
        raise ValueError("a piece's score is not a number")
    return Piece(_bytes(fields.get(1, b"")).decode(), score, _int(fields.get(3, NORMAL)))


def _bytes(value: int | float | bytes) -> bytes:
    if not isinstance(value, bytes):
        raise ValueError("a number where text is expected")
    return value


def _int(value: int | float | bytes) -> int:
    if not isinstance(value, int):
        raise ValueError("text where a whole number is expected")
    return value - (1 << 64) if value >= 1 << 63 else value  # a negative number takes ten bytes


def _fields(content: bytes) -> Iterator[_Field]:
    """The fields of a message, in order."""
    at = 0
    while at < len(content):
        tag, at = _varint(content, at)
        number, wire = tag >> 3, tag & 7
        if wire == 0:
            value, at = _varint(content, at)
            yield number, value
            continue
        if wire == 2:
            size, at = _varint(content, at)
        elif wire in (1, 5):
            size = 8 if wire == 1 else 4
        else:
            raise ValueError(f"byte {at}: no such field type")
        data = content[at : at + size]
        if number == 0 or len(data) != size:
            raise ValueError(f"byte {at}: the file ends early")
        at += size
        yield number, data if wire == 2 else struct.unpack("<d" if wire == 1 else "<f", data)[0]


def _varint(content: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = content[at]
        value |= (byte & 127) << shift
        at += 1
        shift += 7
        if byte < 128:
            return value, at
        if shift > 63:
            raise ValueError(f"byte {at}: not a number")
