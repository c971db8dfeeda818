"""What the bench's commands share: how one begins, what it says, on which broker and with which settings."""

import logging
import signal
import sys
import time
from collections.abc import Iterable

import click

from learner_worker.brokers import BrokerKind, why_not

TABLE_WIDTH = 170


def begin() -> None:
    """Prepares the process: at SIGTERM broker and workers end, too, as at Ctrl-C."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL + 1)


def broker_kind(*, embedded: bool = False) -> BrokerKind:
    """Apache Kafka, unless the embedded broker is wanted; says so if Kafka cannot be had."""
    missing = why_not(BrokerKind.KAFKA)
    if missing and not embedded:
        say(f"not on Apache Kafka. {missing}")
    return BrokerKind.EMBEDDED if embedded or missing else BrokerKind.KAFKA


def worker_settings(given: Iterable[str]) -> dict[str, str]:
    """Flags of a worker, from settings such as strategies=classic."""
    return {f"--{name}": value for name, _, value in (one.partition("=") for one in given)}


def say(line: str) -> None:
    """Prints a line at once, with the time."""
    click.echo(f"{time.strftime('%H:%M:%S')} {line}")
    sys.stdout.flush()
