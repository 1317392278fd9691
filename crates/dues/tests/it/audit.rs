//! `dues audit`: what it finds, and what it says of it.

use alloy::{
    primitives::{B256, U256},
    signers::local::PrivateKeySigner,
    sol_types::SolCall as _,
};
use dues_chain::contract::Dues as Contract;
use dues_tests::eventually;
use serde_json::Value;

use crate::{Dues, START, Signal, repair::Shop, run, scratch};

#[tokio::test(flavor = "multi_thread")]
async fn a_right_ledger_is_found_right_beside_a_running_indexer_and_left_alone() {
    let shop = Shop::busy().await;
    let before = shop.stack.ledger.digest().await;
    let outcome = shop.dues(&["audit", "--json"]).await;
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    assert_eq!(outcome.stderr, "");
    let document: Value = serde_json::from_str(&outcome.stdout).unwrap();
    let chain = &document["chains"][0];
    assert_eq!((&chain["chain"], &chain["clean"]), (&"dev".into(), &true.into()), "{chain}");
    let head = shop.stack.chain.head().await.header;
    assert_eq!(
        (&chain["block"]["number"], &chain["block"]["hash"]),
        (&head.number.into(), &head.hash.to_string().into())
    );
    let count = async |query| Value::from(shop.stack.ledger.count(query).await);
    let checked = &chain["checked"];
    assert_eq!(checked["plans"], count("SELECT count(*) FROM ledger.chain_plans").await);
    assert_eq!(checked["subscriptions"], count("SELECT count(*) FROM ledger.subscriptions").await);
    assert_eq!(checked["events"], count("SELECT count(*) FROM ledger.chain_events").await);
    assert_eq!(checked["transactions"], count("SELECT count(*) FROM ledger.transactions").await);
    let txs = "SELECT count(DISTINCT tx_hash) FROM ledger.transactions";
    assert_eq!(checked["transfers"], count(txs).await);
    assert_eq!(checked["blocks"], head.number);
    assert!(shop.audit().await.is_empty());
    assert_eq!(shop.stack.ledger.digest().await, before);
}

