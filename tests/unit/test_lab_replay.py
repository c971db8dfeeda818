"""Replaying recorded auctions: exact where the record decides, bounded elsewhere, without a look ahead."""

import itertools
import json
import random
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import pytest
from click.testing import CliRunner

from learner_worker.cli import cli
from learner_worker.commands.recordings import recorded_auctions_of
from learner_worker.contract.facts import Bid, Close, Result
from learner_worker.contract.fields import AgentId, TaskId
from learner_worker.contract.times import Micros, format_time
from learner_worker.domain.outcomes import Outcome
from learner_worker.errors import ConfigurationError
from learner_worker.laboratory.families import families
from learner_worker.laboratory.luck import DrawnAuction, draw_auctions
from learner_worker.laboratory.recording import RecordedAuction, auctions_of, read_recording
from learner_worker.laboratory.replay import replay, replayed_bids, winner_at
from learner_worker.strategies.expected_profit import EXPECTED_PROFIT
from learner_worker.strategies.registry import BUILT_IN
from tests.unit.lab_strategies import Recorder

MARKET = families()["demo"].model_copy(update={"auctions": 120})
DRAWN = draw_auctions(MARKET, 4)
STEP_US = 60_000_000
LINE = {"type": "outcome", "agent_id": "a", "task_id": "t", "closed_at": "2026-01-01T00:00:00Z"}
START_US = 1_800_000_000_000_000


def winner_of(auction: DrawnAuction, bids_sats: dict[int, int]) -> int:
    """As the market decides, with some agents' bids replaced."""
    return min(
        (bids_sats.get(one.agent, one.base_bid_sats), one.arrivals[0], one.agent)
        for one in auction.contestants
    )[2]


def lines_of(drawn: Sequence[DrawnAuction]) -> list[dict[str, object]]:
    """The run with everybody bidding the base, as `outcomes export` writes it."""
    lines: list[dict[str, object]] = []
    for auction in drawn:
        champion = winner_of(auction, {})
        at = START_US + auction.number * STEP_US
        for one in auction.contestants:
            won = one.agent == champion
            lines.append(
                {
                    "type": "outcome",
                    "agent_id": MARKET.agents[one.agent].name,
                    "task_id": f"task-{auction.number}",
                    "closed_at": format_time(Micros(at + 10)),
                    "won": won,
                    "winner_agent_id": MARKET.agents[champion].name,
                    "bid_sats": one.base_bid_sats,
                    "placed_at": format_time(Micros(at + one.agent)),
                    "result": ("completed" if one.luck < one.chance else "failed") if won else None,
                    "finished_at": format_time(Micros(at + 20)) if won else None,
                    "description": auction.description,
                }
            )
    return lines


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of exports, in no order, with the other lines that exports have."""
    path = tmp_path_factory.mktemp("recording") / "outcomes.jsonl"
    lines = [*lines_of(DRAWN), {"type": "metrics", "agent_id": "echo", "total_bids": 3}]
    random.Random(1).shuffle(lines)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


@pytest.fixture(scope="module")
def swarm_db(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same run as a swarm records it: a row a bid, and nothing of when an auction closed."""
    path = tmp_path_factory.mktemp("recording") / "swarm.db"
    rows = [
        {**line, "succeeded": line["result"] == "completed" if line["won"] else None}
        for line in lines_of(DRAWN)
    ]
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute(
            "CREATE TABLE task_outcomes (id INTEGER PRIMARY KEY, task_id, agent_id, bid_sats, description, "
            "won_auction, task_succeeded, created_at)"
        )
        connection.executemany(
            "INSERT INTO task_outcomes VALUES (NULL, :task_id, :agent_id, :bid_sats, :description, :won, "
            ":succeeded, :placed_at)",
            rows,
        )
    return path


def outcomes_of(drawn: Sequence[DrawnAuction]) -> list[Outcome]:
    """The same run as the learner's outcomes, which Kafka holds."""
    outcomes: list[Outcome] = []
    for auction in drawn:
        champion, at = winner_of(auction, {}), START_US + auction.number * STEP_US
        price = next(one.base_bid_sats for one in auction.contestants if one.agent == champion)
        close = Close(Micros(at + 10), AgentId(MARKET.agents[champion].name), price)
        for one in auction.contestants:
            bid = Bid(Micros(at + one.agent), one.base_bid_sats, auction.description)
            result = Result(Micros(at + 20), one.luck < one.chance) if one.agent == champion else None
            outcomes.append(
                Outcome(
                    TaskId(f"task-{auction.number}"),
                    AgentId(MARKET.agents[one.agent].name),
                    close,
                    bid,
                    result,
                )
            )
    return outcomes


