"""The classic strategy: its six rules, each threshold with its neighbours, and its arithmetic."""

from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from learner_worker.contract.fields import MAX_SATS
from learner_worker.domain.keywords import Tally
from learner_worker.domain.metrics import Metrics
from learner_worker.strategies.classic import apply_factor, classic
from learner_worker.strategies.protocol import Suggestion
from tests.support import model

NO_WORDS: Mapping[str, Tally] = {}


def having(bids: int, won: int, completed: int = 0, failed: int = 0) -> Metrics:
    return Metrics(total_bids=bids, auctions_won=won, tasks_completed=completed, tasks_failed=failed)


def rules(suggestion: Suggestion) -> list[tuple[str, float]]:
    return [(advice.rule, advice.multiplier) for advice in suggestion.rules]


@pytest.mark.parametrize(
    ("bids", "expected"), [(0, []), (2, []), (3, [("win_rate_high", 1.15)]), (4, [("win_rate_high", 1.15)])]
)
def test_three_bids_are_needed(bids: int, expected: list[tuple[str, float]]) -> None:
    """Fewer than three bids leave the base bid unchanged; the third brings the rules in."""
    assert expected == rules(classic(having(bids, bids), NO_WORDS, "", 100))


@pytest.mark.parametrize("base", [0, 1, MAX_SATS])
def test_a_newcomer_gets_its_base_bid_unchanged(base: int) -> None:
    """Without enough history the suggestion is the base bid itself, 0 included."""
    assert Suggestion(base, 1.0, []) == classic(having(2, 2, 2), {"parse": Tally(9, 0)}, "parse", base)


@pytest.mark.parametrize(
    ("bids", "won", "expected"),
    [
        (5, 5, [("win_rate_high", 1.15)]),
        (1_000, 801, [("win_rate_high", 1.15)]),
        (5, 4, []),
        (1_000, 799, []),
        (1_000, 201, []),
        (5, 1, []),
        (1_000, 199, [("win_rate_low", 0.85)]),
        (3, 0, [("win_rate_low", 0.85)]),
    ],
)
def test_win_rate_thresholds_are_strict(bids: int, won: int, expected: list[tuple[str, float]]) -> None:
    """Exactly 0.8 and exactly 0.2 of won auctions change nothing; one more or one less does."""
    assert expected == rules(classic(having(bids, won), NO_WORDS, "", 100))


@pytest.mark.parametrize(
    ("completed", "failed", "expected"),
    [
        (0, 0, []),
        (0, 1, []),
        (1, 0, []),
        (0, 2, [("success_rate_low", 1.25)]),
        (2, 0, [("success_rate_high", 0.90)]),
        (1, 1, []),
        (499, 501, [("success_rate_low", 1.25)]),
        (501, 499, []),
        (4, 1, []),
        (799, 201, []),
        (801, 199, [("success_rate_high", 0.90)]),
    ],
)
def test_success_rate_thresholds(completed: int, failed: int, expected: list[tuple[str, float]]) -> None:
    """Two results are needed; exactly half and exactly 0.8 of successes change nothing."""
    metrics = having(2_000, 1_000, completed, failed)

    assert expected == rules(classic(metrics, NO_WORDS, "", 100))


@pytest.mark.parametrize(
    ("tally", "expected"),
    [
        (Tally(0, 0), []),
        (Tally(1, 0), []),
        (Tally(2, 0), [("keywords_proven", 0.90)]),
        (Tally(2, 1), [("keywords_proven", 0.90)]),
        (Tally(2, 2), []),
        (Tally(1, 2), [("keywords_weak", 1.15)]),
        (Tally(0, 2), [("keywords_weak", 1.15)]),
        (Tally(0, 1), []),
    ],
)
def test_keyword_thresholds(tally: Tally, expected: list[tuple[str, float]]) -> None:
    """Two results on one side, and more than on the other, are needed."""
    assert expected == rules(classic(having(4, 2), {"parse": tally}, "parse it", 100))


