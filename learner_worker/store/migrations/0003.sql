-- Until when agents are forgotten (microseconds since 1970), from the changelog's markers: what is read of
-- them later and is not later than that is refused. Written with the rows it took away; kept for ever.
CREATE TABLE forgotten (
    agent_id TEXT PRIMARY KEY,
    until    INTEGER NOT NULL
) WITHOUT ROWID;
