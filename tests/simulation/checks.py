"""The judge: folds facts naively, from the bytes in the log, and compares them with files and the model."""

import json
import sqlite3
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from tests.simulation.log import Entry
from tests.support import model, profit_model

Key = tuple[str, str]
Parts = dict[str, tuple[Any, ...]]
"""What is known of an agent in a task: `close`, `bid`, `result`, each as (order, what it says)."""
JoinedFacts = dict[Key, Parts]
_EVER = -(2**63)


class InvariantError(AssertionError):
    """An invariant does not hold."""


def require(holds: bool, message: str, *details: object) -> None:
    """Raises a violation unless the invariant holds."""
    if not holds:
        raise InvariantError("\n".join([message, *map(repr, details)]))


# --- folding ---------------------------------------------------------------------------------------------


def join_facts(entries: Iterable[Entry]) -> JoinedFacts:
    """The greatest close, bid and result of every (task, agent)."""
    joined: JoinedFacts = {}
    for entry in entries:
        fact = {} if entry.value is None else json.loads(entry.value)
        if "task_id" in fact:
            _join(joined.setdefault((fact["task_id"], fact["agent_id"]), {}), _parts_of_fact(fact))
    return joined


def markers(entries: Iterable[Entry]) -> dict[str, int]:
    """Until when agents are forgotten: of each agent's markers that no tombstone follows, the latest."""
    last = {entry.key: entry.value for entry in entries}
    until: dict[str, int] = {}
    for value in last.values():
        found = {} if value is None else json.loads(value)
        if "forget_until" in found:
            agent_id = found["agent_id"]
            until[agent_id] = max(found["forget_until"], until.get(agent_id, found["forget_until"]))
    return until


def _join(known: Parts, more: Parts) -> None:
    for name, part in more.items():
        if name not in known or known[name][0] < part[0]:
            known[name] = part


def _parts_of_fact(fact: Mapping[str, Any]) -> Parts:
    parts: Parts = {}
    close, bid, result = fact.get("close"), fact.get("bid"), fact.get("result")
    if close is not None:
        parts["close"] = _close(
            close["closed_at"],
            close.get("winner"),
            close.get("winning_bid_sats"),
            close.get("description_digest"),
            close.get("description"),
        )
    if bid is not None:
        parts["bid"] = _bid(bid["placed_at"], bid["bid_sats"], bid["description"])
    if result is not None:
        parts["result"] = _result(result["finished_at"], result["succeeded"])
    return parts


def _close(
    at: int, winner: str | None, sats: int | None, digest: str | None, text: str | None
) -> tuple[Any, ...]:
    order = (at, *_smaller(winner), *_smaller(sats), *_smaller(digest), text is not None)
    return order, (at, winner, sats, text)


def _bid(at: int, sats: int, text: str) -> tuple[Any, ...]:
    return (at, -sats, _Reversed(text)), (at, sats, text)


def _result(at: int, succeeded: bool) -> tuple[Any, ...]:
    return (at, not succeeded), (at, succeeded)


def _smaller(value: Any) -> tuple[Any, ...]:
    """Orders null before everything, then the smaller first; the greatest stands."""
    return (value is None, _Reversed(0 if value is None else value))


class _Reversed:
    """A value whose order is turned round."""

    __slots__ = ("value",)

    def __init__(self, value: Any) -> None:
        self.value = value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Reversed) and self.value == other.value

    def __lt__(self, other: "_Reversed") -> bool:
        return bool(self.value > other.value)

    def __hash__(self) -> int:
        return hash(self.value)

    def __repr__(self) -> str:
        return f"~{self.value!r}"


def living(
    joined: JoinedFacts, cutoff: tuple[int, int] | None, forgotten: Mapping[str, int] | None = None
) -> JoinedFacts:
    """What is known without the parts of before the cutoff (of closes, and of bids and results), and without
    those of forgotten agents until they are."""
    closes, others = cutoff or (_EVER, _EVER)
    first = {"close": closes, "bid": others, "result": others}
    left = {
        key: {
            name: part
            for name, part in parts.items()
            if part[1][0] >= first[name] and part[1][0] > (forgotten or {}).get(key[1], _EVER)
        }
        for key, parts in joined.items()
    }
    return {key: parts for key, parts in left.items() if parts}


def counted(joined: JoinedFacts) -> dict[Key, model.Outcome]:
    """The outcomes that the folded facts amount to."""
    found: dict[Key, model.Outcome] = {}
    for key, parts in joined.items():
        outcome = _outcome(key[1], parts)
        if outcome is not None:
            found[key] = outcome
    return found


