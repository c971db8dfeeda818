"""Every page in headless Chromium: dark, narrow, searched, asked, live, without scripts, with hostile ids."""

import asyncio
import shutil
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from urllib.parse import quote

import click

from learner_worker.brokers import BrokerKind, running_broker
from learner_worker.client import LearnerClient
from learner_worker.contract.topics import Topics
from tests.programs.bench.insights import preload_metrics
from tests.programs.browser.chromium import Tab, chromium_tab
from tests.support import seed_routes
from tests.support.insights import InsightsProcess, running_insights
from tests.support.workers import create_topics, publish, running_worker, until

MANY = 10_000
PAINTED_MS, LIVE_SECONDS = 1_000, 2.0
HOSTILE = ("<img src=x onerror=alert(1)>", '"><svg onload=alert(1)>', "</title><script>alert(1)</script>")
PICTURES = Path("docs/pictures")
ADVISED = "agent-3"
PAGES = ("/", f"/agent?id={ADVISED}", "/agent?id=nobody", "/auctions", "/auction?id=task-0", "/workers")
NARROW = 360  # pixels: of a small telephone
_ANOTHER = [seed_routes.Row("another", "agent-0", "wordaa", 5, won=True, succeeded=True)]
_ROWS = "document.querySelectorAll('tbody tr').length"
_FIRST = "document.querySelector('tbody th')?.textContent.trim()"
_PAINTED = "performance.getEntriesByName('first-contentful-paint')[0]?.startTime"
_AXE = """
axe.run().then(found => found.violations.filter(one => ['serious', 'critical'].includes(one.impact))
    .map(one => one.id + ': ' + one.nodes.map(node => node.html).slice(0, 2).join(' | ')))
"""


