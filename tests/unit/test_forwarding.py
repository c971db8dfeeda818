"""Requests from agents' own topics: what they carry on the shared one, and what is committed."""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, cast

import pytest
from aiokafka import TopicPartition
from aiokafka.errors import KafkaError, KafkaTimeoutError, MessageSizeTooLargeError
from prometheus_client import Counter

from learner_worker.contract.headers import REQUEST_HEADERS, Headers, header
from learner_worker.contract.times import Micros, format_time
from learner_worker.contract.topics import ReplyTopics, TopicName, Topics
from learner_worker.errors import ConfigurationError
from learner_worker.forwarding.bindings import Binding, bindings_of
from learner_worker.forwarding.forwarder import Forwarder
from learner_worker.forwarding.process import run_forwarder
from learner_worker.forwarding.sending import RequestSender, forwarded
from learner_worker.forwarding.tokens import LIFETIME_SECONDS, RENEWAL_SECONDS, TopicTokens
from learner_worker.identity.authenticator import Authenticator
from learner_worker.identity.keys import KeySet, keys_of_secrets
from learner_worker.kafka.outage import Outage
from learner_worker.kafka.partitioner import partitioner
from learner_worker.kafka.records import Outgoing, Unreadable
from learner_worker.observability import ForwardingInstruments
from learner_worker.settings import load_settings
from tests.support.conditions import becomes_true
from tests.support.requests import NOW, REQUEST, ManualClock
from tests.support.tokens import AUDIENCE, SECRET

