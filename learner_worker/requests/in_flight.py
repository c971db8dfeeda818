"""The offsets of the requests of one partition that were read and are not finished yet."""


class InFlightOffsets:
    """Which requests of a partition are finished; what may be committed is what no unfinished one precedes.

    Attributes:
        owned: whether the requests read so far are to be answered here; if not, whoever has the shard now
            reads them again.
        position: the next offset to read.
        committed: what the group's offset is known to be.
    """

    def __init__(self, position: int) -> None:
        self.owned = True
        self.position = position
        self.committed = position
        self._unfinished: dict[int, None] = {}

    def begin(self, offset: int) -> None:
        """A request was read."""
        self._unfinished[offset] = None
        self.position = offset + 1

    def finish(self, offset: int) -> None:
        """It was answered, and Kafka has the reply; or it needs none."""
        self._unfinished.pop(offset, None)

    def skip_to(self, position: int) -> None:
        """What lies before the position cannot be read."""
        self.position = max(self.position, position)

    @property
    def committable(self) -> int:
        """The next offset to read after a restart."""
        return next(iter(self._unfinished), self.position)
