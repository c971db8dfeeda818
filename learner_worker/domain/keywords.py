"""Keywords: the words of a description that the learner counts."""

import functools
import heapq
import itertools
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from learner_worker.domain.bucketed import item_slices

STOP_WORDS = frozenset(
    re.findall(
        "[a-z]+",
        "a an the and or but in on at to for of with by from is it this that be as are was were been do does "
        "did will would can could should may might me my i we you your please task need want make get",
    )
)
STRONGEST = 50  # bounds a metrics record's size; weaker keywords hardly change advice
TOP = 10  # as many as an overview of all agents shows of each
CANDIDATES = 1_000
"""Keywords from which the strongest are chosen: so many must weaken before all have to be looked at again."""
_MOST_CANDIDATES = 4 * CANDIDATES  # choosing among so many takes a millisecond or two
Strength = tuple[int, int, int, str]
"""Sorts the strongest keyword first: by absolute net, then in the order of learned keywords."""
Rank = tuple[Any, ...]
"""A place in an order of keywords: numbers, and last the keyword."""
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


@functools.lru_cache(maxsize=32_768)
def shared(word: str) -> str:
    """Returns one shared object for equal words that were used recently: many agents have the same keywords.

    The cache is bounded. The table of `sys.intern` is not, and is copied in one step when it grows.
    """
    return word


@functools.lru_cache(maxsize=256)
def keywords_of(text: str) -> tuple[str, ...]:
    """All keywords of a text, with repetitions, in order.

    Cached, because the agents of an auction ask about the same text at the same time.
    """
    return tuple([shared(word) for word in _WORD.findall(text.lower()) if word not in STOP_WORDS])


def in_order(tallies: Iterable[tuple[str, Tally]]) -> list[tuple[str, Tally]]:
    """Sorts learned keywords by net descending, then wins descending, then keyword."""
    return sorted(tallies, key=lambda item: _net_rank(*item))


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
    """The strongest of an agent's keywords and the first ones, kept while they change.

    An answer never looks at all keywords. The first ones are nearly always among the candidates for the
    strongest; an order of their own is kept only for an agent for which they are not.

    Args:
        tallies: the agent's keywords; whoever changes one calls `note`, between steps of `collected`, too.
    """

    __slots__ = ("_by_net", "_by_strength", "_tallies")

    def __init__(self, tallies: Mapping[str, Tally]) -> None:
        self._tallies = tallies
        self._by_strength = _RankedKeywords(tallies, strength_of)
        self._by_net: _RankedKeywords | None = None

    @property
    def must_look_at_all(self) -> bool:
        """Whether all keywords have to be scanned to find the strongest."""
        return self._by_strength.must_look_at_all

    def follow(self, tallies: Mapping[str, Tally]) -> None:
        """Continues with a mapping of the same content."""
        self._tallies = self._by_strength.tallies = tallies
        if self._by_net is not None:
            self._by_net.tallies = tallies

    def note(self, keyword: str) -> None:
        """Notes that a keyword's tally has changed."""
        self._by_strength.note(keyword)
        if self._by_net is not None:
            self._by_net.note(keyword)

    def collected(self) -> Iterator[None]:
        """Scans all keywords if necessary, some at a time; other work may run in between."""
        yield from self._by_strength.collected()
        if self._first_candidates() is None:
            yield from self._ranked_by_net().collected()

    def strongest(self) -> list[tuple[str, Tally]]:
        """The `STRONGEST` keywords of the greatest absolute net, in the order of learned keywords."""
        return self._with_tallies(sorted([rank[1:] for rank in self._by_strength.first(STRONGEST)]))

    def strongest_and_top(self) -> tuple[list[tuple[str, Tally]], list[tuple[str, Tally]]]:
        """The strongest keywords, and the first `TOP` learned keywords.

        The first ones are nearly always among the strongest: a weaker keyword comes before none of them
        whose net is positive.
        """
        strongest = self.strongest()
        top = strongest[:TOP]
        if len(strongest) < len(self._tallies) and top[-1][1].net <= 0:
            found = self._first_candidates()
            top = self._with_tallies(self._ranked_by_net().first(TOP) if found is None else found)
        return strongest, top

    def _first_candidates(self) -> list[Rank] | None:
        """The first `TOP` learned keywords, if the candidates for the strongest are sure to contain them.

        Keywords of positive net are in the same order by strength: no other one comes before a candidate.
        """
        found = heapq.nsmallest(TOP, (strength[1:] for strength in self._by_strength.candidates))
        enough = len(found) == TOP and found[-1][0] < 0
        return found if enough or self._by_strength.has_all else None

    def _ranked_by_net(self) -> "_RankedKeywords":
        if self._by_net is None:
            self._by_net = _RankedKeywords(self._tallies, _net_rank)
        return self._by_net

    def _with_tallies(self, ranks: Iterable[Rank]) -> list[tuple[str, Tally]]:
        return [(rank[-1], self._tallies[rank[-1]]) for rank in ranks]


