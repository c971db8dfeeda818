"""For how long a partition's oldest unread record is known, from end offsets alone."""

from collections import deque
from typing import Final

from learner_worker.kafka.offsets import OffsetRange

MOST_LOOKS: Final = 512
"""Looks remembered of a partition that is behind: a quarter of an hour; then every other one is dropped."""


class PartitionLag:
    """For how long the oldest unread record of a partition is known, from the end offsets seen so far.

    Publishers' clocks are not used, because one that is wrong would make the lag years. So what was already
    in the log at the first look counts from then on.

    Attributes:
        looks: when an end offset was seen first, in seconds, and which; the oldest is the oldest unread one.
    """

    def __init__(self) -> None:
        self.looks: deque[tuple[float, int]] = deque()

    def seconds(self, unread: OffsetRange, now: float) -> float:
        """The lag at this moment, which is remembered as a look at the partition's end."""
        looks = self.looks
        while looks and looks[0][1] <= unread.start:
            looks.popleft()
        if unread.end > unread.start and (not looks or looks[-1][1] < unread.end):
            looks.append((now, unread.end))
        if len(looks) > MOST_LOOKS:
            self.looks = deque(list(looks)[::2])
        return now - looks[0][0] if looks else 0.0
