"""The client library for swarm services and bidding agents."""

from learner_worker.client.advice import BidAdvice
from learner_worker.client.blocking import BlockingEventPublisher, BlockingLearnerClient
from learner_worker.client.learner import TIMEOUT, LearnerClient
from learner_worker.client.options import kafka_options
from learner_worker.client.publisher import EventPublisher
from learner_worker.client.session import UNAVAILABLE
from learner_worker.client.tokens import token_file
from learner_worker.credentials.login import OAuthLogin

__all__ = [
    "TIMEOUT",
    "UNAVAILABLE",
    "BidAdvice",
    "BlockingEventPublisher",
    "BlockingLearnerClient",
    "EventPublisher",
    "LearnerClient",
    "OAuthLogin",
    "kafka_options",
    "token_file",
]
