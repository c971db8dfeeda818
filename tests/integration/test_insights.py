"""`insights` on a broker and a worker: the routes answer what the swarm's own service answered."""

import json
import re
from base64 import b64encode
from collections import Counter
from html import unescape
from pathlib import Path
from typing import Any
from urllib.parse import quote

from aiokafka import AIOKafkaProducer

from learner_worker.brokers import Broker
from learner_worker.client import LearnerClient
from learner_worker.contract.times import LAST_MICROS
from learner_worker.contract.topics import TopicNames, Topics
from learner_worker.errors import RecordError
from learner_worker.kafka.records import Unreadable, dead_letter
from tests.support import advice_model, model, seed_routes
from tests.support.advice_model import Answer
from tests.support.html_pages import Page
from tests.support.insights import EVERYWHERE, InsightsProcess, running_insights
from tests.support.openapi import require_fit
from tests.support.workers import create_topics, publish, running_worker, until

STRANGE = [
    *("a/b", "a%2Fb", "..", "\u202eevil", 'quote"\\', "x" * 256, "</title></textarea>", "]]><!--"),
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    '"><svg onload=alert(1)>',
    "javascript:alert(1)",
    "{{ 7 * 7 }}{% raw %}",
    "&lt;b&gt;",
    "' autofocus onfocus='alert(1)",
]
"""Ids, and descriptions of the same text, that must stay text."""
_TASK = re.compile(r'<th scope="row"[^>]*><a[^>]*><bdi>(.*?)</bdi>')
SESAME = "a token: 'ö'"


async def test_the_routes_answer_as_the_swarms_own_did(broker: Broker, prefix: str, tmp_path: Path) -> None:
    """Every field of every agent, after more events, after a restart; unknown agents, pages, the document."""
    rows = seed_routes.history(3, 60, STRANGE)
    names = await create_topics(broker.bootstrap_servers, prefix, advice_log=True)
    await _strange_dead_letters(broker.bootstrap_servers, names)
    logging = ("--advice-log",)
    async with running_worker(broker.bootstrap_servers, prefix, tmp_path / "state", flags=logging) as worker:
        first = [row for row in rows if row.task_id < "task-3"]
        await publish(broker.bootstrap_servers, names, seed_routes.events_of(first))
        log = tmp_path / "insights.log"
        async with running_insights(broker.bootstrap_servers, prefix, log) as insights:
            await insights.ready()
            await publish(broker.bootstrap_servers, names, seed_routes.events_of(rows))
            await _all_agents_equal(insights, rows)
            for agent in {row.agent_id for row in rows}:
                await _agent_equals(insights, rows, agent)
            await _unknown_agents_have_nothing(insights)
            await _pages_and_orders(insights)
            await _answers_fit_the_document(insights)
            await _what_advice_came_to_is_shown(insights, broker.bootstrap_servers, prefix, rows)
            await _strangers_texts_stay_texts(insights, rows)
            await _the_learner_is_asked(insights, rows)
            await _auctions_are_shown(insights, rows)
            await _the_workers_are_shown(insights, names)
            await _nothing_is_written_unasked(insights)
            assert await insights.stop() == 0
        where = ("--http-host", EVERYWHERE, "--worker-url", worker.logged("http.listening")[0]["url"])
        flags = ("--allow-writes", "--hide-descriptions", "--topic-advice", "none-such", *where)
        environment = {"LEARNER_INSIGHTS_TOKEN": SESAME}
        async with running_insights(
            broker.bootstrap_servers, prefix, log, *flags, environment=environment
        ) as again:
            await again.ready()
            await _only_with_the_token(again)
            again.session.headers.update(bearer(SESAME))
            await _all_agents_equal(again, rows)
            await _agent_equals(again, rows, "much-failing")
            await _descriptions_are_hidden(again)
            await _advice_is_not_recorded(again)
            await _a_failed_task_counts(again)
            await _the_workers_say_how_they_are(again)


