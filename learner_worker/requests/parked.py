"""Requests that wait for their shard: it is not open yet, or it is restoring."""

from collections.abc import Callable

from learner_worker.requests.request import AdmittedRequest

_MAX_REQUESTS = 10_000
"""What a restored shard's owner then answers within about a second."""
_MAX_BYTES = 64 * 1024 * 1024
"""Descriptions may be long: what is parked must not take the memory that shards need."""


class ParkedRequests:
    """A bounded store of requests, in the order they were parked."""

    def __init__(self) -> None:
        self._requests: list[AdmittedRequest] = []
        self._bytes = 0

    @property
    def has_room(self) -> bool:
        """Whether one more may be parked."""
        return len(self._requests) < _MAX_REQUESTS and self._bytes < _MAX_BYTES

    def park(self, request: AdmittedRequest) -> None:
        """Adds a request."""
        self._requests.append(request)
        self._bytes += len(request.received.record.value or b"")

    def take_all(self) -> list[AdmittedRequest]:
        """Takes out every request that is still to be answered here."""
        requests, self._requests, self._bytes = self._requests, [], 0
        return [request for request in requests if request.received.owned]

    def keep(self, wanted: Callable[[AdmittedRequest], bool]) -> None:
        """Drops what is not wanted: who owns its shard now reads it again."""
        for request in self.take_all():
            if wanted(request):
                self.park(request)
