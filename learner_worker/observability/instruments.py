"""The Prometheus metrics of a worker."""

import platform
from collections.abc import Callable
from functools import cache
from importlib.metadata import version
from typing import cast

import structlog
from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    disable_created_metrics,
)

from learner_worker.observability.logs import LimitedLog
from learner_worker.observability.tracing import Tracer

_DEAD_LETTER_LINES = 20
"""Enough to recognize a publisher by; the topic of dead letters has all of them."""
_DEAD_LETTER_SECONDS = 60.0
"""The window of that limit: a flood of dead letters is seen to go on every minute."""
_STALL_BUCKETS = (0.005, 0.01, 0.015, 0.02, 0.025, 0.035, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1, 2.5)
"""Seconds: fine up to a chunk of work, coarse above."""
_ANSWER_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
"""Seconds: from an idle learner to the default time to live."""


class ShardInstruments:
    """The metrics of the shards, and the log of dead letters, which has a limit for all shards together."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.events = Counter(
            "learner_events",
            "Events read, by topic and result.",
            ["topic", "result"],
            registry=registry,
        )
        self.facts = Counter("learner_facts", "Facts sent to learner-outcomes.", registry=registry)
        self.outcomes = Counter("learner_outcomes", "Facts that changed an outcome row.", registry=registry)
        self.outcomes_expired = Counter(
            "learner_outcomes_expired",
            "Outcomes removed from the metrics by retention.",
            registry=registry,
        )
        self.dead_letters = Counter(
            "learner_dead_letters", "Dead letters written, by reason.", ["reason"], registry=registry
        )
        self.dead_letter_log = LimitedLog(
            structlog.get_logger("learner_worker.shard"),
            "record.dead_letter",
            most=_DEAD_LETTER_LINES,
            seconds=_DEAD_LETTER_SECONDS,
        )
        self.record_times_off = Counter(
            "learner_record_times_off",
            "Events whose record time is further from their own time than the auction horizon, by topic.",
            ["topic"],
            registry=registry,
        )
        self.records_refused = Counter(
            "learner_records_refused",
            "Records that Kafka will never take, by topic: too large, or against a policy or a right.",
            ["topic"],
            registry=registry,
        )
        self.records_lost = Counter(
            "learner_records_lost",
            "Records deleted by Kafka before they were read, by topic.",
            ["topic"],
            registry=registry,
        )
        self.auctions_forgotten = Counter(
            "learner_auctions_forgotten",
            "Auctions forgotten after the auction horizon, by whether they had closed.",
            ["closed"],
            registry=registry,
        )
        self.auctions = Gauge(
            "learner_auctions",
            "Auctions remembered, by shard and state.",
            ["shard", "state"],
            registry=registry,
        )
        self.restore_records = Gauge(
            "learner_restore_records_left",
            "Changelog records that a restoring shard has yet to read.",
            ["shard"],
            registry=registry,
        )


class RequestInstruments:
    """The metrics of the request path, and what traces requests, if anything does."""

    def __init__(self, registry: CollectorRegistry, tracer: Tracer | None) -> None:
        self.tracer = tracer
        self.by_code = Counter(
            "learner_requests",
            "Requests handled, by code: OK or an error code once Kafka has the reply, EXPIRED, REROUTED, "
            "REFUSED, or UNSENT if Kafka did not take the reply.",
            ["code"],
            registry=registry,
        )
        self.answer_seconds = Histogram(
            "learner_answer_seconds",
            "Time from a request's record timestamp to Kafka's acknowledgement of its reply.",
            buckets=_ANSWER_BUCKETS,
            registry=registry,
        )
        self.identity = Counter(
            "learner_identity_checks",
            "Checks of who asks, by result: ok, forbidden, missing, or what is wrong with the token.",
            ["result"],
            registry=registry,
        )
        self.advice_lost = Counter(
            "learner_advice_lost",
            "Answers that the advice log lacks: Kafka did not take them.",
            registry=registry,
        )


class ProcessInstruments:
    """The metrics of the worker as a whole."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.checkpoints = Counter(
            "learner_checkpoints", "Periodic checkpoints, by result.", ["result"], registry=registry
        )
        self.checkpoint_seconds = Histogram(
            "learner_checkpoint_seconds", "Duration of a checkpoint.", registry=registry
        )
        self.shards = Gauge(
            "learner_shards", "Shards owned by this replica, by state.", ["state"], registry=registry
        )
        self.standby_records = Gauge(
            "learner_standby_records_left",
            "Changelog records that a standby has yet to read.",
            ["shard"],
            registry=registry,
        )
        self.snapshots = Counter(
            "learner_snapshots",
            "Snapshots of shard files, by result: published, failed (not published), taken in place of a "
            "missing file, refused (invalid).",
            ["result"],
            registry=registry,
        )
        self.rebuilds = Counter(
            "learner_rebuilds",
            "Times the Kafka clients were rebuilt because they made no progress.",
            registry=registry,
        )
        self.loop_stall_seconds = Histogram(
            "learner_loop_stall_seconds",
            "Delay of a periodic timer on the event loop.",
            buckets=_STALL_BUCKETS,
            registry=registry,
        )
        self.log_lines_lost = Counter(
            "learner_log_lines_lost",
            "Log lines that stderr did not take: nobody reads it, or not fast enough, or a disk is full.",
            registry=registry,
        )
        self.rebalances = Counter(
            "learner_rebalances", "Assignments that this replica has got from its group.", registry=registry
        )
        self.all_shards = Gauge(
            "learner_topology_shards", "Shards that the group has to own together.", registry=registry
        )


