"""Learns from the outcomes of a swarm's reverse auctions and answers bidding agents over Kafka."""

from importlib.metadata import version

from learner_worker.client import (
    BlockingEventPublisher,
    BlockingLearnerClient,
    EventPublisher,
    LearnerClient,
)
from learner_worker.errors import SuggestionError

__all__ = [
    "BlockingEventPublisher",
    "BlockingLearnerClient",
    "EventPublisher",
    "LearnerClient",
    "SuggestionError",
    "__version__",
]

__version__ = version("learner-worker")
