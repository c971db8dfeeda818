"""What callers give to the client library is taken as what it is; nothing is bound to a loop too early."""

import asyncio
from datetime import UTC, datetime, timedelta, timezone, tzinfo
from enum import IntEnum, StrEnum
from typing import Any

import pytest

from learner_worker.client.connection import ClientConnection
from learner_worker.client.learner import LearnerClient
from learner_worker.client.messages import event, require_bid, suggest_bid_request, wire_time
from learner_worker.client.producer import PersistentProducer
from learner_worker.contract.encode import encode_message
from learner_worker.contract.events import BidPlaced
from learner_worker.errors import BrokerError, InvalidEventError

NOWHERE = "127.0.0.1:1"


class Moment(datetime):
    """A datetime of another library: its arithmetic gives objects of its own."""

    def __sub__(self, other: Any) -> Any:
        return NotImplemented

    def __add__(self, other: Any) -> Any:
        return "a period"

    def __str__(self) -> str:
        return "now-ish"


class SecondsZone(tzinfo):
    """A time zone with an odd offset, as local mean times were."""

    def utcoffset(self, _: datetime | None) -> timedelta:
        return timedelta(hours=-1, minutes=-2, seconds=-3, microseconds=-4)

    def dst(self, _: datetime | None) -> timedelta:
        return timedelta(0)

    def tzname(self, _: datetime | None) -> str:
        return "odd"


class Autumn(tzinfo):
    """A time zone on the night in which an hour comes twice."""

    def utcoffset(self, moment: datetime | None) -> timedelta:
        return timedelta(hours=1 if moment is not None and moment.fold else 2)

    def dst(self, moment: datetime | None) -> timedelta:
        return self.utcoffset(moment) - timedelta(hours=1)

    def tzname(self, _: datetime | None) -> str:
        return "autumn"


class Name(StrEnum):
    """Ids of a program that keeps them as an enumeration."""

    AGENT = "agent-1"


class Price(IntEnum):
    """Prices of a program that keeps them as an enumeration."""

    LOW = 5


@pytest.mark.parametrize(
    ("moment", "text"),
    [
        (Moment(2026, 1, 31, 12, 0, 0, 5, tzinfo=UTC), "2026-01-31T12:00:00.000005Z"),
        (datetime(2026, 10, 25, 2, 30, tzinfo=Autumn()), "2026-10-25T00:30:00.000000Z"),
        (
            datetime(2026, 10, 25, 2, 30, tzinfo=Autumn(), fold=1),
            "2026-10-25T01:30:00.000000Z",
        ),
        (datetime(2026, 1, 31, tzinfo=timezone(timedelta(hours=14))), "2026-01-30T10:00:00.000000Z"),
        (datetime(2026, 1, 31, tzinfo=SecondsZone()), "2026-01-31T01:02:03.000004Z"),
        (datetime(9998, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC), "9998-12-31T23:59:59.999999Z"),
        (datetime(1970, 1, 1, tzinfo=UTC), "1970-01-01T00:00:00.000000Z"),
    ],
)
def test_any_aware_datetime_is_its_moment(moment: datetime, text: str) -> None:
    """Subclasses with an arithmetic of their own, folds, and time zones of any offset."""
    assert wire_time("placed_at", moment) == text


@pytest.mark.parametrize(
    "moment",
    [
        Moment(2026, 1, 31),
        datetime(1, 1, 1, tzinfo=timezone(timedelta(hours=14))),
        datetime(9999, 12, 31, 23, tzinfo=timezone(timedelta(hours=-14))),
        "2026-01-31T12:00:00Z",
        1_767_225_600,
    ],
)
def test_what_is_no_moment_of_the_contract_is_refused_by_name(moment: Any) -> None:
    """Naive datetimes, years out of range also where UTC has no such year, texts and numbers."""
    with pytest.raises(InvalidEventError, match="placed_at"):
        wire_time("placed_at", moment)


def test_enumerations_are_their_values() -> None:
    """An id that is a StrEnum and a price that is an IntEnum are sent as text and number."""
    placed = event(
        BidPlaced, task_id=Name.AGENT, agent_id=Name.AGENT, bid_sats=Price.LOW, description=Name.AGENT
    )
    assert b'"agent_id":"agent-1"' in encode_message(placed)
    assert b'"bid_sats":5' in encode_message(placed)
    require_bid(Price.LOW)
    asked = suggest_bid_request(
        Name.AGENT, Name.AGENT, Price.LOW, iter(()), request_id="r", timeout_seconds=1
    )
    assert (asked.agent_id, asked.base_bid_sats) == ("agent-1", 5)


def test_a_client_made_outside_a_loop_serves_one_loop_after_the_other() -> None:
    """A client of a module's level, used by two runs: each opens it anew, although Kafka is away."""
    client = LearnerClient(NOWHERE)

    async def use() -> int:
        async with client:
            return client.pending

    assert [asyncio.run(use()), asyncio.run(use())] == [0, 0]


def test_a_publishers_producer_serves_one_loop_after_the_other() -> None:
    """Two publishers wait for the same start in each of two runs: both give up for want of Kafka alone."""
    producer = PersistentProducer(ClientConnection(NOWHERE, "test", {}))

    async def use() -> list[object]:
        producer.open()
        waits = (asyncio.wait_for(producer.started(), 0.2) for _ in range(2))
        ended = await asyncio.gather(*waits, return_exceptions=True)
        await producer.close()
        return [type(error) for error in ended]

    assert [asyncio.run(use()), asyncio.run(use())] == [[TimeoutError] * 2] * 2
    with pytest.raises(BrokerError, match="not open"):
        asyncio.run(producer.started())
