"""Where a shard resumes: rule 8 (docs/protocol.md), case by case."""

from collections.abc import Mapping

import pytest

from learner_worker.contract.topics import TopicName, Topics
from learner_worker.group.offsets import BrokerOffsets
from learner_worker.kafka.admin import Committed
from learner_worker.kafka.offsets import OffsetRange
from learner_worker.shard.resume import resume_positions

TOPICS = Topics().named()
BIDS, CLOSES, RESULTS = TOPICS.bid_placed, TOPICS.auction_closed, TOPICS.task_finished
REROUTED, OUTCOMES, METRICS = TOPICS.rerouted, TOPICS.outcomes, TOPICS.metrics
SOURCES = (BIDS, CLOSES, RESULTS, REROUTED)
FILED: dict[str, int] = {BIDS: 50, CLOSES: 40, RESULTS: 30, REROUTED: 20, OUTCOMES: 60, METRICS: 10}


def known(committed: Mapping[str, tuple[int, str]], **ranges: tuple[int, int]) -> BrokerOffsets:
    return BrokerOffsets(
        {TopicName(topic): Committed(*found) for topic, found in committed.items()},
        {topic: OffsetRange(*ranges.get(topic.replace("-", "_"), (0, 100))) for topic in TOPICS.subscribed},
    )


def committed(**changed: tuple[int, str]) -> dict[str, tuple[int, str]]:
    """What the group committed: exactly the file's positions, but for the changed ones."""
    same = {topic: (offset, f"rewind={offset}") for topic, offset in FILED.items()}
    return same | {name.replace("_", "-"): found for name, found in changed.items()}


def test_a_file_at_the_committed_offsets_is_taken_as_it_is() -> None:
    """Positions equal to the commit hold, rewind offsets or not, and the auctions with them."""
    found = resume_positions(FILED, known(committed(bid_placed=(50, "rewind=5"))), TOPICS)

    assert found == (FILED, False)


def test_a_file_ahead_of_the_commit_is_taken_as_it_is() -> None:
    """A crash between the transaction and the commit leaves the file ahead: the file is the truth."""
    behind = {topic: (offset - 1, "rewind=0") for topic, offset in FILED.items()}

    assert resume_positions(FILED, known(behind), TOPICS) == (FILED, False)


@pytest.mark.parametrize("topic", SOURCES)
def test_a_file_behind_in_any_source_is_rewound_in_all(topic: TopicName) -> None:
    """One source behind by one record drops the auctions and rewinds all sources, never a mix."""
    ends: dict[str, tuple[int, str]] = {name: (FILED[name], f"rewind={FILED[name] - 7}") for name in SOURCES}
    ends[topic] = (FILED[topic] + 1, f"rewind={FILED[topic] - 9}")
    expected = {**FILED, **{name: FILED[name] - 7 for name in SOURCES}, topic: FILED[topic] - 9}

    assert (expected, True) == resume_positions(FILED, known(ends), TOPICS)


def test_a_file_ahead_for_one_topic_and_behind_for_another_is_rewound() -> None:
    """Ahead in bids does not help when closes are behind: bids go back to their rewind offset too."""
    found = resume_positions(
        FILED, known(committed(bid_placed=(45, "rewind=12"), auction_closed=(41, "rewind=33"))), TOPICS
    )

    assert found == ({**FILED, BIDS: 12, CLOSES: 33}, True)


def test_outcomes_and_metrics_keep_the_files_position() -> None:
    """The rows stay, so the changelog is read on from where they end, whatever was committed for it."""
    ahead = committed(learner_outcomes=(99, "rewind=99"), learner_agent_metrics=(99, "rewind=99"))

    assert resume_positions(FILED, known(ahead), TOPICS) == (FILED, False)


def test_no_file_and_no_commit_begins_at_the_beginning() -> None:
    """A new group starts at each topic's first offset, with nothing to drop."""
    found = resume_positions({}, known({}, bid_placed=(7, 100)), TOPICS)

    assert ({**dict.fromkeys(map(str, TOPICS.subscribed), 0), BIDS: 7}, False) == found


