//! What the database itself refuses, whoever asks; and the mirror's own guards.

use alloy::primitives::{Address, B256};
use chrono::{DateTime, Utc};
use dues_api::snapshot::{FRESH_FOR, Snapshot};
use dues_domain::{
    catalogue::Tier,
    chain::{BlockRef, ChainSource, EventPosition, SubscriptionEvent, SubscriptionEventKind},
    entitlement::SubscriptionFacts,
    fold::ChainSubscription,
    ids::AccountId,
};
use dues_store::{
    Account, Grants, Store, StoreError,
    mirror::{Begun, Checkpoint, MirrorScope, MirroredSubscription, NewEvent, Origin, Step},
};
use dues_tests::{Database, Ledger, SOON, eventually};
use sqlx::{AssertSqlSafe, PgPool};
use tokio_util::task::AbortOnDropHandle;

/// What is mirrored: the merchant of the good rows.
const SCOPE: MirrorScope = MirrorScope { merchant: Address::repeat_byte(0x11), start_block: 0 };

/// One good row of everything that has rules.
const SEED: &str = "
INSERT INTO ledger.accounts (id, external_id, origin) VALUES
    ('00000000-0000-7000-8000-00000000000a', 'ada', 'platform'), ('00000000-0000-7000-8000-00000000000b', NULL, 'wallet');
INSERT INTO ledger.wallets (address, account_id, proof)
    VALUES (decode(repeat('aa', 20), 'hex'), '00000000-0000-7000-8000-00000000000a', 'platform');
INSERT INTO ledger.api_keys (id, name, key_hash, scopes)
    VALUES ('00000000-0000-7000-8000-000000000001', 'key', decode(repeat('01', 32), 'hex'), '{accounts:read}');
INSERT INTO ledger.audit_log (actor, action, subject) VALUES ('operator', 'api_key.create', 'key');
INSERT INTO ledger.plans (id, key, version, tier, interval_unit, interval_count, price, currency, exponent)
    VALUES ('00000000-0000-7000-8000-0000000000cc', 'basic', 1, 'basic', 'month', 1, 29990000, 'USDC', 6);
INSERT INTO ledger.chain_plans (chain_id, contract, onchain_plan_id, merchant, token, payee, price, interval_unit,
                                interval_count, trial_seconds, grace_seconds, block_number)
    VALUES (1, decode(repeat('cc', 20), 'hex'), 1, decode(repeat('11', 20), 'hex'), decode(repeat('22', 20), 'hex'),
            decode(repeat('33', 20), 'hex'), 29990000, 'month', 1, 0, 3600, 5);
INSERT INTO ledger.plan_prices (chain_id, contract, onchain_plan_id, plan_id, token)
    VALUES (1, decode(repeat('cc', 20), 'hex'), 1, '00000000-0000-7000-8000-0000000000cc',
            decode(repeat('22', 20), 'hex'));
INSERT INTO ledger.subscriptions (id, account_id, rail, status, chain_id, contract, onchain_id, onchain_plan_id, payer,
        reference, origin_tx, origin_plan_id, origin_ordinal, anchor, periods, paid_through, confirmed, cancel_at_period_end,
        evidence_block_number, evidence_block_hash, evidence_log_index, evidence_tx, evidence_at)
    VALUES ('00000000-0000-7000-8000-0000000000dd', '00000000-0000-7000-8000-00000000000a', 'chain', 'active', 1,
            decode(repeat('cc', 20), 'hex'), 1, 1, decode(repeat('aa', 20), 'hex'), decode(repeat('00', 32), 'hex'),
            decode(repeat('e0', 32), 'hex'), 1, 0, '2026-01-01Z', 1, '2026-02-01Z', true, false, 7,
            decode(repeat('b7', 32), 'hex'), 1, decode(repeat('e0', 32), 'hex'), '2026-01-01Z');
INSERT INTO ledger.transactions (id, account_id, subscription_id, rail, kind, status, amount, currency, exponent,
        onchain_plan_id, plan_changes, ordinal, period, period_start, period_end, chain_id, contract, token, payer, payee, tx_hash, block_number, block_hash,
        log_index, occurred_at)
    VALUES ('00000000-0000-7000-8000-0000000000ee', '00000000-0000-7000-8000-00000000000a',
            '00000000-0000-7000-8000-0000000000dd', 'chain', 'charge', 'pending', 29990000, 'USDC', 6, 1, 0, 0, 1, '2026-01-01Z',
            '2026-02-01Z', 1, decode(repeat('cc', 20), 'hex'), decode(repeat('22', 20), 'hex'),
            decode(repeat('aa', 20), 'hex'), decode(repeat('33', 20), 'hex'), decode(repeat('e0', 32), 'hex'), 7,
            decode(repeat('b7', 32), 'hex'), 1, '2026-01-01Z');
