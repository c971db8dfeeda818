"""Which replica owns which shard: as few moves as balance allows, and those to where the state already lies.

Pure rules for the group's leader; `assignor.py` carries claims and placements through Kafka's group protocol.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Final

import msgspec

from learner_worker.contract.fields import ShardId

LAST_TERM: Final = 2**62
"""Terms are milliseconds and grow by one a placement: none of ours comes near it."""
Term = Annotated[int, msgspec.Meta(ge=0, le=LAST_TERM)]


class Claim(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a member tells the leader of itself.

    Attributes:
        process: names this run of this process.
        name: what operators know it by: its instance id, or where it runs.
        where: its host and process number.
        term: the number of the placement that gave it the shards it owns; a stalled member's is old.
        owned: the shards it owns until now.
        held: the shards in its state folder, each with the changelog position of its rows.
        standby_replicas: how many standbys it was told that every shard should have.
    """

    process: str
    name: str = ""
    where: str = ""
    term: Term = 0
    owned: list[ShardId] = []
    held: dict[ShardId, int] = {}
    standby_replicas: int = 0


@dataclass(frozen=True, slots=True)
class Placement:
    """What a member gets: the shards it owns, and those whose changelog it follows."""

    owned: frozenset[ShardId] = frozenset()
    standbys: frozenset[ShardId] = frozenset()


@dataclass(slots=True)
class _Member:
    """A member while the leader deals."""

    key: str
    claim: Claim
    owned: set[ShardId] = field(default_factory=set)
    standbys: set[ShardId] = field(default_factory=set)

    def position(self, shard: ShardId) -> int:
        """How far its rows of a shard reach; -1 without any."""
        return self.claim.held.get(shard, -1)


def next_term(claims: Iterable[Claim]) -> int:
    """The number of the placement that follows those the members know."""
    return min(1 + max((claim.term for claim in claims), default=0), LAST_TERM)


def place(shards: Sequence[ShardId], claims: Mapping[str, Claim]) -> dict[str, Placement]:
    """Deals the shards to the members, balanced to within one.

    1. A shard stays with its owner, as long as the owner has room.
    2. What is without an owner, or given up for balance, goes to the member whose rows reach furthest.
    3. Standbys go to other members, those who follow the shard already first, spread evenly.

    The result depends on the claims only, not on their order.
    """
    members = [
        _Member(key, claim) for key, claim in sorted(claims.items(), key=lambda item: (item[1].name, item[0]))
    ]
    _keep_owners(shards, members)
    _deal_rest(shards, members)
    copies = max((claim.standby_replicas for claim in claims.values()), default=0)
    for _ in range(min(copies, len(members) - 1)):
        _deal_standbys(shards, members)
    return {member.key: Placement(frozenset(member.owned), frozenset(member.standbys)) for member in members}


def _keep_owners(shards: Sequence[ShardId], members: Sequence[_Member]) -> None:
    """Leaves every shard with its owner; an owner above its share gives up what others know best."""
    for shard in shards:
        owner = max(
            (member for member in members if shard in member.claim.owned),
            key=lambda member: (member.claim.term, member.position(shard)),
            default=None,
        )
        if owner is not None:
            owner.owned.add(shard)
    share, larger_shares = divmod(len(shards), len(members))
    for member in sorted(members, key=lambda member: -len(member.owned)):
        larger_shares -= len(member.owned) > share
        quota = share + (larger_shares >= 0)
        others = [other for other in members if other is not member]
        while len(member.owned) > quota:
            member.owned.remove(_best_given_up(member.owned, others))


def _best_given_up(owned: Iterable[ShardId], others: Sequence[_Member]) -> ShardId:
    return max(owned, key=lambda shard: (max((other.position(shard) for other in others), default=-1), shard))


def _deal_rest(shards: Sequence[ShardId], members: Sequence[_Member]) -> None:
    free = set(shards).difference(*(member.owned for member in members))
    share, larger_shares = divmod(len(shards), len(members))
    wishes = sorted(
        ((member.position(shard), shard, member) for shard in free for member in members),
        key=lambda wish: (-wish[0], wish[1]),
    )
    for position, shard, member in wishes:
        larger_taken = sum(len(other.owned) > share for other in members)
        quota = share + (larger_taken < larger_shares or len(member.owned) > share)
        if position >= 0 and shard in free and len(member.owned) < quota:
            member.owned.add(shard)
            free.remove(shard)
    for shard in sorted(free):
        min(members, key=lambda member: len(member.owned)).owned.add(shard)


def _deal_standbys(shards: Sequence[ShardId], members: Sequence[_Member]) -> None:
    """One more standby for every shard: where its rows reach furthest, unless that member has its share."""
    most = -(-len(shards) // len(members)) + max(len(member.standbys) for member in members)
    pairs: Counter[tuple[str, str]] = Counter()
    owners = {shard: member for member in members for shard in member.owned}

    def rank(shard: ShardId) -> Callable[[_Member], tuple[bool, int, int, int]]:
        owner = owners[shard]
        fair = -(-len(owner.owned) // (len(members) - 1))
        return lambda member: (
            len(member.standbys) < most and pairs[owner.key, member.key] < fair,
            member.position(shard),
            -pairs[owner.key, member.key],
            -len(member.standbys),
        )

    for shard in shards:
        candidates = [
            member for member in members if shard not in member.owned and shard not in member.standbys
        ]
        chosen = max(candidates, key=rank(shard))
        chosen.standbys.add(shard)
        pairs[owners[shard].key, chosen.key] += 1