/// What is done to the ledger; what the audit has to say of it; whether the rebuild gives the very rows back.
const DAMAGES: &[(&str, &[&str], bool)] = &[
    (
        "UPDATE ledger.transactions SET amount = amount + 1 WHERE kind = 'refund'",
        &["amount: the ledger says 5000001, the chain says 5000000", "refunded: ", "transfer of "],
        true,
    ),
    (
        "UPDATE ledger.transactions SET amount = 1 WHERE kind = 'usage'",
        &["amount: the ledger says 1, the chain says 1230000", "paid: "],
        true,
    ),
    (
        "UPDATE ledger.transactions SET status = 'failed', failure_reason = 'no', settled_at = NULL
         WHERE kind = 'usage' AND status = 'completed'",
        &["status: the ledger says failed, the chain says completed"],
        // It was settled when it was settled, and nobody knows that any more.
        false,
    ),
    (
        "UPDATE ledger.transactions SET status = 'completed', settled_at = now() WHERE status = 'pending'",
        &["status: the ledger says completed, the chain says pending"],
        true,
    ),
    (
        "UPDATE ledger.transactions SET payee = payer WHERE kind = 'refund'",
        &["payee: ", "transfer of "],
        true,
    ),
    (
        "UPDATE ledger.transactions SET period_end = period_end + interval '1 day', payer = payee
         WHERE id = (SELECT id FROM ledger.transactions WHERE kind = 'charge' ORDER BY id LIMIT 1)",
        &["end: ", "payer: "],
        true,
    ),
    (
        "UPDATE ledger.subscriptions SET paid_through = paid_through + interval '1 year' WHERE onchain_id = 3",
        &["subscription 3 (", "paid through: "],
        true,
    ),
    (
        "UPDATE ledger.subscriptions SET payer = decode(repeat('ab', 20), 'hex') WHERE onchain_id = 3",
        &["payer: the ledger says 0xABaBaBaBABab"],
        true,
    ),
    (
        "UPDATE ledger.subscriptions SET periods = periods + 1, scheduled_plan_id = NULL, plan_changes = 7
         WHERE scheduled_plan_id IS NOT NULL",
        &["periods: ", "scheduled plan: the ledger says none", "plan changes: the ledger says 7"],
        true,
    ),
    (
        "UPDATE ledger.subscriptions SET ended_at = NULL, ended_by = NULL, status = 'active' WHERE ended_by = 'merchant'",
        &["ended: the ledger says false, the chain says true", "status: the ledger says active", "ended by: "],
        true,
    ),
    (
        "UPDATE ledger.subscriptions SET cancel_at_period_end = true, cancel_scheduled_by = 'merchant' WHERE onchain_id = 3",
        &["ends with its paid time, by: the ledger says merchant, the chain says none"],
        true,
    ),
    (
        "UPDATE ledger.subscriptions SET onchain_id = NULL, onchain_plan_id = NULL, scheduled_plan_id = NULL,
             confirmed = false, status = 'incomplete', plan_changes = 0 WHERE onchain_id = 3",
        &["subscription 3: existence: the ledger says missing", "transaction "],
        true,
    ),
    (
        "UPDATE ledger.chain_plans SET price = price + 1, grace_seconds = 1 WHERE onchain_plan_id = 1",
        &["plan 1: price: ", "plan 1: grace: the ledger says 1, the chain says 604800"],
        true,
    ),
    (
        "UPDATE ledger.chain_plans SET retired_block = NULL WHERE retired_block IS NOT NULL",
        &["retired: the ledger says false, the chain says true"],
        true,
    ),
    (
        "INSERT INTO ledger.chain_plans SELECT chain_id, contract, 999, merchant, token, payee, price, interval_unit,
             interval_count, trial_seconds, grace_seconds, retired_block, block_number, usage_cap
         FROM ledger.chain_plans WHERE onchain_plan_id = 1",
        &["plan 999: existence: the ledger says there"],
        true,
    ),
    (
        "DELETE FROM ledger.chain_events WHERE onchain_id = 3 AND block_number =
             (SELECT max(block_number) FROM ledger.chain_events WHERE onchain_id = 3)",
        &["event ", "existence: the ledger says missing", "by its events"],
        true,
    ),
    (
        "DELETE FROM ledger.chain_events",
        &["existence: the ledger says missing", "events: the ledger says none, the chain says it began"],
        true,
    ),
    (
        "UPDATE ledger.chain_events SET data = data || '\\x00', block_hash = decode(repeat('cd', 32), 'hex')
         WHERE onchain_id = 3",
        &["data: ", "block hash: the ledger says 0xcdcd"],
        true,
    ),
    (
        "INSERT INTO ledger.chain_events SELECT chain_id, contract, block_number, log_index + 100, block_hash, block_time,
             tx_hash, onchain_id, topics, data FROM ledger.chain_events WHERE onchain_id IS NULL LIMIT 1",
        &["existence: the ledger says there, the chain says missing"],
        true,
    ),
    (
        // Money that never was. It stays, as failed.
        "INSERT INTO ledger.transactions SELECT (jsonb_populate_record(t, jsonb_build_object('id', gen_random_uuid(),
             'tx_hash', '\\x' || repeat('ee', 32), 'log_index', 999, 'period', 60000))).*
         FROM ledger.transactions t WHERE kind = 'charge' LIMIT 1",
        &["existence: the ledger says there, the chain says missing", "transfer in transaction 0xeeee", "paid: "],
        false,
    ),
    (
        // Money that is written down no more gets another id.
        "DELETE FROM ledger.transactions WHERE kind = 'usage'",
        &["transaction of 1230000 for subscription ", "existence: the ledger says missing", "paid: "],
        false,
    ),
];

