"""Facts and markers: the records of `learner-outcomes`, the durable record of every outcome.

A fact is immutable and says what is known of one agent in one task: a close, the bid that counts under it,
a result. Its key names the version of every part it carries, so equal keys have equal content and
compaction never deletes information: rule 1 (docs/protocol.md).

A marker says until when an agent is forgotten: parts of its facts that are not later count for nothing. Of
an agent's markers the latest stands. It never expires, and its key names its content, too: an earlier
marker that is written later takes nothing away from it.

A barrier is the end of a changelog that a reshard replaces: whoever reads it stops.
"""

import functools
import hashlib
from typing import Annotated, Final, NamedTuple

import msgspec

from learner_worker.contract.fields import MAX_SATS, AgentId, TaskId
from learner_worker.contract.times import LAST_MICROS, Micros
from learner_worker.errors import RecordError, UpgradeRequiredError

FACT_VERSION: Final = 1  # raised with a change that older learners would misread
MARKER_VERSION: Final = 2
"""A newer format than that of facts: a worker that does not know markers must stop, not go on."""
BARRIER_VERSION: Final = 3
"""A newer format than any record that a worker reads on from, so every version stops at it."""

# SQLite holds 64-bit integers: a larger one would stop the shard instead of becoming a dead letter.
_Time = Annotated[Micros, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]
_Sats = Annotated[int, msgspec.Meta(ge=0, le=MAX_SATS)]


