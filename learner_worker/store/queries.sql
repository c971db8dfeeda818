-- Every statement the store runs, each named and described. What stands in braces is written by statements.py,
-- where the columns of an outcome are listed.

-- name: load_identity
-- Whose file this is.
SELECT name, value FROM identity;

-- name: save_identity
-- Written when the file is created, when a newer version adds a name, and by checkpoints (last_record).
INSERT INTO identity (name, value) VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET value = excluded.value;

-- name: load_positions
-- The next offset of every topic's partition.
SELECT topic, next_offset FROM positions;

-- name: save_position
-- Part of a checkpoint.
INSERT INTO positions (topic, next_offset) VALUES (?, ?)
ON CONFLICT (topic) DO UPDATE SET next_offset = excluded.next_offset;

-- name: delete_position
-- From a copy of the file, which keeps no positions of the sources.
DELETE FROM positions WHERE topic = ?;

-- name: load_auctions
-- What settle remembered at the last checkpoint, from a task on, in pages.
SELECT task_id, state FROM auctions WHERE task_id > ? ORDER BY task_id LIMIT ?;

-- name: save_auction
-- Part of a checkpoint.
INSERT INTO auctions (task_id, state) VALUES (?, ?)
ON CONFLICT (task_id) DO UPDATE SET state = excluded.state;

-- name: delete_auction
-- Part of a checkpoint: a task that settle forgot.
DELETE FROM auctions WHERE task_id = ?;

-- name: delete_auctions
-- A rewind: the auctions are read anew from their sources.
DELETE FROM auctions;

-- name: load_outcomes
-- The rows of a batch of (task, agent) pairs, given as a JSON array of arrays.
SELECT {outcome columns}
FROM json_each(?) AS pair
JOIN outcomes AS o ON o.task_id = pair.value ->> 0 AND o.agent_id = pair.value ->> 1;

-- name: load_outcomes_after
-- A page of all rows in the order of their keys: after a (task, agent) pair, so many.
SELECT {outcome columns}
FROM outcomes WHERE (task_id, agent_id) > (?, ?) ORDER BY task_id, agent_id LIMIT ?;

-- name: save_outcome
-- Part of a checkpoint.
INSERT INTO outcomes ({outcome columns})
VALUES ({a parameter for each outcome column})
ON CONFLICT (task_id, agent_id) DO UPDATE SET
    {each outcome column as excluded};

-- name: delete_outcome
-- Part of a checkpoint: an outcome of which nothing is known any more.
DELETE FROM outcomes WHERE task_id = ? AND agent_id = ?;

-- name: load_page_end
-- The key that so many rows after a (task, agent) pair lead to.
SELECT task_id, agent_id FROM outcomes WHERE (task_id, agent_id) > (?, ?)
ORDER BY task_id, agent_id LIMIT 1 OFFSET ?;

-- name: load_expired
-- Rows between two (task, agent) pairs with a part before the cutoff, without an index: it would cost more.
SELECT task_id, agent_id FROM outcomes
WHERE (task_id, agent_id) > (?, ?) AND (task_id, agent_id) <= (?, ?)
  AND (closed_at < ? OR placed_at < ? OR finished_at < ?)
ORDER BY task_id, agent_id LIMIT ?;

-- name: load_last_key
-- The greatest (task, agent) pair.
SELECT task_id, agent_id FROM outcomes ORDER BY task_id DESC, agent_id DESC LIMIT 1;

-- name: load_cutoff
-- Before which times parts of outcomes have expired.
SELECT closes, others FROM cutoff;

-- name: save_cutoff
-- Part of a checkpoint.
INSERT INTO cutoff (only, closes, others) VALUES (1, ?, ?)
ON CONFLICT (only) DO UPDATE SET closes = excluded.closes, others = excluded.others;

-- name: load_forgotten
-- Until when agents are forgotten.
SELECT agent_id, until FROM forgotten;

-- name: save_forgotten
-- Part of a checkpoint.
INSERT INTO forgotten (agent_id, until) VALUES (?, ?)
ON CONFLICT (agent_id) DO UPDATE SET until = excluded.until;

-- name: load_keys_of_agents
-- Rows between two (task, agent) pairs that are of some agents, given as a JSON array, without an index.
SELECT task_id, agent_id FROM outcomes
WHERE (task_id, agent_id) > (?, ?) AND (task_id, agent_id) <= (?, ?)
  AND agent_id IN (SELECT value FROM json_each(?))
ORDER BY task_id, agent_id;

-- name: load_agents
-- The metrics of a batch of agents, given as a JSON array.
SELECT a.agent_id, a.total_bids, a.auctions_won, a.tasks_completed, a.tasks_failed, a.priced_wins,
       a.priced_sats, a.as_of, a.outcome_offset
FROM json_each(?) AS wanted
JOIN agents AS a ON a.agent_id = wanted.value;

