-- +goose Up
-- The sandbox in which a task runs, by its name: it may have been started for another task, or for none.
ALTER TABLE tasks ADD COLUMN sandbox TEXT NOT NULL DEFAULT '';
UPDATE tasks SET sandbox = 'task-' || id WHERE ended_at = 0 AND state = 'running';

-- +goose Down
ALTER TABLE tasks DROP COLUMN sandbox;