async def _all_agents_equal(insights: InsightsProcess, rows: list[seed_routes.Row]) -> None:
    expected = seed_routes.insights(rows)
    found: dict[str, Any] = {}

    async def equal() -> bool:
        found.clear()
        found.update(await insights.json("/swarm/insights"))
        return bool(found == expected)

    try:
        await until(equal, "the agents are the seed's", seconds=90)
    except AssertionError:
        assert found == expected
        raise
    negative = [word for word in seed_routes.learned_keywords(rows, "much-failing") if word["net"] < 0]
    assert len(negative) > 190


async def _agent_equals(insights: InsightsProcess, rows: list[seed_routes.Row], agent: str) -> None:
    answer = {} if agent == ".." else await insights.agent(agent)  # which a client takes out of an address
    if answer:
        assert answer.pop("top_keywords") == answer["learned_keywords"][:10]
        assert answer == seed_routes.agent_insights(rows, agent)


async def _unknown_agents_have_nothing(insights: InsightsProcess) -> None:
    for stranger in ("nobody", "x" * 300, "\x00", "агент"):
        expected = {**seed_routes.agent_insights([], stranger), "top_keywords": []}
        assert await insights.agent(stranger) == expected


async def _pages_and_orders(insights: InsightsProcess) -> None:
    """Pages of any size, one after the other, are the whole, in the order that was asked for."""
    whole = (await insights.json("/swarm/insights"))["agents"]
    assert list(whole) == sorted(whole)
    for sort in ("agent_id", "total_bids", "-win_rate", "-avg_winning_bid"):
        ids: list[str] = []
        after = ""
        while True:
            page = await insights.json(f"/swarm/insights?sort={sort}&limit=4{after}")
            ids += page["agents"]
            if "next" not in page:
                break
            after = f"&after={quote(page['next'], safe='')}"
        name = sort.removeprefix("-")
        by_name = (
            sorted(whole) if name == "agent_id" else sorted(sorted(whole), key=lambda one: whole[one][name])
        )
        assert ids == (by_name[::-1] if sort.startswith("-") else by_name)
    begun = (await insights.json("/swarm/insights?prefix=agent-&sort=-total_bids&limit=100"))["agents"]
    assert begun == {agent: whole[agent] for agent in whole if agent.startswith("agent-")}
    for wrong in ("limit=0", "limit=x", "limit=", "sort=age", "after=", "sort=win_rate&after=nobody"):
        status, body = await insights.get(f"/swarm/insights?{wrong}")
        assert (status, list(json.loads(body))) == (400, ["error"])


async def _strangers_texts_stay_texts(insights: InsightsProcess, rows: list[seed_routes.Row]) -> None:
    """On every page: only the templates' elements; ids and descriptions are shown as they are."""
    harmless = await _page(insights, "/agent?id=agent-0")
    listed = await _page(insights, "/")
    assert sorted(listed.isolated) == sorted({row.agent_id for row in rows})
    for agent in STRANGE:
        page = await _page(insights, f"/agent?id={quote(agent, safe='')}")
        assert page.isolated[0] == agent
        assert page.isolated[-1] == (agent if len(agent) < 160 else f"{agent[:157]}...")
        assert page.elements.keys() <= harmless.elements.keys()
        found = await _page(insights, f"/?prefix={quote(agent, safe='')}&sort=-win_rate")
        assert agent in found.isolated
    typed = {"description": "</textarea><script>alert(1)</script>", "base": "<b>", "cost": ""}
    asked = Page(await insights.post_form("/agent?id=%3Cb%3E", typed))
    assert (asked.wrong, asked.elements["script"]) == ([], 1)


async def _page(insights: InsightsProcess, path: str) -> Page:
    status, body = await insights.get(path)
    assert status == 200, path
    page = Page(body)
    assert page.wrong == [], path
    return page


