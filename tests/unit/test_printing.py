"""What commands print of strangers' words, and the times they read."""

import io
import time

import pytest
from rich.console import Console

from learner_worker.commands.printing import keywords_table, moment
from learner_worker.contract.suggestions import LearnedKeyword


def test_an_endless_keyword_leaves_room_for_its_figures() -> None:
    """A keyword as long as a description is cut off; wins, failures and net stand beside it."""
    out = io.StringIO()
    word = LearnedKeyword(keyword="x" * 16_384, wins=7, failures=2, net=5)
    Console(file=out, width=80).print(keywords_table([word]))
    (_, row) = out.getvalue().splitlines()
    assert row.split() == ["x" * 37 + "...", "7", "2", "5"]


def test_an_age_is_a_moment_in_the_past() -> None:
    """Two hours ago is two hours before now."""
    before = time.time_ns() // 1000
    assert before <= moment("2h") + 7_200_000_000 <= time.time_ns() // 1000


@pytest.mark.parametrize("age", ["30000d", "999999d"])
def test_an_age_before_1970_is_no_moment(age: str) -> None:
    """The contract's times begin in 1970."""
    with pytest.raises(ValueError, match="before 1970"):
        moment(age)
