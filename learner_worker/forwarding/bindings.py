"""Which agents may ask on a request topic of their own, as an operator names them."""

from collections.abc import Collection, Mapping, Sequence
from itertools import combinations
from typing import Final, NamedTuple

from learner_worker.contract.topics import ReplyTopics, TopicName, in_first_layout
from learner_worker.errors import ConfigurationError
from learner_worker.identity.principal import ALL_AGENTS

_ANY_ENDING: Final = "*"


class Binding(NamedTuple):
    """The agents of a topic, by their ids and by the beginnings of ids; an empty one is every agent's."""

    agents: Sequence[str]
    prefixes: Sequence[str]

    @property
    def claimed_prefixes(self) -> Sequence[str]:
        """The prefixes as a token has them."""
        return [prefix or ALL_AGENTS for prefix in self.prefixes]

    def overlaps(self, other: "Binding") -> bool:
        """Whether both stand for one agent."""
        return (
            bool(set(self.agents) & set(other.agents))
            or any(agent.startswith(tuple(other.prefixes)) for agent in self.agents)
            or any(agent.startswith(tuple(self.prefixes)) for agent in other.agents)
            or any(
                one.startswith(two) or two.startswith(one) for one in self.prefixes for two in other.prefixes
            )
        )


def bindings_of(
    texts: Sequence[str], *, taken: Collection[TopicName], replies: ReplyTopics
) -> Mapping[TopicName, Binding]:
    """The agents of each topic; a topic may be named for several.

    Args:
        texts: each as TOPIC=AGENT or TOPIC=PREFIX*.
        taken: the learner's and the swarm's topics, of the first layout.
        replies: where replies may be written.

    Raises:
        ConfigurationError: there is none, a topic is no agent's own, or two topics stand for one agent.
    """
    if not texts:
        raise ConfigurationError(
            "there is nothing to forward: name the agents' request topics with --agent-topic TOPIC=AGENT "
            "(LEARNER_AGENT_TOPIC)"
        )
    patterns: dict[TopicName, list[str]] = {}
    for topic, _, pattern in (text.partition("=") for text in texts):
        patterns.setdefault(TopicName(topic), []).append(pattern)
    for topic in patterns:
        _require_own(topic, taken, replies)
    bindings = {topic: _binding(listed) for topic, listed in patterns.items()}
    for (one, first), (two, second) in combinations(bindings.items(), 2):
        if first.overlaps(second):
            raise ConfigurationError(
                f"topics {one} and {two} stand for the same agent, so that whoever may write either of them "
                "could ask as that agent: correct --agent-topic"
            )
    return bindings


def _require_own(topic: TopicName, taken: Collection[TopicName], replies: ReplyTopics) -> None:
    if in_first_layout(topic) in taken:
        raise ConfigurationError(
            f"{topic} is not an agent's own request topic, but one that the learner or the swarm uses: "
            "correct --agent-topic"
        )
    if replies.allows(topic):
        raise ConfigurationError(
            f"{topic} is a reply topic, so that the learner writes to it, too: choose another name, or "
            "correct --reply-topics"
        )


def _binding(patterns: Sequence[str]) -> Binding:
    return Binding(
        [each for each in patterns if not each.endswith(_ANY_ENDING)],
        [each.removesuffix(_ANY_ENDING) for each in patterns if each.endswith(_ANY_ENDING)],
    )
