"""Replicas come and go on Apache Kafka: what moves, what stays, who takes over, who has to leave."""

import asyncio
import json
import signal
from collections import Counter
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.coordinator.assignors.range import RangePartitionAssignor

from learner_worker.brokers import Broker
from learner_worker.contract.topics import TopicName
from learner_worker.kafka.partitioner import partitioner
from learner_worker.worker import probation
from tests.acceptance.test_refusals import Ended, learner_worker
from tests.integration.test_whole_way import metrics_equal_the_model
from tests.support import model
from tests.support.swarm import swarm_history
from tests.support.workers import (
    WorkerProcess,
    create_topics,
    outcomes_on_disk,
    positions_in,
    publish,
    read_topic,
    running_worker,
    until,
)

pytestmark = pytest.mark.own_kafka
SESSION_SECONDS = 6
SHARDS = 12
LONG_SESSION_SECONDS = 600  # longer than any wait of a test


class Fleet:
    """Replicas of one group, each on a folder of its own."""

    def __init__(self, broker: Broker, prefix: str, folder: Path, **settings: str) -> None:
        self.servers = broker.bootstrap_servers
        self.prefix = prefix
        self._folder = folder
        self._settings = {f"--{name.replace('_', '-')}": value for name, value in settings.items()}

    def replica(
        self,
        name: str,
        *,
        static: bool = False,
        wait: bool = True,
        instance: str | None = None,
        program: Sequence[str] = ("-m", "learner_worker"),
    ) -> AbstractAsyncContextManager[WorkerProcess]:
        """A running replica; `static` gives it its name as instance id."""
        settings = {"--session-timeout-seconds": str(SESSION_SECONDS), **self._settings}
        if static or instance:
            settings["--group-instance-id"] = instance or name
        return running_worker(
            self.servers, self.prefix, self.state_dir(name), settings=settings, wait=wait, program=program
        )

    def state_dir(self, name: str) -> Path:
        """Where a replica's files lie."""
        return self._folder / name


async def leave(fleet: Fleet, *arguments: str) -> Ended:
    """Runs `leave` for a replica of a group."""
    to_kafka = ("--bootstrap-servers", fleet.servers, "--group-id", f"{fleet.prefix}learner")
    return await learner_worker("leave", *arguments, *to_kafka)


def shards_of(worker: WorkerProcess) -> set[int]:
    """What the group gave it last."""
    assigned = worker.logged("shards.assigned")
    return set(assigned[-1]["shards"]) if assigned else set()


def is_settled(worker: WorkerProcess) -> bool:
    """Whether its last assignment stands: nothing has been revoked since."""
    last = [line["event"] for line in worker.log if line["event"] in ("shards.assigned", "shards.revoked")]
    return last[-1:] == ["shards.assigned"]


async def shared_by(*workers: WorkerProcess) -> list[set[int]]:
    """Waits until the replicas share all shards, balanced and ready; who has which."""

    async def balanced() -> list[set[int]] | None:
        shares = [shards_of(worker) for worker in workers]
        whole = sorted(shard for share in shares for shard in share) == list(range(SHARDS))
        even = max(map(len, shares)) - min(map(len, shares)) <= 1
        settled = all(map(is_settled, workers))
        ready = [(await worker.get("/readyz"))[0] == 200 for worker in workers]
        return shares if whole and even and settled and all(ready) else None

    return await until(balanced, f"{len(workers)} replicas share the shards")


def moved(before: Sequence[set[int]], after: Sequence[set[int]]) -> int:
    """How many shards were given to a replica that did not have them."""
    return sum(len(new - old) for old, new in zip(before, after, strict=True))


async def test_growing_and_shrinking_moves_as_little_as_possible(
    broker: Broker, prefix: str, tmp_path: Path
) -> None:
    """Two replicas, then three, then two: a third moves each time, and the model's metrics come out."""
    fleet = Fleet(broker, prefix, tmp_path, session_timeout_seconds=str(LONG_SESSION_SECONDS))
    names = await create_topics(fleet.servers, prefix, partitions=SHARDS)
    events = swarm_history(21, 300)
    third = len(events) // 3
    async with fleet.replica("one") as one, fleet.replica("two") as two:
        await publish(fleet.servers, names, events[:third])
        of_two = await shared_by(one, two)
        async with fleet.replica("three") as three:
            of_three = await shared_by(one, two, three)
            assert moved([*of_two, set()], of_three) == SHARDS // 3
            await publish(fleet.servers, names, events[third : 2 * third])
            await metrics_equal_the_model(broker, names, events[: 2 * third])
            assert await three.stop() == 0
        again = await shared_by(one, two)
        assert moved(of_three[:2], again) == SHARDS // 3
        await publish(fleet.servers, names, events[2 * third :])
        await metrics_equal_the_model(broker, names, events)


