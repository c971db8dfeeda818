"""Insights' auctions: joined from the bidders' facts, explained by their bids, listed by their close."""

from collections.abc import Sequence
from urllib.parse import quote

import pytest
from aiohttp import ClientSession, web
from aiohttp.test_utils import TestServer

from learner_worker.contract.facts import Bid, Close, Fact, ForgetMarker, Result, encode_fact, encode_marker
from learner_worker.contract.fields import AgentId, TaskId
from learner_worker.contract.times import LAST_MICROS, Micros
from learner_worker.domain.outcomes import Cutoff
from learner_worker.insights import reader as reader_module
from learner_worker.insights.auction_pages import AuctionPages
from learner_worker.insights.auctions import ClosedAuction, Reason, auctions_of
from learner_worker.insights.facts import ClosedTask, fact_store
from learner_worker.insights.reader import NotReadYetError, SwarmReader
from learner_worker.insights.rendering import Rendering
from learner_worker.kafka.records import Unreadable
from learner_worker.settings import Settings
from tests.support.html_pages import Page
from tests.support.insights import LAYOUT, fact_records, reader_of

TASK = TaskId("t1")
ECHO, MACE, HELM = AgentId("echo"), AgentId("mace"), AgentId("helm")
NEWEST = ClosedTask(LAST_MICROS, TaskId(""))


def bid_fact(
    agent: AgentId, sats: int, close: Close, *, task: TaskId = TASK, result: bool | None = None
) -> Fact:
    """An agent's bid under a close, and a result with it."""
    outcome = None if result is None else Result(Micros(close.closed_at + 1), result)
    return Fact(task, agent, close, Bid(Micros(5), sats, f"text of {agent}"), outcome)


def values(facts: Sequence[Fact], *markers: ForgetMarker) -> Sequence[bytes]:
    """What the store has of them."""
    return [*(encode_fact(fact)[1] for fact in facts), *(encode_marker(one)[1] for one in markers)]


def joined(found: Sequence[bytes], *, incomplete: Sequence[TaskId] = ()) -> ClosedAuction:
    """The auction of the task."""
    return auctions_of(found, lambda _: None, incomplete=incomplete)[TASK]


def test_an_auction_has_the_standing_close_and_every_counted_bid_lowest_first() -> None:
    """A corrected close that has not reached every bidder yet decides; the winner's result is the task's."""
    old, new = Close(Micros(10), MACE, 70), Close(Micros(11), ECHO, 50)
    auction = joined(
        values([bid_fact(MACE, 70, old), bid_fact(ECHO, 55, new, result=False), bid_fact(HELM, 60, old)])
    )
    assert (auction.closed_at, auction.winner, auction.winning_bid_sats) == (11, ECHO, 50)
    assert [(bid.agent_id, bid.bid_sats) for bid in auction.bids] == [(ECHO, 50), (HELM, 60), (MACE, 70)]
    assert (auction.description, auction.succeeded) == ("text of echo", False)


@pytest.mark.parametrize(
    ("close", "bids", "expected"),
    [
        (Close(Micros(9)), {ECHO: 5}, Reason("nobody won")),
        (Close(Micros(9), ECHO), {ECHO: 5}, Reason("only bid")),
        (Close(Micros(9), ECHO), {ECHO: 5, MACE: 8, HELM: 7}, Reason("lowest", HELM, 2)),
        (Close(Micros(9), ECHO), {ECHO: 7, MACE: 8, HELM: 7}, Reason("equal", HELM, 0)),
        (Close(Micros(9), ECHO), {ECHO: 9, MACE: 8, HELM: 7}, Reason("not lowest", HELM, -2)),
        (Close(Micros(9), ECHO, 6), {ECHO: 9, HELM: 7}, Reason("lowest", HELM, 1)),
        (Close(Micros(9), AgentId("stranger")), {ECHO: 9}, Reason("bid unknown")),
        (Close(Micros(9), AgentId("stranger"), 4), {ECHO: 9}, Reason("lowest", ECHO, 5)),
    ],
)
def test_the_reason_is_what_the_bids_show(close: Close, bids: dict[AgentId, int], expected: Reason) -> None:
    """The winner's bid beside the lowest of the others, where both are known."""
    facts = [bid_fact(agent, sats, close) for agent, sats in bids.items()]
    assert joined(values(facts)).reason == expected


def test_no_reason_is_given_where_not_all_bids_are_looked_at() -> None:
    """A lower bid may be among those left out."""
    found = values([bid_fact(ECHO, 5, Close(Micros(9), ECHO))])
    assert joined(found, incomplete=[TASK]).reason == Reason("not all known")


def test_forgotten_agents_and_expired_auctions_are_left_out() -> None:
    """By the markers among the records, and by the workers' cutoff; a bid without a close is no auction."""
    close = Close(Micros(9), ECHO, 5)
    facts = [bid_fact(ECHO, 5, close), bid_fact(MACE, 8, close)]
    left = joined(values(facts, ForgetMarker(ECHO, Micros(20))))
    assert ([bid.agent_id for bid in left.bids], left.winner, left.winning_bid_sats) == ([MACE], ECHO, 5)
    cutoff = Cutoff(Micros(10), Micros(3))
    assert not auctions_of(values(facts), lambda _: cutoff)
    assert not auctions_of(values([Fact(TASK, ECHO, bid=Bid(Micros(5), 5, ""))]), lambda _: None)


