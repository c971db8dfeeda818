"""Brokers in the order of preference: given servers, Docker, Apache Kafka by Maven, noida-db (embedded).

Used by the demo and the tests; production brings its own Kafka.
"""

from learner_worker.brokers.broker import Broker, BrokerKind
from learner_worker.brokers.cluster import KafkaCluster
from learner_worker.brokers.preference import (
    available_brokers,
    description,
    first_available,
    running_broker,
    why_not,
)

__all__ = [
    "Broker",
    "BrokerKind",
    "KafkaCluster",
    "available_brokers",
    "description",
    "first_available",
    "running_broker",
    "why_not",
]
