-- +goose Up
-- That an event's session is there is looked at when the transaction ends. For a
-- key that holds at once, SQLite notes each page before a statement of several
-- rows changes it: a third of what writing events took.
CREATE TABLE deferred_events (
    session_id TEXT NOT NULL REFERENCES sessions (id) ON DELETE CASCADE DEFERRABLE INITIALLY DEFERRED,
    seq        INTEGER NOT NULL,
    task_id    TEXT NOT NULL,
    time       INTEGER NOT NULL,
    data       BLOB NOT NULL, -- JSON, as readers get it
    step       INTEGER NOT NULL DEFAULT 0, -- of the agent's turn; 0 for the runner's own
    PRIMARY KEY (session_id, seq)
) STRICT, WITHOUT ROWID;
INSERT INTO deferred_events (session_id, seq, task_id, time, data, step) SELECT session_id, seq, task_id, time, data, step FROM events;
DROP TABLE events;
ALTER TABLE deferred_events RENAME TO events;

-- +goose Down
CREATE TABLE immediate_events (
    session_id TEXT NOT NULL REFERENCES sessions (id) ON DELETE CASCADE,
    seq        INTEGER NOT NULL,
    task_id    TEXT NOT NULL,
    time       INTEGER NOT NULL,
    data       BLOB NOT NULL,
    step       INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (session_id, seq)
) STRICT, WITHOUT ROWID;
INSERT INTO immediate_events (session_id, seq, task_id, time, data, step) SELECT session_id, seq, task_id, time, data, step FROM events;
DROP TABLE events;
ALTER TABLE immediate_events RENAME TO events;
