"""Keywords: the words of a description that the learner counts."""

import functools
import heapq
import itertools
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

STOP_WORDS = frozenset(
    re.findall(
        "[a-z]+",
        "a an the and or but in on at to for of with by from is it this that be as are was were been do does "
        "did will would can could should may might me my i we you your please task need want make get",
    )
)
STRONGEST = 50  # bounds a metrics record's size; weaker keywords hardly change advice
CANDIDATES = 1_000
"""Keywords from which the strongest are chosen: so many must weaken before all have to be looked at again."""
_MOST_CANDIDATES = 4 * CANDIDATES  # choosing among so many takes a millisecond or two
LOOKED_AT = 4_000
"""Keywords looked at between two yields to the event loop: a few milliseconds."""
Strength = tuple[int, int, int, str]
"""Sorts the strongest keyword first: by absolute net, then in the order of learned keywords."""
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


class StrongestKeywords:
    """The strongest of an agent's keywords, kept while they change: an answer never looks at all of them.

    Kept are all keywords up to a certain strength, the candidates. A change moves a keyword in or out, and
    all keywords are looked at again only when fewer candidates are left than are wanted.

    Args:
        tallies: the agent's keywords; whoever changes one calls `note`.
    """

    __slots__ = ("_bound", "_candidates", "_tallies")

    def __init__(self, tallies: Mapping[str, Tally]) -> None:
        self._tallies = tallies
        self._candidates: dict[str, Strength] | None = None
        self._bound: Strength | None = None  # None: every keyword is a candidate

    def note(self, keyword: str) -> None:
        """Notes that a keyword's tally has changed."""
        if self._candidates is None:
            return
        tally = self._tallies.get(keyword)
        strength = None if tally is None else strength_of(keyword, tally)
        if strength is not None and (self._bound is None or strength <= self._bound):
            self._candidates[keyword] = strength
        else:
            self._candidates.pop(keyword, None)

    def collected(self) -> Iterator[None]:
        """Looks at all keywords if that has to be done, some at a time; it may take turns with other work.

        No tally may change meanwhile.
        """
        if not self._must_look_at_all():
            return
        found: list[Strength] = []
        items = iter(self._tallies.items())
        while some := list(itertools.islice(items, LOOKED_AT)):
            found = heapq.nsmallest(CANDIDATES, itertools.chain(found, itertools.starmap(strength_of, some)))
            yield
        self._keep(found)
        if len(found) == len(self._tallies):
            self._bound = None

    def strongest(self, count: int = STRONGEST) -> list[tuple[str, Tally]]:
        """The `count` strongest keywords, in the order of learned keywords."""
        for _ in self.collected():
            pass
        candidates = self._candidates or {}
        if len(candidates) > _MOST_CANDIDATES:
            self._keep(heapq.nsmallest(CANDIDATES, candidates.values()))
        found = heapq.nsmallest(count, candidates.values())
        return in_order((strength[-1], self._tallies[strength[-1]]) for strength in found)

    def _keep(self, found: list[Strength]) -> None:
        self._bound = found[-1] if found else None
        self._candidates = {strength[-1]: strength for strength in found}

    def _must_look_at_all(self) -> bool:
        candidates = self._candidates
        return candidates is None or len(candidates) < min(STRONGEST, len(self._tallies))


def strength_of(keyword: str, tally: Tally) -> Strength:
    """A keyword's place among the strongest: the smaller, the stronger."""
    wins, failures = tally
    return -abs(wins - failures), failures - wins, -wins, keyword