def test_no_file_rewinds_the_sources_and_restores_the_changelog() -> None:
    """A lost disk re-reads the sources from their rewind offsets and the changelog from its beginning."""
    found = resume_positions(
        {},
        known(committed(bid_placed=(50, "rewind=44"), learner_rerouted=(20, "rewind=1"))),
        TOPICS,
    )

    assert found == ({BIDS: 44, CLOSES: 40, RESULTS: 30, REROUTED: 1, OUTCOMES: 0, METRICS: 0}, True)


def test_a_file_without_a_position_for_a_committed_source_is_rewound() -> None:
    """A source that the file never heard of, but the group did, is as good as behind."""
    filed = {topic: offset for topic, offset in FILED.items() if topic != REROUTED}

    assert resume_positions(filed, known(committed(learner_rerouted=(20, "rewind=3"))), TOPICS) == (
        {**FILED, REROUTED: 3},
        True,
    )


def test_a_file_without_any_commit_is_taken_as_it_is() -> None:
    """A group whose offsets were deleted loses nothing: the file still holds."""
    assert resume_positions(FILED, known({}), TOPICS) == (FILED, False)


def test_an_uncommitted_source_is_read_from_its_beginning_in_a_rewind() -> None:
    """In a rewind a source without a commit starts at its first offset, never at the file's position."""
    found, rewound = resume_positions(
        FILED, known({BIDS: (51, "rewind=50")}, auction_closed=(4, 100)), TOPICS
    )

    assert (found, rewound) == ({**FILED, BIDS: 50, CLOSES: 4, RESULTS: 0, REROUTED: 0}, True)


@pytest.mark.parametrize("beyond", [100, 101])
def test_a_position_beyond_the_end_starts_at_the_beginning(beyond: int) -> None:
    """The end itself is a position; one past it means that the topic is not the one it was."""
    found = resume_positions(
        {**FILED, OUTCOMES: beyond}, known(committed(), learner_outcomes=(2, 100)), TOPICS
    )

    assert ({**FILED, OUTCOMES: 100 if beyond == 100 else 2}, False) == found


def test_a_rewind_beyond_the_end_starts_at_the_beginning() -> None:
    """A commit from before its topic was made anew does not skip the new topic's records."""
    found = resume_positions({}, known(committed(bid_placed=(50, "rewind=45")), bid_placed=(3, 40)), TOPICS)

    assert found == ({BIDS: 3, CLOSES: 40, RESULTS: 30, REROUTED: 20, OUTCOMES: 0, METRICS: 0}, True)


@pytest.mark.parametrize(("first", "expected"), [(49, 50), (50, 50), (51, 51)])
def test_records_that_retention_removed_are_skipped(first: int, expected: int) -> None:
    """A position before the first offset moves up to it."""
    found = resume_positions(FILED, known(committed(), bid_placed=(first, 100)), TOPICS)

    assert ({**FILED, BIDS: expected}, False) == found


@pytest.mark.parametrize(
    ("metadata", "expected"),
    [
        ("rewind=12", 12),
        ("rewind=0", 0),
        ("rewind=51", 51),
        ("rewind=52", 51),  # never past the commit itself
        ("incarnation=i;rewind=12", 12),
        ("rewind=12\n", 0),
        ("", 0),
        ("rewind=", 0),
        ("rewind=-1", 0),
        ("rewind=1.5", 0),
        ("rewind=twelve", 0),
        ("rewind=\u00b2", 0),
        ("some other tool's note", 0),
    ],
)
def test_the_rewind_offset_is_read_from_the_commits_metadata(metadata: str, expected: int) -> None:
    """Metadata that somebody else wrote, or nobody, says nothing: everything is read again."""
    found = resume_positions(FILED, known(committed(bid_placed=(51, metadata))), TOPICS)

    assert ({**FILED, BIDS: expected}, True) == found
