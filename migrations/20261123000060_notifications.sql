-- Whoever keeps answers in memory is told when what they rest on changes: by the database itself, so that no writer can
-- forget it. Statement by statement, as the indexer writes thousands of rows at once. A notification arrives with the commit,
-- in the order of commits, on the channel `dues_ledger`:
--   accounts <id>,<id>…                      what the ledger says of these accounts may be another
--   everything                               … of any account
--   final <chain id> <contract> <number>     the chain is final up to this block
--   keys                                     API keys have changed
--   beat <text>                              whoever sent it has heard everything that was committed before it
CREATE FUNCTION ledger.tell_accounts(accounts uuid[]) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    IF cardinality(accounts) > 1000 THEN
        PERFORM pg_notify('dues_ledger', 'everything');
        RETURN;
    END IF;
    -- A notification has room for 8,000 bytes.
    FOR place IN 1..coalesce(cardinality(accounts), 0) BY 200 LOOP
        PERFORM pg_notify('dues_ledger', 'accounts ' || array_to_string(accounts[place:place + 199], ','));
    END LOOP;
END $$;

-- Of rows with an account_id.
CREATE FUNCTION ledger.tell_account_id() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'INSERT' THEN
        PERFORM ledger.tell_accounts((SELECT array_agg(DISTINCT account_id) FROM new_rows));
    ELSIF TG_OP = 'DELETE' THEN
        PERFORM ledger.tell_accounts((SELECT array_agg(DISTINCT account_id) FROM old_rows));
    ELSE
        PERFORM ledger.tell_accounts((SELECT array_agg(account_id)
            FROM (SELECT account_id FROM old_rows UNION SELECT account_id FROM new_rows) AS touched));
    END IF;
    RETURN NULL;
END $$;

CREATE TRIGGER tell_insert AFTER INSERT ON ledger.subscriptions REFERENCING NEW TABLE AS new_rows
    FOR EACH STATEMENT EXECUTE FUNCTION ledger.tell_account_id();
CREATE TRIGGER tell_update AFTER UPDATE ON ledger.subscriptions REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows
    FOR EACH STATEMENT EXECUTE FUNCTION ledger.tell_account_id();
CREATE TRIGGER tell_delete AFTER DELETE ON ledger.subscriptions REFERENCING OLD TABLE AS old_rows
    FOR EACH STATEMENT EXECUTE FUNCTION ledger.tell_account_id();
CREATE TRIGGER tell_insert AFTER INSERT ON ledger.wallets REFERENCING NEW TABLE AS new_rows
    FOR EACH STATEMENT EXECUTE FUNCTION ledger.tell_account_id();
CREATE TRIGGER tell_update AFTER UPDATE ON ledger.wallets REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows
    FOR EACH STATEMENT EXECUTE FUNCTION ledger.tell_account_id();
CREATE TRIGGER tell_delete AFTER DELETE ON ledger.wallets REFERENCING OLD TABLE AS old_rows
    FOR EACH STATEMENT EXECUTE FUNCTION ledger.tell_account_id();

-- An account that is new was known to nobody.
CREATE FUNCTION ledger.tell_id() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM ledger.tell_accounts((SELECT array_agg(id) FROM old_rows));
    RETURN NULL;
END $$;

CREATE TRIGGER tell_update AFTER UPDATE ON ledger.accounts REFERENCING OLD TABLE AS old_rows
    FOR EACH STATEMENT EXECUTE FUNCTION ledger.tell_id();
CREATE TRIGGER tell_delete AFTER DELETE ON ledger.accounts REFERENCING OLD TABLE AS old_rows
    FOR EACH STATEMENT EXECUTE FUNCTION ledger.tell_id();

-- The keeper's notes on subscriptions.
CREATE FUNCTION ledger.tell_subscription_id() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'DELETE' THEN
        PERFORM ledger.tell_accounts((SELECT array_agg(DISTINCT s.account_id)
            FROM old_rows JOIN ledger.subscriptions s ON s.id = subscription_id));
    ELSE
        PERFORM ledger.tell_accounts((SELECT array_agg(DISTINCT s.account_id)
            FROM new_rows JOIN ledger.subscriptions s ON s.id = subscription_id));
    END IF;
    RETURN NULL;
END $$;

CREATE TRIGGER tell_insert AFTER INSERT ON ledger.charge_attempts REFERENCING NEW TABLE AS new_rows
    FOR EACH STATEMENT EXECUTE FUNCTION ledger.tell_subscription_id();
CREATE TRIGGER tell_update AFTER UPDATE ON ledger.charge_attempts REFERENCING NEW TABLE AS new_rows
    FOR EACH STATEMENT EXECUTE FUNCTION ledger.tell_subscription_id();
