"""Insights' parts without a broker: the agents in memory, the facts by agent, an agent's history."""

import itertools
from collections.abc import Iterable, Sequence

import msgspec
import pytest
from aiohttp import ClientSession, web
from aiohttp.test_utils import TestServer

from learner_worker.client import LearnerClient
from learner_worker.contract.encode import KeywordTally, MetricsRecord, encode_metrics
from learner_worker.contract.facts import Bid, Close, Fact, ForgetMarker, Result, encode_fact, encode_marker
from learner_worker.contract.fields import AgentId, TaskId
from learner_worker.contract.times import Micros
from learner_worker.contract.topics import Topics
from learner_worker.domain.outcomes import Cutoff
from learner_worker.group.topology_view import Layout
from learner_worker.insights.agents import AgentDirectory, AgentQuery, figures_in
from learner_worker.insights.answers import agents_answer
from learner_worker.insights.api import InsightsApi
from learner_worker.insights.charts import course
from learner_worker.insights.facts import fact_store
from learner_worker.insights.history import agent_history
from learner_worker.insights.openapi import document
from learner_worker.insights.reader import SwarmReader
from learner_worker.insights.sending import Sending
from learner_worker.kafka.records import Record, Unreadable
from learner_worker.settings import Settings
from tests.support.openapi import require_fit, routes_of

ECHO, MACE = AgentId("echo"), AgentId("mace")


def keyword(number: int, net: int) -> KeywordTally:
    """A keyword with that net."""
    return KeywordTally(f"word{number}", max(net, 0), max(-net, 0), net)


def metrics_record(agent: str, *, bids: int = 1, won: int = 0) -> Record:
    """A record of the metrics topic."""
    keywords = [keyword(number, 50 - number) for number in range(12)]
    value = MetricsRecord(
        *(bids, won, 0, 0, won / max(bids, 1), 0.0, 0.0),
        agent_id=AgentId(agent),
        learned_keywords=keywords,
        top_keywords=keywords[:10],
        as_of=None,
        outcome_offset=7,
    )
    return Unreadable("metrics", 0, 0, key=agent.encode(), value=encode_metrics(value))


def directory_of(*records: Record) -> AgentDirectory:
    """The agents after some records, on a clock on which every look is a second later."""
    directory = AgentDirectory(itertools.count().__next__)
    directory.take(records)
    return directory


def ids(directory: AgentDirectory, query: AgentQuery) -> Sequence[str]:
    """The ids that a query finds."""
    return directory.page(query).ids


def test_tombstones_and_agents_without_outcomes_are_gone_and_junk_is_nothing() -> None:
    """The last record of an agent decides."""
    directory = directory_of(
        *(metrics_record(name) for name in ("a", "b", "c")),
        metrics_record("a", bids=0),
        Unreadable("metrics", 0, 0, key=b"b"),
        Unreadable("metrics", 0, 0, key=b"c", value=b"junk"),
    )
    assert list(ids(directory, AgentQuery())) == ["c"]
    assert len(directory) == 1


def test_records_of_older_learners_show_their_strongest_keywords() -> None:
    """Without `top_keywords` the first of `learned_keywords` stand in."""
    value = msgspec.json.decode(metrics_record("a").value or b"")
    new = figures_in(msgspec.json.encode(value))
    del value["top_keywords"]
    assert figures_in(msgspec.json.encode(value)) == new
    assert new is not None
    assert [one.keyword for one in new.top_keywords] == [f"word{number}" for number in range(10)]


@pytest.mark.parametrize("after", ["", "b", "b1", "bb", "c", "zz"])
def test_the_agents_after_any_id_are_found_with_any_prefix(after: str) -> None:
    """An id need not exist to be passed; the answer is that of a scan."""
    names = ["a", "b", "b2", "ba", "bb", "c"]
    directory = directory_of(*map(metrics_record, names))
    for prefix in ("", "b", "bb", "d"):
        expected = [name for name in names if name.startswith(prefix) and name > after]
        given = AgentId(after) if after else None
        assert list(ids(directory, AgentQuery(prefix=prefix, after=given))) == expected


