"""One broker for these tests: what they show does not depend on which."""

import pytest

from learner_worker.brokers import Broker, BrokerKind
from tests.conftest import BrokerPool


@pytest.fixture(scope="session")
def one_broker(broker_pool: BrokerPool, broker_kinds: frozenset[BrokerKind]) -> Broker:
    """Apache Kafka, if this run of the suite has it, else another."""
    preferred = (BrokerKind.KAFKA, BrokerKind.DOCKER, BrokerKind.EMBEDDED, BrokerKind.GIVEN)
    return broker_pool.broker(next(kind for kind in preferred if kind in broker_kinds))
