//! Usage that is charged beside the price, and money that goes back.

use std::time::Duration;

use alloy::{
    primitives::{Address, B256, U256, aliases::U96},
    signers::local::PrivateKeySigner,
};
use dues_chain::contract::{Dues, IDues};
use dues_domain::catalogue::Tier;
use dues_tests::{Account, FINALITY_DEPTH, Stack, event};
use serde_json::{Value, json};

const KEY: B256 = B256::repeat_byte(0x4b);
const OTHER_KEY: B256 = B256::repeat_byte(0x4c);

/// A subscription to a plan with a usage cap of 50.00.
async fn metered(stack: &Stack) -> (Account, PrivateKeySigner, U256) {
    let terms = IDues::PlanTerms {
        usageCap: U96::from(50_000_000),
        ..stack.chain.monthly(99_990_000, stack.chain.merchant)
    };
    let plan = stack.sell("premium-metered", Tier::Premium, terms).await;
    let (account, payer) = stack.customer(1).await;
    let receipt = stack.chain.subscribe(&payer, plan, account.reference).await;
    stack.chain.approve(&stack.chain.merchant_wallet(), 1_000_000_000).await;
    stack.tier_becomes(account.id, "premium").await;
    (account, payer, event::<Dues::Subscribed>(&receipt).id)
}

