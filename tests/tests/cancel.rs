//! Cancelling: at the end of the paid period, back again, and at once.

use alloy::primitives::U256;
use chrono::DateTime;
use dues_chain::contract::Dues;
use dues_tests::{Stack, event};
use serde_json::Value;

async fn subscribed(stack: &Stack) -> (uuid::Uuid, alloy::signers::local::PrivateKeySigner, U256) {
    let (account, payer) = stack.customer(1).await;
    let plan = stack.plan("premium-month").onchain_id;
    let receipt = stack.chain.subscribe(&payer, plan, account.reference).await;
    stack.tier_becomes(account.id, "premium").await;
    (account.id, payer, event::<Dues::Charged>(&receipt).id)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_subscription_keeps_its_tier_for_the_paid_period_and_resume_takes_it_back() {
    let stack = Stack::start().await;
    let (account, payer, id) = subscribed(&stack).await;
    let paid = stack.api.entitlements(account).await;

    stack.chain.cancel(&payer, id).await;
    stack.synced().await;
    let ending = stack.api.entitlements(account).await;
    assert_eq!(ending["tier"], "premium");
    assert_eq!(ending["cancel_at_period_end"], true);
    assert_eq!(ending["status"], "active");
    let until = DateTime::parse_from_rfc3339(ending["valid_until"].as_str().unwrap()).unwrap();
    let paid_through = stack.chain.dues().paidThrough(id).call().await.unwrap();
    assert_eq!(until.timestamp(), i64::try_from(paid_through).unwrap());
    // Access still rests on the payment, not on the cancellation.
    assert_eq!(ending["source"], paid["source"]);

    stack.chain.resume(&payer, id).await;
    stack.synced().await;
    let mut resumed = stack.api.entitlements(account).await;
    resumed["as_of"] = paid["as_of"].clone();
    assert_eq!(resumed, paid);
    assert_eq!(stack.api.transactions(account).await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn ending_at_once_takes_the_tier_at_once_and_keeps_the_payment() {
    let stack = Stack::start().await;
    let (account, payer, id) = subscribed(&stack).await;
    stack.chain.cancel_now(&payer, id).await;
    let answer = stack.tier_becomes(account, "free").await;
    assert_eq!((&answer["status"], &answer["valid_until"]), (&Value::Null, &Value::Null));
    assert_eq!(answer["source"], Value::Null);
    assert_eq!(stack.ledger.subscriptions(payer.address()).await[0].status, "cancelled");
    let transactions = stack.api.transactions(account).await;
    assert_eq!((transactions.len(), &transactions[0]["status"]), (1, &"pending".into()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_subscription_that_ended_at_once_leaves_another_one_of_the_account_in_force() {
    let stack = Stack::start().await;
    let (account, payer, premium) = subscribed(&stack).await;
    let reference = dues_domain::ids::AccountId::from_uuid(account).to_reference();
    let receipt = stack.chain.subscribe(&payer, stack.plan("basic-month").onchain_id, reference).await;
    stack.synced().await;
    assert_eq!(stack.api.entitlements(account).await["tier"], "premium");
    stack.chain.cancel_now(&payer, premium).await;
    let answer = stack.tier_becomes(account, "basic").await;
    assert_eq!(answer["source"]["onchain_id"], event::<Dues::Charged>(&receipt).id.to_string());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_merchant_that_cancels_has_the_last_word() {
    let stack = Stack::start().await;
    let (account, payer, id) = subscribed(&stack).await;
    let merchant = stack.chain.merchant_wallet();
    stack.chain.cancel(&payer, id).await;
    stack.chain.cancel(&merchant, id).await;
    stack.synced().await;
    let ending = stack.api.entitlements(account).await;
    assert_eq!((&ending["tier"], &ending["cancel_at_period_end"]), (&"premium".into(), &true.into()));
    let row = stack.ledger.subscriptions(payer.address()).await.remove(0);
    assert_eq!((row.cancel_scheduled_by.as_deref(), row.ended_by), (Some("merchant"), None));
    let resume = stack.chain.attempt(&payer, stack.chain.contract, &Dues::resumeCall { id }).await;
    assert!(!resume.status());

    stack.chain.cancel_now(&merchant, id).await;
    stack.tier_becomes(account, "free").await;
    let row = stack.ledger.subscriptions(payer.address()).await.remove(0);
    assert_eq!((row.status.as_str(), row.ended_by.as_deref()), ("cancelled", Some("merchant")));
    assert_eq!(stack.api.transactions(account).await.len(), 1, "what was paid stays on record");
}
