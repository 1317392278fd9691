-- Wallets that are proven by a signature (EIP-4361).

-- Challenges are not stored: each carries a code that only whoever has this key can make, so that strangers may ask for as
-- many as they like and fill nothing. The key protects no money and no account: a signature is needed besides.
CREATE TABLE ledger.challenge_key (
    only_row boolean PRIMARY KEY DEFAULT true,
    -- 244 random bits: two UUIDs of version 4.
    key bytea NOT NULL DEFAULT uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid()),
    CONSTRAINT challenge_key_only_row CHECK (only_row),
    CONSTRAINT challenge_key_length CHECK (octet_length(key) = 32)
);
INSERT INTO ledger.challenge_key DEFAULT VALUES;

-- What was signed and has had its effect, until it would have expired anyway: it has no second one. A row needs a valid
-- signature, so that nobody else makes any.
CREATE TABLE ledger.spent_challenges (
    nonce bytea PRIMARY KEY,
    expires_at timestamptz NOT NULL,
    CONSTRAINT spent_challenges_nonce_length CHECK (octet_length(nonce) = 16)
);
CREATE INDEX spent_challenges_expires_at_idx ON ledger.spent_challenges (expires_at);

-- 'signature': whoever has the wallet has signed that it is this account's.
ALTER TABLE ledger.wallets
    DROP CONSTRAINT wallets_proof_known,
    ADD CONSTRAINT wallets_proof_known CHECK (proof IN ('platform', 'payment', 'signature'));
