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
