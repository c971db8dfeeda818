"""The words of a description that the learner remembers."""

import functools
import re
import sys
from collections.abc import Iterable, Mapping
from typing import NamedTuple

STOP_WORDS = frozenset(
    re.findall(
        "[a-z]+",
        "a an the and or but in on at to for of with by from is it this that be as are was were been do does "
        "did will would can could should may might me my i we you your please task need want make get",
    )
)
STRONGEST = 50
_WORD = re.compile("[a-z]{3,}")


class Tally(NamedTuple):
    """How often a keyword stood on won auctions that succeeded, and that failed."""

    wins: int = 0
    failures: int = 0

    @property
    def net(self) -> int:
        """wins - failures"""
        return self.wins - self.failures


@functools.lru_cache(maxsize=4_096)
def tally_of(wins: int, failures: int) -> Tally:
    """A tally; equal small ones are one object: a worker caches thirty of them an agent."""
    return Tally(wins, failures)


@functools.lru_cache(maxsize=256)
def keywords_of(text: str) -> tuple[str, ...]:
    """Every keyword of a text, each occurrence, in order.

    Cached: the agents of an auction ask about the same text at the same time.
    """
    return tuple(sys.intern(word) for word in _WORD.findall(text.lower()) if word not in STOP_WORDS)


def in_order(tallies: Iterable[tuple[str, Tally]]) -> list[tuple[str, Tally]]:
    """Learned keywords by net descending, then wins descending, then keyword."""
    return sorted(tallies, key=_place)


def _place(item: tuple[str, Tally]) -> tuple[int, int, str]:
    keyword, (wins, failures) = item
    return failures - wins, -wins, keyword


def strongest(tallies: Mapping[str, Tally], count: int = STRONGEST) -> list[tuple[str, Tally]]:
    """The keywords of greatest absolute net, in the order of learned keywords.

    Where the last place is tied, the order of learned keywords decides.
    """
    ordered = in_order(tallies.items())
    if len(ordered) <= count:
        return ordered
    kept = sorted(ordered, key=lambda item: -abs(item[1].net))[:count]
    return in_order(kept)
