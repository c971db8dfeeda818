"""The store's statements, run on plain sqlite3: named, described, used, and true to every row."""

import re
import sqlite3
from collections.abc import Iterator
from importlib import resources

import pytest
from hypothesis import given
from hypothesis import strategies as st

from learner_worker.contract.facts import Bid, Close, Result, description_digest
from learner_worker.contract.fields import MAX_SATS, AgentId, TaskId
from learner_worker.contract.times import Micros
from learner_worker.contract.topics import TopicName
from learner_worker.domain.agents import AgentRow
from learner_worker.domain.auctions import AuctionState
from learner_worker.domain.keywords import Tally
from learner_worker.domain.metrics import Metrics
from learner_worker.domain.outcomes import Outcome
from learner_worker.store.statements import (
    Checkpoint,
    KeywordRow,
    agent_of,
    auction_of,
    ids_parameter,
    keyword_of,
    outcome_of,
    pairs_parameter,
    statement,
    writes_of,
)

STORE = resources.files("learner_worker.store")
QUERIES = STORE.joinpath("queries.sql").read_text("utf-8")
NAMES = re.findall(r"^-- name: (\w+)$", QUERIES, re.MULTILINE)
T, A, B = TaskId("t"), AgentId("a"), AgentId("b")
BID = Bid(Micros(5), 70, "parse")
FULL = Outcome(
    T,
    A,
    Close(Micros(9), A, 60, description_digest("label"), "label"),
    BID,
    Result(Micros(20), succeeded=True),
)


@pytest.fixture
def database() -> Iterator[sqlite3.Connection]:
    connection = fresh()
    yield connection
    connection.close()


def fresh() -> sqlite3.Connection:
    connection = sqlite3.connect(":memory:")
    connection.executescript(STORE.joinpath("schema.sql").read_text("utf-8"))
    return connection


def write(database: sqlite3.Connection, checkpoint: Checkpoint) -> None:
    for name, rows in writes_of(checkpoint):
        database.executemany(statement(name), rows)


# --- the file of statements -----------------------------------------------------------------------


def test_every_statement_is_named_once() -> None:
    """Each statement has a name of its own and nothing stands before the first."""
    assert len(set(NAMES)) == len(NAMES) == QUERIES.count(";")


@pytest.mark.parametrize("name", NAMES)
def test_every_statement_is_described(name: str) -> None:
    """A sentence stands between the name and the SQL, which ends in one semicolon."""
    comment, sql = statement(name).split("\n", 1)

    assert re.fullmatch(r"-- [A-Z].*\.", comment)
    assert re.fullmatch(r"(SELECT|INSERT|UPDATE|DELETE)[^;]*;", sql)


@pytest.mark.parametrize("name", NAMES)
def test_every_statement_is_used_and_prepared(name: str, database: sqlite3.Connection) -> None:
    """The store names it in code, and SQLite accepts it on a fresh schema."""
    sources = "".join(path.read_text("utf-8") for path in STORE.iterdir() if path.name.endswith(".py"))

    assert f'"{name}"' in sources
    assert database.execute(f"EXPLAIN {statement(name)}", [None] * statement(name).count("?")).fetchall()


def test_an_unknown_statement_is_a_key_error() -> None:
    """A misspelt name fails at once."""
    with pytest.raises(KeyError):
        statement("load_everything")


def test_every_load_goes_by_a_key(database: sqlite3.Connection) -> None:
    """No batched read scans a table: outcomes, agents and keywords are searched by their keys."""
    for name in ("load_outcomes", "load_agents", "load_keywords"):
        plan = [row[3] for row in database.execute(f"EXPLAIN QUERY PLAN {statement(name)}", ["[]"])]
        assert [step.split()[0] for step in plan] == ["SCAN", "SEARCH"]
        assert re.search(r"USING (PRIMARY KEY|INDEX sqlite_autoindex_outcomes_1) \(.*=\?", plan[1])


