//! Stopping and starting again.

use dues_chain::contract::Dues;
use dues_tests::{Api, Options, Site, Stack, event};
use serde_json::Value;

fn timeless(mut answer: Value) -> Value {
    answer["as_of"] = Value::Null;
    answer
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_gives_the_same_answers_and_writes_no_row_twice() {
    let stack = Stack::start().await;
    let (account, payer) = stack.customer(1).await;
    let receipt =
        stack.chain.subscribe(&payer, stack.plan("premium-month").onchain_id, account.reference).await;
    let id = event::<Dues::Charged>(&receipt).id;
    stack.chain.cancel(&payer, id).await;
    stack.synced().await;
    let answer = timeless(stack.api.entitlements(account.id).await);
    let transactions = stack.api.transactions(account.id).await;
    let (old, count) = (stack.api.clone(), "SELECT count(*) FROM ledger.transactions");
    let rows = stack.ledger.count(count).await;

    let site = stack.stop().await;
    assert!(site.data_dir().join("anvil-state.json").exists());
    assert!(!site.data_dir().join("devnet.json").exists());
    let stack = site.start().await;
    stack.synced().await;
    assert_eq!(timeless(stack.api.entitlements(account.id).await), answer);
    assert_eq!(stack.api.transactions(account.id).await, transactions);
    assert_eq!(stack.ledger.count(count).await, rows);
    // The chain goes on, too.
    let block = stack.chain.block(receipt.block_number.unwrap().into()).await;
    assert_eq!(Some(block.header.hash), receipt.block_hash);
    stack.chain.resume(&payer, id).await;
    stack.chain.subscribe(&payer, stack.plan("enterprise-month").onchain_id, account.reference).await;
    let answer = stack.tier_becomes(account.id, "enterprise").await;
    assert_eq!(answer["cancel_at_period_end"], false);

    // The key is another one, the old one is revoked.
    assert_ne!(stack.api.key(), old.key());
    let api: Api = stack.api.with_key(old.key());
    api.get(&format!("/v1/accounts/{}", account.id)).await.assert_problem("old key", 401, "unauthenticated");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_payment_while_dues_is_down_is_seen_at_the_next_start() {
    let stack = Site::new(Options { external_chain: true, ..Options::default() }).await.start().await;
    let (account, payer) = stack.customer(1).await;
    let (plan, chain) = (stack.plan("basic-month").onchain_id, stack.chain.clone());
    let site = stack.stop().await;
    chain.subscribe(&payer, plan, account.reference).await;
    chain.mine(50).await;
    let stack = site.start().await;
    // Everything that the chain has is in the ledger as soon as it is up.
    let answer = stack.api.entitlements(account.id).await;
    assert_eq!((&answer["tier"], &answer["source"]["finality"]), (&"basic".into(), &"final".into()));
    assert_eq!(stack.api.transactions(account.id).await[0]["status"], "completed");
}
