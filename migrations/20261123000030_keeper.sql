-- What the keeper keeps for itself. No money: what was paid, the contract's events say, and the indexer writes it.

-- Renewals that were tried and refused: one row per subscription, of the period that begins at paid_through. Once that
-- has moved on, the row says nothing any more.
CREATE TABLE ledger.charge_attempts (
    subscription_id uuid PRIMARY KEY REFERENCES ledger.subscriptions ON DELETE CASCADE,
    paid_through timestamptz NOT NULL,
    attempts integer NOT NULL,
    -- Why, the last time.
    reason text NOT NULL,
    -- By the chain's clock. next_attempt_at is NULL where grace ends before.
    first_attempt_at timestamptz NOT NULL,
    last_attempt_at timestamptz NOT NULL,
    next_attempt_at timestamptz,
    CONSTRAINT charge_attempts_positive CHECK (attempts > 0),
    CONSTRAINT charge_attempts_reason_known CHECK (reason IN ('allowance', 'balance', 'token')),
    CONSTRAINT charge_attempts_in_order CHECK (first_attempt_at <= last_attempt_at AND last_attempt_at < next_attempt_at)
);

-- For how many further periods the payer's balance and allowance last, as they were at as_of.
CREATE TABLE ledger.charge_runways (
    subscription_id uuid PRIMARY KEY REFERENCES ledger.subscriptions ON DELETE CASCADE,
    renewals integer NOT NULL,
    limited_by text NOT NULL,
    as_of timestamptz NOT NULL,
    CONSTRAINT charge_runways_not_negative CHECK (renewals >= 0),
    CONSTRAINT charge_runways_limited_by_known CHECK (limited_by IN ('allowance', 'balance'))
);

-- Every transaction that the keeper has signed, written before it is sent: whatever happens in between, the very same
-- bytes can be sent again, and nothing is ever signed twice for one nonce without knowing of the first.
CREATE TABLE ledger.keeper_transactions (
    hash bytea PRIMARY KEY,
    chain_id bigint NOT NULL,
    contract bytea NOT NULL,
    signer bytea NOT NULL,
    nonce bigint NOT NULL,
    -- 0 for the first of its nonce; each that replaces another, with higher fees, has one more.
    replacement integer NOT NULL,
    raw bytea NOT NULL,
    -- The contract's numbers of the subscriptions that it charges.
    onchain_ids bigint[] NOT NULL,
    gas_limit bigint NOT NULL,
    -- Wei per unit of gas.
    max_fee bigint NOT NULL,
    priority_fee bigint NOT NULL,
    -- The head when it was signed.
    head_number bigint NOT NULL,
    -- 'open' until it is seen in a block, 'mined' while that may be reorganised away, then 'final'. 'superseded' where
    -- another transaction of the same nonce is final.
    status text NOT NULL DEFAULT 'open',
    block_number bigint,
    block_hash bytea,
    succeeded boolean,
    gas_used bigint,
    gas_price bigint,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT keeper_transactions_nonce_key UNIQUE (chain_id, signer, nonce, replacement),
    CONSTRAINT keeper_transactions_status_known CHECK (status IN ('open', 'mined', 'final', 'superseded')),
    CONSTRAINT keeper_transactions_in_a_block CHECK (
        (status IN ('mined', 'final')) = (block_number IS NOT NULL)
        AND (block_number IS NULL) = (block_hash IS NULL) AND (block_number IS NULL) = (succeeded IS NULL)
        AND (block_number IS NULL) = (gas_used IS NULL) AND (block_number IS NULL) = (gas_price IS NULL)
    ),
    CONSTRAINT keeper_transactions_numbers CHECK (nonce >= 0 AND replacement >= 0 AND gas_limit > 0
        AND max_fee >= priority_fee AND priority_fee >= 0 AND head_number >= 0),
    CONSTRAINT keeper_transactions_widths CHECK (octet_length(hash) = 32 AND octet_length(contract) = 20
        AND octet_length(signer) = 20 AND octet_length(block_hash) = 32)
);

-- One transaction per nonce is in a block.
CREATE UNIQUE INDEX keeper_transactions_mined_once ON ledger.keeper_transactions (chain_id, signer, nonce)
    WHERE status IN ('mined', 'final');
-- What still has to be looked after.
CREATE INDEX keeper_transactions_unsettled_idx ON ledger.keeper_transactions (chain_id, signer, nonce)
    WHERE status IN ('open', 'mined');