#[tokio::test(flavor = "multi_thread")]
async fn whatever_is_damaged_is_named_and_mended() {
    let shop = Shop::busy().await;
    assert!(shop.audit().await.is_empty());
    for (damage, said, same) in DAMAGES {
        let before = shop.digest().await;
        let ids = "SELECT string_agg(id::text, ',' ORDER BY id) FROM ledger.";
        let ids_of = async |table: &str| -> String {
            let query = sqlx::AssertSqlSafe(format!("{ids}{table}"));
            sqlx::query_scalar(query).fetch_one(shop.stack.ledger.pool()).await.unwrap()
        };
        let subscriptions = ids_of("subscriptions").await;
        assert_ne!(shop.sql(*damage).await, 0, "{damage}");
        let lines = shop.audit().await;
        for part in *said {
            assert!(lines.iter().any(|line| line.contains(part)), "{damage}: {part} is not in {lines:#?}");
        }

        // Looking first changes nothing.
        let damaged = shop.digest().await;
        let document = shop.reindex(&["--dry-run"]).await;
        assert_eq!((&document["dry_run"], &document["unchanged"]), (&true.into(), &false.into()), "{damage}");
        assert_eq!(shop.digest().await, damaged, "{damage}");

        let at = shop.now().await;
        let mended = shop.reindex(&["--yes"]).await;
        assert_eq!(mended["tables"], document["tables"], "{damage}");
        let lines = shop.audit().await;
        assert!(lines.is_empty(), "{damage}: {lines:#?}");
        assert_eq!(ids_of("subscriptions").await, subscriptions, "{damage}");
        if *same {
            assert_eq!(shop.digest().await, before, "{damage}");
        }
        // Rows that were right are not even touched.
        let tables = &mended["tables"];
        let count = |table: &str, what: &str| tables[table][what].as_i64().unwrap();
        for table in ["subscriptions", "transactions"] {
            let written = count(table, "added") + count(table, "changed");
            assert_eq!(shop.written_since(table, at).await, written, "{damage}: {table}");
            assert_eq!(count(table, "removed"), 0, "{damage}: {table}");
        }
        let again = shop.reindex(&["--yes"]).await;
        assert_eq!(again["unchanged"], true, "{damage}: {again}");
    }
    // The row of money that never was is there, and says so.
    let bogus = "SELECT count(*) FROM ledger.transactions WHERE status = 'failed' AND failure_reason = 'not_on_chain'";
    assert_eq!(shop.stack.ledger.count(bogus).await, 1);
    let repairs =
        "SELECT count(*) FROM ledger.audit_log WHERE action = 'ledger.reindex' AND actor = 'operator'";
    assert_eq!(shop.stack.ledger.count(repairs).await, i64::try_from(DAMAGES.len()).unwrap());
}

/// Sends several calls to the contract as one that costs a lot.
async fn all_at_once(shop: &Shop, from: &PrivateKeySigner, calls: Vec<Vec<u8>>) {
    let chain = &shop.stack.chain;
    let call = Contract::multicallCall { calls: calls.into_iter().map(Into::into).collect() };
    let nonce = chain.pending_nonce(from.address()).await;
    let tx = chain.sign_as(from, chain.contract, &call, nonce, 29_000_000).await;
    chain.send(&tx).await;
    assert!(chain.receipt(tx.hash).await.status());
}

