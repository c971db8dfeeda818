"""`make interop`: other frameworks' own clients against a real worker on real Apache Kafka, as a table."""

import argparse
import asyncio
import contextlib
import re
import sys
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import NewTopic
from rich.console import Console

from learner_worker.brokers import Broker, BrokerKind, KafkaCluster, description
from learner_worker.contract.topics import TopicNames
from tests.integration.test_whole_way import metrics_equal_the_model
from tests.programs.interop import publishing, samples, tables
from tests.programs.interop.clients import CLIENTS, PYTHON, Client
from tests.programs.interop.judging import Row, judge
from tests.programs.interop.projects import Project, ProjectError, missing_tools, no_kafka, run
from tests.programs.interop.questions import HISTORY, UNLISTED_TOPIC, Tokens, plan
from tests.support.tokens import secret_file, valid_token
from tests.support.workers import WorkerProcess, administrator, create_topics, publish, running_worker

PARTITIONS = 12
REPLY_PARTITIONS = 4
CLIENT_SECONDS = 180.0
PAGE = Path("docs/interop.md")
_LOG_WIDTH = 160
"""Of the table where nobody's terminal says how wide it may be."""
_COUNT = re.compile(r'learner_requests_total\{code="(\w+)"\} ([\d.]+)')


@dataclass(frozen=True, slots=True)
class Site:
    """Kafka, its topics, and the worker that answers."""

    broker: Broker
    names: TopicNames
    worker: WorkerProcess
    folder: Path
    tokens: Tokens | None = None
    """Only with these does the worker answer."""

    @property
    def reply_topics(self) -> tuple[str, ...]:
        """Every topic that may carry a reply, and the one that must not."""
        return (self.names.replies, *_extra_topics(self.names))

    async def counted(self) -> Counter[str]:
        """The worker's requests so far, by code."""
        _, text = await self.worker.get("/metrics")
        return Counter({code: int(float(count)) for code, count in _COUNT.findall(text)})

    async def written(self) -> int:
        """The records on all reply topics so far."""
        async with AIOKafkaConsumer(bootstrap_servers=self.broker.bootstrap_servers) as consumer:
            partitions = [
                TopicPartition(topic, number)
                for topic in self.reply_topics
                for number in range(PARTITIONS if topic == self.names.replies else REPLY_PARTITIONS)
            ]
            return sum((await consumer.end_offsets(partitions)).values())


def _extra_topics(names: TopicNames) -> tuple[str, ...]:
    """Reply topics that an operator makes for the frameworks, and one that must stay empty."""
    own = tuple(client.reply_topic(names) for client in CLIENTS)
    return (
        *own,
        *samples.REPLY_TOPICS,
        f"{names.requests}.reply",
        f"{names.requests}-replies",
        UNLISTED_TOPIC,
    )


async def _create_reply_topics(bootstrap_servers: str, topics: Sequence[str]) -> None:
    async with administrator(bootstrap_servers) as admin:
        await admin.create_topics([NewTopic(topic, REPLY_PARTITIONS, 1) for topic in topics])


@contextlib.asynccontextmanager
async def _site(
    broker: Broker, folder: Path, prefix: str = "", tokens: Tokens | None = None
) -> AsyncIterator[Site]:
    names = await create_topics(broker.bootstrap_servers, prefix, partitions=PARTITIONS)
    await _create_reply_topics(broker.bootstrap_servers, _extra_topics(names))
    settings = {} if tokens is None else _requiring_identity(folder)
    state_dir = folder / f"{prefix}state"
    async with running_worker(broker.bootstrap_servers, prefix, state_dir, settings=settings) as worker:
        await publish(broker.bootstrap_servers, names, HISTORY)
        await metrics_equal_the_model(broker, names, HISTORY)
        yield Site(broker, names, worker, folder, tokens)


def _requiring_identity(folder: Path) -> dict[str, str]:
    return {"--identity": "require", "--identity-secret-file": str(secret_file(folder))}


def _tokens() -> Tokens:
    """For every agent, as a service has one that asks for all; and for an agent that nobody asks for."""
    return Tokens(valid_token(sub=None, agent_prefix="*"), valid_token(sub="another"))