async def _the_learner_is_asked(insights: InsightsProcess, rows: list[seed_routes.Row]) -> None:
    """The answer is the model's, with its reasons and what every other strategy would say."""
    metrics = model.metrics(model.outcomes(seed_routes.events_of(rows)))["much-failing"]
    expected = model.classic(metrics, "wordab, please", 1_000)
    body = await insights.post_form(
        "/agent?id=much-failing", {"description": "wordab, please", "base": "1000", "cost": ""}
    )
    assert f"{expected.suggested_bid_sats:,} sats</strong> by classic" in body
    assert f"won {metrics.auctions_won} of {metrics.total_bids} auctions" in body
    assert "expected-profit" in body
    assert "not searched" not in body
    assert "Another base, up to 500 sats away" in body
    assert "says the same" in body
    assert "says otherwise" not in body


async def _what_advice_came_to_is_shown(
    insights: InsightsProcess, servers: str, prefix: str, rows: list[seed_routes.Row]
) -> None:
    """Answers for tasks that have ended, and for an unknown one: league and regret are the model's."""
    own = [row for row in rows if row.agent_id == "agent-0"]
    answers = []
    async with LearnerClient(servers, topics=Topics(prefix=prefix), timeout_seconds=30) as learner:
        for number, task_id in enumerate([*(row.task_id for row in own), "none-such"], 1):
            reply = await learner.suggest_bid(
                "agent-0", description="wordaa", base_bid_sats=number, task_id=task_id
            )
            suggested = reply.suggested_bid_sats
            answers.append(Answer(task_id, "agent-0", LAST_MICROS, number, suggested, reply.strategy))
    outcomes = model.outcomes(seed_routes.events_of(rows))
    [league] = advice_model.league("agent-0", answers, outcomes, paid_for_wins=False).values()
    regret = sum(advice_model.regret("agent-0", answers, outcomes).values(), Counter[str]())
    shown = (
        f"Of its newest {len(answers)} answers",
        _cells(league, "advised", "ended", "bid", "followed", "won", "done", "failed", "earned_sats"),
        _cells(regret, "auctions", "won", "left_sats", "missed", "missed_sats"),
    )

    async def are_shown() -> bool:
        page = await _page(insights, "/agent?id=agent-0")
        return all(part in page.text for part in shown)

    await until(are_shown, f"the page shows {shown}")


def _cells(counts: Counter[str], *names: str) -> str:
    """Figures beside each other in a table."""
    return "".join(f'<td class="number">{counts[name]:,}</td>' for name in names)


async def _advice_is_not_recorded(insights: InsightsProcess) -> None:
    """Without the log's topic, its setting is named."""

    async def said() -> bool:
        return "<code>--advice-log</code>" in (await _page(insights, "/agent?id=agent-0")).text

    await until(said, "the setting that records advice is named")


async def _auctions_are_shown(insights: InsightsProcess, rows: list[seed_routes.Row]) -> None:
    """Every task is listed once, on pages one after the other, and a task's page has everyone who bid."""
    tasks = {row.task_id for row in rows}
    listed: list[str] = []
    path: str | None = "/auctions"
    while path is not None:
        _, body = await insights.get(path)
        listed += [unescape(task) for task in _TASK.findall(body)]
        found = re.search(r'rel="next" href="([^"]*)"', body)
        path = None if found is None else unescape(found[1])
    assert (len(listed), set(listed)) == (len(tasks), tasks)
    for task in ("task-0", "task-1", "failing-0-0"):
        page = await _page(insights, f"/auction?id={task}")
        assert {row.agent_id for row in rows if row.task_id == task} <= set(page.isolated)


async def _strange_dead_letters(servers: str, names: TopicNames) -> None:
    """Dead letters as somebody may write them, and an event of which the worker makes one."""
    async with AIOKafkaProducer(bootstrap_servers=servers) as producer:
        for text in STRANGE:
            original = Unreadable(text, 1, 2, 3, None, b"v")
            forged = dead_letter(original, names.dead_letters, RecordError(text, text))
            await producer.send_and_wait(forged.topic, forged.value, headers=list(forged.headers))
        await producer.send_and_wait(names.bid_placed, b"{}")


