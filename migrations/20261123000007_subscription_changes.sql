-- A subscription can change its plan, now or with its next period, and the merchant can cancel it, too.
ALTER TABLE ledger.subscriptions
    -- The plan of its next period, where that is another one.
    ADD COLUMN scheduled_plan_id bigint,
    -- How often its plan was changed: periods may be counted anew after each.
    ADD COLUMN plan_changes integer NOT NULL DEFAULT 0,
    -- Whose word it is that it ends with its paid period, or that it has ended. The payer cannot take back the
    -- merchant's.
    ADD COLUMN cancel_scheduled_by text,
    ADD COLUMN ended_by text;

-- Until now only payers could.
UPDATE ledger.subscriptions SET cancel_scheduled_by = 'payer' WHERE cancel_at_period_end;
UPDATE ledger.subscriptions SET ended_by = 'payer' WHERE ended_at IS NOT NULL;

ALTER TABLE ledger.subscriptions
    ADD CONSTRAINT subscriptions_scheduled_plan_fkey FOREIGN KEY (chain_id, contract, scheduled_plan_id)
        REFERENCES ledger.chain_plans ON DELETE RESTRICT,
    ADD CONSTRAINT subscriptions_scheduled_plan_is_another
        CHECK (scheduled_plan_id IS NULL OR (onchain_plan_id IS NOT NULL AND scheduled_plan_id <> onchain_plan_id)),
    ADD CONSTRAINT subscriptions_plan_changes_not_negative CHECK (plan_changes >= 0),
    ADD CONSTRAINT subscriptions_cancel_scheduled_by_known
        CHECK ((cancel_scheduled_by IS NOT NULL) = cancel_at_period_end AND cancel_scheduled_by IN ('payer', 'merchant')),
    ADD CONSTRAINT subscriptions_ended_by_known
        CHECK ((ended_by IS NOT NULL) = (ended_at IS NOT NULL) AND ended_by IN ('payer', 'merchant'));

-- For the foreign key, when a reorganisation takes a plan back.
CREATE INDEX subscriptions_scheduled_plan_idx ON ledger.subscriptions (chain_id, contract, scheduled_plan_id)
    WHERE scheduled_plan_id IS NOT NULL;
