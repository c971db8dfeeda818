"""A real Prometheus scrapes workers under load and a forwarder: every query has data."""

import asyncio
import contextlib
import itertools
import json
import math
import sys
import urllib.parse
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import yaml

from learner_worker import LearnerClient, Topics
from learner_worker.brokers import BrokerKind
from learner_worker.brokers.probing import free_ports
from tests.conftest import BrokerPool
from tests.support.forwarder import create_agent_topic, running_forwarder
from tests.support.monitoring.alerts import ALERTS
from tests.support.monitoring.dashboard import queries
from tests.support.monitoring.files import RULES
from tests.support.prometheus import required
from tests.support.swarm import swarm_history
from tests.support.tokens import secret_file
from tests.support.workers import WorkerProcess, create_topics, http_get, publish, running_worker, until

VARIABLES: Final = {"$job": ".*", "$instance": ".*", "$__rate_interval": "20s", "$__range": "1m"}
PUBLISH_SECONDS: Final = 0.5
SERIES_SECONDS: Final = 120.0
BEGINNING: Final = ("http.listening", "worker.starting", "worker.started", "worker.ready")


@contextlib.asynccontextmanager
async def scraping(folder: Path, workers: Sequence[WorkerProcess]) -> AsyncIterator[str]:
    """A Prometheus that scrapes workers all the time; its address."""
    program = required("prometheus")
    urls = [worker.logged("http.listening")[0]["url"] for worker in workers]
    config = {
        "global": {"scrape_interval": "2s", "evaluation_interval": "2s"},
        "rule_files": [str(RULES)],
        "scrape_configs": [
            {
                "job_name": "learner",
                "static_configs": [{"targets": [url.removeprefix("http://") for url in urls]}],
            }
        ],
    }
    (folder / "prometheus.yaml").write_text(yaml.safe_dump(config))
    [port] = free_ports(1)
    with (folder / "prometheus.log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            program,
            f"--config.file={folder / 'prometheus.yaml'}",
            f"--storage.tsdb.path={folder / 'data'}",
            f"--web.listen-address=127.0.0.1:{port}",
            stdout=log,
            stderr=log,
        )
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        await process.wait()


@contextlib.asynccontextmanager
async def load(servers: str, prefix: str) -> AsyncIterator[None]:
    """An agent that asks again and again, and a swarm that publishes events."""

    async def ask(client: LearnerClient) -> None:
        while True:
            await client.suggest_bid_or_base("agent-1", description="parse", base_bid_sats=100)

    async def publish_events() -> None:
        for seed in itertools.count():
            await publish(servers, Topics(prefix=prefix).named(), swarm_history(seed, 20))
            await asyncio.sleep(PUBLISH_SECONDS)

    async with LearnerClient(servers, topics=Topics(prefix=prefix), timeout_seconds=10) as client:
        tasks = [asyncio.create_task(ask(client)), asyncio.create_task(publish_events())]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()


async def answered(prometheus: str, query: str) -> list[float]:
    """The values that a query has now; a missing and an unknown value are left out."""
    for name, value in VARIABLES.items():
        query = query.replace(name, value)
    url = f"{prometheus}/api/v1/query?{urllib.parse.urlencode({'query': query})}"
    status, body = await asyncio.to_thread(http_get, url)
    assert status in {0, 200, 503}, f"{query}: {body}"
    found = json.loads(body)["data"]["result"] if status == 200 else []
    values = [float(each["value"][1]) for each in found]
    return [value for value in values if not math.isnan(value)]


async def all_answered(prometheus: str) -> Mapping[tuple[str, str], list[float]]:
    """The values of every query of a panel or a rule, as soon as it has any."""
    wanted = [*queries(), *((alert.name, alert.query) for alert in ALERTS)]
    found: dict[tuple[str, str], list[float]] = {}

    async def all_found() -> bool:
        for place in wanted:
            found[place] = await answered(prometheus, place[1]) or found.get(place, [])
        return all(found.values())

    try:
        await until(all_found, "every query has data", seconds=SERIES_SECONDS)
        await all_found()  # once more, with more samples to calculate from
    except AssertionError as error:
        raise AssertionError(f"no data: {[place for place in wanted if not found[place]]}") from error
    return found


def table(found: Mapping[tuple[str, str], Sequence[float]]) -> str:
    """Panel or alert, query, and what it returned."""
    lines = [
        f"| {place} | `{query}` | {len(values)} series, {min(values):.4g} to {max(values):.4g} |"
        for (place, query), values in found.items()
    ]
    return "\n".join(["| panel or alert | query | data |", "|---|---|---|", *lines])


async def rules_of(prometheus: str) -> list[dict[str, Any]]:
    """The rules as Prometheus has evaluated them."""
    _, body = await asyncio.to_thread(http_get, f"{prometheus}/api/v1/rules")
    return [rule for group in json.loads(body)["data"]["groups"] for rule in group["rules"]]


async def test_every_panel_and_every_rule_has_data_from_workers_under_load(
    broker_pool: BrokerPool, broker_kinds: frozenset[BrokerKind], prefix: str, tmp_path: Path
) -> None:
    """Two replicas that follow each other, and a forwarder; the table of what each query returned."""
    required("prometheus")
    kind = BrokerKind.EMBEDDED if BrokerKind.EMBEDDED in broker_kinds else min(broker_kinds)
    servers = broker_pool.broker(kind).bootstrap_servers
    await create_topics(servers, prefix, partitions=2, advice_log=True)
    own = f"{prefix}suggest-bid-requests.ann"
    await create_agent_topic(servers, own)
    flags = ("--agent-topic", f"{own}=ann", "--identity-secret-file", str(secret_file(tmp_path)))
    settings = {"--standby-replicas": "1", "--advice-log": "true"}
    async with (
        running_worker(servers, prefix, tmp_path / "one", settings=settings) as one,
        running_worker(servers, prefix, tmp_path / "two", settings=settings) as two,
        running_forwarder(servers, prefix, tmp_path, *flags) as forwarder,
        scraping(tmp_path, [one, two, forwarder]) as prometheus,
        load(servers, prefix),
    ):
        found = await all_answered(prometheus)
        rules = await rules_of(prometheus)
        assert (await one.stop(), await two.stop(), await forwarder.stop()) == (0, 0, 0)
        assert [line["event"] for line in one.log if line["event"] in BEGINNING] == list(BEGINNING)

    sys.stdout.write(table(found))
    assert {rule["name"]: rule["health"] for rule in rules} == {alert.name: "ok" for alert in ALERTS}
    assert [rule["name"] for rule in rules if rule["state"] == "firing"] == []
