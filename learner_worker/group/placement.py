"""Placement: which replica owns which shard, with as few moves as balance allows, and to existing state.

These are pure rules for the group's leader; `assignor.py` transports claims and placements over Kafka's group
protocol.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Final

import msgspec

from learner_worker.contract.fields import ShardId

LAST_TERM: Final = 2**62
"""Far above any real term, which is a time in milliseconds or one more than the last term."""
Term = Annotated[int, msgspec.Meta(ge=0, le=LAST_TERM)]


class Claim(msgspec.Struct, frozen=True, omit_defaults=True):
    """A member's claim: the data about itself that it sends to the leader.

    Attributes:
        process: identifies this run of this process.
        name: its name for operators: its instance id, or where it runs.
        where: its host and process id.
        term: the term of the placement that assigned its owned shards; a stalled member's is old.
        owned: the shards that it owns so far.
        held: the shards in its state folder, each with the changelog position of its file.
        standby_replicas: its setting for the number of standbys of each shard.
        on_probation: whether it is to own nothing as long as another member can.
        siblings: what it has in common with the processes of the same parent, which end with it; or empty.
    """

    process: str
    name: str = ""
    where: str = ""
    term: Term = 0
    owned: list[ShardId] = []
    held: dict[ShardId, int] = {}
    standby_replicas: int = 0
    on_probation: bool = False
    siblings: str = ""


@dataclass(frozen=True, slots=True)
class Placement:
    """A member's share of a placement: the shards it owns, and those whose changelog it follows."""

    owned: frozenset[ShardId] = frozenset()
    standbys: frozenset[ShardId] = frozenset()


@dataclass(slots=True)
class _Member:
    """A member while the leader places shards."""

    key: str
    claim: Claim
    owned: set[ShardId] = field(default_factory=set)
    standbys: set[ShardId] = field(default_factory=set)

    def position(self, shard: ShardId) -> int:
        """The changelog position of its file of a shard; -1 without a file."""
        return self.claim.held.get(shard, -1)

    def is_sibling_of(self, other: "_Member") -> bool:
        """Whether both end together, because they have the same parent."""
        return bool(self.claim.siblings) and self.claim.siblings == other.claim.siblings


def next_term(claims: Iterable[Claim]) -> int:
    """The term of the next placement, after all those that the members know."""
    return min(1 + max((claim.term for claim in claims), default=0), LAST_TERM)


def place(shards: Sequence[ShardId], claims: Mapping[str, Claim]) -> dict[str, Placement]:
    """Places the shards on the members, balanced to within one.

    1. A shard stays with its owner, as long as the owner is within its share.
    2. A shard without an owner, or given up for balance, goes to the member with the most current file.
    3. Standbys go to other members, evenly, and first to those that follow the shard already; never to a
       sibling of its owner or of another standby, which would be lost with it.
    4. A member on probation only follows, unless all are on probation.

    The result depends on the claims only, not on their order.
    """
    members = [
        _Member(key, claim) for key, claim in sorted(claims.items(), key=lambda item: (item[1].name, item[0]))
    ]
    proven = [member for member in members if not member.claim.on_probation] or members
    _keep_owners(shards, proven)
    _deal_rest(shards, proven)
    copies = max((claim.standby_replicas for claim in claims.values()), default=0)
    for _ in range(min(copies, len(members) - 1)):
        _deal_standbys(shards, members)
    return {member.key: Placement(frozenset(member.owned), frozenset(member.standbys)) for member in members}


def _keep_owners(shards: Sequence[ShardId], members: Sequence[_Member]) -> None:
    """Leaves every shard with its owner; an owner above its share gives up the shards others have best."""
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
    """Adds a standby for every shard: on the member with the most current file within its share."""
    most = -(-len(shards) // len(members)) + max(len(member.standbys) for member in members)
    pairs: Counter[tuple[str, str]] = Counter()
    owners = {shard: member for member in members for shard in member.owned}

    def rank(shard: ShardId) -> Callable[[_Member], tuple[bool, int, int, int]]:
        owner = owners[shard]
        fair = -(-len(owner.owned) // _possible_standbys(owner, members))
        return lambda member: (
            len(member.standbys) < most and pairs[owner.key, member.key] < fair,
            member.position(shard),
            -pairs[owner.key, member.key],
            -len(member.standbys),
        )

    for shard in shards:
        if candidates := _candidates(shard, owners[shard], members):
            chosen = max(candidates, key=rank(shard))
            chosen.standbys.add(shard)
            pairs[owners[shard].key, chosen.key] += 1


def _possible_standbys(owner: _Member, members: Sequence[_Member]) -> int:
    """How many members may follow an owner's shards."""
    return sum(member is not owner and not member.is_sibling_of(owner) for member in members)


def _candidates(shard: ShardId, owner: _Member, members: Sequence[_Member]) -> list[_Member]:
    """The members that may become a shard's next standby."""
    holders = [owner, *(member for member in members if shard in member.standbys)]
    return [
        member
        for member in members
        if not any(member is holder or member.is_sibling_of(holder) for holder in holders)
    ]
