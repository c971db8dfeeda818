"""An experiment: a share of the tasks for each strategy, so that what they earn can be compared.

The unit is the task: agents compete for it, so all that bid for one must be advised by one strategy. A split
by agent would count what one strategy takes from the other as a gain of both.
"""

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from learner_worker.contract.fields import TaskId
from learner_worker.errors import ConfigurationError

_EXAMPLE: Final = "for example classic=0.5,expected-profit=0.5"
_DRAW_BYTES: Final = 7  # 56 bits: an integer that a double can hold nearly all of
_TOLERANCE: Final = 1e-6  # of the shares' sum: thirds cannot be written exactly


@dataclass(frozen=True, slots=True)
class Experiment:
    """An experiment's arms, each with its share of the tasks; the shares' sum is 1."""

    name: str
    shares: Mapping[str, float]

    def arm_of(self, task_id: TaskId) -> str:
        """The strategy of a task: the same for every agent and worker; another name draws anew."""
        digest = hashlib.sha256(f"{self.name}\n{task_id}".encode()).digest()
        left = int.from_bytes(digest[:_DRAW_BYTES], "big") / 2 ** (8 * _DRAW_BYTES)
        for arm, share in self.shares.items():
            left -= share
            if left < 0:
                return arm
        return list(self.shares)[-1]  # what rounding leaves over


def parse_experiment(name: str, text: str) -> Experiment:
    """The experiment of a text like `classic=0.5,expected-profit=0.5`.

    Raises:
        ConfigurationError: it is not one; the message says why.
    """
    shares: dict[str, float] = {}
    for item in text.split(","):
        arm, _, number = (part.strip() for part in item.rpartition("="))
        share = _share(number)
        if not arm or share is None:
            raise ConfigurationError(
                f"--experiment: {item.strip()!r} is not a strategy and a share: {_EXAMPLE}"
            )
        if arm in shares:
            raise ConfigurationError(f"--experiment: {arm!r} stands twice")
        shares[arm] = share
    if abs(sum(shares.values()) - 1) > _TOLERANCE:
        raise ConfigurationError(
            f"--experiment: the shares' sum is {sum(shares.values()):g}, not 1: {_EXAMPLE}"
        )
    return Experiment(name, shares)


def _share(text: str) -> float | None:
    try:
        share = float(text)
    except ValueError:
        return None
    return share if math.isfinite(share) and 0 < share <= 1 else None