class Close(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """How an auction ended. `description` travels only where no bid brings one."""

    closed_at: _Time
    winner: AgentId | None = None
    winning_bid_sats: _Sats | None = None
    description_digest: str | None = None
    description: str | None = None


class Bid(msgspec.Struct, frozen=True, gc=False):
    """A bid that counts, or may count once its auction closes."""

    placed_at: _Time
    bid_sats: _Sats
    description: str


class Result(msgspec.Struct, frozen=True, gc=False):
    """How a won task ended."""

    finished_at: _Time
    succeeded: bool


class Fact(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """What one record of `learner-outcomes` says of an agent in a task."""

    task_id: TaskId
    agent_id: AgentId
    close: Close | None = None
    bid: Bid | None = None
    result: Result | None = None
    v: int = FACT_VERSION


class ForgetMarker(msgspec.Struct, frozen=True, gc=False):
    """Until when an agent is forgotten, in microseconds since 1970: what is not later counts for nothing."""

    agent_id: AgentId
    forget_until: _Time
    v: int = MARKER_VERSION


class Barrier(msgspec.Struct, frozen=True, gc=False):
    """The end of a changelog: the topics of `layout` take the place of this one's."""

    layout: int
    v: int = BARRIER_VERSION


class KeyParts(NamedTuple):
    """What the key of a record of the changelog says.

    Attributes:
        task_id: None for a marker.
        closed_at: of the close that a fact carries; None without one.
    """

    agent_id: AgentId
    task_id: TaskId | None = None
    closed_at: Micros | None = None


class _Versioned(msgspec.Struct, gc=False):
    v: int = FACT_VERSION


_MARKER_WORD: Final = "forget"
_BARRIER_WORD: Final = "barrier"
_BARRIER_KEY_ITEMS = 2  # as it is encoded here
_encoder = msgspec.json.Encoder()
_key_decoder = msgspec.json.Decoder(list[object])
_decoder = msgspec.json.Decoder(Fact)
_marker_decoder = msgspec.json.Decoder(ForgetMarker)
_version_decoder = msgspec.json.Decoder(_Versioned)


@functools.lru_cache(maxsize=256)
def description_digest(description: str) -> str:
    """A short name for a text: equal digests mean equal texts.

    Cached, because the bids of one auction come close together and often have the same text.
    """
    return hashlib.sha256(description.encode()).hexdigest()


def encode_fact(fact: Fact) -> tuple[bytes, bytes]:
    """The record's key and value: JSON, both."""
    return _encoder.encode(version_of(fact)), _encoder.encode(fact)


def encode_marker(marker: ForgetMarker) -> tuple[bytes, bytes]:
    """The record's key and value: JSON, both. No fact has such a key: theirs have five items."""
    return _encoder.encode((_MARKER_WORD, marker.agent_id, marker.forget_until)), _encoder.encode(marker)


def encode_barrier(barrier: Barrier, writer: str) -> tuple[bytes, bytes]:
    """The record's key and value: JSON, both. No two writers share a key, so compaction deletes none."""
    return _encoder.encode((_BARRIER_WORD, writer)), _encoder.encode(barrier)


def is_barrier(key: bytes | None) -> bool:
    """Whether a record of the changelog is a barrier, by its key."""
    found = _items_of_key(key)
    return len(found) == _BARRIER_KEY_ITEMS and found[0] == _BARRIER_WORD


def version_of(fact: Fact) -> tuple[object, ...]:
    """What a fact's key consists of: the task, the agent and the version of each part it carries."""
    close, bid, result = fact.close, fact.bid, fact.result
    closed: tuple[object, ...] | None = None
    if close is not None:
        closed = (close.closed_at, close.winner, close.winning_bid_sats, close.description_digest)
        if bid is None and _lacks_text(fact.agent_id, close):
            closed += ("without its text",)
    return (
        fact.task_id,
        fact.agent_id,
        closed,
        # A close without a bid also carries its own text, so the two never share a key.
        bid and (bid.placed_at, bid.bid_sats, description_digest(bid.description)[:32]),
        result and (result.finished_at, result.succeeded),
    )


def _lacks_text(agent_id: AgentId, close: Close) -> bool:
    """Whether a winner's close left its text to a bid that has expired since."""
    return close.winner == agent_id and close.description_digest is not None and close.description is None


def decode_outcome_record(value: bytes) -> Fact | ForgetMarker:
    """The fact or the marker in a record's value.

    Raises:
        UpgradeRequiredError: a newer learner wrote it.
        RecordError: it is neither.
    """
    found: Fact | ForgetMarker
    try:
        found = _decoder.decode(value)
    except msgspec.ValidationError as error:
        marker = _marker_in(value)
        if marker is None:
            _require_known_version(value)
            raise RecordError("invalid-fact", f"not a fact of the learner: {error}") from error
        found = marker
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise RecordError("not-json", f"not JSON: {error}") from error
    known = FACT_VERSION if isinstance(found, Fact) else MARKER_VERSION
    if found.v > known:
        raise _upgrade_required(found.v)
    return found


def agent_of_key(key: bytes | None) -> AgentId | None:
    """The agent that a record of the changelog is about, tombstones too; None if no learner wrote the key."""
    parts = parts_of_key(key)
    return None if parts is None else parts.agent_id


def parts_of_key(key: bytes | None) -> KeyParts | None:
    """What the key of a record of the changelog says, of tombstones too; None if no learner wrote it."""
    match _items_of_key(key):
        case [task_id, str(agent_id), closed, _, _]:
            return KeyParts(AgentId(agent_id), _task_of(task_id), _time_of(closed))
        case [word, str(agent_id), _] if word == _MARKER_WORD:
            return KeyParts(AgentId(agent_id))
    return None


def _task_of(item: object) -> TaskId | None:
    return TaskId(item) if isinstance(item, str) else None


def _time_of(item: object) -> Micros | None:
    match item:
        case [int(closed_at), *_] if 0 <= closed_at <= LAST_MICROS:
            return Micros(closed_at)
    return None


def _items_of_key(key: bytes | None) -> list[object]:
    try:
        return _key_decoder.decode(key or b"")
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return []


def decode_fact(value: bytes) -> Fact:
    """The fact in a record's value.

    Raises:
        UpgradeRequiredError: a newer learner wrote it.
        RecordError: it is no fact.
    """
    found = decode_outcome_record(value)
    if isinstance(found, ForgetMarker):
        raise RecordError("invalid-fact", "a marker that forgets an agent, not a fact")
    return found


def _marker_in(value: bytes) -> ForgetMarker | None:
    try:
        return _marker_decoder.decode(value)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def _require_known_version(value: bytes) -> None:
    try:
        version = _version_decoder.decode(value).v
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return
    if version > MARKER_VERSION:
        raise _upgrade_required(version)


def _upgrade_required(version: int) -> UpgradeRequiredError:
    if version == BARRIER_VERSION:
        return UpgradeRequiredError(
            "learner-outcomes ends here: a reshard has replaced it, or is about to; stop this worker, and "
            "start it again when `learner-worker reshard` is done"
        )
    return UpgradeRequiredError(
        f"learner-outcomes holds records of format {version}, this worker reads up to {MARKER_VERSION}: "
        "upgrade this worker"
    )