NAMES = Topics().named()
OWN = TopicName("suggest-bid-requests.ann")
PARTITIONS = 12
TTL = 10_000_000
SECONDS = NOW // 1_000_000
TRACE = ("traceparent", b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
REPLIES = ReplyTopics(NAMES.reply_patterns, ())


def record(value: bytes | None = REQUEST, headers: Headers = (), offset: int = 0) -> Unreadable:
    """A record of an agent's own topic, written now."""
    return Unreadable(OWN, 0, offset, NOW // 1000, b"a key", value, headers)


def sent_on(original: Unreadable, now: Micros = NOW) -> Outgoing | None:
    """The record for the shared topic."""
    return forwarded(
        original, b"Bearer t", topic=NAMES.requests, partitions=PARTITIONS, ttl_micros=TTL, now=now
    )


@pytest.mark.parametrize("names", REQUEST_HEADERS.values(), ids=REQUEST_HEADERS)
def test_a_request_keeps_all_but_its_proof(names: Sequence[str]) -> None:
    """The headers of every convention, the trace, key and value; on the partition of its agent."""
    kept = [*zip(names, (b"\x00\xff", b"replies.ann", b"\x00\x00\x00\x01"), strict=True), TRACE, ("x", None)]
    forged = [("authorization", b"Bearer stolen"), ("Authorization", b"Bearer too")]

    outgoing = sent_on(record(headers=[forged[0], *kept, forged[1]]))

    assert outgoing == Outgoing(
        NAMES.requests,
        partitioner(PARTITIONS)("ann"),
        b"a key",
        REQUEST,
        [*kept, ("authorization", b"Bearer t"), ("deadline", format_time(Micros(NOW + TTL)).encode())],
    )


@pytest.mark.parametrize(
    ("headers", "body_seconds", "expected_seconds"),
    [
        ((), None, 10),
        ((), 3, 3),
        ((), 30, 10),
        ((4,), None, 4),
        ((40,), None, 10),
        ((4,), 3, 3),
        ((1, 2), None, 2),
    ],
)
def test_a_request_expires_as_on_the_shared_topic(
    headers: Sequence[int], body_seconds: int | None, expected_seconds: int
) -> None:
    """Its time to live counts from its own record; its earlier deadline is kept; afterwards it is dropped."""

    def after(seconds: int) -> Micros:
        return Micros(NOW + seconds * 1_000_000)

    body = REQUEST
    if body_seconds is not None:
        body = REQUEST.replace(b"{", b'{"deadline": "%s", ' % format_time(after(body_seconds)).encode())
    original = record(body, [("deadline", format_time(after(each)).encode()) for each in headers])

    outgoing = sent_on(original, after(expected_seconds))

    assert outgoing is not None
    assert header(outgoing.headers, "deadline") == format_time(after(expected_seconds)).encode()
    assert sent_on(original, Micros(after(expected_seconds) + 1)) is None


@pytest.mark.parametrize("value", [None, b"", b"{}", b"\xff", REQUEST.replace(b"100", b"-1")])
def test_what_is_no_request_is_left_to_a_worker(value: bytes | None) -> None:
    """Which answers with what is wrong; its key chooses the partition, and its deadline stays as it is."""
    headers = [("deadline", b"soon")]
    late = Micros(NOW + TTL + 1)

    assert sent_on(record(value, headers)) == Outgoing(
        NAMES.requests, None, b"a key", value, [*headers, ("authorization", b"Bearer t")]
    )
    assert sent_on(record(value, headers), late) is None
    assert sent_on(record(None)._replace(key=None)) == Outgoing(
        NAMES.requests, None, None, b"", [("authorization", b"Bearer t")]
    )


def test_a_wrong_deadline_is_not_repaired() -> None:
    """A worker refuses it, as it does on the shared topic."""
    outgoing = sent_on(record(headers=[("deadline", b"soon")]))

    assert outgoing is not None
    assert header(outgoing.headers, "deadline") == b"soon"


def test_a_topics_token_is_for_its_agents_and_lives_for_minutes() -> None:
    """One signature a minute; another secret signs at once."""
    secrets = [keys_of_secrets(SECRET)]
    bindings = {OWN: Binding(["ann"], ["a-"]), TopicName("all"): Binding([], [""])}
    tokens = TopicTokens(bindings, lambda: KeySet(secrets[0]), audience=AUDIENCE, issuer="me")
    authenticator = Authenticator(lambda: KeySet(secrets[0]), audience=AUDIENCE, issuer="me")

    def principal(topic: TopicName, now: int) -> Any:
        scheme, _, token = tokens.authorization(topic, now).partition(b" ")
        assert scheme == b"Bearer"
        return authenticator.principal(token, float(now))

    own = principal(OWN, SECONDS)
    assert [each for each in ("ann", "anna", "a-1", "bob") if own.covers(each)] == ["ann", "a-1"]
    assert own.expires == SECONDS + LIFETIME_SECONDS
    assert principal(TopicName("all"), SECONDS).covers("bob")

    first = tokens.authorization(OWN, SECONDS)
    assert tokens.authorization(OWN, SECONDS + RENEWAL_SECONDS - 1) == first
    assert tokens.authorization(OWN, SECONDS + RENEWAL_SECONDS) != first
    secrets[0] = keys_of_secrets(b"another secret of enough length..")
    assert principal(OWN, SECONDS + RENEWAL_SECONDS).covers("ann")


def bound(*texts: str) -> Mapping[TopicName, Binding]:
    """The agents of topics."""
    return bindings_of(texts, taken=Topics(advice_log=True).named().all, replies=REPLIES)


def test_a_topic_may_be_of_several_agents() -> None:
    """Each by its id, or by the beginning of ids."""
    assert bound("one=ann", "two=b*", "one=a-*", "one=c=d") == {
        "one": Binding(["ann", "c=d"], ["a-"]),
        "two": Binding([], ["b"]),
    }


@pytest.mark.parametrize(
    ("texts", "words"),
    [
        ((), "nothing to forward"),
        (("suggest-bid-requests=ann",), "not an agent's own request topic"),
        (("learner-outcomes.layout2=ann",), "not an agent's own request topic"),
        (("learner-advice=ann",), "not an agent's own request topic"),
        (("suggest-bid-requests.reply=ann",), "is a reply topic"),
        (("suggest-bid-replies.ann=ann",), "is a reply topic"),
        (("one=ann", "two=ann"), "one and two stand for the same agent"),
        (("one=a*", "two=ann"), "stand for the same agent"),
        (("one=ann", "two=*"), "stand for the same agent"),
        (("one=a*", "two=an*"), "stand for the same agent"),
        (("one=an*", "two=a*"), "stand for the same agent"),
    ],
)
def test_what_is_no_topic_of_an_agents_own_is_refused(texts: Sequence[str], words: str) -> None:
    """One that others write, or that leaves open who asks."""
    with pytest.raises(ConfigurationError, match=words):
        bound(*texts)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ({}, "nothing to forward"),
        ({"agent_topic": ["one"]}, "--agent-topic .* neither TOPIC=AGENT nor TOPIC=PREFIX"),
        ({"agent_topic": "one=ann,two=bob"}, "need the workers' secret"),
        ({"agent_topic": ["one=ann"], "identity_secret_file": "missing"}, "cannot read missing"),
    ],
)
async def test_what_cannot_work_is_refused_before_kafka_is_asked(flags: Any, words: str) -> None:
    """It says which setting is missing."""
    with pytest.raises(ConfigurationError, match=words):
        await run_forwarder(load_settings(flags), print)


