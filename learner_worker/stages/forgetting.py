"""forgetting: what of a changelog partition a forgotten agent's facts leave behind, whoever sends it.

The owner tombstones the facts behind the rows that it sweeps, and those it reads later. Facts that others had
superseded stand behind no row: whoever forgets an agent reads its partition once, after its marker is there.

What is tombstoned lies before a marker that never goes away, so it is true whoever says it and however late.
"""

from collections.abc import Iterable

from learner_worker.contract.outcomes import Fact, ForgetMarker, decode_outcome_record
from learner_worker.domain.outcomes import forgotten_cutoff, living_fact
from learner_worker.errors import RecordError
from learner_worker.stream.records import Record


class Relics:
    """The facts of an agent that its marker makes worthless, by their keys.

    Attributes:
        spent: keys to tombstone, each with what is left of its fact: to be sent, and acknowledged, before.
    """

    def __init__(self, marker: ForgetMarker) -> None:
        self.spent: dict[bytes, Fact | None] = {}
        self._agent_id = marker.agent_id
        self._cutoff = forgotten_cutoff(marker.forget_until)

    def take(self, records: Iterable[Record]) -> None:
        """Looks at records of the agent's partition, in order.

        Raises:
            UpgradeRequiredError: a newer learner wrote one.
        """
        for record in records:
            if record.key is None:
                continue
            if record.value is None:
                self.spent.pop(record.key, None)
            elif (fact := self._fact_in(record.value)) is not None:
                left = living_fact(fact, self._cutoff)
                if left is not fact:
                    self.spent[record.key] = left

    def _fact_in(self, value: bytes) -> Fact | None:
        try:
            found = decode_outcome_record(value)
        except RecordError:
            return None
        return found if isinstance(found, Fact) and found.agent_id == self._agent_id else None