@pytest.fixture(scope="module", params=["export", "swarm.db", "outcomes"])
def auctions(request: pytest.FixtureRequest, recording: Path, swarm_db: Path) -> list[RecordedAuction]:
    """The run, from each place that it may be read from."""
    if request.param == "export":
        return read_recording(recording)
    if request.param == "swarm.db":
        return recorded_auctions_of(swarm_db, {})
    return auctions_of(outcomes_of(DRAWN))


def test_what_outcomes_say_is_what_an_export_says(recording: Path) -> None:
    """To the field, the base apart, which only the advice log knows."""
    bases = {("task-3", "echo"): 77}
    kept = auctions_of(outcomes_of(DRAWN), bases)
    assert _sorted(auctions_of(outcomes_of(DRAWN))) == _sorted(read_recording(recording))
    assert {
        (auction.task_id, bid.agent_id): bid.base_sats
        for auction in kept
        for bid in auction.bids
        if bid.base_sats is not None
    } == bases


def test_a_corrected_close_decides_whichever_bidder_it_has_reached() -> None:
    """The winner is the greatest close's, in any order of the outcomes."""
    first, corrected = Close(Micros(10), AgentId("echo"), 5), Close(Micros(11), AgentId("mace"), 6)
    outcomes = [
        Outcome(TaskId("t"), AgentId(agent), close, Bid(Micros(1), sats, ""))
        for agent, close, sats in (("echo", first, 5), ("helm", first, 7), ("mace", corrected, 6))
    ]
    for order in itertools.permutations(outcomes):
        (auction,) = auctions_of(order)
        assert (auction.closed_at, auction.winner, auction.winning_bid_sats) == (11, "mace", 6)


def _sorted(auctions: Sequence[RecordedAuction]) -> list[RecordedAuction]:
    return [auction._replace(bids=tuple(sorted(auction.bids))) for auction in auctions]


def test_the_base_of_the_advice_log_is_what_a_strategy_is_asked_with(auctions: list[RecordedAuction]) -> None:
    """A bid that followed advice is not adjusted twice: the strategy's bid follows from the base."""
    doubled = [
        auction._replace(bids=tuple(bid._replace(base_sats=2 * (bid.bid_sats or 0)) for bid in auction.bids))
        for auction in auctions
    ]
    bids = [one.bid_sats for one in replayed_bids(auctions, Recorder("as then", 1.0), "echo", "success")]
    again = [one.bid_sats for one in replayed_bids(doubled, Recorder("as then", 1.0), "echo", "success")]
    assert again == [2 * bid for bid in bids]


def test_the_winner_at_every_bid_is_the_markets(auctions: list[RecordedAuction]) -> None:
    """The same auction run again with the same luck: equal wherever the record decides, mostly it does."""
    decided = undecided = 0
    for recorded, drawn in zip(auctions, DRAWN, strict=True):
        for one in drawn.contestants:
            name = MARKET.agents[one.agent].name
            for bid in range(1, 2 * one.base_bid_sats, 3):
                winner = winner_at(recorded, {name: bid})
                if winner is None:
                    undecided += 1
                    continue
                decided += 1
                assert winner == MARKET.agents[winner_of(drawn, {one.agent: bid})].name
    assert decided > 10 * undecided


def test_the_truth_is_within_the_bounds(auctions: list[RecordedAuction]) -> None:
    """What each agent would have earned with the same luck, by both strategies, alone and together."""
    names = [agent.name for agent in MARKET.agents]
    for strategy in BUILT_IN.values():
        for group in [*([name] for name in names), names]:
            bids: dict[str, dict[int, int]] = {}
            for place, name in enumerate(names):
                for one in replayed_bids(auctions, strategy, name, "success") if name in group else ():
                    bids.setdefault(one.auction.task_id, {})[place] = one.bid_sats
            for row in replay(auctions, strategy, group, "success"):
                true = _truly_earned(names.index(row.agent_id), bids)
                assert row.earned.at_least <= true <= row.earned.at_most, (strategy.name, row)
                assert row.earned.at_least <= row.earned.sats <= row.earned.at_most


def _truly_earned(agent: int, bids: dict[str, dict[int, int]]) -> int:
    earned = 0
    for drawn in DRAWN:
        replaced = bids.get(f"task-{drawn.number}", {})
        if winner_of(drawn, replaced) == agent:
            (one,) = [each for each in drawn.contestants if each.agent == agent]
            earned += replaced.get(agent, one.base_bid_sats) if one.luck < one.chance else 0
    return earned


