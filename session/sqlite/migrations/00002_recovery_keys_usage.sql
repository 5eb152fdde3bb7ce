-- +goose Up
ALTER TABLE tasks ADD COLUMN turn_from INTEGER NOT NULL DEFAULT 0; -- byte of the sandbox's output

ALTER TABLE events ADD COLUMN step INTEGER NOT NULL DEFAULT 0; -- of the agent's turn; 0 for the runner's own
CREATE INDEX events_by_task ON events (task_id, step) WHERE step > 0;
CREATE INDEX events_by_time ON events (time);

-- Idempotency keys, known for a day.
CREATE TABLE keys (
    name    TEXT PRIMARY KEY,
    hash    TEXT NOT NULL,
    task_id TEXT NOT NULL,
    at      INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX keys_by_time ON keys (at);

-- What ended tasks used. It outlives their sessions.
CREATE TABLE usage (
    task_id               TEXT PRIMARY KEY,
    session_id            TEXT NOT NULL,
    agent                 TEXT NOT NULL,
    model                 TEXT NOT NULL,
    backend               TEXT NOT NULL,
    ended_at              INTEGER NOT NULL,
    duration              INTEGER NOT NULL, -- nanoseconds
    cost_usd              REAL NOT NULL,
    input_tokens          INTEGER NOT NULL,
    output_tokens         INTEGER NOT NULL,
    cache_read_tokens     INTEGER NOT NULL,
    cache_creation_tokens INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX usage_by_time ON usage (ended_at);

-- +goose Down
DROP TABLE usage;
DROP TABLE keys;
DROP INDEX events_by_time;
DROP INDEX events_by_task;
ALTER TABLE events DROP COLUMN step;
ALTER TABLE tasks DROP COLUMN turn_from;
