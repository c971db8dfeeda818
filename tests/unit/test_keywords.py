"""Keywords: which words of a text are remembered, and in which order they are told."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from learner_worker.domain.keywords import STOP_WORDS, STRONGEST, Tally, in_order, keywords_of, strongest
from tests.support import model


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", []),
        ("ab", []),
        ("abc", ["abc"]),
        ("ab abc abcd", ["abc", "abcd"]),
        ("Parse INVOICES parse", ["parse", "invoices", "parse"]),
        ("snake_case kebab-case c3po", ["snake", "case", "kebab", "case"]),
        ("the task needs making", ["needs", "making"]),
        ("Überprüfe café", ["berpr", "caf"]),
        ("naïve", []),
        ("abc2def", ["abc", "def"]),
        ("\N{KELVIN SIGN}elvin", ["kelvin"]),  # its lower case is an ASCII k
        ("\N{LATIN CAPITAL LETTER I WITH DOT ABOVE}stanbul", ["stanbul"]),
        ("parse\nlabel\x00write", ["parse", "label", "write"]),
    ],
)
def test_keywords_are_runs_of_three_ascii_letters_in_the_lower_cased_text(
    text: str, expected: list[str]
) -> None:
    """Each run of at least three letters a to z counts, every occurrence, in order; stop words do not."""
    assert expected == list(keywords_of(text))


@pytest.mark.parametrize("word", sorted(model.STOP_WORDS))
def test_stop_words_are_no_keywords(word: str) -> None:
    """Each stop word of the contract is left out, in any case; one letter more makes it a word."""
    assert keywords_of(f"{word} {word.upper()}") == ()
    assert keywords_of(f"{word}xx") == (f"{word}xx",)


def test_the_stop_words_are_the_contracts() -> None:
    """The list is the contract's, no more and no less."""
    assert model.STOP_WORDS == STOP_WORDS


@given(st.text() | st.text("abc deEtThH,", max_size=60))
def test_keywords_equal_the_models(text: str) -> None:
    """For any text the keywords are the naive model's."""
    assert model.keywords(text) == list(keywords_of(text))


def test_net_is_wins_minus_failures() -> None:
    """A tally's net may be negative."""
    assert [Tally(4, 1).net, Tally(2, 2).net, Tally(0, 2).net] == [3, 0, -2]


def test_the_order_is_net_then_wins_then_keyword() -> None:
    """Net descending, then wins descending, then the keyword."""
    tallies = {
        "even": Tally(2, 2),
        "zero": Tally(0, 0),
        "best": Tally(3, 0),
        "busy": Tally(5, 2),
        "alpha": Tally(3, 0),
        "worst": Tally(0, 3),
    }

    assert [word for word, _ in in_order(tallies.items())] == [
        "busy",
        "alpha",
        "best",
        "even",
        "zero",
        "worst",
    ]


def test_the_strongest_are_those_of_greatest_absolute_net() -> None:
    """A strong failure is kept before a weak success, and told last."""
    tallies = {"weak": Tally(1, 0), "strong": Tally(3, 0), "bad": Tally(0, 2), "none": Tally(4, 4)}

    assert [("strong", Tally(3, 0)), ("bad", Tally(0, 2))] == strongest(tallies, 2)


def test_a_tie_at_the_last_place_is_decided_by_the_contracts_order() -> None:
    """Of equally strong keywords the one told first is kept."""
    tallies = {"minus": Tally(0, 1), "plus": Tally(1, 0), "more": Tally(2, 1)}

    assert [("more", Tally(2, 1))] == strongest(tallies, 1)
    assert [("more", Tally(2, 1)), ("plus", Tally(1, 0))] == strongest(tallies, 2)


@pytest.mark.parametrize("count", [STRONGEST - 1, STRONGEST, STRONGEST + 1])
def test_fifty_are_told_at_most(count: int) -> None:
    """Forty-nine and fifty keywords are all told, the fifty-first is not."""
    tallies = {f"word{number:03}": Tally(number + 1, 0) for number in range(count)}

    assert min(count, 50) == len(strongest(tallies))


@given(
    st.dictionaries(
        st.text("abc", min_size=3, max_size=5),
        st.builds(Tally, st.integers(0, 3), st.integers(0, 3)),
        max_size=20,
    ),
    st.integers(0, 8),
)
def test_the_strongest_equal_the_models(tallies: dict[str, Tally], count: int) -> None:
    """For any tallies the strongest, and their order, are the naive model's."""
    known = model.Metrics(
        keyword_wins={word: tally.wins for word, tally in tallies.items()},
        keyword_failures={word: tally.failures for word, tally in tallies.items()},
    )

    assert [
        (learned.keyword, Tally(learned.wins, learned.failures))
        for learned in model.strongest_keywords(known, count)
    ] == strongest(tallies, count)
