"""Which encoding a file is in, and its text. A verdict is about the whole file, read in blocks.

Bytes that do not decode become lone surrogates, so that only their record is lost. Does not know records.
"""

from __future__ import annotations

import codecs
import functools
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from tasks.data.reading.archives import Blocks, unreadable
from tasks.data.source import DataFile
from tasks.errors import DataError

#: A guessed encoding is believed when no more than this share of its non-ASCII characters fails to decode.
_MAX_BAD_SHARE = 0.02
_ENOUGH = 10_000
_HEAD = 4096
_LOST = "weitiao.lost"


class Charset(NamedTuple):
    """An encoding, and the length of the byte order mark at the file's start."""

    name: str
    bom: int = 0


#: UTF-32 first: its little-endian mark starts with that of UTF-16.
_BOMS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)


def _lost(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeDecodeError)
    return "\udc80", error.end


codecs.register_error(_LOST, _lost)


def detect(file: DataFile) -> Charset:
    """The encoding of a file: UTF-8, UTF-16, UTF-32 or GB18030, of which GBK is a part.

    Raises:
        DataError: the file cannot be read, or fits none of these encodings.
    """
    try:
        state = file.path.stat()
    except OSError as error:
        raise unreadable(file.path, error) from error
    return _detect(file, state.st_size, state.st_mtime_ns)


@functools.lru_cache(maxsize=64)
def _detect(file: DataFile, size: int, modified: int) -> Charset:
    head = _head(file)
    for bom, name in _BOMS:
        if head.startswith(bom):
            return Charset(name, len(bom))
    if wide := _utf16_without_bom(head):
        return Charset(wide)
    shares = {}
    for name in ("utf-8", "gb18030"):
        if _is_flawless(file, name):
            return Charset(name)
        shares[name], damaged = _bad_share(file, name)
        if shares[name] <= _MAX_BAD_SHARE:
            return Charset(name)
    if damaged:  # what a damaged file unpacks to before it is noticed may be anything
        return Charset(min(shares, key=lambda name: shares[name]))
    where = f"{file.path}/{file.member}" if file.member else str(file.path)
    raise DataError(f"{where}: unknown encoding: neither UTF-8, UTF-16 nor GB18030 (GBK); save it as UTF-8 and retry")


def text(blocks: Iterable[bytes], charset: Charset) -> Iterator[str]:
    """The text of blocks from which the byte order mark is gone already."""
    errors = "surrogateescape" if charset.name in ("utf-8", "gb18030") else _LOST
    decoder = codecs.getincrementaldecoder(charset.name)(errors)
    for block in blocks:
        yield decoder.decode(block)
    yield decoder.decode(b"", final=True)


def without_bom(blocks: Iterable[bytes], charset: Charset) -> Iterator[bytes]:
    """The blocks behind the byte order mark."""
    skip = charset.bom
    for block in blocks:
        if skip < len(block):
            yield block[skip:] if skip else block
        skip = max(0, skip - len(block))


def _head(file: DataFile) -> bytes:
    head = b""
    for block in Blocks(file):
        head += block
        if len(head) >= _HEAD:
            break
    return head[:_HEAD]


def _utf16_without_bom(head: bytes) -> str:
    """JSON and CSV hold ASCII punctuation, so UTF-16 text has many zero bytes, all on one side."""
    even, odd = head[0::2].count(0), head[1::2].count(0)
    if max(even, odd) * 20 < max(1, len(head)):
        return ""
    return "utf-16-be" if even > odd * 4 else "utf-16-le" if odd > even * 4 else ""


def _is_flawless(file: DataFile, name: str) -> bool:
    """About 1 ns a byte of UTF-8; a GBK file is refused at its first Chinese character."""
    decoder = codecs.getincrementaldecoder(name)()
    blocks = Blocks(file)
    try:
        for block in blocks:
            decoder.decode(block)
        decoder.decode(b"", final=not blocks.damage)  # what is damaged may end within a character
    except UnicodeDecodeError:
        return False
    return True


def _bad_share(file: DataFile, name: str) -> tuple[float, bool]:
    """The share of the non-ASCII characters that do not decode, and whether the file is damaged.

    They count as a hundredth of all characters at least, so that one bad byte does not cost a file in ASCII. The share
    is 1 for a file with NUL characters, which is no text. Where most of the first thousands do not decode, the rest is
    not looked at.
    """
    bad = other = length = 0
    nul = False
    blocks = Blocks(file)
    for part in text(blocks, Charset(name)):
        nul = nul or "\0" in part
        length += len(part)
        other += len(part) - len(part.encode("ascii", "ignore"))
        bad += len(part) - len(part.encode("utf-8", "ignore").decode("utf-8"))
        if other > _ENOUGH and bad > other / 2:
            break
    share = bad / max(1, other, length // 100)
    return (1.0 if nul and not blocks.damage else share), blocks.damage is not None