INSERT INTO ledger.chain_checkpoints (chain_id, contract, block_number, block_hash, final_number, merchant,
        start_block)
    VALUES (1, decode(repeat('cc', 20), 'hex'), 9, decode(repeat('b9', 32), 'hex'), 3, decode(repeat('11', 20), 'hex'), 0);
";

/// Another row like the good one, but for its own keys and for what is given: a rule, and what refuses it.
const ROWS: [(&str, &str, &str); 61] = [
    ("transactions", r#"{"tx_hash": "\\xTX", "log_index": 2}"#, "transactions_period_paid_once"),
    ("transactions", r#"{"plan_changes": 1, "log_index": 2}"#, "transactions_transfer_key"),
    ("transactions", r#"{NEXT, "log_index": 1}"#, "transactions_event_once"),
    ("transactions", r#"{NEXT, "ordinal": null}"#, "transactions_named_by_kind"),
    ("transactions", r#"{NEXT, "plan_changes": null}"#, "transactions_named_by_kind"),
    ("transactions", r#"{NEXT, "ordinal": -1}"#, "transactions_numbers_not_negative"),
    ("transactions", r#"{NEXT, "spent_key": "\\xTX"}"#, "transactions_named_by_kind"),
    ("transactions", r#"{USAGE, "spent_key": null}"#, "transactions_named_by_kind"),
    ("transactions", r#"{USAGE, "ordinal": 0}"#, "transactions_named_by_kind"),
    ("transactions", r#"{USAGE, "spent_key": "\\x00"}"#, "transactions_spent_key_width"),
    ("transactions", r#"{USAGE, "period": null}"#, "transactions_period_forward"),
    ("transactions", r#"{USAGE, "period_end": null}"#, "transactions_period_forward"),
    ("transactions", r#"{REFUND, "period": 1}"#, "transactions_period_forward"),
    ("transactions", r#"{REFUND, "period_start": "2026-01-01Z"}"#, "transactions_period_forward"),
    ("transactions", r#"{REFUND, "amount": -1}"#, "transactions_amount_positive"),
    ("transactions", r#"{"amount": -1, NEXT}"#, "transactions_amount_positive"),
    ("transactions", r#"{"amount": 0, NEXT}"#, "transactions_amount_positive"),
    ("transactions", r#"{"status": "paid", NEXT}"#, "transactions_status_known"),
    ("transactions", r#"{"status": "failed", NEXT}"#, "transactions_failed_has_reason"),
    ("transactions", r#"{"failure_reason": "none", NEXT}"#, "transactions_failed_has_reason"),
    ("transactions", r#"{"status": "completed", NEXT}"#, "transactions_completed_is_settled"),
    ("transactions", r#"{"settled_at": "2026-02-01Z", NEXT}"#, "transactions_completed_is_settled"),
    ("transactions", r#"{"rail": "cash", NEXT}"#, "transactions_rail_known"),
    ("transactions", r#"{"kind": "gift", NEXT}"#, "transactions_kind_known"),
    ("transactions", r#"{"exponent": 29, NEXT}"#, "transactions_exponent_range"),
    ("transactions", r#"{NEXT, "period_end": "2026-02-01Z"}"#, "transactions_period_forward"),
    ("transactions", r#"{NEXT, "period": 0}"#, "transactions_period_forward"),
    ("transactions", r#"{"payer": "\\x00", NEXT}"#, "transactions_widths"),
    (
        "transactions",
        r#"{"account_id": "00000000-0000-7000-8000-000000000099", NEXT}"#,
        "transactions_subscription_fkey",
    ),
    (
        "transactions",
        r#"{"subscription_id": "00000000-0000-7000-8000-000000000099", NEXT}"#,
        "transactions_subscription_fkey",
    ),
    ("subscriptions", r#"{"origin_ordinal": 1}"#, "subscriptions_onchain_id_key"),
    ("subscriptions", r#"{"onchain_id": 2}"#, "subscriptions_origin_key"),
    ("subscriptions", r#"{OTHER, "onchain_plan_id": 9}"#, "subscriptions_onchain_plan_fkey"),
    ("subscriptions", r#"{OTHER, "onchain_id": null}"#, "subscriptions_onchain_unless_incomplete"),
    ("subscriptions", r#"{OTHER, "confirmed": false}"#, "subscriptions_unconfirmed_is_incomplete"),
    ("subscriptions", r#"{OTHER, "status": "lapsed"}"#, "subscriptions_status_known"),
    (
        "subscriptions",
        r#"{OTHER, "ended_at": "2026-01-02Z", "ended_by": "payer"}"#,
        "subscriptions_ended_is_cancelled",
    ),
    (
        "subscriptions",
        r#"{OTHER, "paid_through": "2025-12-31Z"}"#,
        "subscriptions_paid_through_not_before_anchor",
    ),
    ("subscriptions", r#"{OTHER, "periods": 65536}"#, "subscriptions_periods_range"),
    ("subscriptions", r#"{OTHER, "scheduled_plan_id": 9}"#, "subscriptions_scheduled_plan_fkey"),
    ("subscriptions", r#"{OTHER, "scheduled_plan_id": 1}"#, "subscriptions_scheduled_plan_is_another"),
    ("subscriptions", r#"{OTHER, "plan_changes": -1}"#, "subscriptions_plan_changes_not_negative"),
    ("subscriptions", r#"{OTHER, "cancel_at_period_end": true}"#, "subscriptions_cancel_scheduled_by_known"),
    (
        "subscriptions",
        r#"{OTHER, "cancel_scheduled_by": "payer"}"#,
        "subscriptions_cancel_scheduled_by_known",
    ),
    (
        "subscriptions",
        r#"{OTHER, "cancel_at_period_end": true, "cancel_scheduled_by": "keeper"}"#,
        "subscriptions_cancel_scheduled_by_known",
    ),
    (
        "subscriptions",
        r#"{OTHER, "status": "cancelled", "ended_at": "2026-01-02Z"}"#,
        "subscriptions_ended_by_known",
    ),
    ("subscriptions", r#"{OTHER, "ended_by": "payer"}"#, "subscriptions_ended_by_known"),
    ("plans", r#"{"version": 1}"#, "plans_key_version_key"),
    ("plans", r#"{"version": 2, "tier": "free"}"#, "plans_tier_sold"),
    ("plans", r#"{"version": 2, "price": 0}"#, "plans_price_positive"),
    ("plans", r#"{"version": 2, "interval_unit": "week"}"#, "plans_interval_valid"),
    ("chain_plans", r#"{"onchain_plan_id": 2, "price": -5}"#, "chain_plans_terms"),
    ("chain_plans", r#"{"onchain_plan_id": 2, "usage_cap": -1}"#, "chain_plans_usage_cap_not_negative"),
    ("plan_prices", r#"{"onchain_plan_id": 2}"#, "plan_prices_plan_once_per_contract"),
    (
        "api_keys",
        r#"{"key_hash": "\\xTX", "scopes": ["accounts:read", "everything"]}"#,
        "api_keys_scopes_known",
    ),
    ("api_keys", r#"{"key_hash": "\\xTX", "scopes": []}"#, "api_keys_scopes_known"),
    ("api_keys", r#"{"key_hash": "\\xTX", "scopes": [null]}"#, "api_keys_scopes_known"),
    ("api_keys", r#"{}"#, "api_keys_key_hash_key"),
    ("api_keys", r#"{"key_hash": "\\x00"}"#, "api_keys_key_hash_length"),
    ("wallets", r#"{"account_id": "00000000-0000-7000-8000-00000000000b"}"#, "wallets_pkey"),
    ("chain_checkpoints", r#"{"chain_id": 2, "final_number": 10}"#, "chain_checkpoints_final_not_ahead"),
];

/// A statement, and what refuses it.
const STATEMENTS: [(&str, &str); 13] = [
    ("DELETE FROM ledger.accounts WHERE external_id = 'ada'", "_account_id_fkey"),
    ("DELETE FROM ledger.subscriptions", "transactions_subscription_fkey"),
    ("DELETE FROM ledger.chain_plans", "subscriptions_onchain_plan_fkey"),
    ("UPDATE ledger.plans SET price = 1", "immutable"),
    ("DELETE FROM ledger.plans", "immutable"),
    ("UPDATE ledger.audit_log SET actor = 'nobody'", "immutable"),
    ("DELETE FROM ledger.audit_log", "immutable"),
    ("TRUNCATE ledger.audit_log", "immutable"),
    ("TRUNCATE ledger.plans CASCADE", "immutable"),
    (
        "UPDATE ledger.accounts SET external_id = 'x' WHERE origin = 'wallet'",
        "accounts_wallet_origin_is_anonymous",
    ),
    (
        "INSERT INTO ledger.accounts (id, external_id, origin) VALUES (gen_random_uuid(), 'ada', 'platform')",
        "accounts_external_id_key",
    ),
    (
        "INSERT INTO ledger.accounts (id, external_id, origin) VALUES (gen_random_uuid(), '', 'platform')",
        "accounts_external_id_length",
    ),
    (
        "INSERT INTO ledger.accounts (id, external_id, origin) VALUES (gen_random_uuid(), repeat('x', 256), 'platform')",
        "accounts_external_id_length",
    ),
];

async fn seeded() -> (Database, Ledger) {
    let database = Database::fresh().await;
    database.store().await.close().await;
    let ledger = Ledger::new(&database);
    sqlx::raw_sql(SEED).execute(ledger.pool()).await.unwrap();
    (database, ledger)
}

/// Why the database refuses `sql`; `None` where it does not. Nothing is kept of it either way.
async fn refusal(pool: &PgPool, sql: String) -> Option<String> {
    let mut tx = pool.begin().await.unwrap();
    let error = sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut *tx).await.err()?;
    let error = error.as_database_error().unwrap();
    Some(format!("{} {error}", error.constraint().unwrap_or_default()))
}

/// What makes a copy of the good charge a movement that is named by a key.
const KEYED: &str = r#""log_index": 2, "ordinal": null, "plan_changes": null, "spent_key": "\\xTX""#;

/// Inserts a copy of the good row of `table` with `changes`.
fn copy(table: &str, changes: &str) -> String {
    let changes = changes
        .replace(
            "NEXT",
            r#""log_index": 2, "period": 2, "period_start": "2026-02-01Z", "period_end": "2026-03-01Z""#,
        )
        .replace("USAGE", &format!(r#""kind": "usage", {KEYED}"#))
        .replace(
            "REFUND",
            &format!(
                r#""kind": "refund", "period": null, "period_start": null, "period_end": null, {KEYED}"#
            ),
        )
        .replace("OTHER", r#""onchain_id": 2, "origin_ordinal": 1"#)
        .replace("TX", &"99".repeat(32));
    let id = match table {
        "transactions" | "subscriptions" | "plans" | "api_keys" => {
            "jsonb_build_object('id', gen_random_uuid())"
        }
        _ => "'{}'::jsonb",
    };
    format!(
        "INSERT INTO ledger.{table} SELECT (jsonb_populate_record(r, {id} || '{changes}'::jsonb)).* FROM ledger.{table} r"
    )
}

#[tokio::test]
async fn the_database_refuses_what_the_rules_forbid() {
    let (_database, ledger) = seeded().await;
    let before = ledger.digest().await;
    let mut wrong = Vec::new();
    let rows =
        ROWS.iter().map(|(table, changes, due)| (copy(table, changes), *due, format!("{table} {changes}")));
    let statements = STATEMENTS.iter().map(|(sql, due)| ((*sql).to_owned(), *due, (*sql).to_owned()));
    for (sql, due, name) in rows.chain(statements) {
        match refusal(ledger.pool(), sql).await {
            Some(refusal) if refusal.contains(due) => {}
            refusal => wrong.push(format!("{name}: {due} was due, there is {refusal:?}")),
        }
    }
    assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong.join("\n"));
    assert_eq!(ledger.digest().await, before);
}

#[tokio::test]
async fn the_database_takes_what_the_rules_allow() {
    let (_database, ledger) = seeded().await;
    // The copies are refused for what is wrong with them, not because every copy is.
    let next = ("transactions", r#"{NEXT}"#);
    let other = ("subscriptions", r#"{OTHER}"#);
    let version = ("plans", r#"{"version": 2}"#);
    let key = ("api_keys", r#"{"key_hash": "\\xTX", "scopes": ["accounts:write", "entitlements:read"]}"#);
    for (table, changes) in [next, other, version, key] {
        assert_eq!(refusal(ledger.pool(), copy(table, changes)).await, None, "{table} {changes}");
    }
    // After a change of plan, a number of a period occurs again, in one transaction even, and from the same second on.
    for (table, changes) in [
        ("transactions", r#"{"plan_changes": 1, "tx_hash": "\\xTX", "log_index": 2}"#),
        ("transactions", r#"{"plan_changes": 1, "ordinal": 1, "log_index": 2}"#),
        ("transactions", "{USAGE}"),
        ("transactions", "{REFUND}"),
    ] {
        assert_eq!(refusal(ledger.pool(), copy(table, changes)).await, None, "{table} {changes}");
    }
    // A key is spent once, for the one or the other, and again where the first time was reorganised away.
    let good = "WHERE r.kind = 'charge'";
    let usage = format!("{} {good}", copy("transactions", "{USAGE}"));
    let refund = copy("transactions", r#"{REFUND, "log_index": 3}"#);
    let both = format!("{usage}; {refund} {good}");
    assert!(refusal(ledger.pool(), both).await.unwrap().contains("transactions_key_spent_once"));
    let failed = r#"{USAGE, "status": "failed", "failure_reason": "reorganised"}"#;
    let failed = copy("transactions", failed);
    assert_eq!(refusal(ledger.pool(), format!("{failed} {good}; {refund} {good}")).await, None);
    let twice = format!("{failed} {good}; {usage}");
    assert!(refusal(ledger.pool(), twice).await.unwrap().contains("transactions_spent_key_key"));
    // A period whose charge failed may be paid by another one.
    let fail = "UPDATE ledger.transactions SET status = 'failed', failure_reason = 'reorganised'; ";
    let again = format!(
        "{fail}{}",
        copy("transactions", r#"{"tx_hash": "\\xTX", "status": "pending", "failure_reason": null}"#)
    );
    assert_eq!(refusal(ledger.pool(), again).await, None);
}

fn source() -> ChainSource {
    ChainSource { chain_id: 1, contract: Address::repeat_byte(0xcc) }
}

#[tokio::test]
async fn a_contract_has_one_leader_and_the_next_one_comes_when_it_is_gone() {
    let (database, _ledger) = seeded().await;
    let (one, two) = (database.store().await, database.store().await);
    let leader = one.lead(source(), SCOPE).await.unwrap().unwrap();
    assert!(two.lead(source(), SCOPE).await.unwrap().is_none());
    assert!(one.lead(source(), SCOPE).await.unwrap().is_none(), "not even by the same process");
    // Another contract, and the same one on another chain, are nobody's yet.
    let others =
        [ChainSource { chain_id: 2, ..source() }, ChainSource { contract: Address::ZERO, ..source() }];
    for other in others {
        two.lead(other, SCOPE).await.unwrap().unwrap().release().await.unwrap();
    }
    leader.release().await.unwrap();
    let leader = two.lead(source(), SCOPE).await.unwrap().unwrap();
    // A leader that just goes away gives way as well.
    drop(leader);
    let next = eventually(SOON, "the lead is free again", || async {
        one.lead(source(), SCOPE).await.unwrap().ok_or_else(|| "taken".to_owned())
    })
    .await;
    next.release().await.unwrap();
}

#[tokio::test]
async fn a_step_whose_checkpoint_was_moved_by_another_writer_writes_nothing() {
    let (database, ledger) = seeded().await;
    let store = database.store().await;
    let mut mirror = store.lead(source(), SCOPE).await.unwrap().unwrap();
    let seen = mirror.checkpoint().await.unwrap().unwrap();
    assert_eq!((seen.block.number, seen.final_number), (9, 3));
    sqlx::query("UPDATE ledger.chain_checkpoints SET block_hash = decode(repeat('ba', 32), 'hex')")
        .execute(ledger.pool())
        .await
        .unwrap();
    let before = ledger.digest().await;

    let block = BlockRef { number: 10, hash: B256::repeat_byte(0xbb) };
    // Finality would settle the pending transaction of block 7.
    let next = Checkpoint { block, final_number: 8 };
    for expected in [Some(seen), None] {
        let mut step = mirror.begin().await.unwrap();
        step.record_blocks(&[block]).await.unwrap();
        let moved = step.advance(expected, next).await.unwrap_err();
        assert!(matches!(moved, StoreError::CheckpointMoved), "{moved:?}");
        drop(step);
        assert_eq!(ledger.digest().await, before);
    }

    // From where it really is, the same step goes through and settles.
    let now = mirror.checkpoint().await.unwrap();
    let mut step = mirror.begin().await.unwrap();
    step.record_blocks(&[block]).await.unwrap();
    step.advance(now, next).await.unwrap();
    step.commit().await.unwrap();
    assert_eq!(mirror.checkpoint().await.unwrap(), Some(next));
    let settled =
        "SELECT count(*) FROM ledger.transactions WHERE status = 'completed' AND settled_at IS NOT NULL";
    assert_eq!(ledger.count(settled).await, 1);
}

#[tokio::test]
async fn an_unwind_below_a_settled_payment_is_refused() {
    let (database, ledger) = seeded().await;
    sqlx::raw_sql(
        "UPDATE ledger.transactions SET status = 'completed', settled_at = now();
         UPDATE ledger.chain_checkpoints SET final_number = 7",
    )
    .execute(ledger.pool())
    .await
    .unwrap();
    let before = ledger.digest().await;
    let mut mirror = database.store().await.lead(source(), SCOPE).await.unwrap().unwrap();
    let mut step = mirror.begin().await.unwrap();
    let refused = step.unwind(BlockRef { number: 6, hash: B256::ZERO }).await.unwrap_err();
    assert!(matches!(refused, StoreError::Inconsistent(_)), "{refused:?}");
    drop(step);
    assert_eq!(ledger.digest().await, before);
}

#[tokio::test]
async fn migrations_that_run_at_once_or_again_leave_one_schema() {
    let database = Database::fresh().await;
    let stores = [database.store(), database.store(), database.store()];
    let stores = futures::future::join_all(stores).await;
    for store in &stores {
        store.check().await.unwrap();
    }
    let ledger = Ledger::new(&database);
    let versions = "SELECT count(*) - count(DISTINCT version) FROM _sqlx_migrations WHERE success";
    assert_eq!(ledger.count(versions).await, 0);
}

/// Few rows are inserted, many are copied, and those of a large step are copied in several parts.
#[tokio::test]
async fn any_number_of_rows_is_in_the_table_as_it_was_given() {
    let (database, ledger) = seeded().await;
    let mut mirror = database.store().await.lead(source(), SCOPE).await.unwrap().unwrap();
    for (block, rows, data) in [
        (10_u64, 1_usize, 0_usize),
        (11, 2, 5),
        (12, 63, 40),
        (13, 128, 1),
        (14, 129, 1),
        (15, 700, 2_000),
        (16, 3, 200_000),
    ] {
        let at = EventPosition {
            block: BlockRef { number: block, hash: B256::with_last_byte(0xb0) },
            log_index: 0,
            tx_hash: B256::repeat_byte(0xe8),
            timestamp: "2026-01-08T12:34:56.789012Z".parse().unwrap(),
        };
        let topics: Vec<_> = (1..=4).map(B256::repeat_byte).collect();
        let data: Vec<_> =
            (0..rows).map(|row| vec![u8::try_from(row % 251).unwrap(); data + row % 3]).collect();
        let events: Vec<_> = data
            .iter()
            .enumerate()
            .map(|(row, data)| NewEvent {
                at: EventPosition { log_index: u64::try_from(row).unwrap(), ..at },
                topics: &topics[..row % 5],
                data,
                subscription: (row % 2 == 0).then(|| u64::try_from(row).unwrap()),
            })
            .collect();
        let mut step = mirror.begin().await.unwrap();
        step.record_events(&events).await.unwrap();
        step.commit().await.unwrap();

        type Row = (i64, Vec<Vec<u8>>, Vec<u8>, Option<i64>, DateTime<Utc>, Vec<u8>);
        let read: Vec<Row> = sqlx::query_as(
            "SELECT log_index, topics, data, onchain_id, block_time, tx_hash FROM ledger.chain_events
             WHERE block_number = $1 ORDER BY log_index",
        )
        .bind(i64::try_from(block).unwrap())
        .fetch_all(ledger.pool())
        .await
        .unwrap();
        let given: Vec<_> = events
            .iter()
            .map(|event| {
                let topics = event.topics.iter().map(|topic| topic.to_vec()).collect::<Vec<_>>();
                let id = event.subscription.map(|id| i64::try_from(id).unwrap());
                let log_index = i64::try_from(event.at.log_index).unwrap();
                (log_index, topics, event.data.to_vec(), id, at.timestamp, at.tx_hash.to_vec())
            })
            .collect();
        assert!(read == given, "{rows} rows");
    }
}

/// Begins a subscription to plan 1 for `account` in block 8.
async fn begin(step: &mut Step<'_>, id: u64, account: AccountId) -> Begun {
    let at = EventPosition {
        block: BlockRef { number: 8, hash: B256::repeat_byte(0xb8) },
        log_index: id,
        tx_hash: B256::repeat_byte(0xe8),
        timestamp: "2026-01-08T00:00:00Z".parse().unwrap(),
    };
    let (payer, reference, anchor) = (Address::repeat_byte(0xaa), account.to_reference(), at.timestamp);
    let kind = SubscriptionEventKind::Subscribed { reference, anchor };
    let event = SubscriptionEvent { id, plan: 1, payer, kind };
    let state = ChainSubscription::apply(None, &event, at).unwrap().0;
    let kept = NewEvent { at, topics: &[], data: &[], subscription: Some(id) };
    step.record_events(&[kept]).await.unwrap();
    let origin = Origin { tx_hash: at.tx_hash, payer, plan: 1, reference, ordinal: 0 };
    let begun = step.begin_subscriptions(&[origin]).await.unwrap().remove(0);
    let row = MirroredSubscription { id: begun.id, account: begun.account, state };
    if begun.revived {
        step.update_subscriptions(&[&row]).await.unwrap();
    } else {
        step.insert_subscriptions(&[(&row, origin)]).await.unwrap();
    }
    begun
}

#[tokio::test]
async fn a_beginning_that_is_mined_again_without_its_neighbour_keeps_its_own_account() {
    let (database, _) = seeded().await;
    let store = database.store().await;
    let mut mirror = store.lead(source(), SCOPE).await.unwrap().unwrap();
    let fork = BlockRef { number: 7, hash: B256::repeat_byte(0xb7) };
    let accounts = ["00000000-0000-7000-8000-00000000000a", "00000000-0000-7000-8000-00000000000b"];
    let [ada, other] = accounts.map(|id| id.parse::<AccountId>().unwrap());

    // One transaction of one payer subscribes two accounts to the same plan.
    let mut step = mirror.begin().await.unwrap();
    let mut rows = Vec::new();
    for (id, account) in [(5, ada), (6, other)] {
        rows.push(begin(&mut step, id, account).await);
    }
    assert_eq!(rows.iter().map(|row| row.account).collect::<Vec<_>>(), [ada, other]);

    // It is mined again, and the first of the two fails: the second takes the first one's number.
    assert_eq!(step.unwind(fork).await.unwrap().subscriptions.len(), 2);
    let again = begin(&mut step, 5, other).await;
    assert_eq!((again.id, again.account, again.revived), (rows[1].id, other, true));
    step.commit().await.unwrap();
}

#[tokio::test]
async fn a_renewal_into_another_plan_is_tried_within_the_shorter_grace_of_the_two() {
    let (database, ledger) = seeded().await;
    let store = database.store().await;
    let ada = "00000000-0000-7000-8000-00000000000a".parse::<AccountId>().unwrap();
    let plans = format!(
        "{}; {}; UPDATE ledger.subscriptions SET scheduled_plan_id = 2",
        copy("chain_plans", r#"{"onchain_plan_id": 2, "grace_seconds": 7200}"#),
        copy("chain_plans", r#"{"onchain_plan_id": 3, "grace_seconds": 1800}"#)
            + " WHERE onchain_plan_id = 1",
    );
    sqlx::raw_sql(AssertSqlSafe(plans)).execute(ledger.pool()).await.unwrap();
    // The plan that it is on has an hour.
    for (scheduled, grace) in [("2", 3600), ("3", 1800), ("NULL", 3600)] {
        let schedule = format!("UPDATE ledger.subscriptions SET scheduled_plan_id = {scheduled}");
        sqlx::raw_sql(AssertSqlSafe(schedule)).execute(ledger.pool()).await.unwrap();
        let facts = store.subscription_facts(ada, &Grants::at_once()).await.unwrap().remove(0);
        let rest = facts.term.grace_until - facts.term.paid_through;
        assert_eq!(rest.num_seconds(), grace, "{scheduled}");
        assert_eq!(facts.tier, Some(Tier::Basic), "of the plan that it is on");
        assert_eq!(facts.scheduled_plan.map(|plan| plan.onchain_id), scheduled.parse().ok());
    }
}

#[tokio::test]
async fn what_cannot_be_stops_the_indexer_by_a_name_of_its_own() {
    let (_database, ledger) = seeded().await;
    for (changes, due) in [
        (r#"{"tx_hash": "\\xTX", "log_index": 2}"#, "a period was to be paid twice"),
        (r#"{NEXT, "log_index": 1}"#, "an event was to be two money movements"),
    ] {
        let refused =
            sqlx::raw_sql(AssertSqlSafe(copy("transactions", changes))).execute(ledger.pool()).await;
        let error = StoreError::from(refused.unwrap_err());
        assert!(matches!(error, StoreError::Inconsistent(what) if what == due), "{error:?}");
        assert!(!error.is_transient());
    }
}

/// The snapshot of the API and, beside it, the ledger itself.
struct Beside {
    snapshot: Snapshot,
    store: Store,
    ledger: Ledger,
}

impl Beside {
    async fn new() -> (Self, AbortOnDropHandle<()>) {
        let (database, ledger) = seeded().await;
        let store = database.store().await;
        let snapshot = Snapshot::new(store.clone(), Grants::at_once(), 100);
        let following = snapshot.follow();
        (Self { snapshot, store, ledger }, following)
    }

    /// What both say of ada and bob, by every name of theirs.
    async fn answers(&self) -> (Vec<String>, Vec<String>) {
        let (mut remembered, mut read) = (Vec::new(), Vec::new());
        let told = |account: &Account, facts: &[SubscriptionFacts]| format!("{account:?} {facts:?}");
        for id in ["00000000-0000-7000-8000-00000000000a", "00000000-0000-7000-8000-00000000000b"] {
            let id = AccountId::from_uuid(id.parse().unwrap());
            let known = self.snapshot.account(id).await.unwrap();
            remembered.extend(known.map(|known| told(&known.account, &known.subscriptions)));
            read.extend(self.read(self.store.account(id).await.unwrap()).await);
        }
        for external_id in ["ada", "eve"] {
            let known = self.snapshot.by_external_id(external_id).await.unwrap();
            remembered.extend(known.map(|known| told(&known.account, &known.subscriptions)));
            read.extend(self.read(self.store.account_by_external_id(external_id).await.unwrap()).await);
        }
        let wallet = Address::repeat_byte(0xaa);
        let known = self.snapshot.by_wallet(wallet).await.unwrap();
        remembered.extend(known.map(|known| told(&known.account, &known.subscriptions)));
        read.extend(self.read(self.store.account_by_wallet(wallet).await.unwrap()).await);
        (remembered, read)
    }

    async fn read(&self, account: Option<Account>) -> Option<String> {
        let account = account?;
        let facts = self.store.subscription_facts(account.id, &Grants::at_once()).await.unwrap();
        Some(format!("{account:?} {facts:?}"))
    }

    async fn agree(&self, after: &str) -> Vec<String> {
        eventually(SOON, &format!("both agree after {after}"), || async {
            let (remembered, read) = self.answers().await;
            if remembered == read { Ok(read) } else { Err(format!("{remembered:#?}\n{read:#?}")) }
        })
        .await
    }
}

#[tokio::test]
async fn what_is_kept_in_memory_follows_every_table_that_it_rests_on() {
    let (beside, _following) = Beside::new().await;
    let mut last = beside.agree("the beginning").await;
    for change in [
        "UPDATE ledger.subscriptions SET paid_through = '2026-03-01Z', periods = 2",
        "UPDATE ledger.subscriptions SET account_id = '00000000-0000-7000-8000-00000000000b'",
        "UPDATE ledger.wallets SET account_id = '00000000-0000-7000-8000-00000000000b'",
        "UPDATE ledger.accounts SET external_id = 'eve' WHERE external_id = 'ada'",
        "INSERT INTO ledger.charge_attempts (subscription_id, paid_through, attempts, reason, first_attempt_at, last_attempt_at)
             SELECT id, paid_through, 1, 'balance', now(), now() FROM ledger.subscriptions",
        "UPDATE ledger.charge_attempts SET attempts = 2",
        "DELETE FROM ledger.charge_attempts",
        "INSERT INTO ledger.charge_runways (subscription_id, renewals, limited_by, as_of)
             SELECT id, 3, 'balance', now() FROM ledger.subscriptions",
        "UPDATE ledger.charge_runways SET renewals = 2",
        "DELETE FROM ledger.charge_runways",
        "UPDATE ledger.chain_plans SET grace_seconds = 7200",
        // The evidence is in block 7.
        "UPDATE ledger.chain_checkpoints SET final_number = 7",
        "UPDATE ledger.chain_checkpoints SET final_number = 6",
        "DELETE FROM ledger.plan_prices",
        "DELETE FROM ledger.wallets",
        "DELETE FROM ledger.transactions; DELETE FROM ledger.subscriptions",
        "DELETE FROM ledger.accounts",
    ] {
        sqlx::raw_sql(AssertSqlSafe(change)).execute(beside.ledger.pool()).await.unwrap();
        let now = beside.agree(change).await;
        assert_ne!(now, last, "it changes nothing: {change}");
        last = now;
    }
}

#[tokio::test]
async fn what_changes_while_nobody_listens_is_not_missed() {
    let (beside, _following) = Beside::new().await;
    for round in 1..5 {
        beside.agree("the last round").await;
        // Listeners wait in this very database.
        let cut = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
                   WHERE datname = current_database() AND query LIKE 'LISTEN%'";
        let change = format!("UPDATE ledger.subscriptions SET periods = {round}");
        let ((), changed) = tokio::join!(
            eventually(SOON, "the listener is cut off", || async {
                if beside.ledger.count(cut).await > 0 { Ok(()) } else { Err("there is none".to_owned()) }
            }),
            sqlx::raw_sql(AssertSqlSafe(change)).execute(beside.ledger.pool()),
        );
        changed.unwrap();
        beside.agree("a cut").await;
    }
}

#[tokio::test]
async fn without_beats_what_is_kept_is_believed_for_a_second_at_most() {
    let (beside, following) = Beside::new().await;
    beside.agree("the beginning").await;
    drop(following);
    sqlx::raw_sql("UPDATE ledger.subscriptions SET paid_through = '2026-03-01Z', periods = 2")
        .execute(beside.ledger.pool())
        .await
        .unwrap();
    let since = std::time::Instant::now();
    beside.agree("a change that nobody has heard").await;
    assert!(since.elapsed() < FRESH_FOR * 5, "{:?}", since.elapsed());
}