async def test_pages_of_auctions_are_the_whole_each_once_the_latest_first() -> None:
    """Closes at one time, corrected and deleted ones, results without an auction; pages of any size."""
    async with fact_store() as store:
        facts = [
            bid_fact(agent, 5, Close(Micros(100 + number // 3), ECHO, 5), task=TaskId(f"t{number:02}"))
            for number in range(20)
            for agent in (ECHO, MACE)
        ]
        corrected = bid_fact(ECHO, 5, Close(Micros(200), ECHO, 5), task=TaskId("t04"))
        lonely = Fact(TaskId("result-alone"), ECHO, result=Result(Micros(150), succeeded=True))
        gone = [fact for fact in facts if fact.task_id == "t07"]
        await store.take(fact_records([*facts, corrected, lonely]))
        await store.take(fact_records(gone, gone=True))
        await store.take([Unreadable("o", 0, 0, key=b'["t","a",[-5],0,0]', value=b"junk")])
        reader = reader_of(store)
        expected = ["t04", *(f"t{number:02}" for number in range(19, -1, -1) if number not in {4, 7})]
        for size in (1, 3, 7, 50):
            listed: list[str] = []
            before: ClosedTask | None = NEWEST
            while before is not None:
                page = await reader.auctions(before, size)
                listed += [auction.task_id for auction in page.auctions]
                before = page.last
            assert listed == expected
        one = await reader.auction(TaskId("t03"))
        assert one is not None
        assert [bid.agent_id for bid in one.bids] == [ECHO, MACE]
        assert await reader.auction(TaskId("t07")) is None


async def test_a_list_looks_at_a_bounded_number_of_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    """A long stretch that no longer counts is several lists, also empty ones; what is behind it is found."""
    monkeypatch.setattr(reader_module, "_TASKS_OF_A_LIST", 4)
    async with fact_store() as store:
        gone = [
            bid_fact(MACE, 5, Close(Micros(100 + number), MACE, 5), task=TaskId(f"gone{number}"))
            for number in range(9)
        ]
        left = bid_fact(ECHO, 5, Close(Micros(50), ECHO, 5), task=TaskId("left"))
        key, value = encode_marker(ForgetMarker(MACE, Micros(200)))
        await store.take([*fact_records([*gone, left]), Unreadable("o", 0, 0, key=key, value=value)])
        reader, listed = reader_of(store), []
        before: ClosedTask | None = NEWEST
        while before is not None:
            page = await reader.auctions(before, 25)
            before = page.last
            listed.append(([auction.task_id for auction in page.auctions], before and before.task_id))
        assert listed == [([], "gone5"), ([], "gone1"), (["left"], None)]


async def test_no_list_of_auctions_is_empty_only_because_nothing_is_read_yet() -> None:
    """Until the outcomes are read, the page says so, as a single auction's does."""
    async with fact_store() as store:
        unread = SwarmReader(Settings(), LAYOUT, store)
        with pytest.raises(NotReadYetError, match="still being read"):
            await unread.auctions(NEWEST, 25)
        app = web.Application()
        app.add_routes(AuctionPages(unread, Rendering(show_descriptions=True)).routes())
        async with TestServer(app) as server, ClientSession() as session:
            for path in ("/auctions", "/auction?id=t1"):
                async with session.get(server.make_url(path)) as answer:
                    page = await answer.text()
                assert "The outcomes are still being read" in page
                assert "No auction" not in page


async def test_an_auction_of_very_many_bidders_is_read_up_to_a_limit() -> None:
    """What is left out is said; the close names the winner all the same."""
    async with fact_store() as store:
        close = Close(Micros(9), AgentId("z"), 1)
        await store.take(fact_records([bid_fact(AgentId(f"a{number}"), 5, close) for number in range(30)]))
        auction = await reader_of(store).auction(TASK, limit=10)
        assert auction is not None
        assert (len(auction.bids), auction.whole, auction.winner) == (10, False, "z")


HOSTILE = ("<script>alert(1)</script>", '"><svg onload=alert(1)>', "a/b?c=d&e", "\u202eevil", " spaced ")


@pytest.mark.parametrize("show_descriptions", [True, False])
async def test_the_pages_show_texts_as_texts_and_hide_descriptions_when_told(
    *, show_descriptions: bool
) -> None:
    """Hostile ids and descriptions, the links between pages, unknown tasks and links that nobody made."""
    async with fact_store() as store:
        facts = [
            bid_fact(AgentId(text), 5, Close(Micros(100 + number), AgentId(text), 5), task=TaskId(text))
            for number, text in enumerate(HOSTILE * 10)
        ]
        many = [
            bid_fact(ECHO, 5, Close(Micros(number), ECHO, 5), task=TaskId(f"t{number:02}"))
            for number in range(40)
        ]
        await store.take(fact_records([*facts, *many]))
        app = web.Application()
        app.add_routes(
            AuctionPages(reader_of(store), Rendering(show_descriptions=show_descriptions)).routes()
        )
        async with TestServer(app) as server, ClientSession() as session:

            async def page(path: str) -> Page:
                async with session.get(server.make_url(path)) as answer:
                    found = Page(await answer.text())
                assert (answer.status, found.wrong) == (200, []), path
                return found

            first = await page("/auctions")
            assert set(HOSTILE) <= set(first.isolated)
            assert ("text of echo" in first.isolated) is show_descriptions
            assert "t15" in (await page("/auctions?before=19&task=t19")).isolated
            for text in HOSTILE:
                one = await page(f"/auction?id={quote(text, safe='')}")
                assert one.isolated[0] == text
                assert (f"text of {text}" in one.isolated) is show_descriptions
            assert "No auction of this task" in (await page("/auction?id=nobody")).text
            for wrong in ("before=x", "before=-1", f"before={'9' * 40}", "before=5&task=%00"):
                await page(f"/auctions?{wrong}")