async def test_a_static_replica_that_restarts_keeps_its_shards(
    broker: Broker, prefix: str, tmp_path: Path
) -> None:
    """No rebalance on its return, and through the next one each shard stays where it was."""
    fleet = Fleet(broker, prefix, tmp_path, session_timeout_seconds=str(LONG_SESSION_SECONDS))
    await create_topics(fleet.servers, prefix, partitions=SHARDS)
    async with fleet.replica("one", static=True) as one:
        async with fleet.replica("two", static=True) as two:
            before = await shared_by(one, two)
            rebalances = len(one.logged("shards.assigned"))
            assert await two.stop() == 0
        async with fleet.replica("two", static=True) as two:
            assert await shared_by(one, two) == before
            assert len(one.logged("shards.assigned")) == rebalances
            async with fleet.replica("three", static=True) as three:
                after = await shared_by(one, two, three)
                assert moved([*before, set()], after) == SHARDS // 3


async def test_a_standby_takes_over_without_a_restore(broker: Broker, prefix: str, tmp_path: Path) -> None:
    """kill -9 of one of three: who followed its shards owns them, with nothing left to read.

    Only the dead one leaves the group: no session ends, so a busy machine moves no other shard.
    """
    fleet = Fleet(
        broker, prefix, tmp_path, standby_replicas="1", session_timeout_seconds=str(LONG_SESSION_SECONDS)
    )
    names = await create_topics(fleet.servers, prefix, partitions=SHARDS)
    events = swarm_history(22, 1_000)
    half = len(events) // 2
    async with fleet.replica("one", static=True) as one, fleet.replica("two", static=True) as two:
        async with fleet.replica("three", static=True) as three:
            shares = await shared_by(one, two, three)
            await publish(fleet.servers, names, events[:half])
            await metrics_equal_the_model(broker, names, events[:half])

            async def followed() -> bool:
                left = [await worker.metric("learner_standby_records_left") for worker in (one, two, three)]
                return all(worker.logged("standbys.follow") for worker in (one, two, three)) and not any(left)

            await until(followed, "the standbys have caught up")
            changelog = await read_topic(fleet.servers, names.outcomes)
            ends = {record.partition: record.offset + 1 for record in changelog}

            async def written() -> bool:
                return all(
                    any(
                        positions_in(path, names.outcomes) == ends.get(shard, 0)
                        for folder in ("one", "two")
                        for path in fleet.state_dir(folder).glob(f"shard-{shard:05}.sqlite3")
                    )
                    for shard in shares[2]
                )

            await until(written, "the standbys' files have it, too")
            await three.stop(signal.SIGKILL)
        assert (await leave(fleet, "--instance", "three")).code == 0
        await shared_by(one, two)
        opened = [line for worker in (one, two) for line in worker.logged("shard.opened")]
        opened.sort(key=lambda line: line["timestamp"])
        left = {line["shard"]: line["restore_records"] for line in opened if line["shard"] in shares[2]}
        assert left == dict.fromkeys(shares[2], 0)
        await publish(fleet.servers, names, events[half:])
        await metrics_equal_the_model(broker, names, events)
        owners = [shards_of(one), shards_of(two)]
        assert sum(await asyncio.gather(one.stop(), two.stop())) == 0
    for folder, share in zip(("one", "two"), owners, strict=True):
        for path in fleet.state_dir(folder).glob("shard-*.sqlite3"):
            if int(path.stem.removeprefix("shard-")) not in share:
                path.unlink()  # a standby's copy
    assert outcomes_on_disk(fleet.state_dir("one"), fleet.state_dir("two")) == model.outcomes(events)


