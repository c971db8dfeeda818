"""The manifest of a snapshot, and the reasons why a shard may not use the snapshot.

A snapshot is a copy of a shard's rows, much like an old disk that has come back, and rule 8
(docs/protocol.md) applies to it. Unlike a disk it outlives the topics, may come from a stalled owner, and is
available to every replica for days. So it is used only if the changelog is the one that it was made from, and
has all records that it has read.
"""

from collections.abc import Mapping
from typing import Final

import msgspec

from learner_worker.contract.topics import TopicName
from learner_worker.errors import ManifestError, NewerManifestError
from learner_worker.kafka.offsets import OffsetRange
from learner_worker.kafka.records import Record
from learner_worker.store.copying import FileCopy
from learner_worker.store.formats import FORMAT
from learner_worker.store.identity import LAST_RECORD, LastRecord, last_record, stranger

MANIFEST_VERSION: Final = 1  # raised when older workers would misread a manifest
_MILLIS: Final = 1_000  # milliseconds in a second
_TOLERANCE_MS: Final = 600_000  # machines' clocks differ by less, if anything sets them


class SnapshotManifest(msgspec.Struct, frozen=True, kw_only=True):
    """What a snapshot is, from which changelog it was made, and how far it has read that changelog.

    Attributes:
        name: the name of the object with the file's content.
        identity: what the file belongs to: cluster, prefix, partitions, shard, incarnation and generation.
        term: the term of the placement that gave its maker the shard; 0 if a command made it.
        position: the next changelog offset to read.
        last_record: the last record below the position that the file has read.
        forgotten: a digest of which agents are forgotten in the file, and until when.
        format: the file format.
        created_ms: when it was made, by its maker's clock, in milliseconds since 1970.
        size, sha256: size and checksum of the file's content.
    """

    name: str
    identity: dict[str, str]
    term: int
    position: int
    last_record: LastRecord
    forgotten: str
    format: int
    created_ms: int
    size: int
    sha256: str
    v: int = MANIFEST_VERSION

    @property
    def incarnation(self) -> str:
        """The incarnation of the topics that it was made from."""
        return self.identity.get("incarnation", "")

    @property
    def age_order(self) -> tuple[int, int]:
        """Orders the snapshots of a shard by when they were made."""
        return self.created_ms, self.term


class _Version(msgspec.Struct):
    """What every version's manifest has."""

    v: int


_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(SnapshotManifest)
_version_decoder = msgspec.json.Decoder(_Version)


def encode_manifest(manifest: SnapshotManifest) -> bytes:
    """The manifest as JSON."""
    return _encoder.encode(manifest)


def decode_manifest(content: bytes) -> SnapshotManifest:
    """Decodes a manifest.

    Raises:
        NewerManifestError: a newer version wrote it.
        ManifestError: the content is not a manifest.
    """
    try:
        version = _version_decoder.decode(content).v
        if version > MANIFEST_VERSION:
            raise NewerManifestError(
                f"its manifest has version {version}; this worker reads up to {MANIFEST_VERSION}"
            )
        return _decoder.decode(content)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ManifestError(f"not a manifest of a snapshot: {error}") from error


def manifest_of(
    copy: FileCopy, topic: TopicName, *, name: str, term: int, created_ms: int
) -> SnapshotManifest | None:
    """The manifest of a file's copy.

    None if the file names no record by which the changelog could be recognized: it is empty, was last
    written by an older version, or starts anew in a changelog that has lost its end.
    """
    last, position = last_record(copy.identity), copy.positions.get(topic, 0)
    if last is None or last.offset >= position or "incarnation" not in copy.identity:
        return None
    return SnapshotManifest(
        name=name,
        identity={key: value for key, value in copy.identity.items() if key != LAST_RECORD},
        term=term,
        position=position,
        last_record=last,
        forgotten=copy.forgotten,
        format=copy.format,
        created_ms=created_ms,
        size=copy.size,
        sha256=copy.sha256,
    )


def contradicted(manifest: SnapshotManifest, copy: FileCopy, topic: TopicName) -> str | None:
    """Why a downloaded file does not match its manifest; None if it does."""
    found = manifest_of(copy, topic, name=manifest.name, term=manifest.term, created_ms=manifest.created_ms)
    if found is None:
        return "it has read nothing of the changelog"
    names = (name for name in found.__struct_fields__ if name != "v")
    wrong = next((name for name in names if getattr(found, name) != getattr(manifest, name)), None)
    return None if wrong is None else f"its {wrong} does not match its manifest"


def foreign(manifest: SnapshotManifest, expected: Mapping[str, str]) -> str | None:
    """Why a snapshot belongs to other topics, another cluster or another shard; None if it belongs here."""
    missing = next((name for name in expected if name not in manifest.identity), None)
    if missing is not None:
        return f"it names no {missing}"
    name = stranger(manifest.identity, expected)
    if name is None:
        return None
    return f"it is of {name} {manifest.identity[name]!r}, here it is {expected[name]!r}"


def beyond(manifest: SnapshotManifest, changelog: OffsetRange) -> str | None:
    """Why, by its offsets, the changelog cannot have all that a snapshot has read; None if it can."""
    if max(manifest.position, manifest.last_record.offset + 1) > changelog.end:
        return (
            f"it has read up to offset {manifest.position}, and the changelog ends at {changelog.end}: "
            "the changelog lost its end, or is another one"
        )
    if manifest.last_record.offset < changelog.start:
        return f"the changelog begins at offset {changelog.start}, after the last record that it has read"
    return None


def recognized(manifest: SnapshotManifest, record: Record | None) -> bool:
    """Whether the changelog's record at the offset of a snapshot's last one is that record."""
    return record is not None and manifest.last_record == LastRecord.of(
        record.offset, record.timestamp, record.key
    )


def unusable(manifest: SnapshotManifest, *, now_ms: int, keep_seconds: float) -> str | None:
    """Why the format or the age of a snapshot rules it out; None if neither does."""
    if manifest.format > FORMAT:
        return f"it has format {manifest.format}; this worker reads formats up to {FORMAT}"
    if is_too_old(manifest, now_ms, keep_seconds):
        return "it is older than --snapshot-keep-seconds"
    return None


def is_too_old(manifest: SnapshotManifest, now_ms: int, keep_seconds: float) -> bool:
    """Whether a snapshot was made longer ago than snapshots are kept."""
    return now_ms - manifest.created_ms > keep_seconds * _MILLIS


def is_from_the_future(manifest: SnapshotManifest, now_ms: int) -> bool:
    """Whether its maker's clock was wrong: what it says of a snapshot's age is of no use."""
    return manifest.created_ms > now_ms + _TOLERANCE_MS


def newest_first(manifests: list[SnapshotManifest]) -> list[SnapshotManifest]:
    """The snapshots of a shard, ordered by how much of the changelog they leave to read, the least first."""
    return sorted(manifests, key=lambda each: (each.position, each.term, each.created_ms), reverse=True)
