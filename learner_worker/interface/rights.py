"""Who needs which rights in Kafka, and for what: one table. Commands, documents and checks follow from it."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal, NamedTuple, get_args

from learner_worker.contract.topics import TopicNames, forwarding_group, in_layout, requests_group

Role = Literal["worker", "publisher", "agent", "operator", "resharder", "insights", "forwarder"]
RightOperation = Literal["Read", "Write", "Create", "Delete", "Alter", "Describe", "DescribeConfigs"]
ResourceKind = Literal["topic", "group", "cluster"]
ROLES: Final[Mapping[Role, str]] = {
    "worker": "a replica: `run`",
    "publisher": "a swarm service that reports auctions: `EventPublisher`, or any producer",
    "agent": "a bidding agent, or a service that asks for many: `LearnerClient`, `suggest`",
    "operator": "whoever runs the other commands",
    "resharder": "`reshard`: a user that is needed only while the topics are given more partitions",
    "insights": "`learner-worker insights`",
    "forwarder": "`learner-worker forward-requests`",
}
"""The roles, and who has them."""
EVERY_TOPIC: Final = "every topic"
GROUP: Final = "the group"
REQUESTS_GROUP: Final = "the group of requests"
AGENT_TOPICS: Final = "every agent topic"
FORWARDING_GROUP: Final = "the group of forwarders"
CLUSTER: Final = "kafka-cluster"  # Kafka's name for itself as a resource


class RightNeeded(NamedTuple):
    """A line of the table.

    Attributes:
        use: the commands, or the part of one, that need it.
        resource: the name of a topic in `TopicNames`, or one of this module's names.
        prefixed: the right is on every topic whose name begins so.
        to_come: the right is in the layout after the present one.
    """

    role: Role
    use: str
    kind: ResourceKind
    resource: str
    operations: Sequence[RightOperation]
    prefixed: bool = False
    to_come: bool = False


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
    RightNeeded("resharder", "find the topics", "topic", EVERY_TOPIC, ("Describe",)),
    RightNeeded("resharder", "record each step", "topic", "topology", ("Read", "Write")),
    RightNeeded("resharder", "raise; begin at rewind offsets", "topic", "bid_placed", ("Read", "Alter")),
    RightNeeded("resharder", "raise; begin at rewind offsets", "topic", "auction_closed", ("Read", "Alter")),
    RightNeeded("resharder", "raise; begin at rewind offsets", "topic", "task_finished", ("Read", "Alter")),
    RightNeeded("resharder", "raise; commit answered requests", "topic", "requests", ("Read", "Alter")),
    RightNeeded("resharder", "raise", "topic", "advice", ("Alter",)),
    RightNeeded("resharder", "copy; end with barriers", "topic", "outcomes", ("Read", "Write")),
    RightNeeded("resharder", "copy", "topic", "rerouted", ("Read",)),
    RightNeeded("resharder", "copy its configuration", "topic", "outcomes", ("DescribeConfigs",)),
    RightNeeded("resharder", "copy its configuration", "topic", "metrics", ("DescribeConfigs",)),
    RightNeeded("resharder", "copy its configuration", "topic", "rerouted", ("DescribeConfigs",)),
    RightNeeded("resharder", "wait until it is empty; copy commits", "group", GROUP, ("Describe",)),
    RightNeeded("resharder", "copy commits", "group", REQUESTS_GROUP, ("Describe",)),
    RightNeeded(
        "resharder", "create; copy; compare", "topic", "outcomes", ("Read", "Write", "Create"), to_come=True
    ),
    RightNeeded(
        "resharder", "create; commit its start", "topic", "metrics", ("Read", "Create"), to_come=True
    ),
    RightNeeded("resharder", "create; copy", "topic", "rerouted", ("Read", "Write", "Create"), to_come=True),
    RightNeeded("resharder", "commit where it begins", "group", GROUP, ("Read",), to_come=True),
    RightNeeded("resharder", "commit where it begins", "group", REQUESTS_GROUP, ("Read",), to_come=True),
    RightNeeded("resharder", "reshard --finish", "topic", "outcomes", ("Delete",)),
    RightNeeded("resharder", "reshard --finish", "topic", "metrics", ("Delete",)),
    RightNeeded("resharder", "reshard --finish", "topic", "rerouted", ("Delete",)),
    RightNeeded("resharder", "reshard --finish", "group", GROUP, ("Delete",)),
    RightNeeded("resharder", "reshard --finish", "group", REQUESTS_GROUP, ("Delete",)),
    RightNeeded("insights", "find the topics", "topic", EVERY_TOPIC, ("Describe",)),
    RightNeeded("insights", "every agent", "topic", "metrics", ("Read",)),
    RightNeeded("insights", "one agent's outcomes", "topic", "outcomes", ("Read",)),
    RightNeeded("insights", "whose topics these are", "topic", "topology", ("Read",)),
    RightNeeded("insights", "what came of advice, if it is logged", "topic", "advice", ("Read",)),
    RightNeeded("insights", "newest dead letters", "topic", "dead_letters", ("Read",)),
    RightNeeded("insights", "which outcomes count; who works", "group", GROUP, ("Describe",)),
    RightNeeded("insights", "which requests wait", "group", REQUESTS_GROUP, ("Describe",)),
    RightNeeded("insights", "what would an agent be answered", "topic", "requests", ("Write",)),
    RightNeeded("insights", "what would an agent be answered", "topic", "replies", ("Read",)),
    RightNeeded("insights", "--allow-writes", "topic", "task_finished", ("Write",)),
    RightNeeded("forwarder", "read agents' own requests", "topic", AGENT_TOPICS, ("Read",)),
    RightNeeded("forwarder", "send them on", "topic", "requests", ("Write",)),
    RightNeeded("forwarder", "share the agent topics", "group", FORWARDING_GROUP, ("Read",)),
)
"""Read, Write, Delete and Alter imply Describe."""
_IMPLYING: Final = {"Read", "Write", "Delete", "Alter"}


@dataclass(frozen=True, slots=True)
class GrantedRight:
    """Operations on one resource, as Kafka's access-control lists have them."""

    kind: ResourceKind
    name: str
    operations: Sequence[RightOperation]
    prefixed: bool = False


