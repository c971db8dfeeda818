"""The whole interface as one table: which messages travel in which topic, who writes and who reads them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal, get_args

from learner_worker.contract.headers import CONVENTIONS, REQUEST_HEADERS, HeaderConvention
from learner_worker.contract.topics import EventKind, Topics
from learner_worker.interface import headers
from learner_worker.interface.headers import Header

Party = Literal["swarm services", "bidding agents", "the learner", "anyone", "operators"]
Action = Literal["send", "receive"]

_EVENT_KINDS: Final[tuple[EventKind, ...]] = get_args(EventKind)
_NEVER_READ: Final = {"description": "Never read: the id in the body decides. Best the same id, as UTF-8."}
_THE_ORIGINAL: Final = {"description": "The original's."}
REPLY_ADDRESS: Final = "reply_address"
"""The channel of replies whose topic the request names."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChannelMessage:
    """What one kind of record holds. Without a payload its value is any bytes."""

    name: str
    payload: str | None
    writer: Party
    reader: Party
    summary: str = ""
    headers: Sequence[Header] = ()
    key: Mapping[str, Any] = field(default_factory=dict)
    correlation_id: str | None = None
    reply_partition: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Channel:
    """A topic, by its name in `Topics`. `partitioned_by` says whose murmur2 names the partition."""

    topic: str
    summary: str
    partitioned_by: str
    messages: Sequence[ChannelMessage]


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplyChannel:
    """Where the answers to an operation's messages go: to a fixed channel, or where a header says."""

    channel: str
    messages: Sequence[ChannelMessage]
    address_header: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """What the learner does with a channel."""

    name: str
    action: Action
    channel: str
    summary: str
    messages: Sequence[ChannelMessage]
    reply: ReplyChannel | None = None


def _event(kind: EventKind) -> ChannelMessage:
    return ChannelMessage(
        name=kind, payload=kind, writer="swarm services", reader="the learner", key=_NEVER_READ
    )


def _moved_event(kind: EventKind) -> ChannelMessage:
    return ChannelMessage(
        name=f"{kind}.moved",
        payload=kind,
        writer="the learner",
        reader="the learner",
        summary=f"The event {kind}, found on a wrong partition: its own headers, key and record time.",
        headers=headers.of_moved_event(kind),
        key=_THE_ORIGINAL,
    )


def _request(convention: HeaderConvention) -> ChannelMessage:
    return ChannelMessage(
        name=f"suggest-bid-request.{convention}",
        payload="suggest-bid-request",
        writer="bidding agents",
        reader="the learner",
        summary=f"A request with {convention} headers: {CONVENTIONS[convention]}.",
        headers=headers.of_request(convention),
        key=_NEVER_READ,
        correlation_id=REQUEST_HEADERS[convention][0],
        reply_partition=REQUEST_HEADERS[convention][2],
    )


def _answer(convention: HeaderConvention, *, error: bool) -> ChannelMessage:
    payload = "suggest-bid-error" if error else "suggest-bid-reply"
    return ChannelMessage(
        name=f"{payload}.{convention}",
        payload=payload,
        writer="the learner",
        reader="bidding agents",
        summary=f"The {'error reply' if error else 'reply'} to a request with {convention} headers.",
        headers=headers.of_reply(convention, error=error),
        key={"description": "The request's, as it came; null stays null."},
        correlation_id=REQUEST_HEADERS[convention][0],
    )


_EVENTS: Final = {kind: _event(kind) for kind in _EVENT_KINDS}
_MOVED_EVENTS: Final = tuple(_moved_event(kind) for kind in _EVENT_KINDS)
_REQUESTS: Final = {convention: _request(convention) for convention in CONVENTIONS}
_ANSWERS: Final = {
    convention: (_answer(convention, error=False), _answer(convention, error=True))
    for convention in CONVENTIONS
}
_ALL_ANSWERS: Final = tuple(answer for answers in _ANSWERS.values() for answer in answers)
_MOVED_REQUEST: Final = ChannelMessage(
    name="suggest-bid-request.moved",
    payload="suggest-bid-request",
    writer="the learner",
    reader="the learner",
    summary="A request found on a wrong partition, with its own headers and key.",
    headers=headers.of_moved_request(Topics().requests),
    key=_THE_ORIGINAL,
)
_FACT: Final = ChannelMessage(
    name="outcome-fact",
    payload="outcome-fact",
    writer="the learner",
    reader="the learner",
    key={
        "type": "array",
        "description": "Task, agent and the version of each part, as JSON: equal keys have equal content.",
    },
)
_MARKER: Final = ChannelMessage(
    name="forget-marker",
    payload="forget-marker",
    writer="the learner",
    reader="the learner",
    key={
        "type": "array",
        "description": 'The word "forget", the agent and until when, as JSON: equal keys have equal content.',
    },
)
_METRICS: Final = ChannelMessage(
    name="agent-metrics",
    payload="agent-metrics",
    writer="the learner",
    reader="anyone",
    headers=headers.METRICS,
    key={"type": "string", "description": "The agent's id, as UTF-8."},
)
_ADVICE: Final = ChannelMessage(
    name="advice",
    payload="advice",
    writer="the learner",
    reader="operators",
    key={"type": "string", "description": "The agent's id, as UTF-8."},
)
_TOPOLOGY: Final = ChannelMessage(
    name="topology",
    payload="topology",
    writer="the learner",
    reader="anyone",
    key={
        "type": "array",
        "description": "The generation and a random id of the writer, as JSON: no two records share a key.",
    },
)
_DEAD_LETTER: Final = ChannelMessage(
    name="dead-letter",
    payload=None,
    writer="the learner",
    reader="operators",
    summary="A record that breaks the contract: its raw key, value and headers, and what is wrong with it.",
    headers=headers.DEAD_LETTER,
    key=_THE_ORIGINAL,
)

