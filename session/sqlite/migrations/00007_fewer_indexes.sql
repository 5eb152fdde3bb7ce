-- +goose Up
-- Every task pays for an index, so one leaves out what most rows say.

-- Who asks for tasks that have not ended finds them in tasks_unfinished, and most
-- of the others have succeeded.
DROP INDEX tasks_by_state;
CREATE INDEX tasks_by_end ON tasks (state, number) WHERE ended_at > 0 AND state <> 'succeeded';

-- Events of a session are in the order of their time, and those of a task are its
-- session's.
DROP INDEX events_by_time;
DROP INDEX events_by_task;

-- What is the owner's of the runner is looked for by nobody.
DROP INDEX sessions_by_owner;
CREATE INDEX sessions_by_owner ON sessions (owner, updated_at DESC) WHERE owner <> '';
DROP INDEX tasks_by_owner;
CREATE INDEX tasks_by_owner ON tasks (owner, number) WHERE owner <> '';
DROP INDEX usage_by_owner;
CREATE INDEX usage_by_owner ON usage (owner, ended_at) WHERE owner <> '';
DROP INDEX audit_by_key;
CREATE INDEX audit_by_key ON audit (key_id, seq) WHERE key_id <> '';
DROP INDEX audit_by_key_name;
CREATE INDEX audit_by_key_name ON audit (key_name, seq) WHERE key_name <> '';

-- From here on sessions.last_seq is of deleted events: of the others, the highest
-- number tells.

-- +goose Down
UPDATE sessions SET last_seq = max(last_seq, coalesce((SELECT max(seq) FROM events WHERE session_id = sessions.id), 0));
DROP INDEX audit_by_key_name;
CREATE INDEX audit_by_key_name ON audit (key_name, seq);
DROP INDEX audit_by_key;
CREATE INDEX audit_by_key ON audit (key_id, seq);
DROP INDEX usage_by_owner;
CREATE INDEX usage_by_owner ON usage (owner, ended_at);
DROP INDEX tasks_by_owner;
CREATE INDEX tasks_by_owner ON tasks (owner, number);
DROP INDEX sessions_by_owner;
CREATE INDEX sessions_by_owner ON sessions (owner, updated_at DESC);
CREATE INDEX events_by_task ON events (task_id, step) WHERE step > 0;
CREATE INDEX events_by_time ON events (time);
DROP INDEX tasks_by_end;
CREATE INDEX tasks_by_state ON tasks (state, number);
