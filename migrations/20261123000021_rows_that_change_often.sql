-- A renewal changes a subscription's row in none of its indexed columns. With room beside it on its page, the new version
-- needs no entry in any index (heap-only tuples), and the old one is cleared away by whoever comes next.
ALTER TABLE ledger.subscriptions SET (fillfactor = 50);

-- Money that moved for a subscription belongs to that subscription's account, now and when a wallet is claimed. One key says
-- so, where two said less and took twice as long to check.
ALTER TABLE ledger.subscriptions ADD CONSTRAINT subscriptions_account_id_id_key UNIQUE (account_id, id);
DROP INDEX ledger.subscriptions_account_id_idx;
ALTER TABLE ledger.transactions
    DROP CONSTRAINT transactions_account_id_fkey,
    DROP CONSTRAINT transactions_subscription_id_fkey,
    ADD CONSTRAINT transactions_subscription_fkey FOREIGN KEY (account_id, subscription_id)
        REFERENCES ledger.subscriptions (account_id, id) ON UPDATE CASCADE ON DELETE RESTRICT,
    -- A subscription is of one contract on one chain.
    DROP CONSTRAINT transactions_transfer_key,
    ADD CONSTRAINT transactions_transfer_key UNIQUE (tx_hash, subscription_id, period, ordinal);
