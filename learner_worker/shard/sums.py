"""Which strategies' sums a shard's file keeps."""

from collections.abc import Sequence

from learner_worker.stages.strategy_sums import StrategySums, sums_of, versions_of
from learner_worker.store.shard_file import ShardFile
from learner_worker.strategies.protocol import Strategy


async def claimed_sums(file: ShardFile, strategies: Sequence[Strategy]) -> list[StrategySums]:
    """The sums that a file keeps from now on: those of these strategies, and of no others.

    Raises:
        StateError: the file cannot be read or written.
    """
    return sums_of(strategies, await file.claim_strategies(versions_of(strategies)))
