"""Learns from the outcomes of a swarm's reverse auctions and answers bidding agents over Kafka."""

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from learner_worker.client import (
        BlockingEventPublisher,
        BlockingLearnerClient,
        EventPublisher,
        LearnerClient,
        kafka_options,
    )
    from learner_worker.contract.topics import Topics
    from learner_worker.errors import SuggestionError

    __version__: str

__all__ = [
    "BlockingEventPublisher",
    "BlockingLearnerClient",
    "EventPublisher",
    "LearnerClient",
    "SuggestionError",
    "Topics",
    "__version__",
    "kafka_options",
]

_HOMES: Final = {
    "BlockingEventPublisher": "learner_worker.client",
    "BlockingLearnerClient": "learner_worker.client",
    "EventPublisher": "learner_worker.client",
    "LearnerClient": "learner_worker.client",
    "SuggestionError": "learner_worker.errors",
    "Topics": "learner_worker.contract.topics",
    "kafka_options": "learner_worker.client",
}


def __getattr__(name: str) -> Any:
    """Imports what is asked for: the program handles signals before it has imported Kafka's client."""
    if name == "__version__":
        return version("learner-worker")
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