async def _the_workers_are_shown(insights: InsightsProcess, names: TopicNames) -> None:
    """The member, which shards it owns, dead letters as text, and what doctor finds."""

    async def shown() -> Page | None:
        page = await _page(insights, "/workers")
        return page if any(text.startswith(f"{names.bid_placed}/") for text in page.isolated) else None

    page = await until(shown, "the dead letters of the worker are shown")
    assert {text for text in STRANGE if len(text) < 250} - set(page.isolated) == set()
    assert "0, 1, 2, 3" in page.text
    assert page.text.count("<td>not asked</td>") == 4
    assert "the topics are as recorded: 4 shards" in page.text
    assert "state folder" not in page.text


async def _the_workers_say_how_they_are(insights: InsightsProcess) -> None:
    """Asked by their HTTP: ready, and each shard's state."""

    async def shown() -> Page | None:
        page = await _page(insights, "/workers")
        return page if page.text.count("<td>running</td>") == 4 else None

    page = await until(shown, "the states of the shards are shown")
    assert '<span class="word good">ready</span>' in page.text
    assert "not asked" not in page.text.lower()


async def _nothing_is_written_unasked(insights: InsightsProcess) -> None:
    async with insights.session.post(f"{insights.url}/swarm/tasks/t/fail", json={"agent_id": "a"}) as answer:
        assert answer.status == 403


def bearer(token: str) -> dict[str, str]:
    """The header of a program."""
    return {"Authorization": f"Bearer {token}"}


async def _only_with_the_token(insights: InsightsProcess) -> None:
    """Every route but the probes'; what carries the policy for browsers."""
    for path in (
        "/",
        "/agent?id=a",
        "/auctions",
        "/auction?id=t",
        "/workers",
        "/swarm/insights",
        "/openapi.json",
        "/live",
        "/static/live.js",
    ):
        assert (await insights.get(path))[0] == 401, path
        assert (await insights.get(path, bearer("another")))[0] == 401, path
    for path in ("/healthz", "/readyz"):
        assert (await insights.get(path))[0] == 200
    basic = f"Basic {b64encode(f'anybody:{SESAME}'.encode()).decode()}"
    async with insights.session.get(insights.url, headers={"Authorization": basic}) as answer:
        assert answer.status == 200
        assert answer.headers["Content-Security-Policy"].startswith("default-src 'self';")


async def _descriptions_are_hidden(insights: InsightsProcess) -> None:
    _, body = await insights.get("/agent?id=much-failing")
    assert "Newest outcomes" in body
    assert "please word" not in body


async def _a_failed_task_counts(insights: InsightsProcess) -> None:
    """A report of a failed task is an event like any other: the winner has one completed task less."""
    before = await insights.agent("a/b")
    document = await insights.json("/openapi.json")
    url = f"{insights.url}/swarm/tasks/strange-{STRANGE.index('a/b')}/fail"
    for body, expected in (
        ({"json": {"agent_id": "a/b", "reason": "late"}}, 200),
        ({"json": {"agent_id": ""}}, 400),
        ({"json": []}, 400),
        ({"data": {"agent_id": "a/b"}}, 415),
    ):
        async with insights.session.post(url, **body) as answer:
            text = await answer.text()
            assert answer.status == expected, text
            require_fit(document, "post", "/swarm/tasks/{task_id}/fail", answer.status, text)

    async def counted() -> bool:
        after = await insights.agent("a/b")
        return bool((after["tasks_completed"], after["tasks_failed"]) == (0, 1))

    assert (before["tasks_completed"], before["tasks_failed"]) == (1, 0)
    await until(counted, "the failure counts")


async def _answers_fit_the_document(insights: InsightsProcess) -> None:
    """Every route that reads, once all is read, and when it is asked for nonsense."""
    document = await insights.json("/openapi.json")
    for path, address, expected in (
        ("/swarm/insights", "", 200),
        ("/swarm/insights", "?limit=2", 200),
        ("/swarm/insights", "?limit=x", 400),
        ("/swarm/insights/{agent_id}", "much-failing", 200),
        ("/swarm/insights/{agent_id}", "nobody", 200),
        ("/openapi.json", "", 200),
        ("/healthz", "", 200),
        ("/readyz", "", 200),
    ):
        status, body = await insights.get(path.removesuffix("{agent_id}") + address)
        assert status == expected, path
        require_fit(document, "get", path, status, body)