#[tokio::test(flavor = "multi_thread")]
async fn usage_is_a_row_of_its_own_for_the_period_that_it_was_charged_to() {
    let stack = Stack::start().await;
    let (account, payer, id) = metered(&stack).await;
    let before = stack.api.entitlements(account.id).await;
    let receipt = stack.chain.charge_usage(id, 1, 1_230_000, KEY).await;
    stack.synced().await;
    let rows = stack.ledger.movements(payer.address()).await;
    let (charge, usage) = (&rows[0], &rows[1]);
    assert_eq!((usage.kind.as_str(), usage.amount.as_str(), usage.key), ("usage", "1230000", Some(KEY)));
    assert_eq!((usage.period, usage.start, usage.end), (charge.period, charge.start, charge.end));
    assert_eq!((usage.payer, usage.payee), (payer.address(), stack.chain.merchant));
    assert_eq!(usage.tx_hash, receipt.transaction_hash);
    let listed = &stack.api.transactions(account.id).await[0];
    assert_eq!((&listed["kind"], &listed["key"]), (&json!("usage"), &json!(KEY)));
    assert_eq!(listed["money"]["amount"], "1.23");
    let mut after = stack.api.entitlements(account.id).await;
    after["as_of"] = before["as_of"].clone();
    assert_eq!(after, before);

    // The second period's usage belongs to the second period, and settles like everything else.
    stack.chain.renew(id, Duration::from_secs(60)).await;
    stack.chain.charge_usage(id, 2, 50_000_000, OTHER_KEY).await;
    stack.chain.mine(FINALITY_DEPTH).await;
    stack.synced().await;
    let rows = stack.ledger.movements(payer.address()).await;
    assert_eq!((rows[3].period, rows[3].start, rows[3].end), (Some(2), rows[2].start, rows[2].end));
    assert!(rows.iter().all(|row| row.status == "completed"), "{rows:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refund_is_a_row_of_its_own_and_takes_nothing_away() {
    let stack = Stack::start().await;
    let (account, payer, id) = metered(&stack).await;
    let before = stack.api.entitlements(account.id).await;
    stack.chain.refund(id, 9_990_000, KEY).await;
    stack.synced().await;
    let rows = stack.ledger.movements(payer.address()).await;
    let refund = &rows[1];
    assert_eq!((refund.kind.as_str(), refund.amount.as_str(), refund.key), ("refund", "9990000", Some(KEY)));
    assert_eq!((refund.payer, refund.payee), (stack.chain.merchant, payer.address()));
    assert_eq!((refund.period, refund.start, refund.end), (None, None, None));
    let listed = &stack.api.transactions(account.id).await[0];
    assert_eq!((&listed["kind"], &listed["money"]["amount"]), (&json!("refund"), &json!("9.99")));
    assert_eq!((&listed["period_start"], &listed["period_end"]), (&Value::Null, &Value::Null));
    let mut after = stack.api.entitlements(account.id).await;
    after["as_of"] = before["as_of"].clone();
    assert_eq!(after, before);

    // Money back and the end are two things, and can be one transaction.
    use alloy::sol_types::SolCall;
    let refund = Dues::refundCall { id, amount: 90_000_000, key: OTHER_KEY };
    let calls = vec![refund.abi_encode().into(), Dues::cancelNowCall { id }.abi_encode().into()];
    stack.chain.multicall(&stack.chain.merchant_wallet(), calls).await;
    stack.tier_becomes(account.id, "free").await;
    stack.synced().await;
    assert_eq!(stack.ledger.movements(payer.address()).await.len(), 3);
    assert_eq!(stack.ledger.subscriptions(payer.address()).await[0].ended_by.as_deref(), Some("merchant"));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_refunds_from_its_own_account() {
    let stack = Stack::start().await;
    let (_, payer, id) = metered(&stack).await;
    let operator = stack.chain.payer(5).await;
    let set = Dues::setOperatorCall { operator: operator.address(), approved: true };
    stack.chain.execute(&stack.chain.merchant_wallet(), stack.chain.contract, &set).await;
    let refund = Dues::refundCall { id, amount: 1, key: KEY };
    stack.chain.execute(&operator, stack.chain.contract, &refund).await;
    stack.synced().await;
    let rows = stack.ledger.movements(payer.address()).await;
    assert_eq!((rows[1].payer, rows[1].amount.as_str()), (operator.address(), "1"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_is_one_movement_whatever_is_reorganised_and_whoever_sends_it_again() {
    let stack = Stack::start().await;
    let (_, payer, id) = metered(&stack).await;
    let usage = stack.chain.charge_usage(id, 1, 1_000_000, KEY).await;
    let refund = stack.chain.refund(id, 2_000_000, OTHER_KEY).await;
    stack.synced().await;
    let before = stack.ledger.movements(payer.address()).await;

    stack.chain.reorg_from(usage.block_number.unwrap(), &[]).await;
    stack.synced().await;
    let gone = stack.ledger.movements(payer.address()).await;
    let status: Vec<_> = gone.iter().map(|row| row.status.as_str()).collect();
    assert_eq!(status, ["pending", "failed", "failed"]);

    // Sent again in the other order, each by another transaction: with the same keys they are the same movements.
    let refund_again = stack.chain.refund(id, 2_000_000, OTHER_KEY).await;
    stack.chain.charge_usage(id, 1, 1_000_000, KEY).await;
    assert_ne!(refund_again.transaction_hash, refund.transaction_hash);
    stack.synced().await;
    let after = stack.ledger.movements(payer.address()).await;
    let ids = |rows: &[dues_tests::TransactionRow]| rows.iter().map(|row| row.id).collect::<Vec<_>>();
    assert_eq!(ids(&after), [before[0].id, before[2].id, before[1].id]);
    assert!(after.iter().all(|row| row.status == "pending" && row.failure_reason.is_none()), "{after:?}");
    assert_eq!(after[1].tx_hash, refund_again.transaction_hash);

    // A key that was for usage on the one fork may be for a refund on the other: another movement.
    stack.chain.reorg_from(refund_again.block_number.unwrap(), &[]).await;
    stack.chain.refund(id, 3, KEY).await;
    stack.synced().await;
    let rows = stack.ledger.movements(payer.address()).await;
    let live: Vec<_> =
        rows.iter().filter(|row| row.status == "pending").map(|row| row.amount.as_str()).collect();
    assert_eq!((rows.len(), live), (4, vec!["99990000", "3"]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plan_pays_its_new_payee_from_its_acceptance_on_and_the_old_one_again_without_it() {
    let stack = Stack::start().await;
    let (_, payer, id) = metered(&stack).await;
    let plan: u32 = stack.chain.dues().planCount().call().await.unwrap();
    let payee = stack.chain.wallet(6).await;
    let propose = Dues::proposePayeeCall { planId: plan, payee: payee.address() };
    stack.chain.execute(&stack.chain.merchant_wallet(), stack.chain.contract, &propose).await;
    stack.chain.prepay(&payer, id, 1).await;
    stack.chain.increase_time(Duration::from_secs(2 * 86_400)).await;
    let accept = Dues::acceptPayeeCall { planId: plan };
    let accepted = stack.chain.execute(&payee, stack.chain.contract, &accept).await;
    stack.chain.prepay(&payer, id, 1).await;
    stack.synced().await;
    let payees = async || -> Vec<Address> {
        stack.ledger.movements(payer.address()).await.iter().map(|row| row.payee).collect()
    };
    let merchant = stack.chain.merchant;
    assert_eq!(payees().await, [merchant, merchant, payee.address()]);

    stack.chain.reorg_from(accepted.block_number.unwrap(), &[]).await;
    stack.synced().await;
    assert_eq!(stack.ledger.movements(payer.address()).await[2].status, "failed");
    // The very same transaction again, which pays somebody else now.
    stack.chain.prepay(&payer, id, 1).await;
    stack.synced().await;
    assert_eq!(payees().await, [merchant; 3]);
    assert_eq!(stack.ledger.movements(payer.address()).await[2].status, "pending");
}
