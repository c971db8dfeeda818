"""The time, as the request path asks for it."""

import time

from learner_worker.contract.times import Micros


class Clock:
    """The machine's clocks; a simulation passes its own."""

    def now(self) -> Micros:
        """The wall clock: what record times and deadlines are compared with."""
        return Micros(time.time_ns() // 1000)

    def monotonic(self) -> float:
        """Seconds since some moment: what durations are measured with."""
        return time.monotonic()