class ReadAgents(SwarmReader):
    """A reader whose agents are all read."""

    @property
    def has_agents(self) -> bool:
        return True


@pytest.mark.parametrize("count", [0, 1, 500, 501, 1_300])
async def test_an_answer_is_whole_however_many_agents_there_are(count: int) -> None:
    """In one piece or streamed: valid JSON, every agent once, `next` only if more follow."""
    names = [f"agent-{number:04}" for number in range(count)]
    async with fact_store() as facts:
        reader = ReadAgents(Settings(), Layout("cluster", 12, None, Topics().named()), facts)
        reader.agents.take([metrics_record(name, won=1) for name in names])
        app = web.Application()
        app.router.add_get("/", InsightsApi(reader, Sending(LearnerClient("localhost:1"), None)).agents)
        async with TestServer(app) as server, ClientSession() as session:
            for query, shown in (("", names), ("?limit=600", names[:600]), ("?prefix=agent-00", names[:100])):
                async with session.get(server.make_url(f"/{query}")) as answer:
                    found = await answer.json()
                assert list(found["agents"]) == shown
                assert ("next" in found) == (query == "?limit=600" and count > 600)


async def test_the_document_describes_every_route_and_its_answers_before_anything_is_read() -> None:
    """Each route is asked while Kafka is still to be read: what it answers stands in the document."""
    async with fact_store() as facts:
        reader = SwarmReader(Settings(), Layout("cluster", 12, None, Topics().named()), facts)
        routes = InsightsApi(reader, Sending(LearnerClient("localhost:1"), None)).routes()
        app = web.Application()
        app.add_routes(routes)
        statuses = {}
        async with TestServer(app) as server, ClientSession() as session:
            for method, path in sorted(routes_of(routes)):
                url = server.make_url(path.format(agent_id="a", task_id="t"))
                async with session.request(method, url) as answer:
                    require_fit(document(), method, path, answer.status, await answer.text())
                    statuses[path] = answer.status
    described = {(method, path) for path, methods in document()["paths"].items() for method in methods}
    assert described == routes_of(routes)
    assert statuses == {
        "/healthz": 200,
        "/openapi.json": 200,
        "/readyz": 503,
        "/swarm/insights": 503,
        "/swarm/insights/{agent_id}": 503,
        "/swarm/tasks/{task_id}/fail": 403,
    }


def test_agents_that_are_forgotten_meanwhile_are_left_out_of_an_answer() -> None:
    """Of some, of the first five hundred, of all: still valid JSON."""
    names = [f"agent-{number:04}" for number in range(1_200)]
    for gone in (range(3, 9), range(500), range(1_200)):
        directory = directory_of(*map(metrics_record, names))
        page = directory.page(AgentQuery())
        directory.take([Unreadable("metrics", 0, 0, key=names[number].encode()) for number in gone])
        left = msgspec.json.decode(b"".join(agents_answer(directory, page)))["agents"]
        assert list(left) == [name for number, name in enumerate(names) if number not in gone]


async def test_what_a_key_last_said_is_stored_whatever_the_batch() -> None:
    """Values and tombstones of one key in a batch, and in later ones; foreign keys are skipped."""
    records = [
        Unreadable("o", 0, offset, key=key, value=value)
        for offset, (key, value) in enumerate(
            [
                (fact_key(ECHO, "t1"), b"1"),
                (fact_key(ECHO, "t1"), None),
                (fact_key(ECHO, "t2"), None),
                (fact_key(ECHO, "t2"), b"2"),
                (fact_key(MACE, "t2"), b"mace"),
                (b"foreign", b"3"),
                (None, b"4"),
            ]
        )
    ]
    async with fact_store() as facts:
        await facts.take(records)
        assert (await facts.values_of(ECHO), await facts.values_of(MACE)) == ([b"2"], [b"mace"])
        await facts.take([Unreadable("o", 0, 9, key=fact_key(ECHO, "t2"))])
        assert await facts.values_of(ECHO) == []