class Looking:
    """Looks at insights, and says what it saw."""

    def __init__(self, tab: Tab, insights: InsightsProcess, say: Callable[[str], None], axe: str) -> None:
        self.tab = tab
        self.insights = insights
        self.say = say
        self.axe = axe

    async def open(self, path: str) -> None:
        """Opens a page; the accessibility checker finds nothing serious on it."""
        await self.tab.open(self.insights.url + path)
        if self.axe:
            await self.tab.evaluate(f"{self.axe}; undefined")
            found = await self.tab.evaluate(_AXE)
            assert found == [], (path, found)

    async def agents(self, count: int) -> None:
        """Search and sort."""
        tab = self.tab
        await self.open("/")
        assert await tab.evaluate(_ROWS) == count
        await tab.evaluate(
            "document.querySelector('#prefix').value = 'agent-'; document.forms[0].requestSubmit()"
        )
        await tab.shows(f"location.search === '?prefix=agent-' && {_ROWS} === 8")
        await self.open("/")
        await tab.evaluate(
            "[...document.querySelectorAll('thead a')].find(a => a.textContent === 'Bids').click()"
        )
        await tab.shows(f"location.search === '?sort=-total_bids' && {_FIRST} === 'much-failing'")
        assert await tab.evaluate("document.querySelector('[aria-sort]').ariaSort") == "descending"
        self.say("search and sort: as they should")

    async def auctions(self) -> None:
        """From the list to an auction, and to an agent that bid in it."""
        await self.open("/auctions")
        await self.tab.evaluate("document.querySelector('[rel=next]').click()")
        await self.tab.shows(f"location.search.startsWith('?before=') && {_ROWS} === 25")
        await self.open("/auctions")
        await self.tab.evaluate(
            "document.querySelector('#id').value = 'task-0';document.forms[0].requestSubmit()"
        )
        await self.tab.shows(
            "location.href.endsWith('/auction?id=task-0') && !!document.querySelector('#why')"
        )
        await self.open("/auction?id=task-0")
        await self.tab.evaluate("document.querySelector('tbody a').click()")
        await self.tab.shows("location.pathname === '/agent'")
        self.say("auctions: listed in pages, found by task, linked with agents")

    async def looks(self) -> None:
        """Dark, and on a small screen, where only tables may be scrolled sideways."""
        for dark, width in ((True, None), (False, NARROW), (True, NARROW)):
            await self.tab.looks(dark=dark, width=width)
            for path in PAGES:
                await self.open(path)
                await self.fits()
        await self.tab.looks(dark=False, width=None)
        self.say(f"light and dark, wide and {NARROW} pixels narrow: as they should")

    async def fits(self) -> None:
        """The page is not wider than the screen, once the browser has laid it out for that."""
        await self.tab.shows("document.documentElement.scrollWidth <= innerWidth")

    async def advice(self) -> None:
        """The league and the regret of an agent that has asked."""
        await self.open(f"/agent?id={ADVISED}")
        await self.tab.shows(
            "!!document.querySelector('#advice + p + .scroll')?.innerText.includes('classic')"
        )
        assert await self.tab.evaluate("!!document.querySelector('#regret')")
        self.say("what advice came to: league and regret are shown")

    async def question(self) -> None:
        """Asks what an agent would be told."""
        await self.open("/agent?id=much-failing")
        await self.tab.evaluate(
            "description.value = 'wordab'; base.value = '1000';document.querySelector('.ask').requestSubmit()"
        )
        await self.tab.shows("document.querySelector('.answer')?.textContent.includes('by classic')")
        await self.tab.shows("document.querySelector('.answer').textContent.includes('says the same')")
        await self.tab.looks(dark=False, width=NARROW)
        await self.fits()
        await self.tab.looks(dark=False, width=None)
        self.say("what would it be told: answered, and what would move it, asked again")

    async def live(self, publish_more: Callable[[], Awaitable[None]], agent: str) -> None:
        """A new outcome appears by itself."""
        await self.open(f"/agent?id={agent}")
        await self.tab.shows("document.querySelector('#live-state')?.textContent === 'live'")
        before = await self.tab.evaluate("document.querySelector('.figures dd').textContent")
        began = time.perf_counter()
        await publish_more()
        await self.tab.shows(f"document.querySelector('.figures dd').textContent !== {before!r}")
        seconds = time.perf_counter() - began
        self.say(f"live: an event is shown after {seconds:.1f} s (wanted: {LIVE_SECONDS:g} s)")

    async def hostile(self) -> None:
        """Ids that are markup stay text."""
        for agent in HOSTILE:
            await self.open(f"/agent?id={quote(agent, safe='')}")
            assert await self.tab.evaluate("document.querySelector('h1').textContent") == agent
        self.say("hostile ids: shown as text, nothing ran")

    async def without_scripts(self) -> None:
        """Pages are complete without JavaScript."""
        await self.tab.tell("Emulation.setScriptExecutionDisabled", value=True)
        for path, text in (
            ("/", "much-failing"),
            ("/agent?id=much-failing", "Newest outcomes"),
            ("/auctions", "Those that have closed"),
            ("/auction?id=task-0", "the lowest first"),
            ("/workers", "0, 1"),
        ):
            await self.tab.tell("Page.navigate", url=self.insights.url + path)
            await self.tab.shows(f"document.body?.textContent.includes({text!r})")
        await self.tab.tell("Emulation.setScriptExecutionDisabled", value=False)
        self.say("without JavaScript: every page is complete")

    async def many(self) -> None:
        """Thousands of agents are painted at once, in pages."""
        await self.open("/?sort=-win_rate")
        await self.tab.shows(f"{_PAINTED} > 0")  # it is noted only after the paint
        painted = await self.tab.evaluate(_PAINTED)
        await self.tab.evaluate("document.querySelector('[rel=next]').click()")
        await self.tab.shows(f"location.search.includes('after=') && {_ROWS} === 50")
        self.say(f"{MANY:,} agents: first paint after {painted:.0f} ms (wanted: {PAINTED_MS})")

    def nothing_wrong(self) -> None:
        """No error in the console, nothing asked of anybody else."""
        others = [
            url for url in self.tab.requests if not url.startswith((self.insights.url, "about:", "data:"))
        ]
        assert (self.tab.errors, others) == ([], [])
        self.say(f"{len(self.tab.requests)} requests: none to another server, no error in the console")


