-- Money: subscriptions and transactions, whatever the rail. Only the chain rail exists so far.
CREATE TABLE ledger.subscriptions (
    id uuid PRIMARY KEY,
    account_id uuid NOT NULL REFERENCES ledger.accounts ON DELETE RESTRICT,
    rail text NOT NULL,
    -- As of the last event. Readers compare paid_through and grace with the clock as well.
    status text NOT NULL,
    chain_id bigint NOT NULL,
    contract bytea NOT NULL,
    -- The contract's ids. NULL while the subscription is not on the canonical chain (status 'incomplete' after a
    -- reorganisation): the contract may give the same number to somebody else.
    onchain_id bigint,
    onchain_plan_id bigint,
    payer bytea NOT NULL,
    reference bytea NOT NULL,
    -- The transaction that it began in, and the how-manyth of several equal beginnings (payer, plan, reference)
    -- within it: this names the agreement itself, and survives that transaction being mined again in another block,
    -- under another number, or with other items of it failing.
    origin_tx bytea NOT NULL,
    origin_plan_id bigint NOT NULL,
    origin_ordinal integer NOT NULL,
    anchor timestamptz NOT NULL,
    periods integer NOT NULL,
    paid_through timestamptz NOT NULL,
    confirmed boolean NOT NULL,
    cancel_at_period_end boolean NOT NULL,
    ended_at timestamptz,
    -- The event that access rests on.
    evidence_block_number bigint NOT NULL,
    evidence_block_hash bytea NOT NULL,
    evidence_log_index bigint NOT NULL,
    evidence_tx bytea NOT NULL,
    evidence_at timestamptz NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT subscriptions_origin_key UNIQUE (chain_id, contract, origin_tx, payer, origin_plan_id, reference, origin_ordinal),
    CONSTRAINT subscriptions_onchain_id_key UNIQUE (chain_id, contract, onchain_id),
    CONSTRAINT subscriptions_onchain_plan_fkey FOREIGN KEY (chain_id, contract, onchain_plan_id)
        REFERENCES ledger.chain_plans ON DELETE RESTRICT,
    CONSTRAINT subscriptions_rail_known CHECK (rail = 'chain'),
    CONSTRAINT subscriptions_status_known
        CHECK (status IN ('incomplete', 'trialing', 'active', 'past_due', 'expired', 'cancelled')),
    CONSTRAINT subscriptions_onchain_unless_incomplete
        CHECK ((onchain_id IS NULL) = (onchain_plan_id IS NULL) AND (onchain_id IS NOT NULL OR NOT confirmed)),
    CONSTRAINT subscriptions_unconfirmed_is_incomplete CHECK (confirmed = (status <> 'incomplete')),
    CONSTRAINT subscriptions_ended_is_cancelled CHECK (ended_at IS NULL OR status IN ('cancelled', 'incomplete')),
    CONSTRAINT subscriptions_periods_range CHECK (periods BETWEEN 0 AND 65535),
    CONSTRAINT subscriptions_paid_through_not_before_anchor CHECK (paid_through >= anchor),
    CONSTRAINT subscriptions_widths CHECK (octet_length(contract) = 20 AND octet_length(payer) = 20
        AND octet_length(reference) = 32 AND octet_length(origin_tx) = 32
        AND octet_length(evidence_block_hash) = 32 AND octet_length(evidence_tx) = 32)
);

CREATE INDEX subscriptions_account_id_idx ON ledger.subscriptions (account_id);
-- For the foreign key, when a reorganisation takes a plan back.
CREATE INDEX subscriptions_onchain_plan_idx ON ledger.subscriptions (chain_id, contract, onchain_plan_id);

CREATE TABLE ledger.transactions (
    id uuid PRIMARY KEY,
    account_id uuid NOT NULL REFERENCES ledger.accounts ON DELETE RESTRICT,
    subscription_id uuid NOT NULL REFERENCES ledger.subscriptions ON DELETE RESTRICT,
    rail text NOT NULL,
    kind text NOT NULL,
    -- 'pending' while the block may be reorganised away, 'completed' once it is final, 'failed' where it was
    -- reorganised away and not mined again.
    status text NOT NULL,
    failure_reason text,
    amount numeric(78, 0) NOT NULL,
    currency text NOT NULL,
    exponent smallint NOT NULL,
    period integer NOT NULL,
    period_start timestamptz NOT NULL,
    period_end timestamptz NOT NULL,
    chain_id bigint NOT NULL,
    contract bytea NOT NULL,
    token bytea NOT NULL,
    payer bytea NOT NULL,
    payee bytea NOT NULL,
    -- A transfer is named by its transaction and the period of the subscription that it pays: never by block or
    -- log index, which change when the transaction is mined again.
    tx_hash bytea NOT NULL,
    block_number bigint NOT NULL,
    block_hash bytea NOT NULL,
    log_index bigint NOT NULL,
    occurred_at timestamptz NOT NULL,
    settled_at timestamptz,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT transactions_transfer_key UNIQUE (chain_id, contract, tx_hash, subscription_id, period),
    CONSTRAINT transactions_rail_known CHECK (rail = 'chain'),
    CONSTRAINT transactions_kind_known CHECK (kind = 'charge'),
    CONSTRAINT transactions_status_known CHECK (status IN ('pending', 'completed', 'failed')),
    CONSTRAINT transactions_failed_has_reason CHECK ((status = 'failed') = (failure_reason IS NOT NULL)),
    CONSTRAINT transactions_completed_is_settled CHECK ((status = 'completed') = (settled_at IS NOT NULL)),
    CONSTRAINT transactions_amount_positive CHECK (amount > 0),
    CONSTRAINT transactions_exponent_range CHECK (exponent BETWEEN 0 AND 28),
    CONSTRAINT transactions_period_forward CHECK (period BETWEEN 1 AND 65535 AND period_start < period_end),
    CONSTRAINT transactions_widths CHECK (octet_length(contract) = 20 AND octet_length(token) = 20
        AND octet_length(payer) = 20 AND octet_length(payee) = 20 AND octet_length(tx_hash) = 32
        AND octet_length(block_hash) = 32)
);

-- A period is paid at most once.
CREATE UNIQUE INDEX transactions_period_paid_once ON ledger.transactions (subscription_id, period_start)
    WHERE kind = 'charge' AND status <> 'failed';
CREATE INDEX transactions_account_id_idx ON ledger.transactions (account_id, occurred_at);
-- What finality still has to settle.
CREATE INDEX transactions_pending_idx ON ledger.transactions (chain_id, contract, block_number) WHERE status = 'pending';
