"""Bytes of input files in blocks: plain files, gzip, and members of zip archives, unpacked while they are read.

Nothing is ever extracted to disk. What is damaged gives all that comes before the damage, then says so. Does not know
encodings (``charsets``) or records (``reading``).
"""

from __future__ import annotations

import re
import struct
import zipfile
import zlib
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import IO, NamedTuple

from tasks.data.source import DataFile
from tasks.errors import DataError

#: Bytes that are read, and unpacked, at once.
BLOCK = 1 << 20
_GZIP = b"\x1f\x8b"
_ZIP = b"PK\x03\x04"
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_ENCRYPTED = 1
_UTF8_NAME = 0x800
#: Lengths of a member's local header, and where the lengths of its name and extra field stand (APPNOTE.TXT 4.3.7).
_LOCAL_HEADER, _LOCAL_LENGTHS = 30, slice(26, 30)


class Damage(NamedTuple):
    """How a packed file ends before its end."""

    problem: str
    detail: str


class _Damaged(Exception):
    def __init__(self, damage: Damage) -> None:
        super().__init__(damage.problem)
        self.damage = damage


class Blocks:
    """The unpacked bytes of a file, to be iterated over once; ``damage`` is set when they end too early.

    Raises:
        DataError: the file cannot be read at all.
    """

    def __init__(self, file: DataFile) -> None:
        self._file = file
        self.damage: Damage | None = None

    def __iter__(self) -> Iterator[bytes]:
        path = self._file.path
        try:
            with path.open("rb") as raw:
                packed = _member(raw, path, self._file.member) if self._file.member else _pieces(raw)
                yield from _gunzipped(packed)
        except _Damaged as error:
            self.damage = error.damage
        except OSError as error:
            raise unreadable(path, error) from error


def unreadable(path: Path, error: OSError) -> DataError:
    """The one line on a file that the system does not let us read."""
    return DataError(f"{path}: cannot be read ({error.strerror or error})")


def is_zip(path: Path) -> bool:
    """Whether a file is a zip archive, by its first bytes.

    Raises:
        DataError: it cannot be read.
    """
    try:
        with path.open("rb") as raw:
            return raw.read(len(_ZIP)) == _ZIP
    except OSError as error:
        raise unreadable(path, error) from error


class Member(NamedTuple):
    """A file in a zip archive; ``problem`` says why it cannot be read."""

    key: str
    shown: str
    problem: str


def zip_members(path: Path) -> list[Member]:
    """The files in a zip archive, sorted by name.

    Raises:
        DataError: the archive cannot be read.
    """
    try:
        with path.open("rb") as raw:
            infos = _index(raw, path)
    except OSError as error:
        raise unreadable(path, error) from error
    last = {info.filename: info for info in infos}
    found = [Member(i.filename, _shown(i), _problem(i, last[i.filename] is i)) for i in infos]
    return sorted(found, key=lambda member: (member.shown, member.key, member.problem))


def _index(raw: IO[bytes], path: Path) -> list[zipfile.ZipInfo]:
    """The files of an archive in its own order.

    Raises:
        DataError: its index is broken.
    """
    try:
        with zipfile.ZipFile(raw) as archive:
            infos = [info for info in archive.infolist() if info.filename and not info.filename.endswith("/")]
    except (zipfile.BadZipFile, NotImplementedError, ValueError, struct.error) as error:
        raise DataError(f"{path}: a broken zip archive ({_CONTROL.sub('?', str(error))})") from error
    if any(info.header_offset < 0 for info in infos):
        raise DataError(f"{path}: a broken zip archive (its index names places before its start)")
    return infos


def _shown(info: zipfile.ZipInfo) -> str:
    """The member's name; archives made by Windows or macOS may hold GBK or UTF-8 names without saying so."""
    return _CONTROL.sub("?", _name(info))


def _name(info: zipfile.ZipInfo) -> str:
    if not info.flag_bits & _UTF8_NAME and not info.filename.isascii():
        for encoding in ("utf-8", "gb18030"):
            try:
                return info.filename.encode("cp437").decode(encoding)
            except UnicodeError:
                continue
    return info.filename


