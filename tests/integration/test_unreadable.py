"""Records that the Kafka client cannot decode: stepped over and said, never a standstill."""

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.record.util import calc_crc32c

from learner_worker.brokers import Broker
from learner_worker.client import LearnerClient
from learner_worker.contract.topics import Topics
from learner_worker.errors import RecordError
from learner_worker.kafka.partitioner import partitioner
from learner_worker.kafka.patches import LightRecord
from learner_worker.kafka.records import dead_letter
from tests.acceptance.test_refusals import Ended, learner_worker
from tests.integration.test_dead_letters import send
from tests.integration.test_state import Replica, change
from tests.integration.test_whole_way import metrics_equal_the_model
from tests.support import model
from tests.support.batches import bytes_of
from tests.support.model import Event
from tests.support.swarm import swarm_history
from tests.support.workers import (
    WorkerProcess,
    create_topics,
    outcomes_on_disk,
    publish,
    read_topic,
    running_worker,
    topic_of,
    until,
)

SHARDS = 4
_CRC_AT = 17
_ATTRIBUTES_AT = 21


def broken(batch: Any) -> Any:
    """A batch whose header name POISON is no UTF-8 any more, with a right checksum."""
    content = bytearray(bytes_of(batch))
    at = content.index(b"POISON")
    content[at : at + 6] = b"\xff\xfe\xfd\xfc\xfb\xfa"
    content[_CRC_AT:_ATTRIBUTES_AT] = calc_crc32c(bytes(content[_ATTRIBUTES_AT:])).to_bytes(4, "big")
    batch._buffer = content
    return batch


async def publish_with_poison(
    servers: str,
    topic: str,
    partition: int,
    before: Sequence[bytes],
    *,
    poisoned: int,
    key: bytes | None = None,
) -> int:
    """One batch of `before`, then so many records whose headers cannot be read; the offset of the first."""
    async with AIOKafkaProducer(bootstrap_servers=servers) as producer:
        batch = producer.create_batch()
        for value in before:
            batch.append(key=key, value=value, timestamp=None)
        for _ in range(poisoned):
            batch.append(key=key, value=b"{}", timestamp=None, headers=[("POISON", b"")])
        sent = await (await producer.send_batch(broken(batch), topic, partition=partition))
        return int(sent.offset) + len(before)


async def test_events_around_an_unreadable_record_all_count(
    broker: Broker, prefix: str, tmp_path: Path
) -> None:
    """Good events before it in its own batch and after it in later ones: one dead letter, the rest counts."""
    names = await create_topics(broker.bootstrap_servers, prefix, partitions=SHARDS)
    partition_of = partitioner(SHARDS)
    events = swarm_history(31, 60)
    chosen: list[Event] = [event for event in events if topic_of(event, names) == names.bid_placed][:40]
    home = partition_of(chosen[0].task_id)
    before = [event for event in chosen if partition_of(event.task_id) == home]
    rest = [event for event in events if event not in before]
    async with running_worker(broker.bootstrap_servers, prefix, tmp_path / "state") as worker:
        await publish_with_poison(
            broker.bootstrap_servers,
            names.bid_placed,
            home,
            [json.dumps(json.loads(event.to_json())).encode() for event in before],
            poisoned=1,
        )
        await publish(broker.bootstrap_servers, names, rest)
        await metrics_equal_the_model(broker, names, events)
        assert await worker.stop() == 0
    (letter,) = await read_topic(broker.bootstrap_servers, names.dead_letters)
    headers = dict(letter.headers)
    assert headers["learner-reason"] == b"unreadable"
    assert headers["learner-origin"] == f"{names.bid_placed}/{home}/{len(before)}".encode()


