-- +goose Up
CREATE TABLE meta (
    key   TEXT PRIMARY KEY,
    value TEXT NOT NULL
) STRICT;

-- Times are nanoseconds since 1970, UTC; 0 where there is none yet.
CREATE TABLE sessions (
    id         TEXT PRIMARY KEY,
    agent      TEXT NOT NULL,
    agent_id   TEXT NOT NULL,
    turns      INTEGER NOT NULL,
    cost_usd   REAL NOT NULL,
    last_seq   INTEGER NOT NULL DEFAULT 0, -- of its events, deleted ones included
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL
) STRICT;
CREATE INDEX sessions_by_use ON sessions (updated_at DESC);

CREATE TABLE tasks (
    number     INTEGER PRIMARY KEY, -- the order of submission
    id         TEXT NOT NULL UNIQUE,
    session_id TEXT NOT NULL REFERENCES sessions (id) ON DELETE CASCADE,
    agent      TEXT NOT NULL,
    backend    TEXT NOT NULL,
    state      TEXT NOT NULL,
    request    TEXT NOT NULL, -- JSON
    result     TEXT NOT NULL, -- JSON
    created_at INTEGER NOT NULL,
    started_at INTEGER NOT NULL,
    ended_at   INTEGER NOT NULL
) STRICT;
CREATE INDEX tasks_by_session ON tasks (session_id, number);
CREATE INDEX tasks_by_agent ON tasks (agent, number);
CREATE INDEX tasks_by_state ON tasks (state, number);
CREATE INDEX tasks_unfinished ON tasks (number) WHERE ended_at = 0;

CREATE TABLE events (
    session_id TEXT NOT NULL REFERENCES sessions (id) ON DELETE CASCADE,
    seq        INTEGER NOT NULL,
    task_id    TEXT NOT NULL,
    time       INTEGER NOT NULL,
    data       BLOB NOT NULL, -- JSON, as readers get it
    PRIMARY KEY (session_id, seq)
) STRICT, WITHOUT ROWID;

-- +goose Down
DROP TABLE events;
DROP TABLE tasks;
DROP TABLE sessions;
DROP TABLE meta;