async def test_a_replica_that_goes_for_good_leaves_its_shards_to_the_others_at_once(
    broker: Broker, prefix: str, tmp_path: Path
) -> None:
    """`leave`, `--instance` for a dead one, `--when-stopped` and the setting: no session times out."""
    fleet = Fleet(broker, prefix, tmp_path, session_timeout_seconds=str(LONG_SESSION_SECONDS))
    await create_topics(fleet.servers, prefix, partitions=SHARDS)
    async with fleet.replica("one", static=True) as one:
        async with fleet.replica("two", static=True) as two, fleet.replica("three", static=True) as three:
            await shared_by(one, two, three)
            left = await leave(fleet, "--state-dir", str(fleet.state_dir("three")))
            assert (left.code, left.out) == (0, f"process {three.process.pid} has left its group\n"), left.err
            assert await asyncio.wait_for(three.process.wait(), 60) == 0
            await shared_by(one, two)
            await two.stop(signal.SIGKILL)
        removed = await leave(fleet, "--instance", "two")
        assert (removed.code, f"process {two.process.pid})" in removed.out) == (0, True), removed.err
        await shared_by(one)
        assert (await leave(fleet, "--instance", "two")).code == 2
        async with fleet.replica("two", static=True) as two:
            await shared_by(one, two)
            left = await leave(fleet, "--when-stopped", "--state-dir", str(fleet.state_dir("two")))
            assert left.code == 0
            assert await two.stop() == 0
        await shared_by(one)
        leaving = Fleet(broker, prefix, tmp_path, leave_group_on_stop="true")
        async with leaving.replica("two", static=True) as two:
            await shared_by(one, two)
            assert await two.stop() == 0
        await shared_by(one)


async def test_a_replica_that_crashes_again_and_again_proves_itself_before_it_has_shards(
    broker: Broker, prefix: str, tmp_path: Path
) -> None:
    """Its fourth start in a row gives its shards to the other one at once, and gets them back later."""
    fleet = Fleet(broker, prefix, tmp_path, session_timeout_seconds=str(LONG_SESSION_SECONDS))
    await create_topics(fleet.servers, prefix, partitions=SHARDS)
    async with fleet.replica("one", static=True) as one:
        async with fleet.replica("two", static=True) as two:
            await shared_by(one, two)
            await two.stop(signal.SIGKILL)
        starts = fleet.state_dir("two") / "starts"
        starts.write_text(3 * starts.read_text())  # as if it had been started and killed three times
        quick = f"import {probation.__name__} as probation; probation.FIRST_SECONDS = 5.0"
        program = ("-c", f"{quick}; from learner_worker.cli import main; main()")
        async with fleet.replica("two", static=True, program=program) as two:
            (begun,) = two.logged("probation.begun")
            assert begun["seconds"] >= 5

            async def served() -> bool:
                return shards_of(one) == set(range(SHARDS)) and not shards_of(two)

            await until(served, "the other replica has all shards")
            await shared_by(one, two)
            assert two.logged("probation.over")
            assert await two.stop() == 0
    assert not starts.exists()


async def test_of_two_replicas_with_one_name_the_first_ends_and_names_the_other(
    broker: Broker, prefix: str, tmp_path: Path
) -> None:
    """Exit code 1 and a sentence that says where the twin runs; the twin goes on."""
    fleet = Fleet(broker, prefix, tmp_path)
    await create_topics(fleet.servers, prefix, partitions=SHARDS)
    duplicates = [fleet.replica(name, instance="same", wait=name == "first") for name in ("first", "second")]
    async with duplicates[0] as first, duplicates[1] as second:
        assert await asyncio.wait_for(first.process.wait(), 60) == 1
        said = first.log_path.read_text().splitlines()[-1]
        assert f"process {second.process.pid}" in said
        assert "--group-instance-id 'same'" in said
        await second.ready()
        await shared_by(second)


async def test_a_member_that_makes_no_claim_is_served_by_range(
    broker: Broker, prefix: str, tmp_path: Path
) -> None:
    """Another program's plain range member in the group: whole shards still, and no quarrel."""
    fleet = Fleet(broker, prefix, tmp_path)
    names = await create_topics(fleet.servers, prefix, partitions=SHARDS)
    async with (
        fleet.replica("one") as one,
        AIOKafkaConsumer(
            *names.subscribed,
            bootstrap_servers=fleet.servers,
            group_id=f"{prefix}learner",
            enable_auto_commit=False,
            partition_assignment_strategy=(RangePartitionAssignor,),
        ) as foreign,
    ):

        async def halved() -> bool:
            return len(shards_of(one)) == SHARDS // 2 and len(foreign.assignment()) > 0

        await until(halved, "the two share the shards")
        assert {tp.partition for tp in foreign.assignment()} == set(range(SHARDS)) - shards_of(one)


