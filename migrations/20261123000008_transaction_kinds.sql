-- Money moves for usage, and back, as well as for periods; and after a change of plan a number of a period occurs again.
ALTER TABLE ledger.transactions
    -- The plan that it was for. Its subscription may be on another one by now.
    ADD COLUMN onchain_plan_id bigint,
    -- Of a charge: how often its subscription had changed plans. A period is named by this and its number.
    ADD COLUMN plan_changes integer,
    -- Of a charge: the how-manyth it is among those of its transaction for the same subscription and number of a
    -- period. Together they name the transfer, and survive its transaction being mined again; the anchor or the end of
    -- the period would not, as they depend on the block.
    ADD COLUMN ordinal integer,
    -- Of usage and refunds: the merchant's idempotency key, which the contract takes once for each subscription. It
    -- names the movement, also where another transaction makes it after a reorganisation.
    ADD COLUMN spent_key bytea,
    -- A refund is for no period.
    ALTER COLUMN period DROP NOT NULL,
    ALTER COLUMN period_start DROP NOT NULL,
    ALTER COLUMN period_end DROP NOT NULL;

-- Until now every movement was the charge of one period of the plan that its subscription began with.
UPDATE ledger.transactions t SET onchain_plan_id = s.origin_plan_id, plan_changes = 0, ordinal = 0
FROM ledger.subscriptions s WHERE s.id = t.subscription_id;

ALTER TABLE ledger.transactions
    ALTER COLUMN onchain_plan_id SET NOT NULL,
    DROP CONSTRAINT transactions_kind_known,
    ADD CONSTRAINT transactions_kind_known CHECK (kind IN ('charge', 'usage', 'refund')),
    DROP CONSTRAINT transactions_period_forward,
    ADD CONSTRAINT transactions_period_forward CHECK (
        kind = 'refund' AND period IS NULL AND period_start IS NULL AND period_end IS NULL
        OR kind <> 'refund' AND period IS NOT NULL AND period_start IS NOT NULL AND period_end IS NOT NULL
            AND period BETWEEN 1 AND 65535
            -- The end of the year 9999 stands for everything beyond it.
            AND (period_start < period_end OR period_end = '9999-12-31 23:59:59Z'::timestamptz)
    ),
    ADD CONSTRAINT transactions_named_by_kind CHECK (
        kind = 'charge' AND ordinal IS NOT NULL AND plan_changes IS NOT NULL AND spent_key IS NULL
        OR kind <> 'charge' AND ordinal IS NULL AND plan_changes IS NULL AND spent_key IS NOT NULL
    ),
    ADD CONSTRAINT transactions_numbers_not_negative CHECK (ordinal >= 0 AND plan_changes >= 0),
    ADD CONSTRAINT transactions_spent_key_width CHECK (octet_length(spent_key) = 32),
    DROP CONSTRAINT transactions_transfer_key,
    -- Only charges have an ordinal, and NULL equals nothing.
    ADD CONSTRAINT transactions_transfer_key UNIQUE (chain_id, contract, tx_hash, subscription_id, period, ordinal);

-- What `transactions_transfer_key` is to charges.
CREATE UNIQUE INDEX transactions_spent_key_key ON ledger.transactions (subscription_id, kind, spent_key)
    WHERE spent_key IS NOT NULL;

-- A period is paid at most once. Not by its start: a change of plan can pay anew from the very second at which another
-- charge has paid from.
DROP INDEX ledger.transactions_period_paid_once;
CREATE UNIQUE INDEX transactions_period_paid_once ON ledger.transactions (subscription_id, plan_changes, period)
    WHERE kind = 'charge' AND status <> 'failed';
-- The contract takes a key once, for usage or for a refund.
CREATE UNIQUE INDEX transactions_key_spent_once ON ledger.transactions (subscription_id, spent_key)
    WHERE spent_key IS NOT NULL AND status <> 'failed';
-- One event is one movement.
CREATE UNIQUE INDEX transactions_event_once ON ledger.transactions (chain_id, contract, block_number, log_index)
    WHERE status <> 'failed';
