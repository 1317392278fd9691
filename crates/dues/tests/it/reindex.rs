//! `dues reindex`: beside a running Dues, killed, twice at once, and after a chain has broken its word.

use std::{os::unix::process::ExitStatusExt as _, time::Duration};

use alloy::primitives::B256;
use dues_tests::{FINALITY_DEPTH, SOON, eventually};

use crate::{Signal, repair::Shop};

#[tokio::test(flavor = "multi_thread")]
async fn a_right_ledger_is_left_without_a_trace() {
    let shop = Shop::busy().await;
    let before = shop.stack.ledger.digest().await;
    let outcome = shop.dues(&["reindex", "--yes"]).await;
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    assert!(outcome.stdout.contains("nothing was changed"), "{outcome:?}");
    assert_eq!(shop.stack.ledger.digest().await, before);
    // Nobody is there to be asked.
    let outcome = shop.dues(&["reindex"]).await;
    assert!(outcome.explanation().contains("give --yes"), "{outcome:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn payments_during_rebuilds_are_neither_lost_nor_doubled() {
    let shop = Shop::busy().await;
    let (chain, plan) = (shop.stack.chain.clone(), shop.stack.plan("basic-month").onchain_id);
    let payer = chain.payer(9).await;
    let paying = tokio::spawn({
        let (chain, payer) = (chain.clone(), payer.clone());
        async move {
            for _ in 0..30 {
                chain.subscribe(&payer, plan, B256::ZERO).await;
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    });
    let mut rebuilds = 0;
    while !paying.is_finished() {
        // So that there is something to write each time.
        shop.sql("UPDATE ledger.chain_events SET data = data || '\\x00' WHERE onchain_id = 3").await;
        assert_eq!(shop.reindex(&["--yes"]).await["unchanged"], false);
        rebuilds += 1;
    }
    paying.await.unwrap();
    assert!(rebuilds > 1, "{rebuilds}");
    shop.stack.synced().await;
    assert_eq!(shop.stack.ledger.transactions(payer.address()).await.len(), 30);
    let lines = shop.audit().await;
    assert!(lines.is_empty(), "{lines:#?}");
}

/// Damages the ledger and holds a row that a rebuild has to write: it stops in the middle.
async fn held(shop: &Shop) -> sqlx::Transaction<'static, sqlx::Postgres> {
    shop.sql("UPDATE ledger.subscriptions SET paid_through = paid_through + interval '1 year' WHERE onchain_id = 3")
        .await;
    let mut hold = shop.stack.ledger.pool().begin().await.unwrap();
    sqlx::query("SELECT id FROM ledger.subscriptions WHERE onchain_id = 3 FOR UPDATE")
        .execute(&mut *hold)
        .await
        .unwrap();
    hold
}

async fn waits_in_the_middle(shop: &Shop) {
    eventually(SOON, "the rebuild waits in the middle", || async {
        let waiting = "SELECT count(*) FROM pg_stat_activity
                       WHERE datname = current_database() AND wait_event_type = 'Lock' AND query LIKE 'UPDATE ledger.subscriptions%'";
        match shop.stack.ledger.count(waiting).await {
            1 => Ok(()),
            other => Err(other.to_string()),
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rebuild_that_is_killed_in_the_middle_changes_nothing_and_readers_never_wait() {
    let shop = Shop::busy().await;
    let hold = held(&shop).await;
    let damaged = shop.digest().await;
    let rebuild = shop.dues_beside(&["reindex", "--yes"]);
    waits_in_the_middle(&shop).await;
    // Everybody reads the old ledger meanwhile, another rebuild is refused, and an audit is not held up.
    assert_eq!(shop.stack.api.entitlements(shop.account.id).await["tier"], "premium");
    let second = shop.dues(&["reindex", "--yes"]).await;
    assert!(second.explanation().contains("another `dues reindex` of this chain is running"), "{second:?}");
    assert_eq!(shop.audit().await.len(), 1);

    rebuild.signal(Signal::SIGKILL);
    assert_eq!(rebuild.ended().await.signal(), Some(9));
    // The server notices that nobody is there any more.
    eventually(SOON, "its lock is gone", || async {
        let held = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND database =
                    (SELECT oid FROM pg_database WHERE datname = current_database())";
        // One is the indexer's.
        match shop.stack.ledger.count(held).await {
            1 => Ok(()),
            other => Err(other.to_string()),
        }
    })
    .await;
    hold.rollback().await.unwrap();
    assert_eq!(shop.digest().await, damaged);
    assert_eq!(shop.reindex(&["--yes"]).await["unchanged"], false);
    assert!(shop.audit().await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_indexer_goes_on_after_a_rebuild_that_held_it_up() {
    let shop = Shop::busy().await;
    let hold = held(&shop).await;
    let rebuild = shop.dues_beside(&["reindex", "--yes"]);
    waits_in_the_middle(&shop).await;
    let plan = shop.stack.plan("basic-month").onchain_id;
    let payer = shop.stack.chain.payer(9).await;
    shop.stack.chain.subscribe(&payer, plan, B256::ZERO).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(
        shop.stack.ledger.transactions(payer.address()).await.is_empty(),
        "a step lies across the rebuild"
    );
    hold.rollback().await.unwrap();
    assert_eq!(rebuild.ended().await.code(), Some(0));
    shop.stack.synced().await;
    assert_eq!(shop.stack.ledger.transactions(payer.address()).await.len(), 1);
    assert!(shop.audit().await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_reorganisation_below_finality_a_rebuild_repairs_and_the_running_indexer_goes_on() {
    let shop = Shop::busy().await;
    let (stack, chain) = (&shop.stack, &shop.stack.chain);
    let plan = stack.plan("basic-month").onchain_id;
    let (stays, goes) = (chain.payer(7).await, chain.payer(8).await);
    let kept = chain.sign_subscribe(&stays, plan, B256::ZERO).await;
    chain.send(&kept).await;
    let block = chain.receipt(kept.hash).await.block_number.unwrap();
    chain.subscribe(&goes, plan, B256::ZERO).await;
    chain.mine(FINALITY_DEPTH + 3).await;
    stack.synced().await;
    let before = stack.ledger.transactions(stays.address()).await;
    assert_eq!(before[0].status, "completed");
    let account = stack.ledger.subscriptions(goes.address()).await[0].account;

    chain.reorg_from(block, &[(&kept, 2)]).await;
    // While the chain is being shortened, the node is merely behind the ledger.
    let reason = eventually(SOON, "readyz says what happened", || async {
        let answer = stack.api.get("/readyz").await;
        match answer.body["parts"]["indexer"].as_str() {
            Some(reason) if answer.status == 503 && reason.contains("had been final") => {
                Ok(reason.to_owned())
            }
            _ => Err(format!("{answer:?}")),
        }
    })
    .await;
    assert!(reason.contains("run `dues reindex --devnet "), "{reason}");
    assert_eq!(stack.api.entitlements(account).await["tier"], "basic");
    let audited = shop.dues(&["audit"]).await;
    assert_eq!(audited.code, Some(2), "{audited:?}");
    assert!(audited.explanation().contains("run `dues reindex --chain dev`"), "{audited:?}");

    let document = shop.reindex(&["--yes"]).await;
    assert_eq!(document["not_on_chain"], 1, "{document}");
    stack.synced().await;
    eventually(SOON, "the same process is ready again", || async {
        let answer = stack.api.get("/readyz").await;
        if answer.status == 200 { Ok(()) } else { Err(format!("{answer:?}")) }
    })
    .await;
    assert!(shop.audit().await.is_empty());
    let after = stack.ledger.transactions(stays.address()).await;
    assert_eq!((after.len(), after[0].id, after[0].block_number), (1, before[0].id, block + 2));
    let gone = stack.ledger.transactions(goes.address()).await;
    assert_eq!((gone.len(), gone[0].status.as_str()), (1, "failed"));
    assert_eq!(gone[0].failure_reason.as_deref(), Some("not_on_chain"));
    assert_eq!(stack.api.entitlements(account).await["tier"], "free");
    // Mined after all, it is the same row.
    chain.subscribe(&goes, plan, B256::ZERO).await;
    stack.synced().await;
    assert_eq!(stack.api.entitlements(account).await["tier"], "basic");
    assert!(shop.audit().await.is_empty());
}
