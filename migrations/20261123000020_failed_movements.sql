-- Whether a movement was there before a reorganisation is asked for all movements of a step at once. Few rows have failed,
-- mostly none.
CREATE INDEX transactions_failed_idx ON ledger.transactions (subscription_id) WHERE status = 'failed';
