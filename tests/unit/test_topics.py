"""Topics: names, the prefix, how each is kept, and the reply topics' allow-list."""

from dataclasses import astuple

import pytest

from learner_worker.contract.topics import ReplyTopics, TopicName, Topics

PLAIN = Topics().named()
PREFIXED = Topics(prefix="eu.").named()


def test_the_default_names_are_the_contracts() -> None:
    """The ten topics of the contract, in their default names."""
    expected = {
        "bid-placed",
        "auction-closed",
        "task-finished",
        "suggest-bid-requests",
        "suggest-bid-replies",
        "learner-outcomes",
        "learner-agent-metrics",
        "learner-rerouted",
        "learner-dead-letters",
        "learner-topology",
    }

    assert expected == set(PLAIN.all)
    assert len(expected) == len(PLAIN.all)


def test_the_prefix_goes_before_every_name() -> None:
    """One setting renames all topics, configured names too."""
    assert tuple("eu." + name for name in astuple(PLAIN)[:-1]) == astuple(PREFIXED)[:-1]
    assert Topics(prefix="p-", replies="answers").named().replies == "p-answers"


def test_requests_are_sharded_but_not_subscribed() -> None:
    """All topics with a shard's partition are the subscribed ones and the requests."""
    assert {*PLAIN.subscribed, PLAIN.requests} == set(PLAIN.sharded)
    assert PLAIN.requests not in PLAIN.subscribed
    assert {PLAIN.replies, PLAIN.dead_letters, PLAIN.topology} == set(PLAIN.all) - set(PLAIN.sharded)


def test_the_advice_log_is_a_topic_only_where_it_is_on() -> None:
    """It is sharded, so a worker with the log refuses to start without it; others do not know it."""
    logged = Topics(advice_log=True).named()
    assert PLAIN.advice not in PLAIN.all
    assert set(logged.all) - set(PLAIN.all) == set(logged.sharded) - set(PLAIN.sharded) == {"learner-advice"}
    assert logged.partitions(logged.advice, 12) == 12
    assert logged.configuration(logged.advice) == {"retention.ms": str(7 * 24 * 3_600_000)}


def test_each_source_topic_names_its_event() -> None:
    """A source topic's event is known whatever the topic is called; other topics carry none."""
    assert [
        PREFIXED.event_kind(topic)
        for topic in (PREFIXED.bid_placed, PREFIXED.auction_closed, PREFIXED.task_finished)
    ] == ["bid-placed", "auction-closed", "task-finished"]
    assert [PREFIXED.event_kind(topic) for topic in ("bid-placed", PREFIXED.rerouted, "")] == [None] * 3


def test_how_many_partitions_topics_are_given() -> None:
    """The record of the topology has one, everything else as many as there are shards."""
    assert {name: PLAIN.partitions(name, 12) for name in PLAIN.all} == {
        **dict.fromkeys(PLAIN.all, 12),
        PLAIN.topology: 1,
    }


@pytest.mark.parametrize("names", [PLAIN, PREFIXED])
def test_how_topics_are_kept(names: object) -> None:
    """Outcomes are compacted after an hour, metrics at once, requests carry their arrival time."""
    topics = Topics(prefix="eu.").named() if names is PREFIXED else PLAIN

    assert topics.configuration(topics.outcomes) == {
        "cleanup.policy": "compact",
        "min.compaction.lag.ms": "3600000",
    }
    assert topics.configuration(topics.metrics) == {"cleanup.policy": "compact"}
    assert topics.configuration(topics.topology) == {"cleanup.policy": "compact"}
    assert topics.configuration(topics.requests)["message.timestamp.type"] == "LogAppendTime"
    assert topics.configuration(topics.replies) == {"retention.ms": "3600000"}
    assert [topics.configuration(topic) for topic in (topics.rerouted, topics.dead_letters)] == [
        {"max.message.bytes": "2097152"}
    ] * 2
    assert topics.configuration(topics.bid_placed) == {}


@pytest.mark.parametrize(
    ("topic", "allowed"),
    [
        ("suggest-bid-replies", True),
        ("suggest-bid-replies.agent-7", True),
        ("suggest-bid-replies.x", True),
        ("suggest-bid-replies.", False),
        ("suggest-bid-replies-x", False),
        ("suggest-bid-requests.reply", True),
        ("suggest-bid-requests.reply.x", False),
        ("suggest-bid-requests-replies", True),
        ("suggest-bid-requests-replies.x", False),
        ("suggest-bid-requests", False),
        ("Suggest-bid-replies", False),
        ("learner-outcomes", False),
        ("", False),
        ("*", False),
        ("suggest-bid-replies.*", True),
        ("eu.suggest-bid-replies", False),
    ],
)
def test_the_default_allow_list(topic: str, allowed: bool) -> None:
    """Replies go to the four default patterns and nowhere else."""
    assert allowed == ReplyTopics(PLAIN.reply_patterns, ()).allows(topic)


@pytest.mark.parametrize(
    ("topic", "allowed"),
    [
        ("eu.suggest-bid-replies", True),
        ("eu.suggest-bid-replies.x", True),
        ("eu.suggest-bid-requests.reply", True),
        ("eu.suggest-bid-requests-replies", True),
        ("suggest-bid-replies", False),
        ("suggest-bid-replies.x", False),
    ],
)
def test_the_default_allow_list_follows_the_prefix(topic: str, allowed: bool) -> None:
    """With a prefix only prefixed reply topics are written."""
    assert allowed == ReplyTopics(PREFIXED.reply_patterns, ()).allows(topic)


def test_forbidden_topics_are_never_written() -> None:
    """A pattern as wide as * still never lets a reply into the learner's own topics."""
    replies = ReplyTopics(["*"], [PLAIN.outcomes, PLAIN.bid_placed])

    assert [replies.allows(topic) for topic in (PLAIN.outcomes, PLAIN.bid_placed, TopicName("anything"))] == [
        False,
        False,
        True,
    ]


def test_only_a_trailing_star_is_a_pattern() -> None:
    """A star elsewhere is an ordinary character, and an empty list allows nothing."""
    replies = ReplyTopics(["a*b", "exact"], ())

    assert [replies.allows(topic) for topic in ("a*b", "axb", "exact", "exact1")] == [
        True,
        False,
        True,
        False,
    ]
    assert not ReplyTopics([], ()).allows("exact")
