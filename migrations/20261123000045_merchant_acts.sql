-- What the merchant does by `dues merchant` and `dues plans sync`. No money: what moved, the contract's events say, and the
-- indexer writes it. An act stands here before its transaction is sent, so that whatever happens in between, the next
-- run sends the very same bytes again, or finds them in a block, and nothing is done twice.
CREATE TABLE ledger.merchant_acts (
    id uuid PRIMARY KEY,
    chain_id bigint NOT NULL,
    contract bytea NOT NULL,
    signer bytea NOT NULL,
    -- 'refund', 'usage_charge', 'retire', …: what is done, and to what ('subscription:7', 'plan:3').
    action text NOT NULL,
    subject text NOT NULL,
    -- Base units, of acts that have an amount.
    amount numeric(78, 0),
    -- The contract's idempotency key, of usage charges and refunds.
    spent_key bytea,
    nonce bigint NOT NULL,
    tx_hash bytea NOT NULL,
    raw bytea NOT NULL,
    -- 'open' until it is seen in a block, then 'mined'; 'superseded' where another transaction has taken its nonce.
    status text NOT NULL DEFAULT 'open',
    block_number bigint,
    block_hash bytea,
    succeeded boolean,
    gas_used bigint,
    -- Wei per unit of gas.
    gas_price bigint,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT merchant_acts_tx_hash_key UNIQUE (tx_hash),
    CONSTRAINT merchant_acts_status_known CHECK (status IN ('open', 'mined', 'superseded')),
    CONSTRAINT merchant_acts_in_a_block CHECK (
        (status = 'mined') = (block_number IS NOT NULL)
        AND (block_number IS NULL) = (block_hash IS NULL) AND (block_number IS NULL) = (succeeded IS NULL)
        AND (block_number IS NULL) = (gas_used IS NULL) AND (block_number IS NULL) = (gas_price IS NULL)
    ),
    CONSTRAINT merchant_acts_numbers CHECK (nonce >= 0 AND amount >= 0),
    CONSTRAINT merchant_acts_widths CHECK (octet_length(tx_hash) = 32 AND octet_length(contract) = 20
        AND octet_length(signer) = 20 AND octet_length(block_hash) = 32 AND octet_length(spent_key) = 32)
);

-- Nothing is begun again before it is known what became of it, whoever of merchant and operators begins it.
CREATE UNIQUE INDEX merchant_acts_open_once ON ledger.merchant_acts (chain_id, contract, action, subject, coalesce(amount, 0))
    WHERE status = 'open';
CREATE UNIQUE INDEX merchant_acts_nonce_once ON ledger.merchant_acts (chain_id, signer, nonce)
    WHERE status IN ('open', 'mined');
-- Whether the same was done before.
CREATE INDEX merchant_acts_subject_idx ON ledger.merchant_acts (chain_id, contract, subject);

-- How a key begins, so that people can tell keys apart. NULL of keys that were made before.
ALTER TABLE ledger.api_keys
    ADD COLUMN prefix text,
    ADD CONSTRAINT api_keys_prefix_length CHECK (char_length(prefix) BETWEEN 8 AND 16);
