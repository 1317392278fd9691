//! `kill -9`.

use std::{
    fs,
    os::unix::process::ExitStatusExt as _,
    path::Path,
    time::{Duration, SystemTime},
};

use alloy::signers::local::PrivateKeySigner;
use dues_tests::{Chain, eventually};
use serde_json::Value;
use uuid::Uuid;

use crate::{Dues, START, Signal, api};

const MARGARET: usize = 3;

fn chain(manifest: &Value) -> Chain {
    let text = |key: &str| manifest[key].as_str().unwrap();
    let address = |key: &str| text(key).parse().unwrap();
    Chain::new(text("rpc_url"), 31_337, address("contract"), address("token"), address("merchant"))
}

fn margaret(manifest: &Value) -> (PrivateKeySigner, Uuid) {
    let wallet = &manifest["wallets"][MARGARET];
    let text = |key: &str| wallet[key].as_str().unwrap();
    (text("private_key").parse().unwrap(), text("account_id").parse().unwrap())
}

/// Margaret pays for the basic plan, and the API says so.
async fn pay(manifest: &Value) -> Uuid {
    let (payer, account) = margaret(manifest);
    let chain = chain(manifest);
    chain.approve(&payer, 1_000_000_000).await;
    let reference = dues_domain::ids::AccountId::from_uuid(account).to_reference();
    chain.subscribe(&payer, 1, reference).await;
    eventually(START, "margaret is basic", || async {
        let answer = api(manifest).entitlements(account).await;
        if answer["tier"] == "basic" { Ok(()) } else { Err(answer.to_string()) }
    })
    .await;
    account
}

fn modified(file: &Path) -> Option<SystemTime> {
    fs::metadata(file).and_then(|metadata| metadata.modified()).ok()
}

/// Waits until the chain was saved twice: the second time was begun after this was called.
async fn saved(dir: &Path) {
    let file = dir.join(".dues/anvil-state.json");
    for _ in 0..2 {
        let before = modified(&file);
        eventually(Duration::from_secs(60), "the chain is saved", || async {
            if modified(&file) == before { Err("not yet".to_owned()) } else { Ok(()) }
        })
        .await;
    }
}

fn timeless(mut answer: Value) -> Value {
    answer["as_of"] = Value::Null;
    // What the keeper finds out when it comes to it.
    answer["renewal"] = Value::Null;
    answer["source"]["finality"] = Value::Null;
    answer
}

#[tokio::test]
async fn children_of_a_killed_devnet_end_and_the_next_start_gives_the_same_answers() {
    let dir = crate::scratch();
    let (dues, manifest) = Dues::devnet(dir.path()).await;
    let account = pay(&manifest).await;
    let answer = timeless(api(&manifest).entitlements(account).await);
    saved(dir.path()).await;
    assert_eq!(dues.stop(Signal::SIGKILL).await.signal(), Some(9));
    assert!(dir.path().join(".dues/devnet.json").exists(), "nobody was there to remove it");

    let (dues, next) = Dues::devnet(dir.path()).await;
    assert_ne!(next["api_key"], manifest["api_key"]);
    assert_eq!(timeless(api(&next).entitlements(account).await), answer);
    let transactions = api(&next).transactions(account).await;
    assert_eq!(transactions.len(), 1, "{transactions:?}");
    assert_ne!(transactions[0]["status"], "failed");
    assert_eq!(dues.stop(Signal::SIGTERM).await.code(), Some(0));
}

#[tokio::test]
async fn a_devnet_that_is_killed_at_once_after_a_payment_agrees_with_its_chain_again() {
    let dir = crate::scratch();
    let (dues, manifest) = Dues::devnet(dir.path()).await;
    let account = pay(&manifest).await;
    // Whether this block was saved before the end is a matter of luck. The ledger must follow in either case.
    assert_eq!(dues.stop(Signal::SIGKILL).await.signal(), Some(9));

    let (dues, next) = Dues::devnet(dir.path()).await;
    let (chain, (payer, _)) = (chain(&next), margaret(&next));
    let api = api(&next);
    let count = chain.dues().subscriptionCount().call().await.unwrap();
    let all = chain.dues().subscriptions(alloy::primitives::U256::ONE, count).call().await.unwrap();
    let tier =
        if all.iter().any(|record| record.subscription.payer == payer.address()) { "basic" } else { "free" };
    println!("the payment survived: {}", tier == "basic");
    eventually(START, "the ledger agrees with the chain", || async {
        let answer = api.entitlements(account).await;
        let (rows, ready) = (api.transactions(account).await, api.get("/readyz").await.status);
        let live = rows.iter().filter(|row| row["status"] != "failed").count();
        if answer["tier"] == tier && live == usize::from(tier == "basic") && ready == 200 {
            Ok(())
        } else {
            Err(format!("{tier} on the chain, {answer} {rows:?} {ready}"))
        }
    })
    .await;
    // And a payment goes through.
    if tier == "free" {
        pay(&next).await;
    }
    assert_eq!(dues.stop(Signal::SIGTERM).await.code(), Some(0));
}

#[tokio::test]
async fn a_devnet_that_is_started_again_and_again_keeps_its_ledger_and_has_somebody_new() {
    let dir = crate::scratch();
    let (dues, manifest) = Dues::devnet(dir.path()).await;
    let account = pay(&manifest).await;
    assert_eq!(dues.stop(Signal::SIGTERM).await.code(), Some(0));

    for start in 2..=5 {
        let (dues, next) = Dues::devnet(dir.path()).await;
        let api = api(&next);
        assert_eq!(api.entitlements(account).await["tier"], "basic", "start {start}");
        assert_eq!(api.transactions(account).await.len(), 1, "start {start}");
        // Margaret is not new any more.
        let wallets = next["wallets"].as_array().unwrap();
        assert_eq!(wallets.len(), 5, "start {start}");
        let newcomer = wallets[4]["account_id"].as_str().unwrap().parse().unwrap();
        assert_eq!(api.entitlements(newcomer).await["tier"], "free", "start {start}");
        assert_eq!(dues.stop(Signal::SIGTERM).await.code(), Some(0));
    }
}
