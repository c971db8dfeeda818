"""A shard file's write-ahead log as a kill left it: did the kill land inside a transaction?

The format is SQLite's (https://www.sqlite.org/fileformat2.html#the_write_ahead_log): a header of 32 bytes,
then frames of a 24-byte header and a page. A frame is valid if it repeats the header's salts and its checksum
continues the chain; the last frame of a transaction carries the database's size, the others 0.
"""

import struct
from pathlib import Path

_HEADER = struct.Struct(">8I")
_FRAME = struct.Struct(">6I")
_SUMMED_OF_HEADER = 24
_SUMMED_OF_FRAME = 8
_LITTLE_ENDIAN_MAGIC = 0x377F0682
_WORD = 0xFFFFFFFF

_Sums = tuple[int, int]


def unfinished_frames(wal: Path) -> int:
    """How many whole frames lie behind the last commit: more than none, and its writer died in a transaction.

    A transaction whose pages still fit into memory has written none: this counts too few, never too many.
    """
    content = wal.read_bytes() if wal.exists() else b""
    if len(content) < _HEADER.size:
        return 0
    magic, _, page_size, _, *salts, first, second = _HEADER.unpack_from(content)
    order = "<" if magic == _LITTLE_ENDIAN_MAGIC else ">"
    sums = _summed((0, 0), content[:_SUMMED_OF_HEADER], order)
    if sums != (first, second):
        return 0
    unfinished = 0
    step = _FRAME.size + page_size
    for start in range(_HEADER.size, len(content) - step + 1, step):
        _, size_after_commit, *frame_salts, first, second = _FRAME.unpack_from(content, start)
        sums = _summed(sums, content[start : start + _SUMMED_OF_FRAME], order)
        sums = _summed(sums, content[start + _FRAME.size : start + step], order)
        if frame_salts != salts or sums != (first, second):
            break
        unfinished = 0 if size_after_commit else unfinished + 1
    return unfinished


def _summed(sums: _Sums, content: bytes, order: str) -> _Sums:
    first, second = sums
    for one, other in struct.iter_unpack(f"{order}2I", content):
        first = (first + one + second) & _WORD
        second = (second + other + first) & _WORD
    return first, second