def test_bidding_as_then_earns_what_was_earned(auctions: list[RecordedAuction]) -> None:
    """A strategy that leaves every bid alone: exactly the record, but for auctions whose lowest bids tie."""
    untied = [one for one in auctions if winner_at(one, {}) is not None]
    for row in replay(untied, Recorder("as then", 1.0), ["echo", "forge"], "success"):
        assert row.earned.at_least == row.earned.at_most == row.recorded_sats
        assert row.decided == row.auctions
        assert row.won == row.recorded_won


def test_no_strategy_sees_the_future(auctions: list[RecordedAuction]) -> None:
    """A bid stays the same whatever happens from its moment on: other winners, other results, none."""
    name = "echo"
    bids = list(replayed_bids(auctions, EXPECTED_PROFIT, name, "success"))
    for place in range(5, len(bids), 7):
        at = bids[place].recorded.placed_at
        assert at is not None
        changed = [_changed_from(auction, at) for auction in auctions]
        again = list(replayed_bids(changed, EXPECTED_PROFIT, name, "success"))
        assert [one.bid_sats for one in again[: place + 1]] == [one.bid_sats for one in bids[: place + 1]]
        assert [one.bid_sats for one in again] != [one.bid_sats for one in bids] or place > len(bids) - 8


def _changed_from(auction: RecordedAuction, at: int) -> RecordedAuction:
    bids = tuple(
        bid._replace(succeeded=not bid.succeeded)
        if bid.succeeded is not None and (bid.finished_at or 0) >= at
        else bid
        for bid in auction.bids
    )
    if auction.closed_at < at:
        return auction._replace(bids=bids)
    loser = max(auction.bids, key=lambda bid: bid.bid_sats or 0).agent_id
    return auction._replace(winner=loser, bids=tuple(bid._replace(succeeded=None) for bid in bids))


def test_what_is_told_was_over_before_each_bid(auctions: list[RecordedAuction]) -> None:
    """Closes earlier than the bid, and all of them."""
    recorder = Recorder("recorder", 1.0)
    for bid in replayed_bids(auctions, recorder, "mace", "success"):
        at = bid.recorded.placed_at
        assert at is not None
        known = {settled.closed_at_us for settled in recorder.settled}
        own = {one.closed_at for one in auctions if any(each.agent_id == "mace" for each in one.bids)}
        assert known == {closed_at for closed_at in own if closed_at < at}


def test_a_bid_dated_after_its_close_does_not_know_it(auctions: list[RecordedAuction]) -> None:
    """Clocks differ: an auction's end is never known before the bid for it."""
    first = auctions[0]
    late = first.bids[0]._replace(placed_at=first.closed_at + 500_000)
    recorder = Recorder("recorder", 1.0)
    for _ in replayed_bids([first._replace(bids=(late,))], recorder, late.agent_id, "success"):
        assert recorder.settled == []
    assert len(recorder.settled) > 0


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "{path} has no outcomes: write it with `learner-worker outcomes export`"),
        ('{"type": "metrics"}\n', "{path} has no outcomes"),
        ("no json\n", "{path}, line 1 is no line of an export: "),
        ('{"type": "outcome"}\n', "{path}, line 1 names no agent, task or time of the close"),
        (
            '{"type": "metrics"}\n' + json.dumps({**LINE, "closed_at": "today"}),
            "{path}, line 2 is no line of an export: ",
        ),
        (json.dumps({**LINE, "bid_sats": -1}), "{path}, line 1 is no line of an export: "),
    ],
)
def test_a_file_that_is_no_recording_is_a_sentence(text: str, sentence: str, tmp_path: Path) -> None:
    """With the line."""
    path = tmp_path / "x.jsonl"
    path.write_text(text)
    with pytest.raises(ConfigurationError) as raised:
        read_recording(path)
    assert str(raised.value).startswith(sentence.format(path=path))


def test_the_command_prints_a_row_an_agent_and_strategy(recording: Path) -> None:
    """And refuses an agent that is not in the file."""
    asked = ["lab", "replay", str(recording), "--together"]
    done = CliRunner().invoke(cli, [*asked, "--agent", "echo", "--agent", "quill"], catch_exceptions=False)
    rows = [line.split()[:2] for line in done.output.splitlines() if line.startswith((" echo", " quill"))]
    assert rows == [
        ["echo,", "classic"],
        ["quill,", "classic"],
        ["echo,", "expected-profit"],
        ["quill,", "expected-profit"],
    ]
    with pytest.raises(ConfigurationError, match="has no outcomes of nobody"):
        CliRunner().invoke(cli, [*asked, "--agent", "nobody"], catch_exceptions=False)
