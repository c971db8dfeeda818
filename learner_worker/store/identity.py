"""Whose a shard's file is, and why it may be somebody else's."""

from collections.abc import Mapping
from pathlib import Path
from typing import Final, NamedTuple
from zlib import crc32

import msgspec

from learner_worker.contract.fields import ShardId
from learner_worker.contract.topology import KEEP_FOLDERS
from learner_worker.errors import Mismatch

GAINED: Final = ("incarnation", "generation")
"""What a file of an older version lacks; it gains them when it is opened."""
LAST_RECORD: Final = "last_record"
"""The name of the last record in a file's identity."""


class LastRecord(NamedTuple):
    """The last changelog record that a file is known to have read, by which the changelog is recognized.

    Offsets alone do not distinguish changelogs: one that lost its end, or was created anew, reuses them for
    other records.

    Attributes:
        timestamp: its record time, in milliseconds since 1970.
        key_digest: a checksum of its key.
    """

    offset: int
    timestamp: int
    key_digest: int

    @classmethod
    def of(cls, offset: int, timestamp: int, key: bytes | None) -> "LastRecord":
        """Describes a record."""
        return cls(offset, timestamp, crc32(key or b""))

    def text(self) -> str:
        """The value in a file's identity."""
        return msgspec.json.encode(self).decode()


def last_record(identity: Mapping[str, str]) -> LastRecord | None:
    """The last record in a file's identity; None if there is none: it has read nothing, or is older."""
    try:
        return msgspec.json.decode(identity.get(LAST_RECORD, ""), type=LastRecord)
    except msgspec.DecodeError:
        return None


def shard_identity(
    *,
    cluster_id: str,
    topic_prefix: str,
    partitions: int,
    shard: ShardId,
    incarnation: str | None = None,
    generation: int | None = None,
) -> dict[str, str]:
    """Whose a shard's file is; incarnation and generation, where there is a record of the topology."""
    known = {
        "cluster_id": cluster_id,
        "topic_prefix": topic_prefix,
        "partitions": str(partitions),
        "shard": str(shard),
    }
    if incarnation is not None:
        known["incarnation"] = incarnation
    if generation is not None:
        known["generation"] = str(generation)
    return known


def stranger(found: Mapping[str, str], expected: Mapping[str, str]) -> str | None:
    """The first name in which a file's identity is another than expected; None: it is the same file."""
    for name, value in expected.items():
        if name == "generation":
            theirs = found.get(name, value)
            other = not theirs.isdecimal() or int(theirs) > int(value)
        else:
            other = found.get(name, value if name in GAINED else None) != value
        if other:
            return name
    return None


def gained(found: Mapping[str, str], expected: Mapping[str, str]) -> dict[str, str]:
    """What the file's identity is to have from now on, besides or in place of what it has."""
    return {name: expected[name] for name in GAINED if name in expected and found.get(name) != expected[name]}


def mismatch(path: Path, name: str, found: Mapping[str, str], expected: Mapping[str, str]) -> Mismatch:
    """What is wrong with a file whose identity differs in a name."""
    theirs, ours = found.get(name), expected[name]
    match name:
        case "partitions":
            what = f"{path} was written for {theirs} partitions, the topics have {ours}"
            remedy = KEEP_FOLDERS
        case "incarnation":
            what = (
                f"{path} was written for other topics of the same names (incarnation {theirs!r}, now "
                f"{ours!r}), which were deleted and created anew"
            )
            remedy = "if that was on purpose, start with a new state folder; else restore the topics"
        case "generation":
            what = f"{path} was written under generation {theirs} of the topology, Kafka records {ours}"
            remedy = "see whether learner-topology was restored from an older copy"
        case _:
            what = f"{path} belongs to {name} {theirs!r}, this worker to {ours!r}"
            remedy = "give the worker another --state-dir, or move that file away (it is rebuilt from Kafka)"
    return Mismatch(what, remedy)
