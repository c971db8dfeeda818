"""A real `learner-worker forward-requests`."""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from aiokafka import TopicPartition
from aiokafka.admin import NewTopic

from tests.support.workers import WorkerProcess, administrator, started

_CONFIGURED = {"message.timestamp.type": "LogAppendTime", "retention.ms": "3600000"}


async def create_agent_topic(bootstrap_servers: str, topic: str) -> None:
    """Creates a request topic of an agent's own, as docs/security.md says."""
    async with administrator(bootstrap_servers) as admin:
        await admin.create_topics([NewTopic(topic, 1, 1, topic_configs=_CONFIGURED)])


async def committed_offset(bootstrap_servers: str, group_id: str, topic: str) -> int:
    """What a group has committed of a topic's only partition."""
    partition = TopicPartition(topic, 0)
    async with administrator(bootstrap_servers) as admin:
        found = await admin.list_consumer_group_offsets(group_id, partitions=[partition])
    return int(found[partition].offset)


@asynccontextmanager
async def running_forwarder(
    bootstrap_servers: str,
    prefix: str,
    folder: Path,
    *flags: str,
    environment: Mapping[str, str] | None = None,
) -> AsyncIterator[WorkerProcess]:
    """A forwarder that has joined its group; killed at the end if the test has not stopped it."""
    log_path = folder / "forwarder.log"
    where: Sequence[str] = ("--bootstrap-servers", bootstrap_servers, "--topic-prefix", prefix)
    group = ("--group-id", f"{prefix}learner", "--log-format", "json")
    with log_path.open("wb") as log:
        command = ("-m", "learner_worker", "forward-requests", *where, *group, *flags)
        process = await started(command, log=log, environment=environment)
    forwarder = WorkerProcess(process, log_path)
    try:
        await forwarder.ready()
        yield forwarder
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
