"""The pages for people: complete without a script."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, NamedTuple

from aiohttp import web

from learner_worker.contract.decode import readable_id
from learner_worker.contract.encode import KeywordTally
from learner_worker.contract.fields import AgentId
from learner_worker.contract.times import format_time
from learner_worker.domain.outcomes import Outcome
from learner_worker.errors import SuggestionError
from learner_worker.insights.advice import AdviceReader
from learner_worker.insights.agents import AgentQuery
from learner_worker.insights.api import agent_query
from learner_worker.insights.charts import course
from learner_worker.insights.history import AgentHistory
from learner_worker.insights.kept import or_problem
from learner_worker.insights.moves import MoveFinder, Moves
from learner_worker.insights.reader import NotReadYetError, SwarmReader
from learner_worker.insights.rendering import Rendering, link
from learner_worker.insights.sending import Sending
from learner_worker.insights.workers import WorkersWatch
from learner_worker.laboratory.what_if import BidQuestion

_STATIC: Final = Path(__file__).parent / "static"
_ROWS = 50  # agents of a page: more would be slow to look through
_OUTCOMES = 25  # the newest: what happened lately
_BEST, _WORST = 20, 10  # keywords shown of an agent; programs get all
_REGRETS = 10  # kinds of task with the greatest regret: more would be hard to survey
_BAR = 100  # half the width of a bar's picture
_COLUMNS: Final = (
    ("Agent", "agent_id"),
    ("Bids", "total_bids"),
    ("Won", "auctions_won"),
    ("Win rate", "win_rate"),
    ("Done", "tasks_completed"),
    ("Failed", "tasks_failed"),
    ("Success rate", "success_rate"),
    ("Mean win", "avg_winning_bid"),
    ("Best keywords", ""),
)
"""Title and field to sort by."""


class OutcomeRow(NamedTuple):
    """An outcome, as a page shows it."""

    closed_at: str
    task_id: str
    bid_sats: int | None
    won: bool
    succeeded: bool | None
    description: str


class TypedQuestion(NamedTuple):
    """What a person has typed."""

    description: str = ""
    base: str = ""
    cost: str = ""

    def read(self) -> BidQuestion:
        """The question.

        Raises:
            ValueError: an amount is no whole number.
        """
        return BidQuestion(self.description, _sats(self.base), _sats(self.cost) if self.cost else None)


class InsightsPages:
    """Answers people."""

    def __init__(
        self,
        reader: SwarmReader,
        advice: AdviceReader,
        *,
        sending: Sending,
        finder: MoveFinder,
        workers: WorkersWatch,
        rendering: Rendering,
    ) -> None:
        self._reader = reader
        self._advice = advice
        self._sending = sending
        self._finder = finder
        self._workers = workers
        self._rendering = rendering

    def routes(self) -> list[web.AbstractRouteDef]:
        """The routes and their handlers."""
        return [
            web.get("/", self.agents),
            web.get("/agent", self.agent),
            web.post("/agent", self.ask),
            web.get("/workers", self.workers),
            web.static("/static", _STATIC),
        ]

    async def agents(self, request: web.Request) -> web.StreamResponse:
        """A page of agents."""
        agents = self._reader.agents
        try:
            query = agent_query(request, limit=_ROWS)
            page = agents.page(query)
        except (ValueError, KeyError):
            raise web.HTTPFound("/") from None
        progress = self._reader.progress.metrics
        return self._rendering.page(
            "agents",
            title="Agents",
            problem="" if self._reader.has_agents else f"Agents are still being read: {progress:.0%}.",
            query=query,
            sort=_sort_of(query),
            columns=[_column(title, sort, query) for title, sort in _COLUMNS],
            agents=[figures for figures in map(agents.get, page.ids) if figures is not None],
            total=agents.count(query.prefix),
            all=len(agents),
            next=page.next,
            link=lambda **changes: _agents_link(query, changes),
        )

    async def agent(self, request: web.Request) -> web.StreamResponse:
        """One agent."""
        return await self._agent(_agent_id(request), TypedQuestion())

    async def ask(self, request: web.Request) -> web.StreamResponse:
        """One agent, and what it would be told about a task."""
        agent_id, form = _agent_id(request), await request.post()
        typed = TypedQuestion(*(str(form.get(name, "")).strip() for name in TypedQuestion._fields))
        try:
            question = typed.read()
            reply = await self._sending.ask(agent_id, **question._asdict())
        except (ValueError, SuggestionError) as error:
            return await self._agent(agent_id, typed, refused=str(error))
        history, moves = None, Moves("not searched: the agent's outcomes are still being read")
        with suppress(NotReadYetError):
            history = await self._reader.history(agent_id)
            moves = await self._finder.find(agent_id, history.outcomes, question, reply)
        return await self._agent(agent_id, typed, history, reply=reply, moves=moves)

    async def _agent(
        self, agent_id: AgentId, question: TypedQuestion, history: AgentHistory | None = None, **result: Any
    ) -> web.Response:
        shown: dict[str, Any] = {"problem": ""}
        try:
            history = history or await self._reader.history(agent_id)
        except NotReadYetError as error:
            shown["problem"] = f"{error}.".capitalize()
        else:
            keywords = _best_and_worst(history.keywords)
            most = max((max(word.wins, word.failures) for word in keywords), default=1)
            shown |= {
                "metrics": history.metrics,
                "keywords": keywords,
                "keyword_count": len(history.keywords),
                "bar": lambda count: round(_BAR * count / most, 1),
                "course": course(history.outcomes),
                "outcomes": [_outcome_row(one) for one in history.outcomes[:_OUTCOMES]],
                "advice": await or_problem(self._advice.results_of(agent_id)),
                "regret_rows": _REGRETS,
            }
        result = {"refused": "", "reply": None, "moves": None, **result}
        return self._rendering.page(
            "agent", title=agent_id, agent_id=agent_id, asked=question, **shown, **result
        )

    async def workers(self, _: web.Request) -> web.StreamResponse:
        """The workers, as Kafka and they themselves say."""
        return self._rendering.page("workers", title="Workers", **await self._workers.shown())


def _agent_id(request: web.Request) -> AgentId:
    agent_id = readable_id(request.query.get("id", "").encode(errors="replace"))
    if agent_id is None:
        raise web.HTTPFound("/")
    return agent_id


def _sats(text: str) -> int:
    if not (text.isascii() and text.isdecimal()):
        raise ValueError(f"{text!r} is no whole number of sats")
    return int(text)


def _sort_of(query: AgentQuery) -> str:
    return f"-{query.sort}" if query.descending else query.sort


def _agents_link(query: AgentQuery, changes: Mapping[str, str]) -> str:
    """The address of another page, order or selection of agents."""
    wanted = {"sort": _sort_of(query), "prefix": query.prefix, "after": query.after or "", **changes}
    given = {name: value for name, value in wanted.items() if value and (name, value) != ("sort", "agent_id")}
    return link("/", **given)


def _column(title: str, sort: str, query: AgentQuery) -> dict[str, object]:
    """A column's head: a click on it sorts, the greatest first; another one turns the order around."""
    order = ("descending" if query.descending else "ascending") if sort == query.sort else ""
    greatest_first = order == "ascending" or (not order and sort != "agent_id")
    return {
        "title": title,
        "number": sort not in {"", "agent_id"},
        "order": order,
        "sort": (f"-{sort}" if greatest_first else sort) if sort else "",
    }


def _best_and_worst(keywords: Sequence[KeywordTally]) -> Sequence[KeywordTally]:
    if len(keywords) <= _BEST + _WORST:
        return keywords
    return [*keywords[:_BEST], *keywords[-_WORST:]]


def _outcome_row(outcome: Outcome) -> OutcomeRow:
    result = outcome.result if outcome.won else None
    return OutcomeRow(
        closed_at="" if outcome.close is None else format_time(outcome.close.closed_at),
        task_id=outcome.task_id,
        bid_sats=outcome.bid_sats,
        won=outcome.won,
        succeeded=None if result is None else result.succeeded,
        description=outcome.description,
    )
