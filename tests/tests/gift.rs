//! Paying for somebody else, and having somebody else send what was signed.

use alloy::{
    primitives::{U256, keccak256},
    signers::local::PrivateKeySigner,
    sol_types::SolCall,
};
use chrono::Months;
use dues_chain::contract::{Dues, IDues};
use dues_tests::{Chain, Stack, event};
use serde_json::json;

#[tokio::test(flavor = "multi_thread")]
async fn a_gift_gives_the_tier_to_the_account_that_it_names_and_ends_by_itself() {
    let stack = Stack::start().await;
    let plan = stack.plan("premium-month");
    let giver = stack.api.account("giver").await;
    let receiver = stack.api.account("receiver").await;
    let wallet = stack.chain.payer(1).await;
    assert_eq!(stack.api.link(giver.id, wallet.address()).await.status, 201);
    let receipt = stack.chain.subscribe_prepaid(&wallet, plan.onchain_id, receiver.reference, 3, false).await;

    let answer = stack.tier_becomes(receiver.id, "premium").await;
    assert_eq!((&answer["status"], &answer["cancel_at_period_end"]), (&json!("active"), &json!(true)));
    stack.synced().await;
    assert_eq!(stack.api.entitlements(giver.id).await["tier"], "free");
    let begun = stack.chain.time_of(&receipt).await;
    let rows = stack.ledger.movements(wallet.address()).await;
    assert_eq!(rows.len(), 1);
    assert_eq!((rows[0].account, rows[0].amount.as_str()), (receiver.id, "299970000"));
    assert_eq!((rows[0].period, rows[0].start), (Some(3), Some(begun)));
    assert_eq!(rows[0].end, Some(begun + Months::new(3)));
    let subscription = &stack.ledger.subscriptions(wallet.address()).await[0];
    assert_eq!(subscription.cancel_scheduled_by.as_deref(), Some("payer"));
    assert_eq!(subscription.paid_through, begun + Months::new(3));
    assert_eq!(stack.api.transactions(receiver.id).await.len(), 1);
    assert!(stack.api.transactions(giver.id).await.is_empty());

    // Whoever gave it can let it go on.
    stack.chain.resume(&wallet, event::<Dues::Subscribed>(&receipt).id).await;
    stack.synced().await;
    assert_eq!(stack.api.entitlements(receiver.id).await["cancel_at_period_end"], false);
}

/// A wallet with dollars, and with nothing for gas.
async fn without_ether(stack: &Stack) -> PrivateKeySigner {
    let payer = PrivateKeySigner::from_bytes(&keccak256("a wallet without ether")).unwrap();
    stack.chain.fund_from(&stack.chain.merchant_wallet(), payer.address()).await;
    assert_eq!(stack.chain.ether(payer.address()).await, U256::ZERO);
    payer
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wallet_without_ether_subscribes_by_two_signatures_that_anybody_sends() {
    let stack = Stack::start().await;
    let plan = stack.plan("premium-month");
    let account = stack.api.account("relayed").await;
    let payer = without_ether(&stack).await;
    let relayer = stack.chain.wallet(9).await;

    let permit = stack.chain.sign_permit(&payer, plan.onchain_id, plan.price * 12).await;
    let intent = Chain::intent(plan.onchain_id, account.reference, 7);
    let subscribe = stack.chain.sign_intent(&payer, intent).await;
    let calls = vec![permit.abi_encode().into(), subscribe.abi_encode().into()];
    stack.chain.multicall(&relayer, calls).await;

    stack.tier_becomes(account.id, "premium").await;
    stack.synced().await;
    let rows = stack.ledger.movements(payer.address()).await;
    assert_eq!((rows.len(), rows[0].payer), (1, payer.address()));
    assert_eq!(stack.chain.ether(payer.address()).await, U256::ZERO);
    assert_eq!(stack.ledger.subscriptions(payer.address()).await[0].account, account.id);

    // The same signature again is refused, and one that the payer did not give is, too.
    let again = stack.chain.attempt(&relayer, stack.chain.contract, &subscribe).await;
    assert!(!again.status());
    let intent = IDues::SubscribeIntent { nonce: U256::from(8), ..subscribe.intent.clone() };
    let forged = stack.chain.sign_intent(&relayer, intent.clone()).await;
    let forged = Dues::subscribeForCall { intent, signature: forged.signature };
    assert!(!stack.chain.attempt(&relayer, stack.chain.contract, &forged).await.status());
    stack.synced().await;
    assert_eq!(stack.ledger.subscriptions(payer.address()).await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signed_gift_after_which_a_trial_would_come_ends_with_its_trial() {
    let stack = Stack::start().await;
    let terms =
        IDues::PlanTerms { trial: 7 * 86_400, ..stack.chain.monthly(99_990_000, stack.chain.merchant) };
    let plan = stack.sell("trial", dues_domain::catalogue::Tier::Premium, terms).await;
    let account = stack.api.account("relayed").await;
    let payer = without_ether(&stack).await;
    let intent = IDues::SubscribeIntent { renews: false, ..Chain::intent(plan, account.reference, 1) };
    let subscribe = stack.chain.sign_intent(&payer, intent).await;
    stack.chain.execute(&stack.chain.wallet(9).await, stack.chain.contract, &subscribe).await;
    let answer = stack.tier_becomes(account.id, "premium").await;
    assert_eq!((&answer["status"], &answer["cancel_at_period_end"]), (&json!("trialing"), &json!(true)));
    stack.synced().await;
    assert!(stack.ledger.movements(payer.address()).await.is_empty());
}
