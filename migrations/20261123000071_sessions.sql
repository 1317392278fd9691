-- End users who are signed in.
CREATE TABLE ledger.sessions (
    id uuid PRIMARY KEY,
    -- SHA-256 of the token. The token has 256 bits of entropy, so a fast hash is enough.
    token_hash bytea NOT NULL,
    -- A session is no money: where a paying wallet's account is claimed by another one, its sessions end.
    account_id uuid NOT NULL REFERENCES ledger.accounts ON DELETE CASCADE,
    -- 'siwe': signed in with a wallet, and ends when that wallet is unlinked. 'platform': the platform's server vouches.
    how text NOT NULL,
    wallet bytea,
    created_at timestamptz NOT NULL,
    expires_at timestamptz NOT NULL,
    last_seen_at timestamptz,
    revoked_at timestamptz,
    CONSTRAINT sessions_token_hash_key UNIQUE (token_hash),
    CONSTRAINT sessions_token_hash_length CHECK (octet_length(token_hash) = 32),
    CONSTRAINT sessions_how_known CHECK (how IN ('siwe', 'platform')),
    CONSTRAINT sessions_siwe_has_wallet CHECK ((how = 'siwe') = (wallet IS NOT NULL)),
    CONSTRAINT sessions_wallet_length CHECK (octet_length(wallet) = 20),
    CONSTRAINT sessions_expires_after_creation CHECK (expires_at > created_at)
);
CREATE INDEX sessions_account_id_idx ON ledger.sessions (account_id);
CREATE INDEX sessions_expires_at_idx ON ledger.sessions (expires_at);
