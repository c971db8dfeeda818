"""Large dictionaries that grow, are scanned and are freed in short steps.

Python copies a whole dictionary in one step when it grows. So a dictionary that grows with an agent's history
is split into many small ones, each of which is copied in microseconds.
"""

from collections.abc import Iterable, Iterator, Mapping, MutableMapping, Sequence
from typing import Final, TypeVar, overload

Key = TypeVar("Key")
Value = TypeVar("Value")
Other = TypeVar("Other")

LOOKED_AT: Final = 2_000
"""Entries looked at between two yields to the event loop: a few milliseconds."""
_LARGE: Final = 10_000  # up to here a dictionary is copied within half a millisecond
_BUCKETS: Final = 256  # with ten million entries, a bucket is copied within two milliseconds
_SHIFT: Final = 40  # skips the low bits of the hash, by which the buckets' own tables are ordered


class BucketedDict(MutableMapping[Key, Value]):
    """A dictionary split into buckets by the hash of the key, without a defined order."""

    __slots__ = ("buckets",)

    def __init__(self, items: Iterable[tuple[Key, Value]] = ()) -> None:
        self.buckets: list[dict[Key, Value]] = [{} for _ in range(_BUCKETS)]
        for key, value in items:
            self[key] = value

    def __getitem__(self, key: Key) -> Value:
        return self.buckets[(hash(key) >> _SHIFT) % _BUCKETS][key]

    def __setitem__(self, key: Key, value: Value) -> None:
        self.buckets[(hash(key) >> _SHIFT) % _BUCKETS][key] = value

    def __delitem__(self, key: Key) -> None:
        del self.buckets[(hash(key) >> _SHIFT) % _BUCKETS][key]

    def __contains__(self, key: object) -> bool:
        return key in self.buckets[(hash(key) >> _SHIFT) % _BUCKETS]

    def __iter__(self) -> Iterator[Key]:
        for bucket in self.buckets:
            yield from bucket

    def __len__(self) -> int:
        return sum(map(len, self.buckets))

    def __bool__(self) -> bool:
        return any(self.buckets)

    @overload
    def get(self, key: Key, default: None = None, /) -> Value | None: ...
    @overload
    def get(self, key: Key, default: Value, /) -> Value: ...
    @overload
    def get(self, key: Key, default: Other, /) -> Value | Other: ...
    def get(self, key: Key, default: object = None, /) -> object:
        """The value of a key, or the default."""
        return self.buckets[(hash(key) >> _SHIFT) % _BUCKETS].get(key, default)


def bucketed(mapping: MutableMapping[Key, Value]) -> MutableMapping[Key, Value]:
    """Returns the mapping itself, or a copy in buckets if it is a large dictionary."""
    if isinstance(mapping, dict) and len(mapping) > _LARGE:
        return BucketedDict(mapping.items())
    return mapping


def parts_of(mapping: MutableMapping[Key, Value]) -> Sequence[MutableMapping[Key, Value]]:
    """The dictionaries that a mapping consists of."""
    return mapping.buckets if isinstance(mapping, BucketedDict) else [mapping]


def item_slices(mapping: Mapping[Key, Value]) -> Iterator[list[tuple[Key, Value]]]:
    """All items, about `LOOKED_AT` at a time.

    The mapping may change meanwhile: a changed item is yielded as it was or as it is, and at most once.
    """
    found: list[tuple[Key, Value]] = []
    for part in mapping.buckets if isinstance(mapping, BucketedDict) else (mapping,):
        items = list(part.items())
        for start in range(0, len(items), LOOKED_AT):
            found += items[start : start + LOOKED_AT]
            if len(found) >= LOOKED_AT:
                yield found
                found = []
    if found:
        yield found