class OwnTopic:
    """A consumer with one partition, which can be sought, and the offset that it has committed."""

    def __init__(self, records: Sequence[Unreadable]) -> None:
        self.records = records
        self.partition = TopicPartition(OWN, 0)
        self.next = 0
        self.committed = 0

    def assignment(self) -> set[TopicPartition]:
        return {self.partition}

    async def position(self, _partition: TopicPartition) -> int:
        return self.next

    def seek(self, _partition: TopicPartition, offset: int) -> None:
        self.next = offset

    async def getmany(self, *, max_records: int, **_: object) -> dict[TopicPartition, list[Unreadable]]:
        await asyncio.sleep(0)
        found = list(self.records[self.next : self.next + max_records])
        self.next += len(found)
        return {self.partition: found} if found else {}

    async def commit(self, offsets: Mapping[TopicPartition, int]) -> None:
        self.committed = offsets[self.partition]


class SharedTopic:
    """A producer that has every record at once, or fails with the next of some errors; it can be held up."""

    def __init__(self, errors: Sequence[KafkaError]) -> None:
        self.errors = list(errors)
        self.values: list[bytes] = []
        self.tries = 0
        self.answers = asyncio.Event()
        self.answers.set()

    async def partitions_for(self, _topic: str) -> set[int]:
        return set(range(PARTITIONS))

    async def send_and_wait(self, _topic: str, *, value: bytes, **_: object) -> None:
        self.tries += 1
        await self.answers.wait()
        if self.errors:
            raise self.errors.pop(0)
        self.values.append(value)

    def create_batch(self) -> Any:
        """A batch of one record."""
        raise MessageSizeTooLargeError


def forwarder_of(consumer: OwnTopic, producer: SharedTopic, counts: Counter) -> Forwarder:
    """A forwarder with these clients."""
    keys, clock = KeySet(keys_of_secrets(SECRET)), ManualClock()
    sender = RequestSender(
        producer=cast("Any", producer),
        requests=NAMES.requests,
        ttl_seconds=TTL / 1_000_000,
        tokens=TopicTokens({OWN: Binding(["ann"], [])}, lambda: keys, audience=AUDIENCE, issuer=None),
        counts=counts,
        clock=clock,
    )
    return Forwarder(consumer=cast("Any", consumer), sender=sender, outage=Outage(), clock=clock)


async def test_only_what_kafka_has_is_committed() -> None:
    """What fails is sent again with its batch; what expires or is never taken is passed over."""
    late = record(offset=1)._replace(timestamp=0)
    consumer = OwnTopic([record(offset=0), late, record(offset=2)])
    producer = SharedTopic([KafkaTimeoutError()])
    counts = ForwardingInstruments().requests
    forwarder = forwarder_of(consumer, producer, counts)
    stopping = asyncio.Event()
    running = asyncio.create_task(forwarder.run(stopping))
    await becomes_true(lambda: producer.tries == 2)
    assert consumer.committed == 0
    await becomes_true(lambda: producer.tries == 4)
    producer.errors.append(MessageSizeTooLargeError())
    consumer.records = [*consumer.records, record(offset=3)]
    await becomes_true(lambda: producer.tries == 5)
    stopping.set()
    await running

    assert consumer.committed == 4
    assert producer.values == [REQUEST] * 3
    results = {
        sample.labels["result"]: sample.value
        for metric in counts.collect()
        for sample in metric.samples
        if sample.name.endswith("_total")
    }
    assert results == {"forwarded": 3.0, "expired": 2.0, "refused": 1.0}


async def test_what_fails_during_a_rebalance_is_sent_again() -> None:
    """Until partitions are assigned anew, the client's own position is past the failed batch.

    Nor is anything committed until then: the group would refuse it.
    """
    consumer, producer = OwnTopic([record(offset=0), record(offset=1)]), SharedTopic([KafkaTimeoutError()])
    forwarder = forwarder_of(consumer, producer, ForwardingInstruments().requests)
    producer.answers.clear()
    stopping = asyncio.Event()
    running = asyncio.create_task(forwarder.run(stopping))
    await becomes_true(lambda: producer.tries == 2)
    await forwarder.on_partitions_revoked([consumer.partition])
    producer.answers.set()
    await becomes_true(lambda: forwarder.turns > 2)
    assert consumer.committed == 0
    await forwarder.on_partitions_assigned([consumer.partition])
    turns = forwarder.turns
    await becomes_true(lambda: forwarder.turns > turns + 1)
    stopping.set()
    await running

    assert producer.values == [REQUEST] * 3
    assert consumer.committed == 2
