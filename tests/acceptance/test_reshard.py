"""`reshard`: more partitions, and every number stays what it was."""

from pathlib import Path

from learner_worker.brokers import Broker
from learner_worker.contract.topology import Topology, standing, decode_topology
from learner_worker.contract.topics import TopicNames
from tests.acceptance.test_topology import command, ended
from tests.integration.test_whole_way import metrics_equal_the_model
from tests.support import model
from tests.support.swarm import swarm_history
from tests.support.workers import (
    create_topics,
    latest_metrics,
    outcomes_on_disk,
    publish,
    read_topic,
    running_worker,
)

BEFORE, AFTER = 4, 12


async def recorded(broker: Broker, names: TopicNames) -> Topology:
    """The record in effect."""
    found = standing(
        decode_topology(one.value) for one in await read_topic(broker.bootstrap_servers, names.topology)
    )
    assert found is not None
    return found


async def test_topics_are_resharded_and_every_number_stays(
    broker: Broker, prefix: str, tmp_path: Path
) -> None:
    """Four partitions become twelve while a worker runs and publishers go on."""
    names = await create_topics(broker.bootstrap_servers, prefix, partitions=BEFORE)
    events = swarm_history(51, 80)
    third = len(events) // 3
    folder = tmp_path / "a"
    async with running_worker(broker.bootstrap_servers, prefix, folder) as worker:
        await publish(broker.bootstrap_servers, names, events[:third], keyed=False)
        await metrics_equal_the_model(broker, names, events[:third])
        resharded = await command(broker, prefix, "reshard", "--partitions", str(AFTER), "--yes")
        print(resharded)
        assert resharded.code == 0, resharded
        assert (await ended(worker))[0] == 1
    await publish(broker.bootstrap_servers, names, events[third : 2 * third])
    topology = await recorded(broker, names)
    assert (topology.shards, topology.layout, topology.reshard) == (AFTER, 2, None)
    new = names.of_layout(2)
    assert topology.topics.metrics == new.metrics
    async with running_worker(broker.bootstrap_servers, prefix, folder) as worker:
        await publish(broker.bootstrap_servers, names, events[2 * third :])
        await metrics_equal_the_model(broker, new, events)
        assert await worker.stop() == 0
    assert outcomes_on_disk(folder) == model.outcomes(events)