def rights_of(
    role: Role, names: TopicNames, group_id: str, layout: int = 1, agent_topics: Sequence[str] = ()
) -> list[GrantedRight]:
    """All that a role needs, one entry for each resource.

    Args:
        names, group_id: as the settings have them, which is in the first layout.
        layout: the number of the present layout.
        agent_topics: the request topics of single agents.
    """
    found: dict[tuple[ResourceKind, str, bool], set[RightOperation]] = {}
    for row in TABLE:
        if row.role == role:
            named = _resources(row, names, group_id, layout + row.to_come)
            for name in agent_topics if row.resource == AGENT_TOPICS else named:
                found.setdefault((row.kind, name, row.prefixed), set()).update(row.operations)
    return [
        GrantedRight(kind, name, _without_implied(operations), prefixed)
        for (kind, name, prefixed), operations in found.items()
    ]


def _resources(row: RightNeeded, first: TopicNames, group_id: str, layout: int) -> Iterator[str]:
    group = in_layout(group_id, layout)
    special = {
        GROUP: group,
        REQUESTS_GROUP: requests_group(group),
        FORWARDING_GROUP: forwarding_group(group_id),
        CLUSTER: CLUSTER,
    }
    # These roles look for the advice log, and Kafka shows a topic only to users with a right to it.
    advice_log = first.advice_log or row.role in {"resharder", "insights"}
    names = replace(first.of_layout(layout), advice_log=advice_log)
    if row.resource in special:
        yield special[row.resource]
    elif row.resource == EVERY_TOPIC:
        yield from names.all
    elif (name := getattr(names, row.resource)) in names.all:
        yield name


def _without_implied(operations: set[RightOperation]) -> Sequence[RightOperation]:
    kept = operations - {"Describe"} if operations & _IMPLYING else operations
    return [operation for operation in get_args(RightOperation) if operation in kept]