def _outcome(agent_id: str, parts: Parts) -> model.Outcome | None:
    if "close" not in parts:
        return None
    closed_at, winner, winning_sats, close_text = parts["close"][1]
    placed_at, bid_sats, bid_text = parts["bid"][1] if "bid" in parts else (None, None, None)
    won = winner == agent_id
    if placed_at is None and not won:
        return None
    finished_at, succeeded = parts["result"][1] if won and "result" in parts else (None, None)
    return model.Outcome(
        won=won,
        bid_sats=winning_sats if won and winning_sats is not None else bid_sats,
        description=(close_text or "") if bid_text is None else bid_text,
        succeeded=succeeded,
        closed_at=closed_at,
        placed_at=placed_at,
        finished_at=finished_at,
    )


# --- a file ----------------------------------------------------------------------------------------------


def rows_of(database: sqlite3.Connection) -> JoinedFacts:
    """The outcomes table as folded facts."""
    found: JoinedFacts = {}
    for row in database.execute("SELECT * FROM outcomes").fetchall():
        task_id, agent_id, closed_at, winner, winning, digest, close_text, placed_at, sats, text, *result = (
            row
        )
        parts: Parts = {}
        if closed_at is not None:
            parts["close"] = _close(closed_at, winner, winning, digest, close_text)
        if placed_at is not None:
            parts["bid"] = _bid(placed_at, sats, text)
        if result[0] is not None:
            parts["result"] = _result(result[0], bool(result[1]))
        found[task_id, agent_id] = parts
    return found


def positions_of(database: sqlite3.Connection) -> dict[str, int]:
    """The positions table."""
    return dict(database.execute("SELECT topic, next_offset FROM positions").fetchall())


def cutoff_of(database: sqlite3.Connection) -> tuple[int, int] | None:
    """Before which times closes, and bids and results, have expired."""
    rows: list[tuple[int, int]] = database.execute("SELECT closes, others FROM cutoff").fetchall()
    return rows[0] if rows else None


def forgotten_of(database: sqlite3.Connection) -> dict[str, int]:
    """Until when agents are forgotten, by the file."""
    return dict(database.execute("SELECT agent_id, until FROM forgotten").fetchall())


def agents_of(database: sqlite3.Connection) -> set[str]:
    """Every agent that has a row of its own, a keyword or sums."""
    rows = database.execute(
        "SELECT agent_id FROM agents UNION SELECT agent_id FROM keywords UNION SELECT agent_id FROM sums"
    ).fetchall()
    return {agent_id for (agent_id,) in rows}


def strategies_of(database: sqlite3.Connection) -> dict[str, Key | None]:
    """The strategies that keep sums, and up to which row they have counted; None: all rows."""
    rows = database.execute("SELECT name, counted_task, counted_agent FROM strategies").fetchall()
    return {name: None if task_id is None else (task_id, agent_id) for name, task_id, agent_id in rows}


def sums_of(database: sqlite3.Connection) -> dict[tuple[str, str], Any]:
    """The sums table, by strategy and agent."""
    rows = database.execute("SELECT strategy, agent_id, cells FROM sums").fetchall()
    return {(strategy, agent_id): msgspec.msgpack.decode(cells) for strategy, agent_id, cells in rows}


