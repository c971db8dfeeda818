"""The process of `forward-requests`: checks the topics, and forwards until it is stopped."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import replace
from functools import partial
from typing import Final

import structlog
from prometheus_client import Gauge, generate_latest

from learner_worker.contract.topics import ReplyTopics, TopicName, TopicNames, forwarding_group
from learner_worker.errors import ConfigurationError
from learner_worker.forwarding.bindings import Binding, bindings_of
from learner_worker.forwarding.forwarder import Forwarder
from learner_worker.forwarding.sending import RESULTS, RequestSender
from learner_worker.forwarding.tokens import TopicTokens
from learner_worker.identity.key_files import KeyFiles
from learner_worker.identity.keys import keys_of_secrets
from learner_worker.kafka.admin import Administrator, connected
from learner_worker.kafka.clients import all_running, reply_producer, request_consumer
from learner_worker.kafka.outage import Outage
from learner_worker.kafka.rights import needed_rights, require_rights
from learner_worker.kafka.watchdog import Observation, Watchdog, watch
from learner_worker.observability import ForwardingInstruments
from learner_worker.requests.clock import Clock
from learner_worker.settings import Settings
from learner_worker.worker.probes import Verdict, alive, serving_if_wanted
from learner_worker.worker.stopping import stop_on_signals

LAST_TURN_SECONDS: Final = 15.0  # for the last turn and its commit; below a container's usual 30 s
_log = structlog.get_logger("learner_worker.forwarding")


async def run_forwarder(settings: Settings, tell: Callable[[str], None]) -> None:
    """Forwards until SIGTERM, SIGINT or SIGHUP; a second signal ends it at once.

    Args:
        tell: is called with a sentence, once it is connected.

    Raises:
        ConfigurationError: the secret or a topic is missing, or the agents' topics are not what they must be.
        BrokerError: Kafka cannot be reached, or refuses.
        StuckError: Kafka can be reached, but a client makes no progress: the process has to start anew.
    """
    names, connection = settings.topics().named(), settings.connection()
    bindings = _bindings(settings, names)
    tokens = _tokens(settings, bindings)
    stopping = asyncio.Event()
    stop_on_signals(stopping)
    await _require_topics_and_rights(settings, names, bindings)
    instruments = ForwardingInstruments()
    for topic in bindings:
        for result in RESULTS:
            instruments.requests.labels(topic, result)
    group_id = forwarding_group(settings.group_id)
    consumer = request_consumer(connection, group_id=group_id, begin="earliest")  # nothing is missed
    producer, outage = reply_producer(connection), Outage()
    clock = Clock()
    sender = RequestSender(
        producer=producer,
        requests=names.requests,
        ttl_seconds=settings.request_ttl_seconds,
        tokens=tokens,
        counts=instruments.requests,
        clock=clock,
    )
    forwarder = Forwarder(consumer=consumer, sender=sender, outage=outage, clock=clock)
    observe = partial(_observe, forwarder, outage, bindings, instruments.lag)
    async with (
        all_running((producer, consumer), settings.startup_timeout_seconds),
        serving_if_wanted(
            _log,
            host=settings.http_host,
            port=settings.http_port,
            healthy=partial(_healthy, forwarder),
            ready=partial(_ready, forwarder, outage),
            metrics=lambda: generate_latest(instruments.registry).decode(),
        ),
    ):
        consumer.subscribe(topics=list(bindings), listener=forwarder)
        tell(f"Forwarding requests from {', '.join(bindings)} to {names.requests}")
        await _until_stopped(forwarder, observe, partial(connected, connection), stopping)


def _bindings(settings: Settings, names: TopicNames) -> Mapping[TopicName, Binding]:
    return bindings_of(
        settings.agent_topic or (),
        taken=replace(names, advice_log=True).all,
        replies=ReplyTopics(settings.reply_topics or names.reply_patterns, ()),
    )


def _tokens(settings: Settings, bindings: Mapping[TopicName, Binding]) -> TopicTokens:
    if settings.identity_secret_file is None:
        raise ConfigurationError(
            "forwarded requests carry tokens, which need the workers' secret: name its file with "
            "--identity-secret-file (LEARNER_IDENTITY_SECRET_FILE)"
        )
    keys = KeyFiles({settings.identity_secret_file: keys_of_secrets}, time.monotonic)
    return TopicTokens(
        bindings, keys.current, audience=settings.identity_audience, issuer=settings.identity_issuer
    )


async def _require_topics_and_rights(
    settings: Settings, names: TopicNames, bindings: Mapping[TopicName, Binding]
) -> None:
    connection, wanted = settings.connection(), [*bindings, names.requests]
    needed = needed_rights(names, settings.group_id, "forwarder", agent_topics=list(bindings))
    async with connected(connection, patience_seconds=settings.startup_timeout_seconds) as cluster:
        await require_rights(
            connection,
            cluster,
            needed,
            who="a forwarder",
            remedy="`learner-worker acls print --role forwarder` prints the commands that allow them",
        )
        found = await cluster.partitions(wanted)
    if missing := [topic for topic in wanted if topic not in found]:
        raise ConfigurationError(
            f"topics are missing: {', '.join(missing)}: create them (docs/security.md has the commands), or "
            "correct --agent-topic"
        )


async def _until_stopped(
    forwarder: Forwarder,
    observe: Callable[[], Awaitable[Observation]],
    administrator: Administrator,
    stopping: asyncio.Event,
) -> None:
    """Forwards and watches; once `stopping` is set, the last turn may take a while, and is then cancelled."""
    tasks = [
        asyncio.create_task(forwarder.run(stopping), name="forward"),
        asyncio.create_task(watch(Watchdog(), observe, administrator, stopping), name="watch"),
    ]
    stop = asyncio.create_task(stopping.wait(), name="stop")
    try:
        await asyncio.wait([*tasks, stop], return_when=asyncio.FIRST_COMPLETED)
        failed = [task for task in tasks if task.done()]
        if not failed:
            await asyncio.wait(tasks, timeout=LAST_TURN_SECONDS)
    finally:
        for task in (*tasks, stop):
            task.cancel()
        await asyncio.wait([*tasks, stop])
    for task in tasks:
        if not task.cancelled() and (error := task.exception()) is not None:
            raise error


async def _observe(
    forwarder: Forwarder, outage: Outage, topics: Iterable[TopicName], lag: Gauge
) -> Observation:
    reading = await forwarder.reading()
    for topic in topics:
        lag.labels(topic).set(reading.lag_of(topic))
    return Observation(outage.failing, forwarder.joined, forwarder.turns, {"agents' requests": reading})


def _healthy(forwarder: Forwarder) -> Verdict:
    return alive(forward=time.monotonic() - forwarder.last_turn_seconds)


def _ready(forwarder: Forwarder, outage: Outage) -> Verdict:
    refusals = outage.refusals
    status = "refused" if refusals else "ready" if forwarder.joined else "joining"
    return Verdict(status == "ready", {"status": status, "refused": refusals})
