"""`outcomes list|export`: what an agent's advice is made from equals what a running worker answers."""

import csv
import json
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from learner_worker.brokers import Broker
from learner_worker.client import LearnerClient
from learner_worker.contract.suggestions import SuggestBidReply
from learner_worker.contract.times import Micros, format_time
from learner_worker.contract.topics import TopicNames, Topics
from tests.acceptance.test_refusals import Ended, learner_worker
from tests.integration import test_retention as retention
from tests.integration.test_whole_way import metrics_equal_the_model
from tests.support import model
from tests.support.swarm import shuffled_with_duplicates, swarm_history
from tests.support.workers import create_topics, publish, running_worker, until

NOW = 1_790_000_000_000_000
SECOND = 1_000_000
DESCRIPTION = "parse invoices"
BASE = 1000
FORMULAS = ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "'quoted", "fine", '=a,"b"\r\nc', "＝1+1"]  # noqa: RUF001
HOSTILE = "\x1b[31mred\x9b2J\nnext \u202e[bold]" + "x" * 200


async def test_an_agents_history_equals_the_model_and_the_workers_answer(
    broker: Broker, prefix: str, tmp_path: Path
) -> None:
    """Shuffled and doubled events: every agent's export is the model's outcomes and the worker's reply."""
    events = shuffled_with_duplicates(swarm_history(11, 80), seed=5)
    names = await create_topics(broker.bootstrap_servers, prefix)
    async with running_worker(broker.bootstrap_servers, prefix, tmp_path / "state") as worker:
        await publish(broker.bootstrap_servers, names, events)
        await metrics_equal_the_model(broker, names, events)
        found = model.outcomes(events)
        busiest = sorted(model.metrics(found).items(), key=lambda item: -item[1].total_bids)
        for agent_id, metrics in [busiest[0], busiest[len(busiest) // 2], busiest[-1]]:
            reply = await answer(broker, prefix, agent_id)
            lines = await exported(broker, prefix, agent_id, *ASKING)
            assert of_type(lines, "outcome") == as_exported(found, agent_id)
            (said,) = of_type(lines, "metrics")
            assert said == {"agent_id": agent_id, **reply.metrics.model_dump(), "as_of": reply.as_of}
            assert of_type(lines, "keyword") == [asdict(word) for word in model.learned_keywords(metrics)]
            (suggestion,) = of_type(lines, "suggestion")
            assert SuggestBidReply.model_validate(suggestion) == reply.model_copy(
                update={"request_id": None, "learned_keywords": []}
            )
            await _list_says_the_same(broker, prefix, agent_id, reply, lines)
        assert await worker.stop() == 0


async def _list_says_the_same(
    broker: Broker, prefix: str, agent_id: str, reply: SuggestBidReply, lines: list[dict[str, Any]]
) -> None:
    """The table has the newest first, and below it the worker's metrics, keywords and reasons."""
    listed = await command(broker, prefix, "list", agent_id, "--limit", "5", *ASKING)
    assert (listed.code, listed.err) == (0, "")
    history = of_type(lines, "outcome")
    shown = [line for line in listed.out.splitlines() if line.startswith("20")]
    assert len(shown) == min(5, len(history))
    for line, outcome in zip(shown, history, strict=False):
        assert line.startswith(f"{outcome['closed_at']}  {outcome['task_id']} ")
        assert f"{'won' if outcome['won'] else 'lost'} " in line
    metrics = reply.metrics
    assert (
        f"total_bids {metrics.total_bids}, auctions_won {metrics.auctions_won}, "
        f"tasks_completed {metrics.tasks_completed}, tasks_failed {metrics.tasks_failed}, "
        f"win_rate {metrics.win_rate:.4g}, success_rate {metrics.success_rate:.4g}, "
        f"avg_winning_bid_sats {metrics.avg_winning_bid_sats:.10g}, as of {reply.as_of}"
    ) in listed.out
    words = [line.split() for line in listed.out.splitlines()]
    for word in reply.learned_keywords:
        assert [word.keyword, str(word.wins), str(word.failures), str(word.net)] in words
    assert f"bid {reply.suggested_bid_sats} sats (base {BASE} x {reply.factor:.4g}" in listed.out
    for adjustment in reply.adjustments:
        assert adjustment.reason in listed.out
    if len(history) > 5:
        assert f"{len(history)} outcomes" in listed.out
        every = await command(broker, prefix, "list", agent_id, "--all")
        assert sum(line.startswith("20") for line in every.out.splitlines()) == len(history)


async def test_what_the_worker_has_forgotten_is_not_shown(
    broker: Broker, prefix: str, tmp_path: Path
) -> None:
    """With a retention the history is that of the living outcomes, though old facts still lie in Kafka."""
    names = await create_topics(broker.bootstrap_servers, prefix)
    first, second = tmp_path / "first", tmp_path / "second"
    now = time.time_ns() // 1000
    events = [*retention.auction("t-1", "echo", now - 3600 * SECOND), *retention.auction("t-2", "echo", now)]
    async with running_worker(broker.bootstrap_servers, prefix, first) as worker:
        await publish(broker.bootstrap_servers, names, events)
        await metrics_equal_the_model(broker, names, events)
        assert await worker.stop() == 0
    assert [line["task_id"] for line in await outcomes_of(broker, prefix, "echo")] == ["t-2", "t-1"]
    settings = {**retention.SETTINGS, "--outcome-retention-seconds": "1000"}
    async with running_worker(broker.bootstrap_servers, prefix, second, settings=settings) as worker:
        await retention.say_what_time_it_is(broker, names)

        async def one_is_left() -> bool:
            return (await answer(broker, prefix, "echo")).metrics.total_bids == 1

        await until(one_is_left, "the old outcome is forgotten", seconds=30)
        reply = await answer(broker, prefix, "echo")
        assert await worker.stop() == 0
    lines = await exported(broker, prefix, "echo")
    assert [line["task_id"] for line in of_type(lines, "outcome")] == ["t-2"]
    (metrics,) = of_type(lines, "metrics")
    assert {**metrics, "as_of": None} == {
        "agent_id": "echo",
        **reply.metrics.model_dump(),
        "as_of": None,
    }


async def test_csv_is_whole_and_no_cell_is_a_formula(broker: Broker, prefix: str, tmp_path: Path) -> None:
    """Texts that a spreadsheet runs get an apostrophe; taking one away gives every text back."""
    names = await create_topics(broker.bootstrap_servers, prefix)
    events: list[model.Event] = []
    for number, text in enumerate([*FORMULAS, HOSTILE]):
        at = NOW + number * SECOND
        events += [
            model.BidPlaced(f"={number}", "-agent", 900, text, at),
            model.AuctionClosed(f"={number}", "-agent" if number % 2 else None, None, at + SECOND),
        ]
    await _learn(broker, prefix, names, events, tmp_path)
    file = tmp_path / "echo.csv"
    ended = await command(broker, prefix, "export", "--format", "csv", "--output", str(file), "--", "-agent")
    assert (ended.code, ended.out) == (0, "")
    assert f"11 outcomes of -agent written to {file}" in ended.err
    with file.open(newline="") as opened:
        rows = list(csv.DictReader(opened))
    for row in rows:
        assert all(cell[:1] not in {*"=+-@\t\r\n", "＝"} for cell in row.values())  # noqa: RUF001
    restored = [{name: text.removeprefix("'") for name, text in row.items()} for row in rows]
    assert [row["description"] for row in reversed(restored)] == [*FORMULAS, HOSTILE]
    assert restored == [
        {name: csv_text(value) for name, value in outcome.items()}
        for outcome in await outcomes_of(broker, prefix, "-agent")
    ]
    piped = await command(broker, prefix, "export", "--format", "csv", "--", "-agent")
    assert piped.out.encode() == file.read_bytes()


async def test_nothing_raw_reaches_a_terminal(broker: Broker, prefix: str, tmp_path: Path) -> None:
    """A description with control bytes is shown escaped and shortened, and as ASCII in JSON lines."""
    names = await create_topics(broker.bootstrap_servers, prefix)
    events: list[model.Event] = [
        model.BidPlaced("task \u202e", "echo", 1, HOSTILE, NOW),
        model.AuctionClosed("task \u202e", "echo", None, NOW + 1),
    ]
    await _learn(broker, prefix, names, events, tmp_path)
    listed = await command(broker, prefix, "list", "echo", "--description", HOSTILE, "--base", "7")
    (row,) = [line for line in listed.out.splitlines() if line.startswith("20")]
    assert r"\x1b[31mred\x9b2J\nnext \u202e[bold]xx" in row
    assert r"task \u202e" in row
    assert row.rstrip().endswith("...")
    assert all(character == "\n" or character.isprintable() for character in listed.out)
    raw = await command(broker, prefix, "export", "echo")
    assert raw.out.isascii()
    assert all(character == "\n" or character.isprintable() for character in raw.out)
    assert (await outcomes_of(broker, prefix, "echo"))[0]["description"] == HOSTILE


async def test_an_agent_without_outcomes_is_no_error(broker: Broker, prefix: str, tmp_path: Path) -> None:
    """A stranger: exit code 0 and a sentence; the export has its empty metrics, or the CSV's head alone."""
    await create_topics(broker.bootstrap_servers, prefix)
    listed = await command(broker, prefix, "list", "nobody", *ASKING)
    assert (listed.code, listed.err) == (0, "")
    assert "nobody has no outcomes" in listed.out
    assert f"nobody: bid {BASE} sats (base {BASE} x 1," in listed.out
    lines = await exported(broker, prefix, "nobody")
    assert [line["type"] for line in lines] == ["metrics"]
    assert (lines[0]["total_bids"], lines[0]["as_of"]) == (0, None)
    table = await command(broker, prefix, "export", "nobody", "--format", "csv")
    assert (table.code, len(table.out.splitlines())) == (0, 1)
    assert "nobody has no outcomes" in table.err


async def test_wrong_usage_has_exit_code_2(broker: Broker, prefix: str, tmp_path: Path) -> None:
    """A bad id, half a question, a file that cannot be written, no topics: 2, and what to do."""
    await create_topics(broker.bootstrap_servers, prefix)
    folder = str(tmp_path)
    for arguments, words in (
        (("list", "bad\nid"), "1 to 256 characters"),
        (("list", "x" * 257), "1 to 256 characters"),
        (("list", ""), "1 to 256 characters"),
        (("list", "echo", "--description", "d"), "--description and --base go together"),
        (("list", "echo", "--description", "d" * 16_385, "--base", "1"), "at most 16384 characters"),
        (("list", "echo", "--description", "d", "--base", "-1"), "--base"),
        (("export", "echo", "--format", "csv", *ASKING), "--format jsonl"),
        (("export", "echo", "--output", folder), "is a directory"),
        (("export", "echo", "--output", f"{folder}/none/file"), "give --output another file"),
    ):
        ended = await command(broker, prefix, *arguments)
        assert (ended.code, words in ended.err) == (2, True), (arguments, ended)
        assert "Traceback" not in ended.err
    missing = await command(broker, f"{prefix}other-", "list", "echo")
    assert (missing.code, "learner-worker topics create" in missing.sentence) == (2, True)


@pytest.mark.parametrize("verb", ["list", "export"])
async def test_an_unreachable_broker_is_one_sentence(verb: str) -> None:
    """Nothing listens: exit code 1 and the flag that names another address."""
    ended = await learner_worker(
        *("outcomes", verb, "echo", "--bootstrap-servers", "127.0.0.1:1", "--startup-timeout-seconds", "1")
    )
    assert ended.code == 1
    assert "cannot reach Kafka at 127.0.0.1:1" in ended.sentence
    assert "--bootstrap-servers" in ended.sentence


# --- what is asked and expected ---------------------------------------------------------------------

ASKING = ("--description", DESCRIPTION, "--base", str(BASE))


async def _learn(
    broker: Broker, prefix: str, names: TopicNames, events: Sequence[model.Event], tmp_path: Path
) -> None:
    """Lets a worker learn the events, and stops it."""
    async with running_worker(broker.bootstrap_servers, prefix, tmp_path / "state") as worker:
        await publish(broker.bootstrap_servers, names, events)
        await metrics_equal_the_model(broker, names, events)
        assert await worker.stop() == 0


async def answer(broker: Broker, prefix: str, agent_id: str) -> SuggestBidReply:
    """What the worker says to the agent."""
    async with LearnerClient(
        broker.bootstrap_servers, topics=Topics(prefix=prefix), timeout_seconds=10
    ) as learner:
        return await learner.suggest_bid(
            agent_id, description=DESCRIPTION, base_bid_sats=BASE, include=["learned_keywords"]
        )


async def command(broker: Broker, prefix: str, verb: str, *arguments: str) -> Ended:
    where = ("--bootstrap-servers", broker.bootstrap_servers, "--topic-prefix", prefix)
    group = ("--group-id", f"{prefix}learner")
    return await learner_worker("outcomes", verb, *where, *group, *arguments)


async def exported(broker: Broker, prefix: str, agent_id: str, *flags: str) -> list[dict[str, Any]]:
    ended = await command(broker, prefix, "export", *flags, "--", agent_id)
    assert ended.code == 0, ended.err
    return [json.loads(line) for line in ended.out.splitlines()]


def of_type(lines: Sequence[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    return [
        {name: value for name, value in line.items() if name != "type"}
        for line in lines
        if line["type"] == kind
    ]


async def outcomes_of(broker: Broker, prefix: str, agent_id: str) -> list[dict[str, Any]]:
    return of_type(await exported(broker, prefix, agent_id), "outcome")


def as_exported(found: dict[tuple[str, str], model.Outcome], of_agent: str) -> list[dict[str, Any]]:
    """The model's outcomes of an agent, newest first, by the export's names."""
    winners = {task_id: agent_id for (task_id, agent_id), outcome in found.items() if outcome.won}
    keys = sorted(
        (key for key in found if key[1] == of_agent), key=lambda key: (-found[key].closed_at, key[0])
    )
    return [
        {
            "agent_id": agent_id,
            "task_id": task_id,
            "closed_at": text_time(found[task_id, agent_id].closed_at),
            "won": found[task_id, agent_id].won,
            "winner_agent_id": winners.get(task_id),
            "bid_sats": found[task_id, agent_id].bid_sats,
            "placed_at": text_time(found[task_id, agent_id].placed_at),
            "result": {True: "completed", False: "failed", None: None}[found[task_id, agent_id].succeeded],
            "finished_at": text_time(found[task_id, agent_id].finished_at),
            "description": found[task_id, agent_id].description,
        }
        for task_id, agent_id in keys
    ]


def text_time(micros: int | None) -> str | None:
    return None if micros is None else format_time(Micros(micros))


def csv_text(value: object) -> str:
    """A value as the CSV has it, before the apostrophes."""
    if value is None:
        return ""
    return {True: "true", False: "false"}[value] if isinstance(value, bool) else str(value)
