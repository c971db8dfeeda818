"""The whole way of an event, whatever it is: settled, moved once or one dead letter; the next one follows."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from learner_worker.contract.topics import EventKind
from tests.fuzz import FUZZ, model, strategies
from tests.fuzz.strategies import Headers
from tests.fuzz.world import SHARDS, Change, FuzzWorld, Worlds
from tests.simulation.log import Entry, Sent
from tests.simulation.worker import HORIZON, TOPICS
from tests.support import model as swarm

_LAST_US = 253_370_764_800_000_000 - 1
_KEPT_BYTES = 64 * 1024
_KINDS: dict[str, EventKind] = {
    TOPICS.bid_placed: "bid-placed",
    TOPICS.auction_closed: "auction-closed",
    TOPICS.task_finished: "task-finished",
}


@dataclass(frozen=True, slots=True)
class Published:
    """An event as somebody lays it into a partition."""

    topic: str
    partition: int
    key: bytes | None
    value: bytes | None
    headers: Headers
    timestamp_ms: int | None = None


@dataclass(frozen=True, slots=True)
class Due:
    """What must become of a record: counted so, and a dead letter of this reason if there is one."""

    published: Published
    result: str
    reason: str | None = None
    event: swarm.Event | None = None


def _published(kind: EventKind, shape: strategies.Shape) -> st.SearchStrategy[Published]:
    hop = st.tuples(st.just("learner-hop"), strategies.mostly(st.just(kind.encode()), strategies.HOPS))
    moved = st.lists(hop, min_size=1, max_size=2)
    values = strategies.mostly(
        strategies.good_values(shape),
        strategies.mostly(strategies.values(shape), strategies.sizable(shape)),
        of_sixteen=8,
    )
    headers = st.builds(
        list[tuple[str, bytes]].__add__,
        strategies.headers([TOPICS.replies]),
        strategies.mostly(st.just([]), moved, of_sixteen=10),
    )
    return st.builds(
        Published,
        topic=strategies.mostly(st.just(kind), st.just(TOPICS.rerouted), of_sixteen=12),
        partition=st.integers(0, SHARDS - 1),
        key=strategies.KEYS,
        value=values,
        headers=headers,
        timestamp_ms=st.sampled_from([None] * 12 + [-1, 0, 2**62, 10**15]),
    )


PUBLISHED = st.one_of([_published(kind, shape) for kind, shape in strategies.EVENT_SHAPES.items()])


def due(published: Published, world: FuzzWorld) -> Iterator[Due]:
    """What must become of a record, by the contract; of one that is moved, there as well.

    Raises:
        UndecidedError: the contract does not say.
    """
    hops = [value or b"" for name, value in published.headers if name == "learner-hop"]
    moved = {kind.encode(): kind for kind in _KINDS.values()}
    kind = _KINDS.get(published.topic) or moved.get(hops[-1] if hops else b"")
    if kind is None:
        yield Due(published, "dead-letter", "invalid")
        return
    try:
        fields = model.message(kind, published.value)
    except model.BrokenError as error:
        yield Due(published, "dead-letter", error.reason)
        return
    right = world.partition_of(fields["task_id"])
    if right == published.partition:
        yield Due(published, "settled", event=_event(kind, fields, _record_us(published, world)))
    elif hops:
        yield Due(published, "dead-letter", "wrong-partition")
    else:
        yield Due(published, "rerouted")
        headers = [*published.headers, ("learner-hop", kind.encode())]
        yield from due(
            Published(TOPICS.rerouted, right, published.key, published.value, headers, _ms(published, world)),
            world,
        )


def _ms(published: Published, world: FuzzWorld) -> int:
    ms = world.clock.milliseconds if published.timestamp_ms is None else published.timestamp_ms
    return max(ms, 0)


def _record_us(published: Published, world: FuzzWorld) -> int:
    return min(_ms(published, world) * 1_000, _LAST_US)


def _event(kind: str, fields: model.Message, record_us: int) -> swarm.Event:
    def at(name: str) -> int:
        given: int | None = fields[name]
        return record_us if given is None else given

    task_id = fields["task_id"]
    if kind == "bid-placed":
        return swarm.BidPlaced(
            task_id, fields["agent_id"], fields["bid_sats"], fields["description"], at("placed_at")
        )
    if kind == "auction-closed":
        winner, winning_bid = fields["winner_agent_id"], fields["winning_bid_sats"]
        return swarm.AuctionClosed(task_id, winner, winning_bid, at("closed_at"), fields["description"])
    return swarm.TaskFinished(task_id, fields["agent_id"], fields["succeeded"], at("finished_at"))


def check_surely(change: Change, published: Sequence[Published]) -> None:
    """What holds of any record: it is counted once, and every dead letter there is was counted."""
    counts = change.counted("learner_events_total")
    assert sum(counts.values()) == len(published) + counts["rerouted"]
    assert len(change.written[TOPICS.rerouted]) == counts["rerouted"] + sum(
        one.topic == TOPICS.rerouted for one in published
    )
    assert len(change.written[TOPICS.dead_letters]) == counts["dead-letter"]
    assert not [entry for topic in (TOPICS.replies, TOPICS.requests) for entry in change.written[topic]]


def check_exactly(change: Change, expected: Sequence[Due]) -> None:
    """Every record became what the model says, and its dead letter is whole."""
    assert change.counted("learner_events_total") == Counter(one.result for one in expected)
    unmatched = list(change.written[TOPICS.dead_letters])
    for one in expected:
        if one.reason is not None:
            fitting = next((letter for letter in unmatched if is_letter_of(letter, one)), None)
            assert fitting is not None, f"no dead letter is {one}: {unmatched}"
            unmatched.remove(fitting)
    assert unmatched == []


def is_letter_of(letter: Entry, one: Due) -> bool:
    """Whether a dead letter has the reason, the place, the key, the value and the headers of a record."""
    headers, value = dict(letter.headers), one.published.value
    cut_off = value is not None and len(value) > strategies.MEBIBYTE
    whole = b"" if one.published.key is None and value is None else value
    own = [
        item
        for item in one.published.headers
        if item[0] != "learner-truncated" and not item[0].startswith("kafka_dlt-")
    ]
    return (
        headers["learner-reason"] == str(one.reason).encode()
        and headers["kafka_dlt-original-topic"] == one.published.topic.encode()
        and headers["kafka_dlt-original-partition"] == one.published.partition.to_bytes(4, "big")
        and (letter.key, letter.value)
        == (one.published.key, (value or b"")[:_KEPT_BYTES] if cut_off else whole)
        and ("learner-truncated" in headers) == cut_off
        and [item for item in letter.headers if item in own][: len(own)] == own
    )


def remember(world: FuzzWorld, expected: Sequence[Due]) -> None:
    """Tells the model, for the judgement; tasks whose events bear odd times are judged by the changelog."""
    for one in expected:
        if one.event is not None:
            world.published.append(one.event)
            if abs(_record_us(one.published, world) - world.clock.micros) > HORIZON // 2:
                world.lost_tasks.add(one.event.task_id)


@pytest.fixture(name="worlds")
def _worlds() -> Iterator[Worlds]:
    worlds = Worlds()
    yield worlds
    worlds.close()


def test_every_event_is_settled_moved_once_or_one_dead_letter(worlds: Worlds) -> None:
    """Any value, headers, time and partition: counted once, and in the end the outcomes are the model's."""

    @FUZZ
    @given(st.lists(PUBLISHED, min_size=1, max_size=3))
    def publish(published: list[Published]) -> None:
        with worlds.example() as world:
            try:
                expected = [found for one in published for found in due(one, world)]
            except model.UndecidedError:
                pass
            else:
                remember(world, expected)
                change = world.take(sent(published))
                check_surely(change, published)
                check_exactly(change, expected)
                return
        with worlds.doubtful() as world:
            check_surely(world.take(sent(published)), published)

    publish()
    worlds.judge()


def sent(published: Sequence[Published]) -> list[tuple[str, int, Sent]]:
    """The records to be laid into their partitions."""
    return [
        (one.topic, one.partition, Sent(one.key, one.value, tuple(one.headers), one.timestamp_ms))
        for one in published
    ]
