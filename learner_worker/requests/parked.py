"""Parked requests: their shard is not open yet or is restoring, or their agent is being loaded."""

from collections.abc import Callable

from learner_worker.kafka.records import size_of
from learner_worker.requests.request import AdmittedRequest

_MAX_REQUESTS = 10_000
"""Few enough for the owner to answer soon after the restore, before the last deadlines pass."""
_MAX_BYTES = 64 * 1024 * 1024
"""Bounds memory, because descriptions and headers may be long and the shards need the rest."""


class ParkedRequests:
    """A bounded store of requests, in the order they were parked."""

    def __init__(self) -> None:
        self._requests: list[AdmittedRequest] = []
        self._bytes = 0

    @property
    def has_room(self) -> bool:
        """Whether one more request may be parked."""
        return len(self._requests) < _MAX_REQUESTS and self._bytes < _MAX_BYTES

    def park(self, request: AdmittedRequest) -> None:
        """Adds a request."""
        self._requests.append(request)
        self._bytes += size_of(request.received.record)

    def take_all(self) -> list[AdmittedRequest]:
        """Removes all requests; returns those that are still to be answered here."""
        requests, self._requests, self._bytes = self._requests, [], 0
        return [request for request in requests if request.received.owned]

    def keep(self, wanted: Callable[[AdmittedRequest], bool]) -> None:
        """Drops the requests that are not wanted: the new owner of their shard reads them again."""
        for request in self.take_all():
            if wanted(request):
                self.park(request)
