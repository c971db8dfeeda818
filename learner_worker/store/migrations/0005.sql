-- The outcomes by rowid. Pages of rows are copied while the former table is in use: until all are, readers find
-- every row there, and what changes there changes here, too. Then this table takes its place (formats.py).
CREATE TABLE new_outcomes (
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

CREATE TRIGGER outcome_added AFTER INSERT ON outcomes BEGIN
    INSERT INTO new_outcomes SELECT * FROM outcomes WHERE task_id = new.task_id AND agent_id = new.agent_id;
END;

CREATE TRIGGER outcome_changed AFTER UPDATE ON outcomes BEGIN
    DELETE FROM new_outcomes WHERE task_id = new.task_id AND agent_id = new.agent_id;
    INSERT INTO new_outcomes SELECT * FROM outcomes WHERE task_id = new.task_id AND agent_id = new.agent_id;
END;

CREATE TRIGGER outcome_deleted AFTER DELETE ON outcomes BEGIN
    DELETE FROM new_outcomes WHERE task_id = old.task_id AND agent_id = old.agent_id;
END;