class Run:
    """One run: what could not be installed, and the rows so far."""

    def __init__(self, console: Console, keys: Sequence[str]) -> None:
        self._console = console
        self._keys = keys
        self._broken: dict[Path, str] = {}
        self.rows: list[Row] = []

    def _wants(self, key: str) -> bool:
        return not self._keys or key in self._keys

    async def install(self) -> None:
        """Installs every project that is needed; what fails is told in its rows."""
        wanted = [client.project for client in CLIENTS if self._wants(client.key)]
        wanted += [PYTHON] if self._wants(publishing.KEY) else []
        wanted += [sample.project for sample in samples.SAMPLES if self._wants(samples.KEY)]
        for project in {project.folder: project for project in wanted}.values():
            await self._install(project)

    async def _install(self, project: Project) -> None:
        self._say(f"installing {project.folder.relative_to(Path.cwd())}")
        if absent := missing_tools(project.tools):
            self._broken[project.folder] = absent
            return
        try:
            await project.install()
        except ProjectError as error:
            self._broken[project.folder] = str(error)

    async def everything(self, broker: Broker, folder: Path) -> None:
        """All rows, in their order."""
        async with _site(broker, folder) as site:
            for client in CLIENTS:
                if self._wants(client.key):
                    self._add(await self._ask(site, client))
            if self._wants(samples.KEY):
                await self._run_samples(site)
        if proving := [client for client in CLIENTS if client.sends_tokens and self._wants(client.key)]:
            async with _site(broker, folder, "identity-", _tokens()) as site:
                for client in proving:
                    self._add(await self._ask(site, client))
        if self._wants(publishing.KEY):
            self._add(await self._publish(broker, folder))

    async def _ask(self, site: Site, client: Client) -> Row:
        title = client.title if site.tokens is None else f"{client.title}, with tokens"
        self._say(f"asking by {title}")
        path = site.folder / f"{client.key}.json"
        reply_topic = client.reply_topic(site.names)
        path.write_text(
            plan(site.broker.bootstrap_servers, site.names, reply_topic, site.tokens), encoding="utf-8"
        )
        counted, written = await site.counted(), await site.written()
        try:
            self._require(client.project)
            command = client.project.command(client.program, str(path), *client.arguments)
            output = await run(command, client.project.folder, seconds=CLIENT_SECONDS)
        except ProjectError as error:
            return _not_run(title, error)
        counted = await site.counted() - counted
        written = await site.written() - written
        return judge(
            title,
            output,
            counted,
            written,
            is_misplaced=client.is_misplaced,
            with_tokens=site.tokens is not None,
        )

    async def _run_samples(self, site: Site) -> None:
        """Each as it stands: the swarm publishes, the agents ask; once more where nobody answers."""
        output = samples.SampleOutput()
        for sample in samples.SAMPLES:
            self._say(f"running {sample.title}")
            await self._guarded(sample, output, samples.with_learner(sample, site.broker, site.names, output))
        if code := await site.worker.stop():
            self._add(Row("the worker", "", "", "", "", (f"ended with {code}",)))
        for sample in samples.SAMPLES:
            if sample.title not in output.failed and sample.asks:
                self._say(f"running {sample.title}, no learner there")
                await self._guarded(sample, output, samples.without_learner(sample, site.broker, output))
        for row in samples.rows(output):
            self._add(row)

    async def _guarded(
        self, sample: samples.Sample, output: samples.SampleOutput, running: samples.Running
    ) -> None:
        try:
            self._require(sample.project)
            await running
        except (ProjectError, AssertionError) as error:
            output.failed[sample.title] = str(error)
        finally:
            running.close()

    async def _publish(self, broker: Broker, folder: Path) -> Row:
        self._say(publishing.TITLE)
        try:
            self._require(PYTHON)
            return await publishing.check(broker, folder)
        except ProjectError as error:
            return _not_run(publishing.TITLE, error)

    def _require(self, project: Project) -> None:
        if reason := self._broken.get(project.folder):
            raise ProjectError(reason)

    def _add(self, row: Row) -> None:
        self.rows.append(row)

    def _say(self, sentence: str) -> None:
        self._console.print(f"… {sentence}", style="dim", highlight=False, markup=False)


def _not_run(title: str, error: ProjectError) -> Row:
    return Row(title, "", "", "", "", (f"did not run: {error}",))


def main() -> int:
    """Runs what was named, or everything; 1 if anything fails."""
    keys = [*(client.key for client in CLIENTS), samples.KEY, publishing.KEY]
    parser = argparse.ArgumentParser(prog="make interop ARGS=...", description=__doc__)
    parser.add_argument(
        "keys", nargs="*", metavar="client", help=f"some of {', '.join(keys)}; all by default"
    )
    parser.add_argument("--write", action="store_true", help=f"put the table into {PAGE}")
    options = parser.parse_args()
    if unknown := set(options.keys) - set(keys):
        parser.error(f"{', '.join(sorted(unknown))}: none of {', '.join(keys)}")
    console = Console(width=None if sys.stdout.isatty() else _LOG_WIDTH)
    if reason := no_kafka():
        console.print(f"Nothing can be asked here. {reason}", markup=False)
        return 1
    running = Run(console, options.keys)
    asyncio.run(running.install())
    with (
        tempfile.TemporaryDirectory(prefix="learner-interop-") as name,
        KafkaCluster(Path(name, "kafka")) as kafka,
    ):
        words = description(BrokerKind.KAFKA)
        console.print(words)
        broker = Broker(BrokerKind.KAFKA, kafka.bootstrap_servers, words)
        asyncio.run(running.everything(broker, Path(name)))
    tables.show(running.rows, console)
    if options.write:
        tables.write(running.rows, PAGE)
    return 0 if running.rows and all(row.is_ok for row in running.rows) else 1


if __name__ == "__main__":
    sys.exit(main())
