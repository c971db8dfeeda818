"""Who needs which rights in Kafka, and for what: one table. Commands, documents and checks follow from it."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal, NamedTuple, get_args

from learner_worker.contract.topics import TopicNames, requests_group

Role = Literal["worker", "publisher", "agent", "operator", "insights"]
RightOperation = Literal["Read", "Write", "Create", "Describe", "DescribeConfigs"]
ResourceKind = Literal["topic", "group", "cluster"]
ROLES: Final[Mapping[Role, str]] = {
    "worker": "a replica: `run`",
    "publisher": "a swarm service that reports auctions: `EventPublisher`, or any producer",
    "agent": "a bidding agent, or a service that asks for many: `LearnerClient`, `suggest`",
    "operator": "whoever runs the other commands",
    "insights": "`learner-worker insights`",
}
"""The roles, and who has them."""
EVERY_TOPIC: Final = "every topic"
GROUP: Final = "the group"
REQUESTS_GROUP: Final = "the group of requests"
CLUSTER: Final = "kafka-cluster"  # Kafka's name for itself as a resource


class RightNeeded(NamedTuple):
    """A line of the table.

    Attributes:
        use: the commands, or the part of one, that need it.
        resource: the name of a topic in `TopicNames`, or one of this module's names.
        prefixed: the right is on every topic whose name begins so.
    """

    role: Role
    use: str
    kind: ResourceKind
    resource: str
    operations: Sequence[RightOperation]
    prefixed: bool = False


TABLE: Final[Sequence[RightNeeded]] = (
    RightNeeded("worker", "run: learn from events", "topic", "bid_placed", ("Read",)),
    RightNeeded("worker", "run: learn from events", "topic", "auction_closed", ("Read",)),
    RightNeeded("worker", "run: learn from events", "topic", "task_finished", ("Read",)),
    RightNeeded("worker", "run: events on a wrong partition", "topic", "rerouted", ("Read", "Write")),
    RightNeeded("worker", "run: the changelog", "topic", "outcomes", ("Read", "Write")),
    RightNeeded("worker", "run: publish metrics", "topic", "metrics", ("Read", "Write")),
    RightNeeded("worker", "run: requests, also on a wrong partition", "topic", "requests", ("Read", "Write")),
    RightNeeded("worker", "run --advice-log", "topic", "advice", ("Write",)),
    RightNeeded(
        "worker", "run: answer, also on agents' own topics", "topic", "replies", ("Write",), prefixed=True
    ),
    RightNeeded("worker", "run: what breaks the contract", "topic", "dead_letters", ("Write",)),
    RightNeeded("worker", "run: whose topics these are", "topic", "topology", ("Read", "Write")),
    RightNeeded("worker", "run: share the shards", "group", GROUP, ("Read",)),
    RightNeeded("worker", "run: commit answered requests", "group", REQUESTS_GROUP, ("Read",)),
    RightNeeded("publisher", "report bids", "topic", "bid_placed", ("Write",)),
    RightNeeded("publisher", "report closes", "topic", "auction_closed", ("Write",)),
    RightNeeded("publisher", "report results", "topic", "task_finished", ("Write",)),
    RightNeeded("agent", "ask", "topic", "requests", ("Write",)),
    RightNeeded("agent", "read the replies", "topic", "replies", ("Read",)),
    RightNeeded("operator", "topics create", "cluster", CLUSTER, ("Create",)),
    RightNeeded("operator", "doctor", "topic", EVERY_TOPIC, ("Describe", "DescribeConfigs")),
    RightNeeded("operator", "doctor; import", "topic", "bid_placed", ("Read", "Write")),
    RightNeeded("operator", "doctor; import", "topic", "auction_closed", ("Read", "Write")),
    RightNeeded("operator", "doctor; import", "topic", "task_finished", ("Read", "Write")),
    RightNeeded("operator", "doctor; suggest", "topic", "requests", ("Read", "Write")),
    RightNeeded("operator", "suggest", "topic", "replies", ("Read",)),
    RightNeeded("operator", "dead-letters replay", "topic", "rerouted", ("Read", "Write")),
    RightNeeded("operator", "outcomes; state; forget", "topic", "outcomes", ("Read", "Write")),
    RightNeeded("operator", "outcomes; state; forget", "topic", "metrics", ("Read",)),
    RightNeeded("operator", "lab league", "topic", "advice", ("Read",)),
    RightNeeded("operator", "dead-letters", "topic", "dead_letters", ("Read", "Write")),
    RightNeeded("operator", "topics create; every command", "topic", "topology", ("Read", "Write")),
    RightNeeded("operator", "doctor; forget; leave --instance", "group", GROUP, ("Read",)),
    RightNeeded("operator", "doctor", "group", REQUESTS_GROUP, ("Describe",)),
    RightNeeded("insights", "find the topics", "topic", EVERY_TOPIC, ("Describe",)),
    RightNeeded("insights", "every agent", "topic", "metrics", ("Read",)),
    RightNeeded("insights", "one agent's outcomes", "topic", "outcomes", ("Read",)),
    RightNeeded("insights", "whose topics these are", "topic", "topology", ("Read",)),
    RightNeeded("insights", "which outcomes count; who works", "group", GROUP, ("Describe",)),
    RightNeeded("insights", "which requests wait", "group", REQUESTS_GROUP, ("Describe",)),
    RightNeeded("insights", "what would an agent be answered", "topic", "requests", ("Write",)),
    RightNeeded("insights", "what would an agent be answered", "topic", "replies", ("Read",)),
    RightNeeded("insights", "--allow-writes", "topic", "task_finished", ("Write",)),
)
"""Read and Write imply Describe."""


@dataclass(frozen=True, slots=True)
class GrantedRight:
    """Operations on one resource, as Kafka's access-control lists have them."""

    kind: ResourceKind
    name: str
    operations: Sequence[RightOperation]
    prefixed: bool = False


def rights_of(role: Role, names: TopicNames, group_id: str) -> list[GrantedRight]:
    """All that a role needs, one entry for each resource."""
    found: dict[tuple[ResourceKind, str, bool], set[RightOperation]] = {}
    for row in TABLE:
        if row.role == role:
            for name in _resources(row, names, group_id):
                found.setdefault((row.kind, name, row.prefixed), set()).update(row.operations)
    return [
        GrantedRight(kind, name, _without_implied(operations), prefixed)
        for (kind, name, prefixed), operations in found.items()
    ]


def _resources(row: RightNeeded, names: TopicNames, group_id: str) -> Iterator[str]:
    special = {GROUP: group_id, REQUESTS_GROUP: requests_group(group_id), CLUSTER: CLUSTER}
    if row.resource in special:
        yield special[row.resource]
    elif row.resource == EVERY_TOPIC:
        yield from names.all
    elif (name := getattr(names, row.resource)) in names.all:
        yield name


def _without_implied(operations: set[RightOperation]) -> Sequence[RightOperation]:
    kept = operations - {"Describe"} if operations & {"Read", "Write"} else operations
    return [operation for operation in get_args(RightOperation) if operation in kept]
