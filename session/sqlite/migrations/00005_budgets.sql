-- +goose Up
ALTER TABLE sessions ADD COLUMN budget_usd REAL; -- NULL: as its profile says
CREATE INDEX usage_by_agent ON usage (agent, ended_at);

-- +goose Down
DROP INDEX usage_by_agent;
ALTER TABLE sessions DROP COLUMN budget_usd;
