-- What is sold: plans of the catalogue, each version immutable, and where each is sold on which rail.
CREATE TABLE ledger.plans (
    id uuid PRIMARY KEY,
    key text NOT NULL,
    version integer NOT NULL,
    tier text NOT NULL,
    interval_unit text NOT NULL,
    interval_count integer NOT NULL,
    price numeric(78, 0) NOT NULL,
    currency text NOT NULL,
    exponent smallint NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT plans_key_version_key UNIQUE (key, version),
    CONSTRAINT plans_tier_sold CHECK (tier IN ('basic', 'premium', 'enterprise')),
    CONSTRAINT plans_interval_valid CHECK (interval_unit IN ('day', 'month') AND interval_count BETWEEN 1 AND 65535),
    CONSTRAINT plans_price_positive CHECK (price > 0),
    CONSTRAINT plans_exponent_range CHECK (exponent BETWEEN 0 AND 28)
);

CREATE TRIGGER plans_immutable BEFORE UPDATE OR DELETE ON ledger.plans
    FOR EACH ROW EXECUTE FUNCTION ledger.refuse_change();
CREATE TRIGGER plans_kept BEFORE TRUNCATE ON ledger.plans
    FOR EACH STATEMENT EXECUTE FUNCTION ledger.refuse_change();

-- The contract's plans of our merchant, as its events state them. Written by the indexer only.
CREATE TABLE ledger.chain_plans (
    chain_id bigint NOT NULL,
    contract bytea NOT NULL,
    onchain_plan_id bigint NOT NULL,
    merchant bytea NOT NULL,
    token bytea NOT NULL,
    payee bytea NOT NULL,
    price numeric(78, 0) NOT NULL,
    interval_unit text NOT NULL,
    interval_count integer NOT NULL,
    trial_seconds bigint NOT NULL,
    grace_seconds bigint NOT NULL,
    -- Block of its retirement; NULL while it takes new subscribers.
    retired_block bigint,
    block_number bigint NOT NULL,
    PRIMARY KEY (chain_id, contract, onchain_plan_id),
    CONSTRAINT chain_plans_addresses CHECK (octet_length(contract) = 20 AND octet_length(merchant) = 20
        AND octet_length(token) = 20 AND octet_length(payee) = 20),
    CONSTRAINT chain_plans_terms CHECK (price > 0 AND interval_unit IN ('day', 'month') AND interval_count > 0
        AND trial_seconds >= 0 AND grace_seconds >= 0)
);

-- Which on-chain plan sells which plan of the catalogue. It counts only where the terms are the same (see the query
-- of entitlements): a reorganisation may give an on-chain number to another plan.
CREATE TABLE ledger.plan_prices (
    chain_id bigint NOT NULL,
    contract bytea NOT NULL,
    onchain_plan_id bigint NOT NULL,
    plan_id uuid NOT NULL REFERENCES ledger.plans ON DELETE RESTRICT,
    -- The token that stands for the plan's currency on this chain.
    token bytea NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (chain_id, contract, onchain_plan_id),
    CONSTRAINT plan_prices_plan_once_per_contract UNIQUE (plan_id, chain_id, contract)
);
