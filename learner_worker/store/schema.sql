-- One file a shard. Format 5; PRAGMA user_version says which format a file has.

-- Whose file this is: cluster_id, topic_prefix, partitions, shard, incarnation, generation. A mismatch refuses
-- the start; a file of an older version lacks the last two and gains them when it is opened. last_record is
-- the last changelog record that was read; it is not compared.
CREATE TABLE identity (
    name  TEXT PRIMARY KEY,
    value TEXT NOT NULL
) WITHOUT ROWID;

-- The next offset to read of every topic's partition; written with the rows it accounts for.
CREATE TABLE positions (
    topic       TEXT PRIMARY KEY,
    next_offset INTEGER NOT NULL
) WITHOUT ROWID;

-- Auctions that settle still remembers, as JSON.
CREATE TABLE auctions (
    task_id TEXT PRIMARY KEY,
    state   BLOB NOT NULL
) WITHOUT ROWID;

-- What is known of every agent in every task: a close, a bid, a result; any of them may be missing.
-- Times are microseconds since 1970. Ids are random: a row is appended under its rowid, and only its key goes to
-- a random place. The name is in quotes as ALTER TABLE RENAME writes it, see migrations/0005.sql.
CREATE TABLE "outcomes" (
    task_id           TEXT NOT NULL,
    agent_id          TEXT NOT NULL,
    closed_at         INTEGER,
    winner_agent_id   TEXT,
    winning_bid_sats  INTEGER,
    close_digest      TEXT,
    close_description TEXT,
    placed_at         INTEGER,
    bid_sats          INTEGER,
    description       TEXT,
    finished_at       INTEGER,
    succeeded         INTEGER,
    UNIQUE (task_id, agent_id)
);

-- An agent's metrics. priced_sats is a sum of sats that may pass 2^63, hence text.
-- as_of is the record time (ms) of the last change; outcome_offset the last changelog record counted;
-- published is 1 once Kafka has acknowledged a metrics record that covers it.
CREATE TABLE agents (
    agent_id        TEXT PRIMARY KEY,
    total_bids      INTEGER NOT NULL,
    auctions_won    INTEGER NOT NULL,
    tasks_completed INTEGER NOT NULL,
    tasks_failed    INTEGER NOT NULL,
    priced_wins     INTEGER NOT NULL,
    priced_sats     TEXT NOT NULL,
    as_of           INTEGER NOT NULL,
    outcome_offset  INTEGER NOT NULL,
    published       INTEGER NOT NULL DEFAULT 0
) WITHOUT ROWID;

-- Agents whose record in learner-agent-metrics is missing or older than their row.
CREATE INDEX agents_unpublished ON agents (agent_id) WHERE published = 0;

-- How often each keyword of an agent's won tasks met success and failure.
CREATE TABLE keywords (
    agent_id TEXT NOT NULL,
    keyword  TEXT NOT NULL,
    wins     INTEGER NOT NULL,
    failures INTEGER NOT NULL,
    PRIMARY KEY (agent_id, keyword)
) WITHOUT ROWID;

-- Before which times parts of outcomes have expired (microseconds since 1970): closes; bids and results.
-- At most one row; written with the first rows that it took something from. It never moves back.
CREATE TABLE cutoff (
    only   INTEGER PRIMARY KEY CHECK (only = 1),
    closes INTEGER NOT NULL,
    others INTEGER NOT NULL
);

-- Until when agents are forgotten (microseconds since 1970), from the changelog's markers: what is read of
-- them later and is not later than that is refused. Written with the rows it took away; kept for ever.
CREATE TABLE forgotten (
    agent_id TEXT PRIMARY KEY,
    until    INTEGER NOT NULL
) WITHOUT ROWID;

-- The strategies that keep sums in this file: by which version they were counted, and up to which row in the
-- order of the outcomes' keys; without a row: all of them.
CREATE TABLE strategies (
    name          TEXT PRIMARY KEY,
    version       INTEGER NOT NULL,
    counted_task  TEXT,
    counted_agent TEXT
) WITHOUT ROWID;

-- What a strategy has counted of an agent's outcomes, as MessagePack: {group: {cell: [count, count]}}.
CREATE TABLE sums (
    agent_id TEXT NOT NULL,
    strategy TEXT NOT NULL,
    cells    BLOB NOT NULL,
    PRIMARY KEY (agent_id, strategy)
) WITHOUT ROWID;