class LagInstruments:
    """The metrics of what is not processed yet."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.records = Gauge(
            "learner_lag_records",
            "Records not yet processed by this replica's shards, by topic.",
            ["topic"],
            registry=registry,
        )
        self.shard_records = Gauge(
            "learner_shard_lag_records",
            "Records not yet processed, by topic and shard.",
            ["topic", "shard"],
            registry=registry,
        )
        self.event_seconds = Gauge(
            "learner_event_lag_seconds",
            "How long this replica has known of the oldest event that it has not processed yet.",
            ["topic", "shard"],
            registry=registry,
        )
        self.request_seconds = Gauge(
            "learner_request_lag_seconds",
            "How long this replica has known of the oldest request that it has not answered yet.",
            ["shard"],
            registry=registry,
        )


class ForwardingInstruments:
    """The metrics of a forwarder, in a registry of their own."""

    def __init__(self) -> None:
        _without_creation_times()
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self.requests = Counter(
            "learner_requests_forwarded",
            "Requests read from agents' own topics, by topic and result: forwarded, expired, or refused by "
            "Kafka. Of `forward-requests`.",
            ["topic", "result"],
            registry=self.registry,
        )
        self.lag = Gauge(
            "learner_forwarding_lag_records",
            "Requests on agents' own topics that this forwarder has yet to send on, by topic. Of "
            "`forward-requests`.",
            ["topic"],
            registry=self.registry,
        )


_without_creation_times = cast("Callable[[], None]", disable_created_metrics)
"""Leaves out the time at which each counter and histogram was made: nobody asks for it."""


@cache
def _version() -> str:
    return version("learner-worker")


class Instruments:
    """The worker's Prometheus metrics, in their own registry, and its tracer, if it has one.

    Those of the process (`process_*`) and of Python (`python_info`) are Prometheus' own client library's.
    """

    def __init__(self, tracer: Tracer | None = None) -> None:
        _without_creation_times()
        self.tracer = tracer
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        build = Gauge(
            "learner_build_info",
            "The program's version and Python's; always 1.",
            ["version", "python_version"],
            registry=self.registry,
        )
        build.labels(_version(), platform.python_version()).set(1)
        self.shards = ShardInstruments(self.registry)
        self.requests = RequestInstruments(self.registry, tracer)
        self.process = ProcessInstruments(self.registry)
        self.lag = LagInstruments(self.registry)
