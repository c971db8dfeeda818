"""Keywords: the words of a description that the learner counts."""

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
STRONGEST = 50  # bounds a metrics record's size; weaker keywords hardly change advice
_WORD = re.compile("[a-z]{3,}")


class Tally(NamedTuple):
    """Occurrences of a keyword in the descriptions of an agent's won tasks, by their result."""

    wins: int = 0
    failures: int = 0

    @property
    def net(self) -> int:
        """wins - failures"""
        return self.wins - self.failures


@functools.lru_cache(maxsize=4_096)
def tally_of(wins: int, failures: int) -> Tally:
    """A tally; cached, so that equal tallies of different agents share one object."""
    return Tally(wins, failures)


@functools.lru_cache(maxsize=256)
def keywords_of(text: str) -> tuple[str, ...]:
    """All keywords of a text, with repetitions, in order.

    Cached, because the agents of an auction ask about the same text at the same time.
    """
    return tuple(sys.intern(word) for word in _WORD.findall(text.lower()) if word not in STOP_WORDS)


def in_order(tallies: Iterable[tuple[str, Tally]]) -> list[tuple[str, Tally]]:
    """Sorts learned keywords by net descending, then wins descending, then keyword."""
    return sorted(tallies, key=_place)


def _place(item: tuple[str, Tally]) -> tuple[int, int, str]:
    keyword, (wins, failures) = item
    return failures - wins, -wins, keyword


def strongest(tallies: Mapping[str, Tally], count: int = STRONGEST) -> list[tuple[str, Tally]]:
    """The `count` keywords of the greatest absolute net, in the order of learned keywords.

    Ties for the last place are broken by that order.
    """
    ordered = in_order(tallies.items())
    if len(ordered) <= count:
        return ordered
    kept = sorted(ordered, key=lambda item: -abs(item[1].net))[:count]
    return in_order(kept)
