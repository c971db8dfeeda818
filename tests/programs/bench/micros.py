"""Processor time of what takes microseconds."""

import itertools
import statistics
import time
from collections.abc import Callable, Iterable
from typing import TypeVar

_PIECE = 200  # calls between two looks at the clock: long beside a look, short beside what disturbs
T = TypeVar("T")


def micros_of_each(act: Callable[[T], object], inputs: Iterable[T], count: int) -> float:
    """Of one call, the median of some pieces' means: what else the machine does is not counted."""
    pieces, endless = [], itertools.cycle(inputs)
    for _ in range(max(1, count // _PIECE)):
        began = time.process_time()
        for each in itertools.islice(endless, _PIECE):
            act(each)
        pieces.append((time.process_time() - began) / _PIECE)
    return statistics.median(pieces) * 1e6
