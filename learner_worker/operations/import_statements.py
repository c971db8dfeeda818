"""The SQL of the temporary database in which an import is staged."""

from typing import Final

PRAGMAS: Final = """
PRAGMA journal_mode = OFF;
PRAGMA synchronous = OFF;
PRAGMA temp_store = FILE;
PRAGMA cache_size = -32768;
"""
"""The database ends with the process, so it needs no durability. The cache has 32 MiB; more goes to disk."""

TABLES: Final = """
CREATE TABLE rows (
    number INTEGER PRIMARY KEY, id, task_id TEXT NOT NULL, agent_id TEXT NOT NULL, bid_sats INTEGER NOT NULL,
    description TEXT NOT NULL, won INTEGER NOT NULL, succeeded INTEGER, placed_at INTEGER NOT NULL,
    replaced INTEGER NOT NULL DEFAULT 0
);
CREATE TABLE doubtful (task_id TEXT PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE tasks (
    task_id TEXT PRIMARY KEY, closed_at INTEGER NOT NULL, winners INTEGER NOT NULL, winner TEXT,
    winning_bid_sats INTEGER, succeeded INTEGER, problem TEXT
) WITHOUT ROWID;
CREATE TABLE facts (task_id TEXT NOT NULL, agent_id TEXT NOT NULL, value BLOB NOT NULL);
CREATE TABLE forgotten (agent_id TEXT PRIMARY KEY, until INTEGER NOT NULL) WITHOUT ROWID;
"""
"""`rows` have the order of the file's ids by `number`. `facts` are what the changelog holds of these rows."""

INSERT_ROW: Final = """
INSERT INTO rows (id, task_id, agent_id, bid_sats, description, won, succeeded, placed_at)
VALUES (?, ?, ?, ?, ?, ?, ?, ?)
"""

INSERT_DOUBTFUL: Final = "INSERT OR IGNORE INTO doubtful VALUES (?)"
"""A task with a refused row that may have been the winner's."""

INDEX_ROWS: Final = "CREATE INDEX rows_by_task ON rows (task_id, agent_id)"

MARK_REPLACED: Final = """
UPDATE rows SET replaced = 1 WHERE EXISTS (
    SELECT 1 FROM rows AS later
    WHERE later.task_id = rows.task_id AND later.agent_id = rows.agent_id AND later.number > rows.number
)
"""
"""The last row of a task and agent replaces the earlier ones."""

FILL_TASKS: Final = """
INSERT INTO tasks
SELECT task_id, max(placed_at), count(*) FILTER (WHERE won AND NOT replaced),
       max(agent_id) FILTER (WHERE won AND NOT replaced), max(bid_sats) FILTER (WHERE won AND NOT replaced),
       max(succeeded) FILTER (WHERE won AND NOT replaced), NULL
FROM rows GROUP BY task_id
"""
"""How each task ended; the winner's columns are right where there is one winner."""

MARK_DOUBTFUL: Final = """
UPDATE tasks SET problem = 'winner_refused' WHERE task_id IN (SELECT task_id FROM doubtful)
"""

MARK_TWO_WINNERS: Final = "UPDATE tasks SET problem = 'two_winners' WHERE winners > 1 AND problem IS NULL"

REPLACED_COUNT: Final = "SELECT count(*) FROM rows WHERE replaced"
REPLACED_EXAMPLES: Final = """
SELECT id, 'task ' || task_id || ', agent ' || agent_id FROM rows WHERE replaced ORDER BY number LIMIT ?
"""

LEFT_OUT_COUNT: Final = """
SELECT count(*) FROM tasks JOIN rows USING (task_id) WHERE problem = ? AND NOT replaced
"""
LEFT_OUT_EXAMPLES: Final = """
SELECT id, 'task ' || task_id FROM tasks JOIN rows USING (task_id) WHERE problem = ? AND NOT replaced LIMIT ?
"""

TASK_COUNT: Final = "SELECT count(*) FROM tasks WHERE problem IS NULL"
CLOSE_COUNTS: Final = "SELECT count(*), count(succeeded) FROM tasks WHERE problem IS NULL"
BID_COUNT: Final = """
SELECT count(*) FROM tasks JOIN rows USING (task_id) WHERE problem IS NULL AND NOT replaced
"""

STANDING_ROWS: Final = """
SELECT task_id, agent_id, bid_sats, description, placed_at, closed_at, winner, winning_bid_sats,
       tasks.succeeded
FROM tasks CROSS JOIN rows USING (task_id) WHERE problem IS NULL AND NOT replaced ORDER BY task_id
"""
"""The rows that become events, a task's rows together; CROSS JOIN keeps the tasks in the outer loop."""

INSERT_FACT: Final = """
INSERT INTO facts SELECT ?1, ?2, ?3
WHERE EXISTS (SELECT 1 FROM rows WHERE task_id = ?1 AND agent_id = ?2)
"""
"""Only facts about the file's rows: the changelog may be much larger."""

INSERT_FORGOTTEN: Final = """
INSERT INTO forgotten VALUES (?, ?)
ON CONFLICT (agent_id) DO UPDATE SET until = excluded.until WHERE excluded.until > until
"""

FORGOTTEN: Final = "SELECT agent_id, until FROM forgotten"

KNOWN_ROWS: Final = """
SELECT task_id, agent_id, bid_sats, description, placed_at, closed_at, winner, winning_bid_sats,
       tasks.succeeded, value
FROM facts JOIN rows USING (task_id, agent_id) JOIN tasks USING (task_id)
WHERE problem IS NULL AND NOT replaced ORDER BY number
"""
"""The rows of which the changelog holds facts: the columns of STANDING_ROWS, with each fact."""
