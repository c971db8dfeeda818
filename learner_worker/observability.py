"""Structured logs and Prometheus metrics."""

import logging
import sys
from typing import Literal

import structlog
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

LogFormat = Literal["auto", "json", "console"]
LogLevel = Literal["debug", "info", "warning", "error"]
# Without local variables: a request's costs are secret, and other tracebacks would hold what agents wrote.
_TRACEBACKS = structlog.processors.ExceptionRenderer(
    structlog.tracebacks.ExceptionDictTransformer(show_locals=False)
)
_SHOWN_TRACEBACKS = structlog.dev.RichTracebackFormatter(show_locals=False)
_STALL_BUCKETS = (0.005, 0.01, 0.015, 0.02, 0.025, 0.035, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1, 2.5)
"""Seconds: fine up to a chunk of work, coarse above."""
_ANSWER_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
"""Seconds: from an idle learner to the default time to live."""


def configure_logging(log_format: LogFormat = "auto", level: LogLevel = "info") -> None:
    """Configures logs on stderr: JSON lines, or text on a terminal; aiokafka's own logs only at `debug`.

    The worker logs an outage of Kafka once; aiokafka would log it for every connection.
    """
    as_json = log_format == "json" or (log_format == "auto" and not sys.stderr.isatty())
    renderer = (
        [_TRACEBACKS, structlog.processors.JSONRenderer()]
        if as_json
        else [
            structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), exception_formatter=_SHOWN_TRACEBACKS)
        ]
    )
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            *renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.WriteLoggerFactory(sys.stderr),
        cache_logger_on_first_use=False,
    )
    logging.basicConfig(stream=sys.stderr, format="%(name)s: %(message)s", level=logging.WARNING)
    logging.getLogger("aiokafka").setLevel(logging.INFO if level == "debug" else logging.CRITICAL + 1)


class ShardInstruments:
    """The metrics of the shards."""

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
    """The metrics of the request path."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.by_code = Counter(
            "learner_requests",
            "Requests handled, by code: OK, an error code, EXPIRED, REROUTED or REFUSED.",
            ["code"],
            registry=registry,
        )
        self.answer_seconds = Histogram(
            "learner_answer_seconds",
            "Time from a request's record timestamp to its reply being handed to the producer.",
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
            "learner_checkpoints", "Checkpoints made, by result.", ["result"], registry=registry
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
        self.lag = Gauge(
            "learner_lag_records",
            "Records not yet processed by this replica's shards, by topic.",
            ["topic"],
            registry=registry,
        )


class Instruments:
    """The worker's Prometheus metrics, in their own registry."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.shards = ShardInstruments(self.registry)
        self.requests = RequestInstruments(self.registry)
        self.process = ProcessInstruments(self.registry)