def test_each_occurrence_of_a_keyword_counts() -> None:
    """A word asked for twice weighs twice; words without results and stop words weigh nothing."""
    tallies = {"parse": Tally(1, 0), "label": Tally(0, 1)}

    assert rules(classic(having(4, 2), tallies, "parse images", 100)) == []
    assert rules(classic(having(4, 2), tallies, "Parse the parse", 100)) == [("keywords_proven", 0.90)]
    assert rules(classic(having(4, 2), tallies, "parse label", 100)) == []
    assert rules(classic(having(4, 2), tallies, "label parse label LABEL", 100)) == [("keywords_weak", 1.15)]


def test_all_rules_together_multiply_in_their_order() -> None:
    """The factor is the IEEE product in the order of the rules, and the bid is cut, not rounded."""
    suggestion = classic(having(5, 5, 1, 4), {"parse": Tally(0, 2)}, "parse", 1_000)

    assert rules(suggestion) == [
        ("win_rate_high", 1.15),
        ("success_rate_low", 1.25),
        ("keywords_weak", 1.15),
    ]
    assert suggestion.factor == 1.0 * 1.15 * 1.25 * 1.15
    assert suggestion.suggested_bid_sats == 1653  # 1653.125 and a little


def test_reasons_are_sentences_with_the_numbers_behind_them() -> None:
    """Every adjustment says in words which counts it comes from."""
    suggestion = classic(having(5, 5, 1, 4), {"parse": Tally(1, 2)}, "parse", 1_000)

    assert [advice.reason for advice in suggestion.rules][:2] == [
        "won 5 of 5 auctions: wins too easily, ask for more",
        "completed 1 of 5 won tasks: avoid work it fails",
    ]
    assert suggestion.rules[2].reason == "this description's words met 1 success and 2 failures: back off"


@pytest.mark.parametrize(
    ("base", "factor", "expected"),
    [
        (0, 1.0, 1),
        (0, 1.15, 1),
        (1, 0.85, 1),
        (1, 1.0, 1),
        (2, 0.85, 1),
        (3, 0.90, 2),
        (10, 1.15, 11),
        (100, 1.15, 114),  # 100 * 1.15 is 114.99999999999999 in IEEE doubles
        (100, 0.85, 85),
        (1_000, 0.90, 900),
        (MAX_SATS, 1.0, MAX_SATS),
        (MAX_SATS, 1.25, MAX_SATS),
        (MAX_SATS - 1, 1.0, MAX_SATS - 1),
        (MAX_SATS, 0.90, 8_106_479_329_266_892),
    ],
)
def test_a_suggestion_is_truncated_and_bounded(base: int, factor: float, expected: int) -> None:
    """Whole sats are cut off towards zero; at least 1, at most 2^53-1."""
    assert expected == apply_factor(base, factor)


counts = st.integers(0, 12)
histories = st.builds(
    lambda others, won, completed, failed: having(won + others, won, completed, failed),
    counts,
    counts,
    counts,
    counts,
)


@given(
    metrics=histories,
    tallies=st.dictionaries(
        st.sampled_from(("parse", "label", "write")), st.builds(Tally, st.integers(0, 3), st.integers(0, 3))
    ),
    description=st.lists(st.sampled_from(("parse", "LABEL", "write", "the", "images"))).map(" ".join),
    base=st.integers(0, MAX_SATS),
)
def test_classic_equals_the_model(
    metrics: Metrics, tallies: dict[str, Tally], description: str, base: int
) -> None:
    """For any metrics, keywords, description and base bid the strategy says what the naive model says."""
    known = model.Metrics(
        total_bids=metrics.total_bids,
        auctions_won=metrics.auctions_won,
        tasks_completed=metrics.tasks_completed,
        tasks_failed=metrics.tasks_failed,
        win_rate=metrics.win_rate,
        success_rate=metrics.success_rate,
        keyword_wins={word: tally.wins for word, tally in tallies.items()},
        keyword_failures={word: tally.failures for word, tally in tallies.items()},
    )
    suggestion = classic(metrics, tallies, description, base)

    assert model.classic(known, description, base) == model.Suggestion(
        suggestion.suggested_bid_sats, suggestion.factor, rules(suggestion)
    )
