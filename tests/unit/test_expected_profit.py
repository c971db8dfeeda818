"""expected-profit: its bins, its sums, its bids in a history of one's own, and what it says about them."""

import itertools
import random
from collections import UserDict
from collections.abc import Mapping, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from learner_worker.contract.fields import MAX_SATS
from learner_worker.domain.keywords import Tally
from learner_worker.domain.metrics import Metrics
from learner_worker.strategies.expected_profit import EXPECTED_PROFIT
from learner_worker.strategies.price_bins import LOWER_EDGES, lower_edge, price_bin, price_class
from learner_worker.strategies.protocol import (
    NO_SUMS,
    Counts,
    PaidOn,
    SettledBid,
    Suggestion,
    SumKey,
    Sums,
)
from learner_worker.strategies.sums import GrowingSums, correct, update

METRICS = Metrics(total_bids=12, auctions_won=4, tasks_completed=3, tasks_failed=1)
TALLIES = {"invoice": Tally(3, 0), "translate": Tally(0, 1)}


def settled(own: int | None, winning: int | None, *, won: bool = False, at: int = 0) -> SettledBid:
    return SettledBid(own, won, winning, "parse the invoice", None, at)


def suggest(
    *,
    metrics: Metrics = METRICS,
    sums: Sums = NO_SUMS,
    description: str = "",
    base: int = 100,
    cost: int | None = None,
    failure_cost: int = 0,
    paid_on: PaidOn = "success",
    explained: bool = True,
) -> Suggestion:
    return EXPECTED_PROFIT.suggest(
        metrics=metrics,
        tallies=TALLIES,
        sums=sums,
        description=description,
        base_bid_sats=base,
        cost_sats=cost,
        failure_cost_sats=failure_cost,
        paid_on=paid_on,
        explained=explained,
    )


def summed(bids: Sequence[SettledBid]) -> GrowingSums:
    sums: GrowingSums = {}
    for bid in bids:
        update(EXPECTED_PROFIT, sums, bid)
    return sums


WORKED = [
    *[settled(bid, bid, won=True) for bid in (96, 100, 104, 110)],
    *[settled(100, price) for price in (88, 90, 90, 93, 95, 97, 101, 104)],
]
"""The history of docs/strategies.md: four auctions won, eight lost."""


@pytest.mark.parametrize(
    ("sats", "expected"),
    [(0, 0), (1, 1), (15, 15), (16, 16), (17, 17), (31, 31), (32, 32), (33, 32), (34, 33)],
)
def test_bins_are_exact_up_to_32_sats_and_double_their_width_each_octave(sats: int, expected: int) -> None:
    """Sixteen bins an octave."""
    assert expected == price_bin(sats)