async def test_an_unreadable_record_with_nothing_before_it_does_not_end_the_worker(
    broker: Broker, prefix: str, tmp_path: Path
) -> None:
    """The first of all bids, alone in its batch: stepped over, and the events behind it count."""
    names = await create_topics(broker.bootstrap_servers, prefix, partitions=SHARDS)
    events = swarm_history(33, 60)
    async with running_worker(broker.bootstrap_servers, prefix, tmp_path / "state") as worker:
        for partition in range(SHARDS):
            await publish_with_poison(broker.bootstrap_servers, names.bid_placed, partition, [], poisoned=1)
        await publish(broker.bootstrap_servers, names, events)
        await metrics_equal_the_model(broker, names, events)
        assert await worker.stop() == 0
    dead_letters = await read_topic(broker.bootstrap_servers, names.dead_letters)
    origins = {dict(letter.headers)["learner-origin"].decode() for letter in dead_letters}
    assert origins == {f"{names.bid_placed}/{partition}/0" for partition in range(SHARDS)}


async def _owned(worker: WorkerProcess) -> bool:
    return any(line["shards"] == [*range(SHARDS)] for line in worker.logged("lane.owns"))


async def test_requests_behind_an_unreadable_one_are_answered(
    broker: Broker, prefix: str, tmp_path: Path
) -> None:
    """An unreadable request on every partition: who asks after it gets an answer."""
    names = await create_topics(broker.bootstrap_servers, prefix, partitions=SHARDS)
    async with running_worker(broker.bootstrap_servers, prefix, tmp_path / "state") as worker:
        await until(partial(_owned, worker), "the requests of every shard are read")
        for partition in range(SHARDS):
            await publish_with_poison(broker.bootstrap_servers, names.requests, partition, [], poisoned=3)
        async with LearnerClient(
            broker.bootstrap_servers, topics=Topics(prefix=prefix), timeout_seconds=20
        ) as client:
            for number in range(2 * SHARDS):
                reply = await client.suggest_bid(f"agent-{number}", description="any", base_bid_sats=number)
                assert reply.suggested_bid_sats == number
        assert len(worker.logged("requests.unreadable")) == SHARDS
        assert await worker.stop() == 0


# --- the tools ------------------------------------------------------------------------------------------


class Poisoned(NamedTuple):
    """A stopped replica that has stepped over an unreadable record of every partition of its changelog.

    Attributes:
        lines: what a tool says of each, by partition.
    """

    replica: Replica
    lines: list[str]

    async def command(self, *arguments: str) -> Ended:
        """Runs a command on the replica's group."""
        settings = {
            "LEARNER_BOOTSTRAP_SERVERS": self.replica.broker.bootstrap_servers,
            "LEARNER_TOPIC_PREFIX": self.replica.prefix,
            "LEARNER_GROUP_ID": f"{self.replica.prefix}learner",
            "LEARNER_STATE_DIR": str(self.replica.state_dir),
        }
        ended = await learner_worker(*arguments, environment=settings)
        assert "Traceback" not in ended.err
        return ended


def gap_message(topic: str, partition: int, first: int, last: int) -> str:
    """What a tool says of offsets that it could not read."""
    offsets = f"offset {first}" if first == last else f"offsets {first} to {last}"
    return f"{topic}/{partition}, {offsets}: skipped, a header's name is not UTF-8"


@pytest.fixture
async def poisoned(broker: Broker, prefix: str, tmp_path: Path) -> Poisoned:
    """Half of a history learned, two unreadable records a partition of the changelog, then the rest."""
    servers = broker.bootstrap_servers
    names = await create_topics(servers, prefix, partitions=SHARDS)
    events = swarm_history(32, 60)
    half = len(events) // 2
    async with running_worker(servers, prefix, tmp_path / "state") as worker:
        await publish(servers, names, events[:half])
        await metrics_equal_the_model(broker, names, events[:half])
        offsets = [
            await publish_with_poison(
                servers, names.outcomes, partition, [b"no fact"], poisoned=2, key=b"nobody"
            )
            for partition in range(SHARDS)
        ]
        await publish(servers, names, events[half:])
        await metrics_equal_the_model(broker, names, events)
        assert await worker.stop() == 0
    lines = [gap_message(names.outcomes, shard, first, first + 1) for shard, first in enumerate(offsets)]
    return Poisoned(Replica(broker, prefix, names, tmp_path / "state", events), lines)


