"""The label values that are known before anything happens: their counters begin at zero.

A counter whose first sample is a 1 shows no increase, so alerts would miss the first failure.
"""

from collections.abc import Iterable, Sequence
from itertools import product
from typing import Final

from prometheus_client import Counter, Gauge

from learner_worker.contract.suggestions import ERROR_CODES
from learner_worker.contract.topics import TopicNames
from learner_worker.interface.headers import DEAD_LETTER_REASONS
from learner_worker.observability import Instruments
from learner_worker.requests.reply_batches import UNSENT

EVENT_RESULTS: Final = ("settled", "rerouted", "dead-letter")
REQUEST_CODES: Final = ("OK", *ERROR_CODES, "EXPIRED", "REROUTED", "REFUSED", UNSENT)


def begin_at_zero(instruments: Instruments, topics: TopicNames, *, shards: int) -> None:
    """Shows every counter of known labels, and the number of shards that the group has to own."""
    of_shards, of_process = instruments.shards, instruments.process
    events = (topics.bid_placed, topics.auction_closed, topics.task_finished, topics.rerouted)
    written = (topics.outcomes, topics.metrics, topics.rerouted, topics.dead_letters)
    known: Sequence[tuple[Counter | Gauge, Iterable[tuple[str, ...]]]] = (
        (of_shards.events, product(events, EVENT_RESULTS)),
        (of_shards.record_times_off, product(events)),
        (of_shards.records_lost, product(topics.subscribed)),
        (of_shards.records_refused, product(written)),
        (of_shards.dead_letters, product(DEAD_LETTER_REASONS)),
        (of_shards.auctions_forgotten, product(("yes", "no"))),
        (instruments.requests.identity, product(("ok", "forbidden", "missing"))),
        (instruments.requests.by_code, product(REQUEST_CODES)),
        (of_process.checkpoints, product(("ok", "failed"))),
        (of_process.snapshots, product(("published", "failed", "taken", "refused"))),
        (of_process.shards, product(("ready", "restoring"))),
    )
    for instrument, labels in known:
        for values in labels:
            instrument.labels(*values)
    of_process.all_shards.set(shards)
