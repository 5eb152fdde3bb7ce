-- +goose Up
-- owner is the API key that made a session; '' for the runner's owner.
ALTER TABLE sessions ADD COLUMN owner TEXT NOT NULL DEFAULT '';
CREATE INDEX sessions_by_owner ON sessions (owner, updated_at DESC);
ALTER TABLE tasks ADD COLUMN owner TEXT NOT NULL DEFAULT '';
CREATE INDEX tasks_by_owner ON tasks (owner, number);
ALTER TABLE usage ADD COLUMN owner TEXT NOT NULL DEFAULT '';
CREATE INDEX usage_by_owner ON usage (owner, ended_at);

-- An idempotency key is its caller's own.
CREATE TABLE callers_keys (
    caller  TEXT NOT NULL DEFAULT '', -- the API key; '' for the runner's owner
    name    TEXT NOT NULL,
    hash    TEXT NOT NULL,
    task_id TEXT NOT NULL,
    at      INTEGER NOT NULL,
    PRIMARY KEY (caller, name)
) STRICT, WITHOUT ROWID;
INSERT INTO callers_keys (name, hash, task_id, at) SELECT name, hash, task_id, at FROM keys;
DROP TABLE keys;
ALTER TABLE callers_keys RENAME TO keys;
CREATE INDEX keys_by_time ON keys (at);

CREATE TABLE api_keys (
    id           TEXT PRIMARY KEY,
    name         TEXT NOT NULL,
    hash         BLOB NOT NULL, -- SHA-256 of the secret
    scopes       TEXT NOT NULL, -- JSON
    agents       TEXT NOT NULL, -- JSON; [] for every one
    rate         INTEGER NOT NULL, -- submits per minute; 0 for no limit, here and below
    concurrency  INTEGER NOT NULL, -- tasks at once
    budget_usd   REAL NOT NULL, -- of a day
    created_at   INTEGER NOT NULL,
    expires_at   INTEGER NOT NULL,
    revoked_at   INTEGER NOT NULL,
    last_used_at INTEGER NOT NULL
) STRICT;
CREATE UNIQUE INDEX api_keys_by_name ON api_keys (name) WHERE revoked_at = 0;

CREATE TABLE audit (
    seq        INTEGER PRIMARY KEY AUTOINCREMENT,
    at         INTEGER NOT NULL,
    request_id TEXT NOT NULL,
    key_id     TEXT NOT NULL,
    key_name   TEXT NOT NULL,
    remote     TEXT NOT NULL,
    action     TEXT NOT NULL,
    session_id TEXT NOT NULL,
    task_id    TEXT NOT NULL,
    agent      TEXT NOT NULL,
    target     TEXT NOT NULL,
    status     INTEGER NOT NULL,
    code       TEXT NOT NULL
) STRICT;
CREATE INDEX audit_by_session ON audit (session_id, seq);
CREATE INDEX audit_by_key ON audit (key_id, seq);
CREATE INDEX audit_by_key_name ON audit (key_name, seq);

-- +goose StatementBegin
CREATE TRIGGER audit_is_not_changed BEFORE UPDATE ON audit
BEGIN
    SELECT RAISE(ABORT, 'the audit is append-only');
END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER audit_is_not_replaced BEFORE INSERT ON audit WHEN EXISTS (SELECT 1 FROM audit WHERE seq = NEW.seq)
BEGIN
    SELECT RAISE(ABORT, 'the audit is append-only');
END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER audit_is_not_deleted BEFORE DELETE ON audit
BEGIN
    SELECT RAISE(ABORT, 'the audit is append-only');
END;
-- +goose StatementEnd

-- +goose Down
DROP TABLE audit;
DROP TABLE api_keys;
CREATE TABLE names_keys (
    name    TEXT PRIMARY KEY,
    hash    TEXT NOT NULL,
    task_id TEXT NOT NULL,
    at      INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
INSERT INTO names_keys (name, hash, task_id, at) SELECT name, hash, task_id, at FROM keys WHERE caller = '';
DROP TABLE keys;
ALTER TABLE names_keys RENAME TO keys;
CREATE INDEX keys_by_time ON keys (at);
DROP INDEX usage_by_owner;
ALTER TABLE usage DROP COLUMN owner;
DROP INDEX tasks_by_owner;
ALTER TABLE tasks DROP COLUMN owner;
DROP INDEX sessions_by_owner;
ALTER TABLE sessions DROP COLUMN owner;
