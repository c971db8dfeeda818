"""`insights` on a broker and a worker: the routes answer what the swarm's own service answered."""

import json
from pathlib import Path
from typing import Any
from urllib.parse import quote

from jsonschema import Draft202012Validator

from learner_worker.brokers import Broker
from tests.support import seed_routes
from tests.support.insights import InsightsProcess, running_insights
from tests.support.workers import create_topics, publish, running_worker, until

STRANGE = ["a/b", "a%2Fb", "..", "<script>alert(1)</script>", "\u202eevil", 'quote"\\', "x" * 256]


async def test_the_routes_answer_as_the_swarms_own_did(broker: Broker, prefix: str, tmp_path: Path) -> None:
    """Every field of every agent, after more events, after a restart; unknown agents, pages, the document."""
    rows = seed_routes.history(3, 60, STRANGE)
    names = await create_topics(broker.bootstrap_servers, prefix)
    async with running_worker(broker.bootstrap_servers, prefix, tmp_path / "state"):
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
            assert await insights.stop() == 0
        async with running_insights(broker.bootstrap_servers, prefix, log) as again:
            await again.ready()
            await _all_agents_equal(again, rows)
            await _agent_equals(again, rows, "much-failing")


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


async def _answers_fit_the_document(insights: InsightsProcess) -> None:
    document = await insights.json("/openapi.json")
    for path, schema in (
        ("/swarm/insights", "Agents"),
        ("/swarm/insights?limit=2", "Agents"),
        ("/swarm/insights/much-failing", "OneAgent"),
        ("/swarm/insights/nobody", "OneAgent"),
    ):
        whole = {"$ref": f"#/components/schemas/{schema}", "components": document["components"]}
        Draft202012Validator(whole).validate(await insights.json(path))