def prices_of(rows: JoinedFacts) -> dict[str, dict[int, dict[int, list[int]]]]:
    """What expected-profit counts, row by row: own bid's class -> bin of the price -> [lost, won]."""
    found: dict[str, dict[int, dict[int, list[int]]]] = {}
    for (task_id, agent_id), outcome in counted(rows).items():
        _, winner, winning_sats, _ = rows[task_id, agent_id]["close"][1]
        own = outcome.bid_sats
        price = own if outcome.won else None if winner is None else winning_sats
        if own and price:
            group = found.setdefault(agent_id, {}).setdefault(profit_model.bin_of(own) // 8, {})
            cell = group.setdefault(profit_model.bin_of(price), [0, 0])
            cell[outcome.won] += 1
    return found


def check_sums(name: str, database: sqlite3.Connection, rows: JoinedFacts) -> None:
    """The sums are those of the rows that are counted: in a file where no row is missing, all of them."""
    sums, strategies = sums_of(database), strategies_of(database)
    strange = [key for key in sums if key[0] not in strategies]
    require(not strange, f"{name}: sums of a strategy that the file does not name", strange)
    for strategy, counted_to in strategies.items():
        found = {agent_id: cells for (one, agent_id), cells in sums.items() if one == strategy}
        those = {key: row for key, row in rows.items() if counted_to is None or key <= counted_to}
        expected = prices_of(those)
        require(found == expected, f"{name}: the sums are not the rows'", found, expected, counted_to)


def metrics_of(database: sqlite3.Connection) -> dict[str, model.Metrics]:
    """The agents and keywords tables, without agents that have nothing."""
    wins: defaultdict[str, dict[str, int]] = defaultdict(dict)
    failures: defaultdict[str, dict[str, int]] = defaultdict(dict)
    for agent_id, keyword, won, failed in database.execute("SELECT * FROM keywords").fetchall():
        if won:
            wins[agent_id][keyword] = won
        if failed:
            failures[agent_id][keyword] = failed
    found: dict[str, model.Metrics] = {}
    for row in database.execute("SELECT * FROM agents").fetchall():
        agent_id, bids, won, done, failed, priced, sats, *_ = row
        found[agent_id] = model.Metrics(
            bids,
            won,
            done,
            failed,
            won / bids if bids else 0.0,
            done / (done + failed) if done + failed else 0.0,
            int(sats) / priced if priced else 0.0,
            wins[agent_id],
            failures[agent_id],
        )
    return {agent_id: found[agent_id] for agent_id in found if found[agent_id] != model.NO_HISTORY}


def check_file(
    name: str, database: sqlite3.Connection, live: list[Entry], history: list[Entry], topic: str
) -> None:
    """Third invariant: the positions are the prefix folded into the rows, and the metrics are the rows'.

    A compacted record may have been read before or after its equal vanished: the rows lie between the fold of
    what is left of the prefix and the fold of all that ever stood in it. What has expired may be missing;
    what is forgotten is.
    """
    position = positions_of(database).get(topic, 0)
    rows, forgotten = rows_of(database), forgotten_of(database)
    prefix = [entry for entry in live if entry.offset < position]
    least = living(join_facts(prefix), cutoff_of(database), forgotten)
    most = join_facts(entry for entry in history if entry.offset < position)
    require(
        all(forgotten.get(agent_id, _EVER) >= until for agent_id, until in markers(prefix).items()),
        f"{name}: markers below the position {position} are not kept",
        forgotten,
        markers(prefix),
    )
    require(rows == living(rows, None, forgotten), f"{name}: rows hold what is forgotten", rows, forgotten)
    require(_within(least, rows), f"{name}: rows lack facts below the position {position}", rows, least)
    require(
        _within(_without_needless_texts(rows), most),
        f"{name}: rows hold facts beyond the position {position}",
        rows,
        most,
    )
    expected = model.metrics(counted(rows))
    require(
        metrics_of(database) == expected,
        f"{name}: the metrics are not the rows'",
        metrics_of(database),
        expected,
    )
    check_sums(name, database, rows)


def _without_needless_texts(rows: JoinedFacts) -> JoinedFacts:
    """A close's text says nothing where there is a bid: rows published again leave it out."""
    return {
        key: {**parts, "close": ((*parts["close"][0][:-1], False), parts["close"][1])}
        if parts.keys() >= {"bid", "close"}
        else parts
        for key, parts in rows.items()
    }


def _within(smaller: JoinedFacts, greater: JoinedFacts) -> bool:
    return all(
        name in greater.get(key, {}) and not greater[key][name][0] < part[0]
        for key, parts in smaller.items()
        for name, part in parts.items()
    )


# --- the changelog and the metrics topic -----------------------------------------------------------------


def check_keys(history: Iterable[Entry]) -> None:
    """Fifth invariant: records with equal keys have equal content, or are tombstones."""
    contents: dict[bytes | None, bytes] = {}
    for entry in history:
        if entry.value is None:
            continue
        first = contents.setdefault(entry.key, entry.value)
        require(first == entry.value, "two records of one key differ", entry.key, first, entry.value)


def check_published(entries: Iterable[Entry], expected: Mapping[str, model.Metrics]) -> None:
    """The last record of every agent is what the model says; without outcomes it may be a tombstone."""
    last: dict[str, dict[str, Any] | None] = {}
    for entry in entries:
        if entry.key is not None:
            last[entry.key.decode()] = None if entry.value is None else json.loads(entry.value)
    for agent_id in sorted({*last, *expected}):
        metrics, found = expected.get(agent_id), last.get(agent_id)
        if found is None:
            require(metrics is None, f"no metrics record of agent {agent_id}", metrics)
        else:
            metrics = metrics or model.NO_HISTORY
            require(_says(found, metrics), f"the last metrics record of {agent_id}", found, metrics)


def _says(record: Mapping[str, Any], metrics: model.Metrics) -> bool:
    names = ("total_bids", "auctions_won", "tasks_completed", "tasks_failed")
    rates = ("win_rate", "success_rate", "avg_winning_bid_sats")
    keywords = [
        {"keyword": learned.keyword, "wins": learned.wins, "failures": learned.failures, "net": learned.net}
        for learned in model.strongest_keywords(metrics)
    ]
    return (
        all(record[name] == getattr(metrics, name) for name in (*names, *rates))
        and record["learned_keywords"] == keywords
    )
