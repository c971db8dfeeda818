"""MirrorMaker 2, as Apache Kafka ships it: copies the topics and groups of one cluster to another."""

import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from learner_worker.brokers import maven
from learner_worker.brokers.broker import Log
from learner_worker.brokers.guardian import GUARDIAN
from learner_worker.brokers.node import LOG_SETTINGS, STOP_SECONDS

_ARTIFACT, _VERSION = "connect-mirror", "4.3.1"
_INTERNAL = (".*internal", "__.*")  # MirrorMaker's topics, and Kafka's
_SETTINGS = """\
clusters = original, copy
original.bootstrap.servers = {original}
copy.bootstrap.servers = {copy}
original->copy.enabled = true
copy->original.enabled = false
topics = .*
topics.exclude = {left_out}
groups = .*
replication.policy.class = org.apache.kafka.connect.mirror.IdentityReplicationPolicy
sync.group.offsets.enabled = true
sync.topic.acls.enabled = false
emit.heartbeats.enabled = false
offset.lag.max = 0
emit.checkpoints.interval.seconds = 1
sync.group.offsets.interval.seconds = 1
refresh.groups.interval.seconds = 1
refresh.topics.interval.seconds = 1
replication.factor = 1
checkpoints.topic.replication.factor = 1
heartbeats.topic.replication.factor = 1
offset-syncs.topic.replication.factor = 1
offset.storage.replication.factor = 1
status.storage.replication.factor = 1
config.storage.replication.factor = 1
"""
"""Topics keep their names; a group without members on the copy is given the original's translated offsets."""


@contextmanager
def mirroring(
    original: str, copy: str, folder: Path, *, left_out: Sequence[str], say: Log
) -> Iterator[subprocess.Popen[bytes]]:
    """MirrorMaker, running, from one cluster's bootstrap servers to another's.

    Args:
        left_out: patterns of the names of topics that are not mirrored.
    """
    jars = maven.fetched_jars(say, _ARTIFACT, _VERSION)
    folder.mkdir(parents=True, exist_ok=True)
    settings = folder / "mirror.properties"
    excluded = ", ".join((*_INTERNAL, *left_out))
    settings.write_text(_SETTINGS.format(original=original, copy=copy, left_out=excluded), encoding="utf-8")
    program = ["-Xms64m", "-Xmx384m", "-cp", f"{jars}/*", "org.apache.kafka.connect.mirror.MirrorMaker"]
    with (folder / "mirror.log").open("ab") as log:
        process = subprocess.Popen(
            [maven.java_program(), *LOG_SETTINGS, *program, str(settings)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            cwd=folder,
        )
    with GUARDIAN.entrusted("process", str(process.pid)):
        try:
            yield process
        finally:
            _end(process)


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
