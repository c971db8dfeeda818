"""What an operator sees of a worker: its logs and its Prometheus metrics."""

from learner_worker.observability.instruments import (
    Instruments,
    LagInstruments,
    ProcessInstruments,
    RequestInstruments,
    ShardInstruments,
)
from learner_worker.observability.logs import LimitedLog, LogFormat, LogLevel, configure_logging

__all__ = [
    "Instruments",
    "LagInstruments",
    "LimitedLog",
    "LogFormat",
    "LogLevel",
    "ProcessInstruments",
    "RequestInstruments",
    "ShardInstruments",
    "configure_logging",
]