# --- rows -----------------------------------------------------------------------------------------

OUTCOMES = [
    FULL,
    Outcome(T, A, FULL.close),
    Outcome(T, A, None, BID),
    Outcome(T, A, None, Bid(Micros(0), 0, "")),
    Outcome(T, A, None, None, Result(Micros(20), succeeded=False)),
    Outcome(T, A, Close(Micros(0))),
    Outcome(T, A, Close(Micros(-1), B)),
    Outcome(T, A, Close(Micros(9), None, 0)),
    Outcome(T, A, Close(Micros(9), A, None, description_digest(""), "")),
    Outcome(
        T, A, Close(Micros(9), A, MAX_SATS, description_digest("x")), Bid(Micros(2**62), MAX_SATS, "🤖\x00é")
    ),
    Outcome(TaskId("🧾"), AgentId('"[]"'), None, BID),
]


@pytest.mark.parametrize("outcome", OUTCOMES)
def test_an_outcome_comes_back_as_it_was(outcome: Outcome, database: sqlite3.Connection) -> None:
    """Every part may be missing, and zeros, empty texts and the last sats are not nothing."""
    write(database, Checkpoint({}, outcomes={(outcome.task_id, outcome.agent_id): outcome}))
    parameter = pairs_parameter([(outcome.task_id, outcome.agent_id), (TaskId("no"), A)])

    assert [outcome] == [outcome_of(row) for row in database.execute(statement("load_outcomes"), [parameter])]


def test_an_outcome_of_which_nothing_is_known_has_no_row(database: sqlite3.Connection) -> None:
    """It deletes the row that was there, and leaves none otherwise."""
    for known in ([(T, A)], []):
        write(database, Checkpoint({}, outcomes=dict.fromkeys(known, FULL)))
        write(database, Checkpoint({}, outcomes={(T, A): Outcome(T, A)}))
        assert database.execute("SELECT count(*) FROM outcomes").fetchone() == (0,)


def test_pages_of_outcomes_are_searched_by_key(database: sqlite3.Connection) -> None:
    """They read no more of the table than the page, and none of it where only keys are asked for."""
    by_key = "SEARCH outcomes USING INDEX sqlite_autoindex_outcomes_1"
    only_keys = "SEARCH outcomes USING COVERING INDEX sqlite_autoindex_outcomes_1"
    for name, expected in {
        "load_outcomes_after": by_key,
        "load_expired": by_key,
        "load_page_end": only_keys,
        "load_keys_of_agents": only_keys,
        "delete_outcome": by_key,
    }.items():
        sql = statement(name)
        plan = database.execute(f"EXPLAIN QUERY PLAN {sql}", [None] * sql.count("?")).fetchall()
        steps = [row[3].split(" (")[0] for row in plan]
        assert steps[0] == expected
        assert not {step for step in steps if "outcomes" in step or "ORDER BY" in step} - {expected}


def test_an_outcome_replaces_its_earlier_row(database: sqlite3.Connection) -> None:
    """Every column is written anew, nulls too."""
    for outcome in (FULL, Outcome(T, A, Close(Micros(10), B)), Outcome(T, A, None, BID)):
        write(database, Checkpoint({}, outcomes={(T, A): outcome}))
        rows = database.execute(statement("load_outcomes"), [pairs_parameter([(T, A)])]).fetchall()
        assert [outcome] == list(map(outcome_of, rows))


@pytest.mark.parametrize("sats", [0, MAX_SATS, 2**63 - 1, 2**63, 2**64, MAX_SATS * 10**9])
def test_sums_beyond_an_integer_column_are_exact(sats: int, database: sqlite3.Connection) -> None:
    """The sum of winning bids may pass 2^63 and comes back to the last sat."""
    row = AgentRow(Metrics(7, 6, 5, 4, 3, sats), 2, 1)
    write(database, Checkpoint({}, agents={A: row}))

    assert [(A, row)] == [
        agent_of(found) for found in database.execute(statement("load_agents"), [ids_parameter([A, B])])
    ]