#[tokio::test(flavor = "multi_thread")]
async fn more_than_one_page_of_everything_is_looked_at_to_its_last_row() {
    let shop = Shop::quiet().await;
    let (chain, plan) = (&shop.stack.chain, shop.stack.plan("basic-month").onchain_id);
    let terms = chain.monthly(1_000_000, chain.merchant);
    let plans = vec![Contract::createPlanCall { terms }.abi_encode(); 110];
    all_at_once(&shop, &chain.merchant_wallet(), plans).await;
    for _ in 0..3 {
        let subscriptions =
            vec![Contract::subscribeCall { planId: plan, r#ref: B256::ZERO }.abi_encode(); 100];
        all_at_once(&shop, &shop.payer, subscriptions).await;
    }
    // Several stretches of the chain, too.
    chain.mine(4_100).await;
    for number in 0..210 {
        chain.prepay(&shop.payer, U256::from(3 + number), 1).await;
    }
    shop.stack.synced().await;
    let outcome = shop.dues(&["audit", "--json"]).await;
    let document: Value = serde_json::from_str(&outcome.stdout).unwrap();
    let chain = &document["chains"][0];
    assert_eq!((&chain["clean"], outcome.code), (&true.into(), Some(0)), "{chain}");
    let checked = &chain["checked"];
    assert_eq!((&checked["plans"], &checked["subscriptions"]), (&116.into(), &302.into()));
    // Two of the demo's accounts have paid, and three transactions are of many subscriptions each.
    assert_eq!((&checked["transactions"], &checked["transfers"]), (&512.into(), &215.into()));

    let before = shop.digest().await;
    for onchain_id in [1, 250, 251, 302] {
        shop.sql(format!("UPDATE ledger.subscriptions SET periods = 9 WHERE onchain_id = {onchain_id}"))
            .await;
    }
    for plan in [100, 101, 116] {
        shop.sql(format!("UPDATE ledger.chain_plans SET trial_seconds = 9 WHERE onchain_plan_id = {plan}"))
            .await;
    }
    let rows = shop
        .sql(
            "UPDATE ledger.transactions SET payee = token WHERE tx_hash IN
                 ((SELECT min(tx_hash) FROM ledger.transactions), (SELECT max(tx_hash) FROM ledger.transactions))",
        )
        .await;
    let lines = shop.audit().await;
    let count = |part: &str| lines.iter().filter(|line| line.contains(part)).count();
    assert_eq!(
        (count("periods: the ledger says 9"), count("trial: the ledger says 9")),
        (4, 3),
        "{lines:#?}"
    );
    assert_eq!(
        (u64::try_from(count(": payee: ")).unwrap(), count("dev: transfer of ")),
        (rows, 2),
        "{lines:#?}"
    );
    let mended = shop.reindex(&["--yes"]).await;
    assert_eq!(mended["tables"]["subscriptions"]["changed"], 4, "{mended}");
    assert_eq!(mended["tables"]["transactions"]["changed"], rows, "{mended}");
    assert_eq!(shop.digest().await, before);
    assert!(shop.audit().await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_checked_is_not_called_right() {
    let shop = Shop::quiet().await;
    let code = async |args: &[&str]| shop.dues(args).await.code;
    assert_eq!(code(&["audit", "--chain", "nowhere"]).await, Some(2));
    assert_eq!(code(&["audit", "--devnet", "nowhere"]).await, Some(2));
    assert_eq!(code(&["audit", "--wrong"]).await, Some(2));
    // A node that is not there.
    let port = dues_embedded::free_port().unwrap();
    let url = format!("http://127.0.0.1:{port}");
    let mut environment = shop.environment();
    environment.retain(|(name, _)| *name != "DUES__CHAINS__DEV__RPC_URL");
    environment.push(("DUES__CHAINS__DEV__RPC_URL", &url));
    let dir = shop.dir();
    let outcome = run(dir, &["audit"], &environment).await;
    assert_eq!(outcome.code, Some(2), "{outcome:?}");
    assert!(outcome.explanation().starts_with("dues: dev could not be checked: the chain could not be read"));
    let outcome = run(dir, &["audit", "--json"], &environment).await;
    assert_eq!(outcome.code, Some(2), "{outcome:?}");
    let document: Value = serde_json::from_str(&outcome.stdout).unwrap();
    assert!(document["chains"][0]["error"].as_str().unwrap().contains("could not be read"), "{document}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_devnet_and_a_service_with_a_postgresql_of_their_own_are_looked_at_while_they_run() {
    let dir = scratch();
    let (dues, _) = Dues::devnet(dir.path()).await;
    let outcome = run(dir.path(), &["audit", "--devnet", ".dues"], &[]).await;
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    let outcome = run(dir.path(), &["reindex", "--devnet", ".dues", "--yes"], &[]).await;
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    assert!(outcome.stdout.contains("nothing was changed"), "{outcome:?}");
    assert_eq!(dues.stop(Signal::SIGTERM).await.code(), Some(0));

    // A service beside it, which has never heard of the test's database.
    let shop = Shop::quiet().await;
    let mut environment = shop.environment();
    environment.retain(|(name, _)| *name != "DUES__DATABASE__URL");
    let migrated = run(shop.dir(), &["migrate"], &environment).await;
    assert_eq!(migrated.code, Some(0), "{migrated:?}");
    let service = Dues::start(shop.dir(), &["index"], &environment);
    let lock = shop.dir().join("dues-data/postgres/lock");
    eventually(START, "the PostgreSQL is the service's", || async {
        let owner = std::fs::read_to_string(&lock).unwrap();
        if owner == service.pid.to_string() { Ok(()) } else { Err(format!("{owner}\n{}", service.printed())) }
    })
    .await;
    eventually(START, "the ledger is audited while it runs", || async {
        let outcome = run(shop.dir(), &["audit"], &environment).await;
        // At first, nothing is mirrored.
        if outcome.code == Some(0) { Ok(()) } else { Err(format!("{outcome:?}\n{}", service.printed())) }
    })
    .await;
    let outcome = run(shop.dir(), &["reindex", "--yes"], &environment).await;
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    assert_eq!(service.stop(Signal::SIGTERM).await.code(), Some(0));
    // And while nothing runs.
    let outcome = run(shop.dir(), &["audit"], &environment).await;
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
}