@given(st.integers(0, MAX_SATS))
def test_a_price_lies_in_its_bin(sats: int) -> None:
    """Between its lower edge and the next bin's, at most a sixteenth apart from 16 on."""
    low, high = lower_edge(price_bin(sats)), lower_edge(price_bin(sats) + 1)
    assert low <= sats < high
    assert high - low <= max(1, low // 16)
    assert price_class(sats) == price_bin(sats) // 8


def test_edges_grow() -> None:
    """Of every bin that a price may fall into."""
    assert all(low < high for low, high in itertools.pairwise(LOWER_EDGES))
    assert LOWER_EDGES[-1] > MAX_SATS


@pytest.mark.parametrize(
    ("bid", "expected"),
    [
        (settled(100, 90), {7: {54: (1, 0)}}),
        (settled(100, 100, won=True), {7: {57: (0, 1)}}),
        (settled(40, None, won=True), {4: {36: (0, 1)}}),
        (settled(100, None), {}),
        (settled(None, 90), {}),
        (settled(None, None, won=True), {}),
        (settled(0, 90), {}),
        (settled(100, 0), {}),
    ],
)
def test_a_settled_bid_adds_the_price_that_decided(bid: SettledBid, expected: GrowingSums) -> None:
    """Lost: what the winner bid; won: what the agent bid; a price that is unknown or 0 is not counted."""
    assert expected == summed([bid])


def test_a_result_changes_no_price() -> None:
    """The sums stay the same objects: nothing is to be written."""
    sums = summed(WORKED)
    before = settled(100, 100, won=True)
    after = SettledBid(100, True, 100, "parse the invoice", True, 0)
    known = {group: dict(cells) for group, cells in sums.items()}
    correct(EXPECTED_PROFIT, sums, before, after)
    assert known == sums


@pytest.mark.parametrize(("bids", "base"), [(0, 100), (2, 100), (3, 0)])
def test_without_history_or_base_the_base_stands(bids: int, base: int) -> None:
    """Fewer than three outcomes, or nothing to multiply."""
    known = Metrics(total_bids=bids, auctions_won=bids)
    assert suggest(metrics=known, base=base, sums=summed(WORKED)) == Suggestion(base, 1.0, [])


def test_the_worked_example() -> None:
    """The history of docs/strategies.md and the answers given there."""
    sums = summed(WORKED)
    assert sums == {7: {54: (3, 0), 55: (2, 0), 56: (1, 1), 57: (1, 1), 58: (1, 1), 59: (0, 1)}}
    plain, proven, weak = [suggest(sums=sums, description=text) for text in ("", "invoice", "Translate")]
    assert (plain.suggested_bid_sats, proven.suggested_bid_sats, weak.suggested_bid_sats) == (99, 87, 123)
    assert [(step.rule, f"{step.multiplier:.4f}", step.reason) for step in proven.rules] == [
        ("prior_margin", "1.0700", "few results yet: a margin for the risk of failing"),
        (
            "chance_to_deliver",
            "0.9252",
            "these words met 3 successes and 0 failures: 79 % to deliver, 65 % overall: ask for less",
        ),
        (
            "rivals_prices",
            "0.8788",
            (
                "the others' lowest bid was above 87 sats in about 90 % of 12 such auctions: "
                "best price times chance"
            ),
        ),
    ]
    assert suggest(sums=sums, description="invoice", cost=40).suggested_bid_sats == 87


def test_an_answer_without_reasons_is_the_same_bid() -> None:
    """`explained` changes what is said only."""
    said, unsaid = suggest(sums=summed(WORKED)), suggest(sums=summed(WORKED), explained=False)
    assert (said.suggested_bid_sats, said.factor) == (unsaid.suggested_bid_sats, unsaid.factor)
    assert said.rules
    assert unsaid.rules == []


def test_no_reason_states_a_cost() -> None:
    """Nor changes with it by more than the bids that follow from it."""
    for cost in (37, 41, 4_321):
        reasons = " ".join(
            step.reason for step in suggest(sums=summed(WORKED), description="invoice", cost=cost).rules
        )
        assert str(cost) not in reasons


def test_where_nothing_pays_the_most_is_asked() -> None:
    """A cost above every price: twice the base bid."""
    suggestion = suggest(cost=1_000)
    assert (suggestion.suggested_bid_sats, suggestion.factor) == (200, 2.0)
    assert [step.reason for step in suggestion.rules] == [
        "no price up to twice the base bid is expected to pay: ask for the most"
    ]


def test_a_failure_costs_only_with_a_cost() -> None:
    """Alone it is valid and ignored."""
    assert suggest(failure_cost=500) == suggest()
    assert suggest(cost=40, failure_cost=50).suggested_bid_sats > suggest(cost=40).suggested_bid_sats


def test_paid_on_win_asks_less() -> None:
    """Who is paid for failures, too, needs no margin for them."""
    paid = suggest(cost=50, paid_on="win").suggested_bid_sats
    assert paid < suggest(cost=50).suggested_bid_sats


class LookedAt(UserDict[SumKey, Mapping[SumKey, Counts]]):
    """Sums that note which of their groups are looked at."""

    def __init__(self, sums: Sums) -> None:
        super().__init__(sums)
        self.groups = set[SumKey]()

    def __getitem__(self, group: SumKey) -> Mapping[SumKey, Counts]:
        self.groups.add(group)
        return super().__getitem__(group)


def test_prices_take_no_more_room_and_time_than_there_are_bins() -> None:
    """Tens of thousands of outcomes with any prices: few cells, and an answer looks at three groups."""
    chance = random.Random(5)
    prices = [int(2 ** chance.uniform(0, 53)) for _ in range(2 * 30_000)]
    sums = LookedAt(summed([settled(*pair) for pair in zip(prices[::2], prices[1::2], strict=True)]))
    assert max(map(len, sums.data.values())) <= len(LOWER_EDGES)
    suggest(sums=sums, base=2**30)
    assert len(sums) <= price_class(MAX_SATS) + 1
    own = price_class(2**30)
    assert sums.groups == {own - 1, own, own + 1}


@given(
    st.lists(
        st.builds(
            settled,
            st.none() | st.integers(0, 300),
            st.none() | st.integers(0, 300),
            won=st.booleans(),
        ),
        max_size=30,
    ),
    st.integers(1, MAX_SATS),
    st.none() | st.integers(0, MAX_SATS),
)
def test_every_bid_is_in_its_range(bids: list[SettledBid], base: int, cost: int | None) -> None:
    """Between 0.8 and 2 times the base bid, and the multipliers' product is the factor up to rounding."""
    suggestion = suggest(sums=summed(bids), base=base, cost=cost, description="invoice translate")
    product = 1.0
    for step in suggestion.rules:
        product *= step.multiplier
    assert max(1, int(base * 0.8)) <= suggestion.suggested_bid_sats <= min(MAX_SATS, 2 * base)
    assert suggestion.factor == suggestion.suggested_bid_sats / base
    assert product == pytest.approx(suggestion.factor, rel=1e-12)