def test_an_agent_replaces_its_earlier_row(database: sqlite3.Connection) -> None:
    """Each count has its own column."""
    for row in (AgentRow(Metrics(1, 2, 3, 4, 5, 6), 7, 8), AgentRow(Metrics(6, 5, 4, 3, 2, 1), 0, -1)):
        write(database, Checkpoint({}, agents={A: row}))
        found = database.execute(statement("load_agents"), [ids_parameter([A])]).fetchall()
        assert [(A, row)] == list(map(agent_of, found))


def test_keywords_come_and_go(database: sqlite3.Connection) -> None:
    """A keyword is written, replaced and, once nothing counts for it, deleted."""
    write(
        database,
        Checkpoint({}, keywords={A: {"parse": Tally(1, 2), "label": Tally(0, 1)}, B: {"parse": Tally(9, 9)}}),
    )
    write(database, Checkpoint({}, keywords={A: {"parse": Tally(3, 0), "label": Tally(0, 0)}}))

    assert [KeywordRow(A, "parse", 3, 0)] == [
        keyword_of(row) for row in database.execute(statement("load_keywords"), [ids_parameter([A])])
    ]


def test_auctions_come_and_go(database: sqlite3.Connection) -> None:
    """Everything settle remembers of a task comes back; a forgotten task's row is deleted."""
    state = AuctionState(
        50, {"bid-placed": 3, "learner-rerouted": 0}, FULL.close, [A, B], {B: [BID, Bid(Micros(6), 0, "")]}
    )
    write(database, Checkpoint({}, auctions={T: AuctionState(1, {}, None, [], {}), TaskId("t2"): state}))
    write(database, Checkpoint({}, auctions={T: state, TaskId("t2"): None}))

    assert [(T, state)] == [auction_of(row) for row in database.execute(statement("load_auctions"), ("", 9))]


def test_positions_move(database: sqlite3.Connection) -> None:
    """The next offset of each topic is written with every checkpoint."""
    write(database, Checkpoint({TopicName("x"): 1, TopicName("y"): 2}))
    write(database, Checkpoint({TopicName("x"): 2**62}))

    assert dict(database.execute(statement("load_positions")).fetchall()) == {"x": 2**62, "y": 2}


def test_an_empty_checkpoint_writes_nothing() -> None:
    """Every statement is there, none has rows."""
    assert {name: list(rows) for name, rows in writes_of(Checkpoint({}))} == {
        "save_outcome": [],
        "delete_outcome": [],
        "save_agent": [],
        "mark_published": [],
        "forget_agent": [],
        "save_keyword": [],
        "delete_keyword": [],
        "save_sums": [],
        "delete_sums": [],
        "save_counted_to": [],
        "save_auction": [],
        "delete_auction": [],
        "save_position": [],
        "save_cutoff": [],
        "save_identity": [],
        "save_forgotten": [],
    }


ids = st.text(st.characters(exclude_categories=("Cc", "Cs")), min_size=1, max_size=8)


@given(ids.map(TaskId), ids.map(AgentId))
def test_any_id_is_found_again(task_id: TaskId, agent_id: AgentId) -> None:
    """Quotes, brackets, emoji: ids go through JSON parameters and come back."""
    database = fresh()
    outcome = Outcome(task_id, agent_id, None, BID)
    write(database, Checkpoint({}, outcomes={(task_id, agent_id): outcome}, agents={agent_id: AgentRow()}))

    assert [outcome] == [
        outcome_of(row)
        for row in database.execute(statement("load_outcomes"), [pairs_parameter([(task_id, agent_id)])])
    ]
    assert [(agent_id, AgentRow())] == [
        agent_of(row) for row in database.execute(statement("load_agents"), [ids_parameter([agent_id])])
    ]
    database.close()
