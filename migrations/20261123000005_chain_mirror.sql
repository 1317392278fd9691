-- The chain as it was read: where the indexer is, the blocks that may still change, and every event of ours.
CREATE TABLE ledger.chain_checkpoints (
    chain_id bigint NOT NULL,
    contract bytea NOT NULL,
    -- Everything up to and including this block is in the ledger.
    block_number bigint NOT NULL,
    block_hash bytea NOT NULL,
    -- The highest block that the chain's finality policy calls final; nothing at or below it is ever unwound.
    final_number bigint NOT NULL,
    -- What was mirrored: another merchant, or an earlier start, would need everything to be read again.
    merchant bytea NOT NULL,
    start_block bigint NOT NULL,
    updated_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (chain_id, contract),
    CONSTRAINT chain_checkpoints_final_not_ahead CHECK (final_number <= block_number),
    CONSTRAINT chain_checkpoints_widths CHECK (octet_length(contract) = 20 AND octet_length(block_hash) = 32
        AND octet_length(merchant) = 20)
);

-- Blocks from finality, by which a reorganisation is seen and its fork point found.
CREATE TABLE ledger.chain_blocks (
    chain_id bigint NOT NULL,
    contract bytea NOT NULL,
    number bigint NOT NULL,
    hash bytea NOT NULL,
    PRIMARY KEY (chain_id, contract, number),
    CONSTRAINT chain_blocks_widths CHECK (octet_length(contract) = 20 AND octet_length(hash) = 32)
);

CREATE TABLE ledger.chain_events (
    chain_id bigint NOT NULL,
    contract bytea NOT NULL,
    block_number bigint NOT NULL,
    log_index bigint NOT NULL,
    block_hash bytea NOT NULL,
    block_time timestamptz NOT NULL,
    tx_hash bytea NOT NULL,
    -- Whose history it belongs to; NULL for events of plans.
    onchain_id bigint,
    topics bytea[] NOT NULL,
    data bytea NOT NULL,
    PRIMARY KEY (chain_id, contract, block_number, log_index),
    CONSTRAINT chain_events_widths CHECK (octet_length(contract) = 20 AND octet_length(block_hash) = 32
        AND octet_length(tx_hash) = 32)
);

-- A subscription's history, for the refold after a reorganisation.
CREATE INDEX chain_events_onchain_id_idx ON ledger.chain_events (chain_id, contract, onchain_id, block_number, log_index)
    WHERE onchain_id IS NOT NULL;
