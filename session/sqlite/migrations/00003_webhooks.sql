-- +goose Up
ALTER TABLE tasks ADD COLUMN webhook TEXT NOT NULL DEFAULT ''; -- JSON, with its secret; '' without one, and once the task has ended

CREATE TABLE deliveries (
    id           TEXT PRIMARY KEY,
    task_id      TEXT NOT NULL REFERENCES tasks (id) ON DELETE CASCADE,
    type         TEXT NOT NULL,
    agent        TEXT NOT NULL, -- whose profile says where it goes; '' where the row does
    url          TEXT NOT NULL,
    host         TEXT NOT NULL, -- of url
    secret       TEXT NOT NULL, -- '' once it has ended, like the payload
    payload      BLOB NOT NULL, -- JSON
    state        TEXT NOT NULL,
    attempts     INTEGER NOT NULL,
    last_status  INTEGER NOT NULL,
    last_error   TEXT NOT NULL,
    created_at   INTEGER NOT NULL,
    next_attempt INTEGER NOT NULL,
    ended_at     INTEGER NOT NULL
) STRICT;
CREATE INDEX deliveries_by_task ON deliveries (task_id);
CREATE INDEX deliveries_pending ON deliveries (next_attempt) WHERE state = 'pending';

-- +goose Down
DROP TABLE deliveries;
ALTER TABLE tasks DROP COLUMN webhook;
