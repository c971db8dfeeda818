"""Dictionaries in buckets: the same content as a dictionary, looked through a slice at a time."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from learner_worker.domain.bucketed import LOOKED_AT, BucketedDict, bucketed, item_slices, parts_of

KEYS = st.integers(0, 40).map(lambda number: f"word{number}")
CHANGES = st.lists(st.tuples(KEYS, st.one_of(st.none(), st.integers())))


@given(CHANGES)
def test_it_holds_what_a_dictionary_holds(changes: list[tuple[str, int | None]]) -> None:
    """Values set and deleted in any order: lookups, length, truth, items and equality are a dictionary's."""
    plain: dict[str, int] = {}
    kept = BucketedDict[str, int]()
    for key, value in changes:
        if value is None:
            assert kept.pop(key, None) == plain.pop(key, None)
        else:
            kept[key] = plain[key] = value
    assert kept == plain
    assert plain == kept
    assert (len(kept), bool(kept)) == (len(plain), bool(plain))
    assert sorted(kept) == sorted(plain)
    for key in {key for key, _ in changes} | {"absent"}:
        assert (key in kept, kept.get(key), kept.get(key, 5)) == (
            key in plain,
            plain.get(key),
            plain.get(key, 5),
        )


def test_a_dictionary_goes_into_buckets_once_it_is_large() -> None:
    """A small one stays as it is; a large one is in many small ones then, and is not copied again."""
    small = {number: number for number in range(100)}
    large = {number * 1_000_003: number for number in range(50_000)}
    in_buckets = bucketed(large)
    assert bucketed(small) is small
    assert in_buckets == large
    assert bucketed(in_buckets) is in_buckets
    assert sum(map(len, parts_of(in_buckets))) == len(large)
    words = bucketed({f"word{number}": number for number in range(50_000)})
    assert max(map(len, parts_of(words))) < 1_000


def test_slices_are_short_and_leave_nothing_out_while_others_are_added_and_deleted() -> None:
    """What does not change meanwhile is seen once, what changes at most once."""
    for mapping in (dict[str, int](), BucketedDict[str, int]()):
        mapping.update({f"word{number}": number for number in range(5 * LOOKED_AT)})
        seen: Counter[str] = Counter()
        for turn, some in enumerate(item_slices(mapping)):
            assert len(some) <= 2 * LOOKED_AT
            seen.update(key for key, _ in some)
            for number in range(100):
                mapping[f"new{turn}-{number}"] = 0
                mapping.pop(f"word{turn * 100 + number}")
        assert max(seen.values()) == 1
        assert {f"word{number}" for number in range(LOOKED_AT, 5 * LOOKED_AT)} <= seen.keys()