def _problem(info: zipfile.ZipInfo, last: bool) -> str:
    name = info.orig_filename
    if _CONTROL.search(name):
        return "its name has control characters"
    if name.startswith("/") or "\\" in name or re.match("[A-Za-z]:", name) or ".." in name.split("/"):
        return "unsafe path in the archive"
    if not last:
        return "the archive has another file of this name"
    if info.flag_bits & _ENCRYPTED:
        return "encrypted"
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        return "packed by another method than deflate"
    return ""


def _pieces(raw: IO[bytes], limit: int | None = None) -> Iterator[bytes]:
    while limit is None or limit > 0:
        piece = raw.read(BLOCK if limit is None else min(BLOCK, limit))
        if not piece:
            return
        limit = None if limit is None else limit - len(piece)
        yield piece


def _gunzipped(pieces: Iterator[bytes]) -> Iterator[bytes]:
    """The pieces, unpacked if their first bytes are those of gzip."""
    head = b""
    for piece in pieces:
        head += piece
        if len(head) >= len(_GZIP):
            break
    if head:
        whole = chain([head], pieces)
        yield from _gunzip(whole) if head.startswith(_GZIP) else whole


def _gunzip(pieces: Iterator[bytes]) -> Iterator[bytes]:
    inflater = zlib.decompressobj(16 + zlib.MAX_WBITS)
    for piece in pieces:
        while piece:
            if inflater.eof:
                piece = piece.lstrip(b"\0")  # padding between or behind members
                if not piece:
                    break
                inflater = zlib.decompressobj(16 + zlib.MAX_WBITS)
            yield from _inflate(inflater, piece, "broken gzip")
            piece = inflater.unused_data
    if not inflater.eof:
        raise _Damaged(Damage("broken gzip", "the packed data ends early"))


def _inflate(inflater: zlib._Decompress, piece: bytes, problem: str) -> Iterator[bytes]:
    """What a piece unpacks to, at most BLOCK bytes at once; all that comes before a damaged byte.

    Raises:
        _Damaged: the piece is damaged.
    """
    while True:
        before = inflater.copy()
        try:
            unpacked = inflater.decompress(piece, BLOCK)
        except zlib.error as error:
            yield _before_damage(before, piece)
            raise _Damaged(Damage(problem, "the packed data is damaged")) from error
        yield unpacked
        piece = inflater.unconsumed_tail
        if inflater.eof or (not piece and len(unpacked) < BLOCK):
            return


def _before_damage(inflater: zlib._Decompress, piece: bytes) -> bytes:
    unpacked = []
    try:
        for position in range(len(piece)):
            unpacked.append(inflater.decompress(piece[position : position + 1]))
    except zlib.error:
        pass
    return b"".join(unpacked)


def _member(raw: IO[bytes], path: Path, name: str) -> Iterator[bytes]:
    """The bytes of a member, checked against its checksum.

    Raises:
        DataError: there is no such member, or it cannot be unpacked.
        _Damaged: its data are damaged.
    """
    info = next((info for info in reversed(_index(raw, path)) if info.filename == name), None)
    if info is None:
        raise DataError(f"{path}: no member {name} in this archive")
    if problem := _problem(info, last=True):
        raise DataError(f"{path}: member {_shown(info)} cannot be read ({problem})")
    raw.seek(info.header_offset)
    header = raw.read(_LOCAL_HEADER)
    if len(header) < _LOCAL_HEADER or not header.startswith(_ZIP):
        raise _Damaged(Damage("broken zip", "no header where the archive's index says"))
    lengths = header[_LOCAL_LENGTHS]
    raw.seek(int.from_bytes(lengths[:2], "little") + int.from_bytes(lengths[2:], "little"), 1)
    packed = _pieces(raw, info.compress_size)
    checksum = length = 0
    for block in packed if info.compress_type == zipfile.ZIP_STORED else _inflated(packed):
        checksum, length = zlib.crc32(block, checksum), length + len(block)
        yield block
    if length != info.file_size or checksum != info.CRC:
        raise _Damaged(Damage("broken zip", "the checksum is wrong: some of the text before may be, too"))


def _inflated(pieces: Iterator[bytes]) -> Iterator[bytes]:
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    for piece in pieces:
        if inflater.eof:
            break
        yield from _inflate(inflater, piece, "broken zip")
    if not inflater.eof:
        raise _Damaged(Damage("broken zip", "the packed data ends early"))
