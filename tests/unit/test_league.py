"""The league and the regret ledger: exact counts, what the record decides, intervals that cover the truth."""

import msgspec
import pytest

from learner_worker.contract.advice import AdviceRecord, ExperimentArm
from learner_worker.contract.encode import AlternativeAdvice
from learner_worker.contract.fields import AgentId, TaskId
from learner_worker.laboratory.families import families
from learner_worker.laboratory.intervals import welch_interval
from learner_worker.laboratory.league import League, Standing, advised_bids, league
from learner_worker.laboratory.recording import RecordedAuction, RecordedBid
from learner_worker.laboratory.regret import Regret, by_strategy, regret_ledger
from learner_worker.strategies.classic import CLASSIC
from learner_worker.strategies.expected_profit import EXPECTED_PROFIT
from learner_worker.strategies.experiment import Experiment
from tests.programs.league_coverage import ARMS, covered, difference
from tests.support.experiment_market import ExperimentRun, run_experiment

BOTH = {strategy.name: strategy for strategy in (CLASSIC, EXPECTED_PROFIT)}
HALVES = Experiment("halves", dict.fromkeys(BOTH, 0.5))
MARKET = families()["skills by word"].model_copy(update={"auctions": 150})
AT = 1_800_000_000_000_000


@pytest.fixture(scope="module")
def run() -> ExperimentRun:
    return run_experiment(MARKET, 3, HALVES, BOTH)


def advice(task: str, agent: str, suggested: int, **fields: object) -> AdviceRecord:
    usual = AdviceRecord(
        task_id=TaskId(task),
        agent_id=AgentId(agent),
        advised_at="2027-01-15T08:00:00Z",
        base_bid_sats=100,
        suggested_bid_sats=suggested,
        strategy="classic",
        factor=suggested / 100,
        costs=False,
    )
    return msgspec.structs.replace(usual, **fields)


def auction(task: str, winner: str, bids: dict[str, int], *, succeeded: bool | None) -> RecordedAuction:
    return RecordedAuction(
        task,
        AT + 2,
        winner,
        tuple(
            RecordedBid(agent, sats, AT + 1, "parse it", succeeded if agent == winner else None, AT + 3)
            for agent, sats in bids.items()
        ),
    )


def standing(found: League, strategy: str) -> Standing:
    (one,) = [each for each in found.standings if each.strategy == strategy]
    return one


def test_the_counts_are_those_of_the_run(run: ExperimentRun) -> None:
    """Advised, bid, won, done and paid by arm, counted from the run itself; all ended, all followed."""
    found = league(run.advice, run.auctions)
    arm_of = {record.task_id: record.strategy for record in run.advice}
    for arm in BOTH:
        own = [one for one in run.auctions if arm_of[TaskId(one.task_id)] == arm]
        champions = [bid for one in own for bid in one.bids if bid.agent_id == one.winner]
        row = standing(found, arm)
        assert row.experiment == "halves"
        assert row.advised == row.ended == row.bid == row.followed == sum(len(one.bids) for one in own)
        assert row.won == len(own)
        assert row.done == sum(bid.succeeded is True for bid in champions)
        assert row.failed == row.won - row.done
        assert row.earned_sats == sum(bid.bid_sats or 0 for bid in champions if bid.succeeded)
        assert row.per_task is not None
        assert row.per_task.mean == pytest.approx(row.earned_sats / len(own))


def test_the_arms_difference_is_that_of_the_tasks(run: ExperimentRun) -> None:
    """Sats a task of one arm minus the other's, with Welch's interval over tasks."""
    (found,) = league(run.advice, run.auctions).differences
    first, second = (standing(league(run.advice, run.auctions), arm) for arm in sorted(BOTH))
    assert (found.baseline, found.arm) == tuple(sorted(BOTH))
    assert first.per_task is not None
    assert second.per_task is not None
    assert found.difference.mean == pytest.approx(second.per_task.mean - first.per_task.mean)
    assert found.tasks == (second.per_task.count, first.per_task.count)


def test_welchs_interval_is_the_textbooks() -> None:
    """Two groups of unequal spread, computed by hand with t of 5 degrees of freedom."""
    found = welch_interval([10.0, 12.0, 14.0, 16.0], [1.0, 1.5, 2.0, 2.5])
    reach = 2.571 * (20 / 3 / 4 + 5 / 12 / 4) ** 0.5  # 3.38 degrees, cut to 3, would be 3.182
    assert found.mean == pytest.approx(11.25)
    assert found.high - found.mean == pytest.approx(reach * 3.182 / 2.571)
    same = welch_interval([1.0, 1.0], [1.0, 1.0])
    assert same.low == same.high == 0


def test_what_another_strategy_would_have_won(run: ExperimentRun) -> None:
    """Where the record decides, it is a re-run of the auction at the other's bid; sats are within bounds."""
    by_task = {one.task_id: one for one in run.auctions}
    for arm in BOTH:
        (other,) = standing(league(run.advice, run.auctions), arm).others
        own = [record for record in run.advice if record.strategy == arm]
        winners = [_winner_instead(by_task[record.task_id], record, other.strategy) for record in own]
        decided = [
            winner == record.agent_id
            for winner, record in zip(winners, own, strict=True)
            if winner is not None
        ]
        assert (other.auctions, other.decided) == (len(own), len(decided))
        assert len(decided) > 0.8 * len(own)
        assert other.won is not None
        assert other.won.mean == pytest.approx(sum(decided) / len(decided))
        assert 0 <= other.at_least <= other.at_most


