"""What strategies count of an agent's auctions, as a worker keeps it: few bytes, until it is needed."""

from typing import Final

import msgspec

Cells = dict[int | str, dict[int | str, tuple[int, int]]]
"""Group -> cell -> two counts."""
_pack: Final = msgspec.msgpack.Encoder().encode
_unpack: Final = msgspec.msgpack.Decoder(Cells).decode
_NOTHING: Final = _pack({})


class KeptSums(msgspec.Struct, gc=False):
    """One strategy's sums of one agent: packed, or as cells while they change.

    Cells take ten times the memory. They may change until a snapshot takes them; whoever writes the snapshot
    packs them. Of this an object only changes its form, so that it can be read meanwhile.

    Attributes:
        cells: the sums while they are not packed; None once they are.
        packed: the sums in bytes, once they are packed.
    """

    cells: Cells | None = None
    packed: bytes = _NOTHING

    @property
    def is_empty(self) -> bool:
        """Whether nothing is counted."""
        return not self.cells if self.cells is not None else self.packed == _NOTHING

    def read(self) -> Cells:
        """The sums; not to be changed."""
        return _unpack(self.packed) if self.cells is None else self.cells

    def copy(self) -> "KeptSums":
        """Sums of the same content that may be changed: `cells` is set."""
        if self.cells is None:
            return KeptSums(_unpack(self.packed))
        return KeptSums({group: dict(cells) for group, cells in self.cells.items()})

    def pack(self) -> bytes:
        """Packs the sums; the bytes."""
        if self.cells is not None:
            self.packed, self.cells = _pack(self.cells), None
        return self.packed
