-- Before which times parts of outcomes have expired (microseconds since 1970): closes; bids and results.
CREATE TABLE cutoff (
    only   INTEGER PRIMARY KEY CHECK (only = 1),
    closes INTEGER NOT NULL,
    others INTEGER NOT NULL
);
