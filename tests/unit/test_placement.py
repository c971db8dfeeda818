"""Placement: as few moves as balance allows, and those to where the state lies."""

from collections.abc import Mapping
from random import Random

import msgspec
from aiokafka.coordinator.protocol import ConsumerProtocolMemberMetadata
from hypothesis import given
from hypothesis import strategies as st

from learner_worker.contract.fields import ShardId
from learner_worker.contract.topics import Topics
from learner_worker.group.assignor import StateKeepingAssignor, claim_of
from learner_worker.group.placement import LAST_TERM, Claim, Placement, next_term, place
from tests.simulation.broker import Counts

SHARDS = [ShardId(number) for number in range(12)]


def claim(
    owned: range | tuple[int, ...] = (),
    held: Mapping[int, int] | None = None,
    *,
    term: int = 1,
    standbys: int = 0,
) -> Claim:
    """A member's claim; what it owns it also holds, up to offset 100."""
    holds = dict.fromkeys(owned, 100) | dict(held or {})
    return Claim(
        "p",
        term=term,
        owned=[ShardId(n) for n in owned],
        held={ShardId(n): at for n, at in holds.items()},
        standby_replicas=standbys,
    )


def owned(placements: Mapping[str, Placement]) -> dict[str, list[int]]:
    """Who owns what, in order."""
    return {key: sorted(placement.owned) for key, placement in placements.items()}


def moved(claims: Mapping[str, Claim], placements: Mapping[str, Placement]) -> int:
    """How many shards change hands."""
    return sum(len(placement.owned.difference(claims[key].owned)) for key, placement in placements.items())


def test_a_new_group_is_balanced() -> None:
    """Nobody holds anything: everybody gets as much, within one."""
    placements = place(SHARDS, {"a": claim(), "b": claim(), "c": claim(), "d": claim(), "e": claim()})
    assert sorted(len(placement.owned) for placement in placements.values()) == [2, 2, 2, 3, 3]


def test_a_third_replica_gets_a_third_and_nothing_else_moves() -> None:
    """Two of six each, one comes: four shards move, the minimum."""
    claims = {"a": claim(range(6)), "b": claim(range(6, 12)), "c": claim()}
    placements = place(SHARDS, claims)
    assert moved(claims, placements) == 4
    assert [len(shards) for shards in owned(placements).values()] == [4, 4, 4]


def test_a_rebalance_without_a_change_moves_nothing() -> None:
    """The same members with the same shards: all stay, whatever the members' ids are now."""
    claims = {"z": claim((0, 3, 5, 7)), "y": claim((1, 2, 4, 6)), "x": claim((8, 9, 10, 11))}
    assert moved(claims, place(SHARDS, claims)) == 0


def test_a_member_on_probation_owns_nothing_but_follows() -> None:
    """It crashed again and again: the others have all shards, also those that it claims; it is a standby."""
    claims = {
        "a": claim(range(6), standbys=1),
        "b": claim(standbys=1),
        "c": msgspec.structs.replace(claim(range(6, 12), term=9, standbys=1), on_probation=True),
    }
    placements = place(SHARDS, claims)
    assert {key: len(placement.owned) for key, placement in placements.items()} == {"a": 6, "b": 6, "c": 0}
    assert placements["c"].standbys
    assert sum(len(placement.standbys) for placement in placements.values()) == len(SHARDS)


def test_a_group_on_probation_as_a_whole_is_served() -> None:
    """There is nobody better."""
    alone = msgspec.structs.replace(claim(), on_probation=True)
    assert owned(place(SHARDS, {"a": alone})) == {"a": list(range(12))}


def test_the_shards_of_a_lost_replica_go_to_whose_rows_reach_furthest() -> None:
    """c is gone: a followed 8 and 9, b followed 10 and 11, and an old file of 8 does not count."""
    claims = {
        "a": claim(range(4), {8: 99, 9: 98}),
        "b": claim(range(4, 8), {10: 99, 11: 50, 8: 3}),
    }
    assert owned(place(SHARDS, claims)) == {"a": [0, 1, 2, 3, 8, 9], "b": [4, 5, 6, 7, 10, 11]}


def test_a_returning_replica_gets_what_lies_on_its_disk() -> None:
    """Its four files decide which of the others' shards are given up."""
    claims = {
        "a": claim(range(6)),
        "b": claim(range(6, 12)),
        "c": claim((), {1: 90, 2: 90, 7: 90, 8: 90}),
    }
    assert owned(place(SHARDS, claims))["c"] == [1, 2, 7, 8]


def test_a_stalled_owner_of_an_earlier_term_yields() -> None:
    """Two claim the shards: who was given them later has them."""
    claims = {
        "zombie": claim(range(12), term=3),
        "owner": claim(range(6), term=4),
        "other": claim(range(6, 12), term=4),
    }
    placements = place(SHARDS, claims)
    assert moved(claims, placements) <= 4
    assert placements["owner"].owned < set(range(6))
    assert next_term(claims.values()) == 5


def test_standbys_are_others_than_the_owner_and_spread() -> None:
    """One standby each: nobody follows its own, all follow as much, each owner has two followers."""
    claims = {"a": claim(range(4), standbys=1), "b": claim(range(4, 8)), "c": claim(range(8, 12))}
    placements = place(SHARDS, claims)
    assert sorted(shard for placement in placements.values() for shard in placement.standbys) == SHARDS
    for placement in placements.values():
        assert not placement.owned & placement.standbys
        assert len(placement.standbys) == 4
    followers = [
        [key for key, other in placements.items() if other.standbys & p.owned] for p in placements.values()
    ]
    assert [len(keys) for keys in followers] == [2, 2, 2]


