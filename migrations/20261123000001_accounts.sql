-- Who: accounts of the platform's users, and the wallets that belong to them.
CREATE SCHEMA IF NOT EXISTS ledger;

CREATE TABLE ledger.accounts (
    id uuid PRIMARY KEY,
    external_id text,
    email text,
    -- 'platform': upserted over the API. 'wallet': made for a wallet that paid with an unknown reference, and
    -- merged into a platform account when that account links the wallet.
    origin text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT accounts_external_id_key UNIQUE (external_id),
    CONSTRAINT accounts_external_id_length CHECK (char_length(external_id) BETWEEN 1 AND 255),
    CONSTRAINT accounts_email_length CHECK (char_length(email) BETWEEN 3 AND 320),
    CONSTRAINT accounts_origin_known CHECK (origin IN ('platform', 'wallet')),
    CONSTRAINT accounts_wallet_origin_is_anonymous CHECK (origin = 'platform' OR (external_id IS NULL AND email IS NULL))
);

CREATE TABLE ledger.wallets (
    address bytea PRIMARY KEY,
    account_id uuid NOT NULL REFERENCES ledger.accounts ON DELETE RESTRICT,
    -- 'platform': the platform's server vouches for it. 'payment': the wallet paid, and got this account.
    proof text NOT NULL,
    linked_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT wallets_address_length CHECK (octet_length(address) = 20),
    CONSTRAINT wallets_proof_known CHECK (proof IN ('platform', 'payment'))
);

CREATE INDEX wallets_account_id_idx ON ledger.wallets (account_id);
