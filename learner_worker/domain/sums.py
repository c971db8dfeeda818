"""What strategies count of an agent's auctions, as a worker keeps it: few bytes, until it is needed."""

from functools import lru_cache
from typing import Final

import msgspec

Cells = dict[int | str, dict[int | str, tuple[int, int]]]
"""Group -> cell -> two counts."""
_pack: Final = msgspec.msgpack.Encoder().encode
_unpack: Final = msgspec.msgpack.Decoder(Cells).decode
_read: Final = lru_cache(maxsize=1_024)(_unpack)  # agents ask in bursts; an entry has some kilobytes


class KeptSums(msgspec.Struct, gc=False):
    """One strategy's sums of one agent: packed, as cells, or both.

    Cells take ten times the memory, so only sums that change often keep them. Until sums are packed they may
    be changed in place; once a snapshot has them they are packed by whoever writes it.

    Attributes:
        cells: the sums by group and cell; None: only packed.
        packed: the sums in bytes; None: they are still to be packed.
    """

    cells: Cells | None
    packed: bytes | None

    @classmethod
    def of(cls, packed: bytes) -> "KeptSums":
        """Sums as they stand in a file."""
        return cls(None, packed)

    def read(self) -> Cells:
        """The sums; not to be changed."""
        return _read(self.packed or _NOTHING) if self.cells is None else self.cells

    def successor(self) -> "KeptSums":
        """Sums of the same content to be changed in place; these keep what they have."""
        cells = self.cells
        if cells is None:
            cells = _unpack(self.packed or _NOTHING)
        elif self.packed is None:
            cells = {group: dict(found) for group, found in cells.items()}
        else:
            self.cells = None  # the bytes are enough
        return KeptSums(cells, None)

    def pack(self) -> bytes:
        """The sums in bytes."""
        if self.packed is None:
            self.packed = _pack(self.cells)
        return self.packed

    def release(self) -> None:
        """Drops the cells, if the sums are packed."""
        if self.packed is not None:
            self.cells = None


_NOTHING: Final = _pack({})