def test_a_standby_stays_where_it_follows() -> None:
    """A rebalance without a change moves no standby either."""
    first = place(
        SHARDS, {"a": claim(range(4), standbys=1), "b": claim(range(4, 8)), "c": claim(range(8, 12))}
    )
    again = {
        key: claim(tuple(placement.owned), dict.fromkeys(placement.standbys, 99), standbys=1)
        for key, placement in first.items()
    }
    assert place(SHARDS, again) == first


def test_there_are_no_more_standbys_than_other_members() -> None:
    """Three wanted, two members: one each; alone: none."""
    two = place(SHARDS, {"a": claim(standbys=3), "b": claim(standbys=3)})
    assert [len(placement.standbys) for placement in two.values()] == [6, 6]
    assert place(SHARDS, {"a": claim(standbys=3)})["a"].standbys == frozenset()


@st.composite
def groups(draw: st.DrawFn) -> tuple[list[ShardId], dict[str, Claim]]:
    """Any claims: overlapping, of any term, on shards that do not exist."""
    count = draw(st.integers(1, 20))
    members = draw(st.integers(1, 7))
    shard = st.integers(0, count + 2)
    claims = {
        f"m{number}": claim(
            tuple(draw(st.sets(shard, max_size=count))),
            draw(st.dictionaries(shard, st.integers(0, 5))),
            term=draw(st.integers(0, 3)),
            standbys=draw(st.integers(0, 3)),
        )
        for number in range(members)
    }
    return [ShardId(number) for number in range(count)], claims


@given(groups())
def test_any_claims_are_dealt_whole_and_balanced(group: tuple[list[ShardId], dict[str, Claim]]) -> None:
    """Every shard has one owner, the counts differ by one at most, and standbys never meet their owner."""
    shards, claims = group
    placements = place(shards, claims)
    assert sorted(shard for placement in placements.values() for shard in placement.owned) == shards
    counts = [len(placement.owned) for placement in placements.values()]
    assert max(counts) - min(counts) <= 1
    copies = min(max(one.standby_replicas for one in claims.values()), len(claims) - 1)
    for placement in placements.values():
        assert not placement.owned & placement.standbys
    assert sorted(shard for placement in placements.values() for shard in placement.standbys) == sorted(
        shards * copies
    )


@given(groups(), st.randoms(use_true_random=False))
def test_the_order_of_members_does_not_matter(
    group: tuple[list[ShardId], dict[str, Claim]], rng: Random
) -> None:
    """Whoever leads deals the same."""
    shards, claims = group
    shuffled = list(claims.items())
    rng.shuffle(shuffled)
    assert place(shards, dict(shuffled)) == place(shards, claims)


@given(st.integers(1, 24), st.integers(1, 8), st.integers(1, 8), st.booleans())
def test_growing_and_shrinking_moves_the_minimum(
    count: int, before: int, after: int, lose_first: bool
) -> None:
    """From n to m members: only what balance demands changes hands."""
    shards = [ShardId(number) for number in range(count)]
    first = place(shards, {f"m{number}": claim() for number in range(before)})
    left = list(first)[-after:] if lose_first else list(first)[:after]
    claims = {key: claim(tuple(first[key].owned)) for key in left}
    claims |= {f"new{number}": claim() for number in range(after - len(left))}
    placements = place(shards, claims)
    share, larger = divmod(count, after)
    kept = sorted((len(first[key].owned) for key in left), reverse=True)
    quotas = sorted((share + (number < larger) for number in range(after)), reverse=True)
    stay = sum(min(have, quota) for have, quota in zip(kept, quotas, strict=False))
    assert moved(claims, placements) == count - stay


def test_a_member_that_claims_nonsense_makes_no_claim() -> None:
    """Bytes of another program, text that is no UTF-8, nesting without end, terms beyond any: no claim."""
    deep = b'{"process":"p","x":' + b"[" * 100_000
    endless = b'{"process":"p","term":' + str(LAST_TERM + 1).encode() + b"}"
    for user_data in (
        None,
        b"",
        b"\x00\x01",
        b'{"process":"\xff"}',
        deep,
        endless,
        b'{"process":"p","term":-1}',
    ):
        assert claim_of(user_data) is None
    assert claim_of(b'{"process":"p"}') == Claim("p")
    assert next_term([claim(term=LAST_TERM)]) == LAST_TERM


def test_members_of_two_prefixes_each_get_their_own_topics_whole() -> None:
    """One group by mistake: a shard number is two shards, and none of either is left to nobody."""
    members = {
        f"{prefix}{number}": ConsumerProtocolMemberMetadata(
            0, list(Topics(prefix=prefix).named().subscribed), msgspec.json.encode(claim())
        )
        for prefix in ("a-", "b-")
        for number in range(2)
    }
    assignor = StateKeepingAssignor(lambda _: claim(), lambda *_: None)
    dealt = assignor.assign(Counts(4), members)
    for prefix in ("a-", "b-"):
        for topic in Topics(prefix=prefix).named().subscribed:
            owned = [
                number
                for assignment in dealt.values()
                for name, numbers in assignment.assignment
                if name == topic
                for number in numbers
            ]
            assert sorted(owned) == [0, 1, 2, 3]