CHANNELS: Final[tuple[Channel, ...]] = (
    Channel(
        topic="bid_placed",
        summary="Agents' bids.",
        partitioned_by="task_id",
        messages=(_EVENTS["bid-placed"],),
    ),
    Channel(
        topic="auction_closed",
        summary="How auctions ended.",
        partitioned_by="task_id",
        messages=(_EVENTS["auction-closed"],),
    ),
    Channel(
        topic="task_finished",
        summary="How won tasks ended.",
        partitioned_by="task_id",
        messages=(_EVENTS["task-finished"],),
    ),
    Channel(
        topic="requests",
        summary="Agents' requests for advice, with the headers of any convention.",
        partitioned_by="agent_id",
        messages=(*_REQUESTS.values(), _MOVED_REQUEST),
    ),
    Channel(
        topic="replies",
        summary="Replies to requests that name no topic.",
        partitioned_by="the request's header, else its key",
        messages=_ALL_ANSWERS,
    ),
    Channel(
        topic=REPLY_ADDRESS,
        summary="Replies to requests that name a topic. The allow-list has it, or the request is refused.",
        partitioned_by="the request's header, else its key",
        messages=_ALL_ANSWERS,
    ),
    Channel(
        topic="outcomes",
        summary="Facts: the durable record of every outcome; and who is forgotten. For the learner alone.",
        partitioned_by="agent_id",
        messages=(_FACT, _MARKER),
    ),
    Channel(
        topic="metrics",
        summary="One current record an agent, for anyone to read.",
        partitioned_by="agent_id",
        messages=(_METRICS,),
    ),
    Channel(
        topic="rerouted",
        summary="Events on their way from a wrong partition to the right one. For the learner alone.",
        partitioned_by="task_id",
        messages=_MOVED_EVENTS,
    ),
    Channel(
        topic="dead_letters",
        summary="What breaks the contract, with its reason.",
        partitioned_by="the original's key",
        messages=(_DEAD_LETTER,),
    ),
    Channel(
        topic="advice",
        summary="What was advised for requests that name their task; only with `--advice-log`.",
        partitioned_by="agent_id",
        messages=(_ADVICE,),
    ),
    Channel(
        topic="topology",
        summary="How many shards there are, on which cluster, and whose topics these are. "
        "The first record of the highest generation stands.",
        partitioned_by="nothing: it has one partition",
        messages=(_TOPOLOGY,),
    ),
)


def _reads(channel: str, summary: str, *messages: ChannelMessage) -> Operation:
    return Operation(
        name=f"read_{channel}", action="receive", channel=channel, summary=summary, messages=messages
    )


def _writes(channel: str, summary: str, *messages: ChannelMessage) -> Operation:
    return Operation(
        name=f"write_{channel}", action="send", channel=channel, summary=summary, messages=messages
    )


def _answers(convention: HeaderConvention) -> tuple[Operation, Operation]:
    """A request that names its reply's topic, and one that does not."""
    request, replies = _REQUESTS[convention], _ANSWERS[convention]
    return (
        Operation(
            name=f"answer_{convention}",
            action="receive",
            channel="requests",
            summary=f"Answers a {convention} request where its header says.",
            messages=(request,),
            reply=ReplyChannel(
                channel=REPLY_ADDRESS, messages=replies, address_header=REQUEST_HEADERS[convention][1]
            ),
        ),
        Operation(
            name=f"answer_{convention}_by_default",
            action="receive",
            channel="requests",
            summary=f"Answers a {convention} request that names no reply topic.",
            messages=(request,),
            reply=ReplyChannel(channel="replies", messages=replies),
        ),
    )


OPERATIONS: Final[tuple[Operation, ...]] = (
    _reads("bid_placed", "Holds bids until their auction closes.", _EVENTS["bid-placed"]),
    _reads("auction_closed", "Settles the auction: one outcome a bidder.", _EVENTS["auction-closed"]),
    _reads("task_finished", "Notes how the winner did.", _EVENTS["task-finished"]),
    *(operation for convention in CONVENTIONS for operation in _answers(convention)),
    _writes("requests", "Moves a request to its right partition, once.", _MOVED_REQUEST),
    _reads("requests", "Takes a moved request as if it had lain there.", _MOVED_REQUEST),
    _writes("outcomes", "Writes what is settled, and who is to be forgotten.", _FACT, _MARKER),
    _reads("outcomes", "Learns from facts, restores shards from them, forgets.", _FACT, _MARKER),
    _writes("metrics", "Publishes the metrics of agents that changed.", _METRICS),
    _writes("rerouted", "Moves an event to its right partition, once.", *_MOVED_EVENTS),
    _reads("rerouted", "Takes moved events as if they had lain there.", *_MOVED_EVENTS),
    _writes("dead_letters", "Sets aside what breaks the contract, and goes on.", _DEAD_LETTER),
    _writes("advice", "Notes what it advised, if asked to, for `lab league`.", _ADVICE),
    _writes("topology", "Records the number of shards and the owner, once.", _TOPOLOGY),
    _reads("topology", "Stops if the topics are not what is recorded.", _TOPOLOGY),
)
"""Seen from the learner: it receives what others write, and sends what others read."""