@click.command()
@click.option("--chromium", default=shutil.which("chromium"), help="The browser's program.")
@click.option(
    "--axe", type=click.Path(exists=True, path_type=Path), help="axe.min.js: check accessibility, too."
)
@click.option(
    "--pictures", type=click.Path(path_type=Path), help=f"Write pictures there, such as {PICTURES}."
)
def main(chromium: str | None, axe: Path | None, pictures: Path | None) -> None:
    """Drive every page of insights, and fail at the first thing that is wrong."""
    if chromium is None:
        raise click.UsageError("there is no chromium on the PATH: install it, or name it with --chromium")
    with tempfile.TemporaryDirectory(prefix="learner-browser-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        with running_broker(BrokerKind.EMBEDDED, data_dir=folder / "broker") as broker:
            checker = "" if axe is None else axe.read_text()
            asyncio.run(_look(chromium, broker.bootstrap_servers, folder, checker, pictures))


async def _look(chromium: str, servers: str, folder: Path, axe: str, pictures: Path | None) -> None:
    rows = seed_routes.history(3, 60, HOSTILE)
    names = await create_topics(servers, "few-", advice_log=True)
    many = await create_topics(servers, "many-", partitions=12)
    await preload_metrics(servers, many.metrics, 10, MANY)
    await publish(servers, names, seed_routes.events_of(rows))
    async with AsyncExitStack() as stack:
        worker = await stack.enter_async_context(
            running_worker(servers, "few-", folder / "state", flags=["--advice-log"])
        )
        address = ("--worker-url", worker.logged("http.listening")[0]["url"])
        few = await stack.enter_async_context(running_insights(servers, "few-", folder / "few.log", *address))
        tab = await stack.enter_async_context(chromium_tab(chromium, folder / "profile"))
        looking = Looking(tab, few, click.echo, axe)
        count = len({row.agent_id for row in rows})
        await until(lambda: _has(few, count), "all agents are known")
        await _ask(servers, [row for row in rows if row.agent_id == ADVISED])
        await looking.agents(count)
        await looking.auctions()
        await looking.advice()
        await looking.looks()
        await looking.question()
        await looking.hostile()
        await looking.live(lambda: publish(servers, names, seed_routes.events_of(_ANOTHER)), "agent-0")
        if pictures is not None:
            await _take(looking, pictures)
        await looking.without_scripts()
        looking.nothing_wrong()
        looking.insights = await stack.enter_async_context(
            running_insights(servers, Topics(prefix="many-").prefix, folder / "many.log")
        )
        await looking.insights.ready()
        tab.requests.clear()
        await looking.many()
        looking.nothing_wrong()


async def _has(insights: InsightsProcess, count: int) -> bool:
    status, body = await insights.get("/swarm/insights")
    return status == 200 and body.count('"top_keywords"') == count


async def _ask(servers: str, rows: Sequence[seed_routes.Row]) -> None:
    """Asks for these tasks, as their bidders may have done."""
    async with LearnerClient(servers, topics=Topics(prefix="few-"), timeout_seconds=30) as learner:
        for row in rows:
            await learner.suggest_bid(
                row.agent_id,
                description=row.description,
                base_bid_sats=max(1, row.bid_sats),
                task_id=row.task_id,
            )


async def _take(looking: Looking, folder: Path) -> None:
    """Pictures for the documentation."""
    await asyncio.to_thread(folder.mkdir, parents=True, exist_ok=True)
    for name, path, part in (
        ("agents", "/?sort=-total_bids", "h1"),
        ("agent", f"/agent?id={ADVISED}", "h1"),
        ("advice", f"/agent?id={ADVISED}", "#advice"),
        ("auctions", "/auctions?before=1790000050000000&task=", "h1"),
        ("auction", "/auction?id=task-3", "h1"),
        ("workers", "/workers", "h1"),
    ):
        await looking.open(path)
        await _picture(looking.tab, folder / f"insights-{name}.png", part)
    await looking.question()
    await _picture(looking.tab, folder / "insights-answer.png", "#ask")


async def _picture(tab: Tab, path: Path, part: str) -> None:
    """Of what stands from a part of the page on."""
    top = "0" if part == "h1" else f"document.querySelector('{part}').offsetTop - 16"
    await tab.evaluate(f"scrollTo(0, {top})")
    await tab.picture(path)


if __name__ == "__main__":
    main()