def fact_key(agent: AgentId, task: str) -> bytes:
    """The key of a fact."""
    return encode_fact(Fact(TaskId(task), agent, Close(Micros(1))))[0]


def values(facts: Iterable[Fact | ForgetMarker]) -> list[bytes]:
    """The values of records."""
    return [encode_fact(one)[1] if isinstance(one, Fact) else encode_marker(one)[1] for one in facts]


HISTORY: tuple[Fact, ...] = (
    Fact(TaskId("t1"), ECHO, Close(Micros(10), ECHO, 5), Bid(Micros(1), 7, "parse invoices")),
    Fact(TaskId("t1"), ECHO, result=Result(Micros(20), succeeded=True)),
    Fact(TaskId("t1"), ECHO, result=Result(Micros(19), succeeded=False)),
    Fact(TaskId("t2"), ECHO, Close(Micros(30), MACE, 4), Bid(Micros(21), 6, "parse mail")),
    Fact(TaskId("t2"), ECHO, Close(Micros(31), ECHO, 6)),
    Fact(TaskId("t2"), ECHO, result=Result(Micros(40), succeeded=False)),
    Fact(TaskId("t3"), ECHO, result=Result(Micros(50), succeeded=True)),
)
"""A win with a result that flipped, a corrected close, and a result without an auction."""


def test_an_agents_history_does_not_depend_on_the_order_of_its_records() -> None:
    """A few hundred orders: the same metrics, keywords and outcomes, the newest first."""
    found = agent_history(values(HISTORY), None)
    assert (found.metrics.total_bids, found.metrics.auctions_won, found.metrics.avg_winning_bid_sats) == (
        2,
        2,
        5.5,
    )
    assert [(word.keyword, word.wins, word.failures, word.net) for word in found.keywords] == [
        ("invoices", 1, 0, 1),
        ("parse", 1, 1, 0),
        ("mail", 0, 1, -1),
    ]
    assert [outcome.task_id for outcome in found.outcomes] == ["t2", "t1"]
    for order in itertools.islice(itertools.permutations(values(HISTORY)), 0, None, 17):
        assert agent_history([b"junk", *order], None) == found


@pytest.mark.parametrize(
    ("marker", "cutoff", "left"),
    [
        (None, Cutoff(Micros(31), Micros(15)), ["t2"]),
        (ForgetMarker(ECHO, Micros(20)), None, ["t2"]),
        (ForgetMarker(ECHO, Micros(99)), Cutoff(Micros(31), Micros(15)), []),
    ],
)
def test_what_has_expired_or_is_forgotten_does_not_count(
    marker: ForgetMarker | None, cutoff: Cutoff | None, left: list[str]
) -> None:
    """A retention's cutoff, a forget marker, and the later of both."""
    records: list[Fact | ForgetMarker] = [*HISTORY, *([] if marker is None else [marker])]
    assert [outcome.task_id for outcome in agent_history(values(records), cutoff).outcomes] == left


def test_a_course_is_every_outcome_once_in_equal_stretches_oldest_first() -> None:
    """One auction in two is won lately, none at first; too few outcomes have no course."""
    facts = [
        Fact(
            TaskId(f"t{number}"),
            ECHO,
            Close(Micros(number), ECHO if number >= 50 and number % 2 else MACE),
            Bid(Micros(number), 1, ""),
            Result(Micros(number), succeeded=number % 4 == 1),
        )
        for number in range(90)
    ]
    stretches = course(agent_history(values(facts), None).outcomes)
    assert [stretch.bids for stretch in stretches] == [5] * 18
    assert (stretches[0], stretches[-1].won > 0) == ((5, 0.0, None), True)
    assert course(agent_history(values(facts[:9]), None).outcomes) == ()
