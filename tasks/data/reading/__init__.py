"""Bytes of a file to records: archives, encodings, line ends, and the shapes in which people save JSON and CSV."""

from tasks.data.reading.parsing import Record
from tasks.data.reading.stream import Chunk, chunks, encoding, parse, records

__all__ = ["Chunk", "Record", "chunks", "encoding", "parse", "records"]