async def test_the_tools_step_over_an_unreadable_fact(poisoned: Poisoned) -> None:
    """`state verify` and `rebuild`, `outcomes` and `forget`, on one replica: each says what it skipped."""
    await _verify_and_rebuild(poisoned)
    await _outcomes_and_forget(poisoned)


async def _verify_and_rebuild(poisoned: Poisoned) -> None:
    """Everything around it is compared, damage found, and a file made anew is the model's; both say where."""
    replica = poisoned.replica
    code, verdicts = await replica.verdicts()
    assert code == 0, verdicts
    assert [verdict["notes"][-1] for verdict in verdicts] == poisoned.lines
    last = replica.state_dir / "shard-00003.sqlite3"
    change(last, "DELETE FROM outcomes")
    code, verdicts = await replica.verdicts()
    assert (code, [verdict["verified"] for verdict in verdicts]) == (1, [True, True, True, False])
    rebuilt = await replica.state("rebuild", "--all")
    assert rebuilt.code == 0, rebuilt.err
    assert [line for line in rebuilt.err.splitlines() if "not UTF-8" in line] == poisoned.lines
    assert outcomes_on_disk(replica.state_dir) == model.outcomes(replica.events)
    assert (await replica.verdicts())[0] == 0


async def _outcomes_and_forget(poisoned: Poisoned) -> None:
    """What stands behind it is listed and forgotten; both say on stderr what they could not read."""
    replica = poisoned.replica
    agents = model.metrics(model.outcomes(replica.events))
    agent_id = max(agents, key=lambda agent: agents[agent].total_bids)
    line = poisoned.lines[partitioner(SHARDS)(agent_id)]
    exported = await poisoned.command("outcomes", "export", agent_id)
    assert (exported.code, exported.err.splitlines()) == (0, [line])
    assert exported.out.count('"outcome"') == agents[agent_id].total_bids
    forgotten = await poisoned.command("forget", agent_id, "--yes", "--wait", "0")
    assert (forgotten.code, forgotten.err.splitlines()) == (0, [line])
    gone = await poisoned.command("outcomes", "export", agent_id)
    assert (gone.code, gone.out.count('"outcome"')) == (0, 0)


async def test_dead_letters_and_doctor_step_over_an_unreadable_record(
    broker: Broker, prefix: str, tmp_path: Path
) -> None:
    """A letter before and one behind it are listed and shown; doctor warns of it, and of one among bids."""
    servers = broker.bootstrap_servers
    names = await create_topics(servers, prefix, partitions=1)
    letter = dead_letter(
        LightRecord(names.bid_placed, 0, 1, 5, None, b"{}"), names.dead_letters, RecordError("invalid", "no")
    )
    await send(broker, [letter])
    first = await publish_with_poison(servers, names.dead_letters, 0, [b"no letter"], poisoned=1)
    await send(broker, [letter])
    bid = await publish_with_poison(servers, names.bid_placed, 0, [], poisoned=3)
    poisoned = Poisoned(Replica(broker, prefix, names, tmp_path / "state", []), [])
    line = gap_message(names.dead_letters, 0, first, first)
    listed = await poisoned.command("dead-letters", "list")
    assert (listed.code, listed.err.splitlines()) == (0, [line])
    assert listed.out.endswith("2 open, 0 replayed, 0 dropped\n")
    dropped = await poisoned.command("dead-letters", "drop", f"0/{first + 1}")
    assert (dropped.code, dropped.err.splitlines()) == (0, [line])
    report = json.loads((await poisoned.command("doctor", "--json")).out)
    found = [(entry["level"], entry["what"]) for entry in report if entry["check"] == "headers"]
    assert found == [("warning", gap_message(names.bid_placed, 0, bid, bid + 2)), ("warning", line)]
    (dead_letters,) = [entry["what"] for entry in report if entry["check"] == "dead letters"]
    assert dead_letters.startswith("at least 1 dead letters")
    assert "UnicodeDecodeError" not in str(report)
