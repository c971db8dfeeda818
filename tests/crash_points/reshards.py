"""Where `reshard` may die: before and after what each step does and records."""

from typing import Final, Literal, NamedTuple

from learner_worker.operations.reshard_kafka import KafkaAccess
from tests.crash_points.fuse import Fuse, after, before, kill_itself


class Death(NamedTuple):
    """The end of one run of the command.

    Attributes:
        method: of `KafkaAccess`.
        passings: how often this run calls it until then.
    """

    when: Literal["before", "after"]
    method: str
    passings: int = 1


DEATHS: Final = (
    Death("before", "write"),  # announced to nobody
    Death("after", "write"),  # announced, and recorded
    Death("after", "until_empty"),  # the group is empty, and that is not recorded
    Death("after", "create"),
    Death("after", "raise_counts"),
    Death("after", "commit"),  # the first of two groups begins
    Death("after", "send"),  # the barriers are sent, and not recorded
    Death("after", "send", 4),  # barriers once more, the first class of agents, and half of the second
    Death("after", "send", 13),  # further classes
    Death("after", "write"),  # the copy is recorded, and not switched
    Death("after", "write"),  # switched, and not said
)
"""One run after the other: each goes on where the one before died."""


def lay(when: str, method: str, passings: int) -> None:
    """Lays the fuse of a death in this process."""
    fuse = Fuse(f"{when} {method}", passings, kill_itself)
    owner, name, replacement = (before if when == "before" else after)(fuse, KafkaAccess, method)
    setattr(owner, name, replacement)
