"""In-flight offsets: requests of one partition that were read and are not finished yet."""


class InFlightOffsets:
    """Tracks which requests of a partition are finished, and so which offset may be committed.

    Attributes:
        owned: whether the requests read so far are to be answered here; if not, the shard's new owner
            reads them again.
        position: the next offset to read.
        committed: the last offset known to be committed.
    """

    def __init__(self, position: int) -> None:
        self.owned = True
        self.position = position
        self.committed = position
        self._unfinished: dict[int, None] = {}

    def begin(self, offset: int) -> None:
        """Notes that a request was read."""
        self._unfinished[offset] = None
        self.position = offset + 1

    def finish(self, offset: int) -> None:
        """Notes that a request needs nothing more: Kafka has its reply, or it gets none."""
        self._unfinished.pop(offset, None)

    def skip_to(self, position: int) -> None:
        """Skips to a position: the records before it cannot be read."""
        self.position = max(self.position, position)

    @property
    def committable(self) -> int:
        """The offset below which every request is finished: a restart reads from it."""
        return next(iter(self._unfinished), self.position)