CREATE TRIGGER tell_delete AFTER DELETE ON ledger.charge_attempts REFERENCING OLD TABLE AS old_rows
    FOR EACH STATEMENT EXECUTE FUNCTION ledger.tell_subscription_id();
CREATE TRIGGER tell_insert AFTER INSERT ON ledger.charge_runways REFERENCING NEW TABLE AS new_rows
    FOR EACH STATEMENT EXECUTE FUNCTION ledger.tell_subscription_id();
CREATE TRIGGER tell_update AFTER UPDATE ON ledger.charge_runways REFERENCING NEW TABLE AS new_rows
    FOR EACH STATEMENT EXECUTE FUNCTION ledger.tell_subscription_id();
CREATE TRIGGER tell_delete AFTER DELETE ON ledger.charge_runways REFERENCING OLD TABLE AS old_rows
    FOR EACH STATEMENT EXECUTE FUNCTION ledger.tell_subscription_id();

-- Plans change seldom, and then for everybody on them. So does everything that is emptied as a whole.
CREATE FUNCTION ledger.tell_everything() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_notify('dues_ledger', 'everything');
    RETURN NULL;
END $$;

CREATE TRIGGER tell AFTER UPDATE OR DELETE OR TRUNCATE ON ledger.plans
    FOR EACH STATEMENT EXECUTE FUNCTION ledger.tell_everything();
CREATE TRIGGER tell AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON ledger.plan_prices
    FOR EACH STATEMENT EXECUTE FUNCTION ledger.tell_everything();
CREATE TRIGGER tell AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON ledger.chain_plans
    FOR EACH STATEMENT EXECUTE FUNCTION ledger.tell_everything();
CREATE TRIGGER tell_truncate AFTER TRUNCATE ON ledger.subscriptions
    FOR EACH STATEMENT EXECUTE FUNCTION ledger.tell_everything();
CREATE TRIGGER tell_truncate AFTER TRUNCATE ON ledger.wallets
    FOR EACH STATEMENT EXECUTE FUNCTION ledger.tell_everything();
CREATE TRIGGER tell_truncate AFTER TRUNCATE ON ledger.accounts
    FOR EACH STATEMENT EXECUTE FUNCTION ledger.tell_everything();
CREATE TRIGGER tell_truncate AFTER TRUNCATE ON ledger.charge_attempts
    FOR EACH STATEMENT EXECUTE FUNCTION ledger.tell_everything();
CREATE TRIGGER tell_truncate AFTER TRUNCATE ON ledger.charge_runways
    FOR EACH STATEMENT EXECUTE FUNCTION ledger.tell_everything();

CREATE FUNCTION ledger.tell_final() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_notify('dues_ledger',
        format('final %s %s %s', NEW.chain_id, encode(NEW.contract, 'hex'), NEW.final_number));
    RETURN NULL;
END $$;

CREATE TRIGGER tell_insert AFTER INSERT ON ledger.chain_checkpoints
    FOR EACH ROW EXECUTE FUNCTION ledger.tell_final();
CREATE TRIGGER tell_update AFTER UPDATE ON ledger.chain_checkpoints
    FOR EACH ROW WHEN (NEW.final_number > OLD.final_number) EXECUTE FUNCTION ledger.tell_final();
-- Finality does not go back, but a repair by hand may take it back.
CREATE TRIGGER tell_everything AFTER UPDATE ON ledger.chain_checkpoints
    FOR EACH ROW WHEN (NEW.final_number < OLD.final_number) EXECUTE FUNCTION ledger.tell_everything();
CREATE TRIGGER tell_delete AFTER DELETE OR TRUNCATE ON ledger.chain_checkpoints
    FOR EACH STATEMENT EXECUTE FUNCTION ledger.tell_everything();

CREATE FUNCTION ledger.tell_keys() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_notify('dues_ledger', 'keys');
    RETURN NULL;
END $$;

-- Not of every use.
CREATE TRIGGER tell_update AFTER UPDATE ON ledger.api_keys
    FOR EACH ROW WHEN ((NEW.scopes, NEW.key_hash, NEW.expires_at, NEW.revoked_at)
        IS DISTINCT FROM (OLD.scopes, OLD.key_hash, OLD.expires_at, OLD.revoked_at))
    EXECUTE FUNCTION ledger.tell_keys();
CREATE TRIGGER tell_delete AFTER DELETE OR TRUNCATE ON ledger.api_keys
    FOR EACH STATEMENT EXECUTE FUNCTION ledger.tell_keys();
