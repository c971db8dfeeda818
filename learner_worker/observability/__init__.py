"""What an operator sees of a worker: its logs and its Prometheus metrics."""

from learner_worker.observability.instruments import (
    ForwardingInstruments,
    Instruments,
    LagInstruments,
    ProcessInstruments,
    RequestInstruments,
    ShardInstruments,
)
from learner_worker.observability.logs import LimitedLog, LogFormat, LogLevel, configure_logging
from learner_worker.observability.tracing import RequestTrace, Tracer, tracer_or_none

__all__ = [
    "ForwardingInstruments",
    "Instruments",
    "LagInstruments",
    "LimitedLog",
    "LogFormat",
    "LogLevel",
    "ProcessInstruments",
    "RequestInstruments",
    "RequestTrace",
    "ShardInstruments",
    "Tracer",
    "configure_logging",
    "tracer_or_none",
]
