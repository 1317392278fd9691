//! Bringing a ledger of the release before up to date, with rows in it.

use std::path::Path;

use dues_tests::{Database, Ledger};
use sqlx::{Row as _, migrate::Migrator};

/// The last migration of the release in which a plan never changed.
const BEFORE: i64 = 20_261_123_000_005;

/// A subscription with a payment, cancelled by its payer, and one that its payer has ended.
const ROWS: &str = "
INSERT INTO ledger.accounts (id, external_id, origin) VALUES ('00000000-0000-7000-8000-00000000000a', 'ada', 'platform');
INSERT INTO ledger.chain_plans (chain_id, contract, onchain_plan_id, merchant, token, payee, price, interval_unit,
                                interval_count, trial_seconds, grace_seconds, block_number)
    VALUES (1, decode(repeat('cc', 20), 'hex'), 4, decode(repeat('11', 20), 'hex'), decode(repeat('22', 20), 'hex'),
            decode(repeat('33', 20), 'hex'), 29990000, 'month', 1, 0, 3600, 5);
INSERT INTO ledger.subscriptions (id, account_id, rail, status, chain_id, contract, onchain_id, onchain_plan_id, payer,
        reference, origin_tx, origin_plan_id, origin_ordinal, anchor, periods, paid_through, confirmed,
        cancel_at_period_end, ended_at, evidence_block_number, evidence_block_hash, evidence_log_index, evidence_tx,
        evidence_at)
    SELECT ('00000000-0000-7000-8000-0000000000d' || n)::uuid, '00000000-0000-7000-8000-00000000000a', 'chain',
           CASE n WHEN 1 THEN 'active' ELSE 'cancelled' END, 1, decode(repeat('cc', 20), 'hex'), n, 4,
           decode(repeat('aa', 20), 'hex'), decode(repeat('00', 32), 'hex'), decode(repeat('e' || n, 32), 'hex'), 4, 0,
           '2026-01-01Z', 1, '2026-02-01Z', true, n = 1, CASE n WHEN 2 THEN timestamptz '2026-01-02Z' END, 7,
           decode(repeat('b7', 32), 'hex'), 1, decode(repeat('e0', 32), 'hex'), '2026-01-01Z'
    FROM generate_series(1, 2) n;
INSERT INTO ledger.transactions (id, account_id, subscription_id, rail, kind, status, amount, currency, exponent, period,
        period_start, period_end, chain_id, contract, token, payer, payee, tx_hash, block_number, block_hash,
        log_index, occurred_at)
    SELECT gen_random_uuid(), account_id, id, 'chain', 'charge', 'pending', 29990000, 'USDC', 6, 1, anchor, paid_through,
           1, contract, decode(repeat('22', 20), 'hex'), payer, decode(repeat('33', 20), 'hex'), origin_tx, 7,
           evidence_block_hash, onchain_id, anchor
    FROM ledger.subscriptions;
";

#[tokio::test]
async fn rows_of_the_release_before_keep_their_meaning() {
    let database = Database::fresh().await;
    let ledger = Ledger::new(&database);
    let mut migrator =
        Migrator::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("../migrations")).await.unwrap();
    migrator.migrations.to_mut().retain(|migration| migration.version <= BEFORE);
    assert_eq!(migrator.migrations.len(), 5);
    migrator.run(ledger.pool()).await.unwrap();
    sqlx::raw_sql(ROWS).execute(ledger.pool()).await.unwrap();

    let store = database.store().await;
    store.check().await.unwrap();
    let rows =
        sqlx::query("SELECT * FROM ledger.subscriptions ORDER BY onchain_id").fetch_all(ledger.pool()).await;
    let rows = rows.unwrap();
    let said = |row: usize, column: &str| rows[row].get::<Option<String>, _>(column);
    let payer = || Some("payer".to_owned());
    assert_eq!((said(0, "cancel_scheduled_by"), said(0, "ended_by")), (payer(), None));
    assert_eq!((said(1, "cancel_scheduled_by"), said(1, "ended_by")), (None, payer()));
    let charges = "SELECT count(*) FROM ledger.transactions
                   WHERE kind = 'charge' AND onchain_plan_id = 4 AND plan_changes = 0 AND ordinal = 0";
    assert_eq!(ledger.count(charges).await, 2);
}
