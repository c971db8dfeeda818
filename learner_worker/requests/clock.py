"""The clocks that the request path uses."""

import time

from learner_worker.contract.times import Micros


class Clock:
    """The machine's clocks; a simulation passes its own."""

    def now(self) -> Micros:
        """The wall clock: record times and deadlines are compared with it."""
        return Micros(time.time_ns() // 1000)

    def monotonic(self) -> float:
        """Seconds since an arbitrary moment: durations are measured with it."""
        return time.monotonic()