-- name: load_keywords
-- The keywords of a batch of agents, given as a JSON array.
SELECT k.agent_id, k.keyword, k.wins, k.failures
FROM json_each(?) AS wanted
JOIN keywords AS k ON k.agent_id = wanted.value;

-- name: save_agent
-- Part of a checkpoint.
INSERT INTO agents (agent_id, total_bids, auctions_won, tasks_completed, tasks_failed, priced_wins,
                    priced_sats, as_of, outcome_offset)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (agent_id) DO UPDATE SET
    total_bids = excluded.total_bids, auctions_won = excluded.auctions_won,
    tasks_completed = excluded.tasks_completed, tasks_failed = excluded.tasks_failed,
    priced_wins = excluded.priced_wins, priced_sats = excluded.priced_sats,
    as_of = excluded.as_of, outcome_offset = excluded.outcome_offset, published = 0;

-- name: mark_published
-- Part of a checkpoint: Kafka has this agent's current metrics record.
UPDATE agents SET published = 1 WHERE agent_id = ?;

-- name: forget_agent
-- Part of a checkpoint: an agent without outcomes goes once Kafka knows that it has none.
DELETE FROM agents WHERE agent_id = ? AND published = 1 AND total_bids = 0;

-- name: load_unpublished
-- The agents whose metrics record is still to be written.
SELECT agent_id FROM agents WHERE published = 0;

-- name: mark_unpublished
-- The metrics topic lost its end: every agent's record is to be written again.
UPDATE agents SET published = 0 WHERE published = 1;

-- name: save_keyword
-- Part of a checkpoint.
INSERT INTO keywords (agent_id, keyword, wins, failures) VALUES (?, ?, ?, ?)
ON CONFLICT (agent_id, keyword) DO UPDATE SET wins = excluded.wins, failures = excluded.failures;

-- name: delete_keyword
-- Part of a checkpoint: a keyword that no result counts for any more.
DELETE FROM keywords WHERE agent_id = ? AND keyword = ?;

-- name: load_sums
-- The strategies' sums of a batch of agents, given as a JSON array.
SELECT s.agent_id, s.strategy, s.cells
FROM json_each(?) AS wanted
JOIN sums AS s ON s.agent_id = wanted.value;

-- name: save_sums
-- Part of a checkpoint.
INSERT INTO sums (agent_id, strategy, cells) VALUES (?, ?, ?)
ON CONFLICT (agent_id, strategy) DO UPDATE SET cells = excluded.cells;

-- name: delete_sums
-- Part of a checkpoint: sums in which nothing is counted any more.
DELETE FROM sums WHERE agent_id = ? AND strategy = ?;

-- name: delete_strategy_sums
-- A strategy that the worker does not have, or of another version: what it counted goes.
DELETE FROM sums WHERE strategy = ?;

-- name: load_strategies
-- The strategies that keep sums, and how far the rows are counted.
SELECT name, version, counted_task, counted_agent FROM strategies;

-- name: save_strategy
-- A strategy begins to keep sums.
INSERT INTO strategies (name, version, counted_task, counted_agent) VALUES (?, ?, ?, ?);

-- name: save_counted_to
-- Part of a checkpoint: how far a strategy's rows are counted.
UPDATE strategies SET counted_task = ?, counted_agent = ? WHERE name = ?;

-- name: delete_strategy
-- A strategy keeps no sums any more.
DELETE FROM strategies WHERE name = ?;

-- name: sums_in_order
-- Every agent's sums, agent by agent.
SELECT agent_id, strategy, cells FROM sums ORDER BY agent_id, strategy;

-- name: count_rows
-- Outcomes that count, rows, agents, agents whose metrics record is due, keywords, auctions open and closed.
SELECT
    (SELECT count(*) FROM outcomes
     WHERE closed_at IS NOT NULL AND (placed_at IS NOT NULL OR winner_agent_id = agent_id)),
    (SELECT count(*) FROM outcomes),
    (SELECT count(*) FROM agents),
    (SELECT count(*) FROM agents WHERE published = 0),
    (SELECT count(*) FROM keywords),
    (SELECT count(*) FROM auctions WHERE CAST(state AS TEXT) ->> '$.standing' IS NULL),
    (SELECT count(*) FROM auctions WHERE CAST(state AS TEXT) ->> '$.standing' IS NOT NULL);

-- name: outcomes_by_task
-- Every row in the order of its key.
SELECT {outcome columns}
FROM outcomes ORDER BY task_id, agent_id;

-- name: outcomes_by_agent
-- Every row that has a close, agent by agent.
SELECT {outcome columns}
FROM outcomes WHERE closed_at IS NOT NULL ORDER BY agent_id;

-- name: agents_in_order
-- Every agent's metrics.
SELECT agent_id, total_bids, auctions_won, tasks_completed, tasks_failed, priced_wins, priced_sats
FROM agents ORDER BY agent_id;

-- name: keywords_in_order
-- Every keyword, agent by agent.
SELECT agent_id, keyword, wins, failures FROM keywords ORDER BY agent_id, keyword;