class _RankedKeywords:
    """The first of an agent's keywords in some order.

    Kept are all keywords up to a certain rank, the candidates. A change moves a keyword in or out, and all
    keywords are looked at again only when fewer candidates are left than are wanted.

    Args:
        rank_of: the smaller a keyword's rank, the earlier it is.

    Attributes:
        tallies: the agent's keywords.
    """

    __slots__ = ("_bound", "_candidates", "_noted", "_rank_of", "tallies")

    def __init__(self, tallies: Mapping[str, Tally], rank_of: Callable[[str, Tally], Rank]) -> None:
        self.tallies = tallies
        self._rank_of = rank_of
        self._candidates: dict[str, Rank] | None = None
        self._bound: Rank | None = None  # None: every keyword is a candidate
        self._noted: set[str] | None = None  # what has changed since the scan began

    @property
    def must_look_at_all(self) -> bool:
        """Whether all keywords have to be scanned to find the first ones."""
        candidates = self._candidates
        return candidates is None or (len(candidates) < STRONGEST and len(candidates) < len(self.tallies))

    @property
    def candidates(self) -> Collection[Rank]:
        """The ranks of the candidates; none before they were first looked for."""
        return (self._candidates or {}).values()

    @property
    def has_all(self) -> bool:
        """Whether every keyword is a candidate."""
        return self._candidates is not None and self._bound is None

    def note(self, keyword: str) -> None:
        """Notes that a keyword's tally has changed."""
        if self._noted is not None:
            self._noted.add(keyword)
        if self._candidates is None:
            return
        tally = self.tallies.get(keyword)
        rank = None if tally is None else self._rank_of(keyword, tally)
        if rank is not None and (self._bound is None or rank <= self._bound):
            self._candidates[keyword] = rank
        else:
            self._candidates.pop(keyword, None)

    def collected(self) -> Iterator[None]:
        """Looks at all keywords if that has to be done, some at a time."""
        if not self.must_look_at_all:
            return
        noted = self._noted = set[str]()
        found: list[Rank] = []
        looked_at = 0
        for some in item_slices(self.tallies):
            looked_at += len(some)
            ranks = itertools.starmap(self._rank_of, some)
            found = heapq.nsmallest(CANDIDATES, itertools.chain(found, ranks))
            yield
        if self._noted is noted:  # otherwise another scan has finished meanwhile
            self._finish(found, noted, has_all=looked_at == len(found))

    def _finish(self, found: list[Rank], noted: Iterable[str], *, has_all: bool) -> None:
        """Keeps what the scan found; keywords that changed meanwhile are ranked by their current tallies."""
        self._noted = None
        self._keep(found)
        if has_all:
            self._bound = None
        for keyword in noted:
            self.note(keyword)

    def first(self, count: int) -> list[Rank]:
        """The ranks of the first `count` keywords."""
        for _ in self.collected():
            pass
        candidates = self._candidates or {}
        if len(candidates) > _MOST_CANDIDATES:
            self._keep(heapq.nsmallest(CANDIDATES, candidates.values()))
        return heapq.nsmallest(count, candidates.values())

    def _keep(self, found: list[Rank]) -> None:
        self._bound = found[-1] if found else None
        self._candidates = {rank[-1]: rank for rank in found}


def _net_rank(keyword: str, tally: Tally) -> Rank:
    """A keyword's place among learned keywords."""
    return tally.failures - tally.wins, -tally.wins, keyword


def strength_of(keyword: str, tally: Tally) -> Strength:
    """A keyword's place among the strongest: the smaller, the stronger."""
    wins, failures = tally
    return -abs(wins - failures), failures - wins, -wins, keyword
