-- What payers have signed for the relay to send. No money: what came of it, the contract's events say.
CREATE TABLE ledger.relay_intents (
    id uuid PRIMARY KEY,
    -- Whom it is for, and whose limit it counts for.
    account_id uuid NOT NULL REFERENCES ledger.accounts ON DELETE RESTRICT,
    chain_id bigint NOT NULL,
    contract bytea NOT NULL,
    payer bytea NOT NULL,
    kind text NOT NULL,
    -- The payer's number of it, of 256 bits.
    nonce numeric(78, 0) NOT NULL,
    -- Its fields, as they were signed, from which the keeper builds the call.
    intent jsonb NOT NULL,
    -- Dropped where it was never sent: nobody is to send it later.
    signature bytea,
    permit jsonb,
    -- 'queued' until the keeper has simulated it, 'sending' while a transaction with it waits for a block, 'mined' in one;
    -- 'refused' before it was sent or, with tx_hash, where it reverted; 'expired' where nobody sent it by expires_at.
    status text NOT NULL DEFAULT 'queued',
    reason text,
    expires_at timestamptz NOT NULL,
    sent_at timestamptz,
    tx_hash bytea,
    -- The most gas that the transaction may use.
    gas_limit bigint,
    block_number bigint,
    block_hash bytea,
    gas_used bigint,
    -- Wei for each unit.
    gas_price bigint,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT relay_intents_kind_known CHECK (kind IN ('subscribe', 'change', 'cancel')),
    CONSTRAINT relay_intents_status_known CHECK (status IN ('queued', 'sending', 'mined', 'refused', 'expired')),
    CONSTRAINT relay_intents_reason_if_refused CHECK ((status = 'refused') = (reason IS NOT NULL)),
    CONSTRAINT relay_intents_signature_kept CHECK (signature IS NOT NULL OR (status IN ('refused', 'expired') AND tx_hash IS NULL)),
    CONSTRAINT relay_intents_sent CHECK (
        (sent_at IS NULL) = (tx_hash IS NULL) AND (sent_at IS NULL) = (gas_limit IS NULL)
        AND (status NOT IN ('sending', 'mined') OR sent_at IS NOT NULL)
        AND (status NOT IN ('queued', 'expired') OR sent_at IS NULL)
    ),
    CONSTRAINT relay_intents_in_a_block CHECK (
        (block_number IS NULL) = (block_hash IS NULL) AND (block_number IS NULL) = (gas_used IS NULL)
        AND (block_number IS NULL) = (gas_price IS NULL)
        AND (block_number IS NOT NULL) = (status = 'mined' OR (status = 'refused' AND tx_hash IS NOT NULL))
    ),
    CONSTRAINT relay_intents_numbers CHECK (nonce >= 0 AND gas_limit > 0 AND gas_used >= 0 AND gas_price >= 0),
    CONSTRAINT relay_intents_widths CHECK (octet_length(contract) = 20 AND octet_length(payer) = 20
        AND octet_length(tx_hash) = 32 AND octet_length(block_hash) = 32)
);

-- The contract takes a payer's nonce once, so that nothing else with it is worth any gas. It is also what makes posting
-- the same intent again the same intent. What was refused may be tried again.
CREATE UNIQUE INDEX relay_intents_nonce_once ON ledger.relay_intents (chain_id, contract, payer, nonce)
    WHERE status IN ('queued', 'sending', 'mined');
-- What the keeper looks at.
CREATE INDEX relay_intents_open_idx ON ledger.relay_intents (chain_id, contract, created_at)
    WHERE status IN ('queued', 'sending');
-- What the limits count.
CREATE INDEX relay_intents_account_idx ON ledger.relay_intents (account_id, created_at);
CREATE INDEX relay_intents_payer_idx ON ledger.relay_intents (payer, created_at);
CREATE INDEX relay_intents_gas_idx ON ledger.relay_intents (chain_id, sent_at) WHERE sent_at IS NOT NULL;

-- The intent that a transaction of the keeper's carries, where it is no batch of charges.
ALTER TABLE ledger.keeper_transactions
    ADD COLUMN relay_intent_id uuid REFERENCES ledger.relay_intents ON DELETE RESTRICT,
    ADD CONSTRAINT keeper_transactions_one_purpose CHECK (relay_intent_id IS NULL OR cardinality(onchain_ids) = 0);
CREATE INDEX keeper_transactions_relay_intent_idx ON ledger.keeper_transactions (relay_intent_id)
    WHERE relay_intent_id IS NOT NULL;

-- A scope of its own: it spends the keeper's gas.
ALTER TABLE ledger.api_keys
    DROP CONSTRAINT api_keys_scopes_known,
    ADD CONSTRAINT api_keys_scopes_known CHECK (
        scopes <@ ARRAY['accounts:read', 'accounts:write', 'entitlements:read', 'relay:write'] AND cardinality(scopes) > 0);