async def test_a_stalled_owner_that_wakes_up_answers_for_no_shard_it_lost(
    broker: Broker, prefix: str, tmp_path: Path
) -> None:
    """SIGSTOP past the session timeout, requests for its shards the moment it wakes up: one reply each."""
    fleet = Fleet(broker, prefix, tmp_path)
    names = await create_topics(fleet.servers, prefix, partitions=SHARDS)
    async with fleet.replica("one", static=True) as one, fleet.replica("two", static=True) as two:
        _, of_two = await shared_by(one, two)
        partition_of = partitioner(SHARDS)
        agents = [name for n in range(300) if partition_of(name := f"agent-{n}") in of_two]
        async with AIOKafkaProducer(bootstrap_servers=fleet.servers) as asker:
            two.process.send_signal(signal.SIGSTOP)

            async def taken_over() -> bool:
                return shards_of(one) == set(range(SHARDS)) and (await one.get("/readyz"))[0] == 200

            await until(taken_over, "the other replica has all shards")
            two.process.send_signal(signal.SIGCONT)
            burst = 0
            while not two.logged("shards.revoked"):  # it does not know yet
                sent = [await _ask(asker, names.requests, agent, f"{agent}/{burst}") for agent in agents]
                await asyncio.gather(*sent)
                burst += 1
            await shared_by(one, two)
            await asyncio.gather(
                *[await _ask(asker, names.requests, agent, f"{agent}/last") for agent in agents]
            )

            async def all_answered() -> list[str] | None:
                replies = await read_topic(fleet.servers, names.replies)
                found = [json.loads(reply.value)["request_id"] for reply in replies]
                return found if {f"{agent}/last" for agent in agents} <= set(found) else None

            found = await until(all_answered, "the last requests are answered")
    assert burst > 0
    doubled = [name for name, times in Counter(found).items() if times > 1 and not name.endswith("/last")]
    assert doubled == []


async def test_a_stalled_owner_that_wakes_up_after_a_take_over_answers_nothing(
    broker: Broker, prefix: str, tmp_path: Path
) -> None:
    """SIGSTOP of a whole group, taken over when its session has ended: on waking it looks, and ends."""
    fleet = Fleet(broker, prefix, tmp_path)
    names = await create_topics(fleet.servers, prefix, partitions=SHARDS)
    agents = [f"agent-{number}" for number in range(60)]
    async with fleet.replica("old", static=True) as old:
        old.process.send_signal(signal.SIGSTOP)
        async with (
            running_worker(
                fleet.servers,
                prefix,
                fleet.state_dir("new"),
                settings={"--group-id": f"{prefix}new"},
                flags=("--take-over",),
            ),
            AIOKafkaProducer(bootstrap_servers=fleet.servers) as asker,
        ):
            await asyncio.gather(*[await _ask(asker, names.requests, agent, agent) for agent in agents])
            old.process.send_signal(signal.SIGCONT)
            assert await asyncio.wait_for(old.process.wait(), 60) == 2
            assert f"group {prefix}new has taken these topics over" in old.log_path.read_text()

            async def all_answered() -> list[str] | None:
                replies = await read_topic(fleet.servers, names.replies)
                found = [json.loads(reply.value)["request_id"] for reply in replies]
                return found if set(agents) <= set(found) else None

            assert sorted(await until(all_answered, "the requests are answered")) == sorted(agents)


async def _ask(
    asker: AIOKafkaProducer, topic: TopicName, agent: str, request_id: str
) -> "asyncio.Future[object]":
    body = {"agent_id": agent, "base_bid_sats": 1, "description": "any", "request_id": request_id}
    sent: asyncio.Future[object] = await asker.send(topic, json.dumps(body).encode(), key=agent.encode())
    return sent


async def test_a_replica_that_is_stopped_while_the_group_rebalances_ends_well(
    broker: Broker, prefix: str, tmp_path: Path
) -> None:
    """One member does not join again, so the others wait: a stop does not, and its work is durable."""
    names = await create_topics(broker.bootstrap_servers, prefix, partitions=SHARDS)
    events = swarm_history(72, 300)
    fleet = Fleet(broker, prefix, tmp_path, session_timeout_seconds=str(LONG_SESSION_SECONDS))
    async with fleet.replica("one") as one, fleet.replica("two") as two:
        await shared_by(one, two)
        await publish(broker.bootstrap_servers, names, events)
        two.process.send_signal(signal.SIGSTOP)
        revoked = len(one.logged("shards.revoked"))
        passing = Fleet(broker, prefix, tmp_path)  # the group soon drops it once it is gone
        async with passing.replica("three", wait=False) as three:

            async def rebalances() -> bool:
                return len(one.logged("shards.revoked")) > revoked and not is_settled(one)

            async def healthy() -> bool:
                return (await one.get("/healthz"))[0] == 200

            await until(rebalances, "the first was asked to join again")
            await until(healthy, "the first is well while it waits")
            assert list(await asyncio.gather(one.stop(), three.stop())) == [0, 0]
            assert not is_settled(one)  # so it did not wait for the group
        two.process.send_signal(signal.SIGCONT)
        assert await two.stop() == 0
    async with fleet.replica("one", wait=False), fleet.replica("two", wait=False):
        await metrics_equal_the_model(broker, names, events)
