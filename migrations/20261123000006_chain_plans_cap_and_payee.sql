-- Plans have a cap on usage, and their payee can move. The payee of today is a fold of the plan's events, so that a
-- reorganisation folds what is left of them again: the index finds them among everybody's.
ALTER TABLE ledger.chain_plans
    ADD COLUMN usage_cap numeric(78, 0) NOT NULL DEFAULT 0,
    ADD CONSTRAINT chain_plans_usage_cap_not_negative CHECK (usage_cap >= 0);

-- The second topic of an event of a plan is the plan's number.
CREATE INDEX chain_events_of_plans_idx ON ledger.chain_events (chain_id, contract, (topics[2]), block_number, log_index)
    WHERE onchain_id IS NULL;
