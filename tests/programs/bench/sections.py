"""The sections of the bench, in the order they run."""

from collections.abc import Callable, Coroutine, Mapping
from typing import Any

from tests.programs.bench import (
    answer_cost,
    answers_busy,
    answers_idle,
    answers_most,
    holding,
    identity_cost,
    insights,
    long_histories,
    peers_section,
    replicas,
    restore,
    start,
    strategies,
    whole_way,
)
from tests.programs.bench.figures import Figure
from tests.programs.bench.stage import Stage

Section = Callable[[Stage], Coroutine[Any, Any, list[Figure]]]
SECTIONS: Mapping[str, Section] = {
    whole_way.SECTION: whole_way.measure,
    answers_idle.SECTION: answers_idle.measure,
    answer_cost.SECTION: answer_cost.measure,
    identity_cost.SECTION: identity_cost.measure,
    restore.SECTION: restore.measure,
    start.SECTION: start.measure,
    peers_section.SECTION: peers_section.measure,
    answers_busy.SECTION: answers_busy.measure,
    answers_most.SECTION: answers_most.measure,
    replicas.SECTION: replicas.measure,
    holding.INGEST_SECTION: holding.measure_ingest,
    holding.MEMORY_SECTION: holding.measure_memory,
    strategies.SECTION: strategies.measure,
    insights.SECTION: insights.measure,
    long_histories.SECTION: long_histories.measure,
}