def _winner_instead(ended: RecordedAuction, record: AdviceRecord, strategy: str) -> str | None:
    """Who would have won at the other strategy's bid; None where a tie leaves it open."""
    assert isinstance(record.alternatives, dict)
    recorded = {bid.agent_id: bid.bid_sats or 0 for bid in ended.bids}
    replaced = {**recorded, record.agent_id: record.alternatives[strategy].suggested_bid_sats}
    if replaced == recorded:
        return ended.winner
    lowest = [sorted(bids.values())[:2] for bids in (recorded, replaced)]
    if any(len(two) > 1 and two[0] == two[1] for two in lowest):
        return None
    return min(replaced, key=replaced.__getitem__)


def test_advice_that_came_to_nothing_is_counted_apart() -> None:
    """Not ended, not bid, not followed, with costs: each is its own count, and outside of an experiment."""
    ended = auction("t", "a", {"a": 90, "b": 95}, succeeded=True)
    found = league(
        [
            advice("t", "a", 90, costs=True),
            advice("t", "b", 80),
            advice("t", "c", 70),
            advice("open", "a", 60),
        ],
        [ended],
    )
    (row,) = found.standings
    assert (row.experiment, row.advised, row.with_costs, row.ended, row.bid) == (None, 4, 1, 3, 2)
    assert (row.followed, row.won, row.done, row.failed, row.earned_sats) == (1, 1, 1, 0, 90)
    assert found.differences == ()


def test_of_several_answers_the_last_before_the_bid_counts() -> None:
    """A repeated question after the bid changes nothing; without any earlier one the first stands."""
    times = ["2027-01-15T08:00:00Z", "2027-01-15T08:00:00.000001Z", "2027-01-15T08:00:05Z"]
    asked = [advice("t", "a", 90 + place, advised_at=at) for place, at in enumerate(times)]
    ended = auction("t", "a", {"a": 91}, succeeded=False)
    assert advised_bids(reversed(asked), [ended])["t", "a"].advice.suggested_bid_sats == 91
    assert advised_bids(asked[2:], [ended])["t", "a"].advice.suggested_bid_sats == 92


def test_failures_are_paid_where_the_swarm_pays_for_winning() -> None:
    """The same auctions, by the two ways of paying."""
    ended = auction("t", "a", {"a": 90}, succeeded=False)
    assert league([advice("t", "a", 90)], [ended]).standings[0].earned_sats == 0
    assert league([advice("t", "a", 90)], [ended], "win").standings[0].earned_sats == 90


def test_a_tie_is_not_decided() -> None:
    """Of equal bids the record does not say who comes first; the bid that was placed is what it was."""
    ended = auction("t", "a", {"a": 90, "b": 95}, succeeded=True)
    other = {"classic": AlternativeAdvice(95, 0.95), "expected-profit": AlternativeAdvice(90, 0.9)}
    rows = league([advice("t", "a", 95, strategy="x", alternatives=other)], [ended]).standings[0].others
    assert [(row.strategy, row.decided, row.at_least, row.at_most) for row in rows] == [
        ("classic", 0, 0, 95),
        ("expected-profit", 1, 90, 90),
    ]


def test_the_ledger_is_that_computed_by_hand() -> None:
    """Won: up to the runner-up. Lost above the own base, which only advice tells. By agent and kind."""
    auctions = [
        auction("t", "a", {"a": 90, "b": 130, "c": 120}, succeeded=True),
        auction("u", "b", {"a": 140, "b": 125}, succeeded=True),
        auction("v", "a", {"a": 90}, succeeded=False),
    ]
    advised = advised_bids([advice("t", "a", 90), advice("u", "a", 140), advice("v", "a", 90)], auctions)
    ledger = regret_ledger(auctions, advised)
    assert ledger[0] == Regret("a", "classic", "parse", 3, 2, left_sats=30, missed=1, missed_sats=25)
    assert ledger[1] == Regret("b", "-", "parse", 2, 1, left_sats=15)
    assert [(row.strategy, row.auctions) for row in by_strategy(ledger)] == [("-", 3), ("classic", 3)]


@pytest.mark.parametrize("arms", ARMS)
def test_the_arms_interval_covers_the_truth(arms: tuple[str, str]) -> None:
    """In most of some seeded runs, the same strategy under two names included."""
    every = [difference("few bidders", arms, 60, seed) for seed in range(50)]
    assert covered(every, every) >= 44


def test_an_experiment_without_enough_tasks_has_no_difference(run: ExperimentRun) -> None:
    """One task says nothing of an arm."""
    one = next(record for record in run.advice if record.strategy == "classic")
    few = [record for record in run.advice if record.strategy != "classic" or record.task_id == one.task_id]
    assert league(few, run.auctions).differences == ()
    renamed = [
        msgspec.structs.replace(record, experiment=ExperimentArm("other", record.strategy))
        for record in run.advice
    ]
    assert {row.experiment for row in league(renamed, run.auctions).standings} == {"other"}
