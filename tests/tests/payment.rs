//! A payment on the chain becomes an entitlement and one transaction.

use std::time::{Duration, Instant};

use alloy::primitives::{Address, B256, U256};
use chrono::DateTime;
use dues_chain::contract::Dues;
use dues_tests::{FINALITY_DEPTH, Stack, event, eventually};
use serde_json::{Value, json};

/// The platform is promised two seconds; a machine that is busy with other tests is given more.
const PROMISED: Duration = Duration::from_secs(5);

fn timestamp(value: &Value) -> i64 {
    DateTime::parse_from_rfc3339(value.as_str().unwrap()).unwrap().timestamp()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_payment_gives_its_tier_within_two_seconds_of_its_block_with_complete_evidence() {
    let stack = Stack::start().await;
    let plan = stack.plan("premium-month");
    let (account, payer) = stack.customer(1).await;
    assert_eq!(stack.api.entitlements(account.id).await["tier"], "free");

    let receipt = stack.chain.subscribe(&payer, plan.onchain_id, account.reference).await;
    let mined = Instant::now();
    let answer = eventually(PROMISED, "the tier is premium", || async {
        let answer = stack.api.entitlements(account.id).await;
        if answer["tier"] == "premium" { Ok(answer) } else { Err(answer.to_string()) }
    })
    .await;
    println!("from the receipt to the tier over HTTP: {:?}", mined.elapsed());

    let charged: Dues::Charged = event(&receipt);
    let is_charged = |log: &&alloy::rpc::types::Log| log.log_decode::<Dues::Charged>().is_ok();
    let log = receipt.logs().iter().find(is_charged).unwrap();
    let block = stack.chain.block(receipt.block_number.unwrap().into()).await;
    let row = stack.ledger.subscriptions(payer.address()).await.remove(0);
    assert_eq!(
        answer["source"],
        json!({
            "rail": "chain", "subscription_id": row.id, "chain_id": 31_337, "contract": stack.chain.contract.to_string(),
            "onchain_id": charged.id.to_string(), "block_number": receipt.block_number,
            "block_hash": block.header.hash, "log_index": log.log_index, "finality": "pending",
        })
    );
    assert_eq!(Some(block.header.hash), receipt.block_hash);
    assert_eq!(answer["status"], "active");
    assert_eq!(answer["cancel_at_period_end"], false);
    assert_eq!(
        timestamp(&answer["valid_until"]),
        i64::try_from(stack.chain.dues().paidThrough(charged.id).call().await.unwrap()).unwrap()
    );
    assert_eq!(answer["account"], json!({ "id": account.id, "external_id": "customer-1" }));
    assert_eq!(answer["meters"]["requests"]["limit"], 50_000);
    assert_eq!(answer["meters"]["tokens"]["limit"], 5_000_000);
    let features = answer["features"].as_array().unwrap();
    for feature in ["limited_api", "analytics", "webhooks"] {
        assert!(features.contains(&feature.into()), "{feature} is not in {features:?}");
    }
    assert!(!features.contains(&"sla".into()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_says_all_of_its_payment_and_completes_when_its_block_is_final() {
    let stack = Stack::start().await;
    let plan = stack.plan("basic-month");
    let (account, payer) = stack.customer(1).await;
    let receipt = stack.chain.subscribe(&payer, plan.onchain_id, account.reference).await;
    stack.tier_becomes(account.id, "basic").await;

    let transactions = stack.api.transactions(account.id).await;
    let [transaction] = transactions.as_slice() else { panic!("not one: {transactions:?}") };
    assert_eq!(transaction["status"], "pending");
    assert_eq!(
        transaction["money"],
        json!({ "amount": "29.99", "currency": "USDC", "base_units": "29990000", "exponent": 6 })
    );
    assert_eq!(transaction["payer"], json!(payer.address().to_string()));
    assert_eq!(transaction["payee"], json!(stack.chain.merchant.to_string()));
    assert_eq!(transaction["tx_hash"], json!(receipt.transaction_hash));
    assert_eq!(transaction["block_hash"], json!(receipt.block_hash));
    let time = stack.chain.block(receipt.block_number.unwrap().into()).await.header.timestamp;
    assert_eq!(timestamp(&transaction["occurred_at"]), i64::try_from(time).unwrap());
    assert_eq!(timestamp(&transaction["period_start"]), i64::try_from(time).unwrap());

    // One block short of finality.
    stack.chain.mine(FINALITY_DEPTH - 1).await;
    stack.synced().await;
    assert_eq!(stack.api.transactions(account.id).await[0]["status"], "pending");
    stack.chain.mine(1).await;
    stack.synced().await;
    let settled = stack.api.transactions(account.id).await;
    assert_eq!(settled.len(), 1);
    assert_eq!((&settled[0]["id"], &settled[0]["status"]), (&transaction["id"], &json!("completed")));
    assert_eq!(stack.api.entitlements(account.id).await["source"]["finality"], "final");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_permit_pays_without_an_approval() {
    let stack = Stack::start().await;
    let plan = stack.plan("premium-month");
    let account = stack.api.account("permit").await;
    let payer = stack.chain.wallet(1).await;
    stack.chain.fund(&payer).await;
    let dollars = stack.chain.dollars();
    let allowance = dollars.allowance(payer.address(), stack.chain.contract);
    assert_eq!(allowance.call().await.unwrap(), U256::ZERO);

    stack.chain.subscribe_with_permit(&payer, plan.onchain_id, account.reference, plan.price * 12).await;
    assert_eq!(allowance.call().await.unwrap(), U256::from(plan.price * 11));
    stack.tier_becomes(account.id, "premium").await;
    assert_eq!(stack.ledger.transactions(payer.address()).await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_reference_gets_the_wallet_an_account_that_linking_the_wallet_claims() {
    let stack = Stack::start().await;
    let payer = stack.chain.payer(1).await;
    let stranger = stack.api.entitlements_of_wallet(payer.address()).await;
    stranger.assert_problem("before the payment", 404, "account_not_found");

    let plan = stack.plan("premium-month").onchain_id;
    stack.chain.subscribe(&payer, plan, B256::repeat_byte(0xab)).await;
    stack.synced().await;
    let anonymous = stack.api.entitlements_of_wallet(payer.address()).await.ok();
    assert_eq!((&anonymous["tier"], &anonymous["account"]["external_id"]), (&json!("premium"), &Value::Null));
    let anonymous_id = anonymous["account"]["id"].as_str().unwrap();
    let profile = stack.api.get(&format!("/v1/accounts/{anonymous_id}")).await.ok();
    assert_eq!((&profile["origin"], &profile["wallets"][0]["proof"]), (&json!("wallet"), &json!("payment")));

    let account = stack.api.account("late-comer").await;
    let claimed = stack.api.link(account.id, payer.address()).await;
    assert_eq!((claimed.status, &claimed.body["wallets"][0]["proof"]), (201, &json!("platform")));
    let answer = stack.api.entitlements(account.id).await;
    assert_eq!((&answer["tier"], &answer["source"]), (&json!("premium"), &anonymous["source"]));
    assert_eq!(stack.api.transactions(account.id).await.len(), 1);
    let gone = stack.api.get(&format!("/v1/accounts/{anonymous_id}")).await;
    gone.assert_problem("what is left of the anonymous account", 404, "account_not_found");

    assert_eq!(stack.api.link(account.id, payer.address()).await.status, 200);
    let other = stack.api.account("other").await;
    stack.api.link(other.id, payer.address()).await.assert_problem("another account", 409, "wallet_taken");
    assert_eq!(stack.api.entitlements(other.id).await["tier"], "free");
    assert_eq!(stack.api.entitlements(account.id).await["tier"], "premium");

    // What it pays from now on, by any unknown reference, is the account's as well.
    stack.chain.subscribe(&payer, stack.plan("enterprise-month").onchain_id, B256::ZERO).await;
    stack.tier_becomes(account.id, "enterprise").await;
    assert_eq!(stack.api.transactions(account.id).await.len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gift_goes_to_the_account_that_its_reference_names_and_does_not_link_the_giver() {
    let stack = Stack::start().await;
    let receiver = stack.api.account("receiver").await;
    let (giver, payer) = stack.customer(1).await;
    assert_eq!(stack.api.link(giver.id, payer.address()).await.status, 201);
    stack.chain.subscribe(&payer, stack.plan("basic-month").onchain_id, receiver.reference).await;
    stack.tier_becomes(receiver.id, "basic").await;
    assert_eq!(stack.api.entitlements(giver.id).await["tier"], "free");
    assert_eq!(stack.api.transactions(receiver.id).await.len(), 1);
    assert_eq!(stack.api.transactions(giver.id).await.len(), 0);

    // A giver whom nobody knows stays unknown.
    let stranger = stack.chain.payer(2).await;
    stack.chain.subscribe(&stranger, stack.plan("premium-month").onchain_id, receiver.reference).await;
    stack.tier_becomes(receiver.id, "premium").await;
    let found = stack.api.entitlements_of_wallet(stranger.address()).await;
    found.assert_problem("the stranger's wallet", 404, "account_not_found");
    let profile = stack.api.get(&format!("/v1/accounts/{}", receiver.id)).await.ok();
    assert_eq!(profile["wallets"], json!([]));
}

#[tokio::test(flavor = "multi_thread")]
async fn each_charge_is_exactly_one_transaction_also_where_several_share_a_block() {
    let stack = Stack::start().await;
    let (basic, premium) = (stack.plan("basic-month").onchain_id, stack.plan("premium-month").onchain_id);
    let (account, one) = stack.customer(1).await;
    let other = stack.chain.payer(2).await;
    let mut sent = Vec::new();
    stack.chain.automine(false).await;
    for (payer, plan) in [(&one, basic), (&other, basic), (&one, premium), (&other, basic)] {
        let tx = stack.chain.sign_subscribe(payer, plan, account.reference).await;
        stack.chain.send(&tx).await;
        sent.push(tx.hash);
    }
    stack.chain.mine(1).await;
    stack.tier_becomes(account.id, "premium").await;
    let mut hashes = Vec::new();
    for payer in [&one, &other] {
        hashes.extend(stack.ledger.transactions(payer.address()).await.into_iter().map(|row| row.tx_hash));
    }
    hashes.sort_unstable();
    sent.sort_unstable();
    assert_eq!(hashes, sent);

    // As many rows as the chain has charges in all, the demo's history included.
    let filter = json!([{
        "address": stack.chain.contract, "fromBlock": "0x0",
        "topics": [<Dues::Charged as alloy::sol_types::SolEvent>::SIGNATURE_HASH],
    }]);
    let charges = stack.chain.rpc("eth_getLogs", filter).await.as_array().unwrap().len();
    let rows = stack.ledger.count("SELECT count(*) FROM ledger.transactions").await;
    assert_eq!(i64::try_from(charges).unwrap(), rows);
}

#[tokio::test(flavor = "multi_thread")]
async fn another_merchants_plan_gives_nothing_and_leaves_no_rows() {
    let stack = Stack::start().await;
    let (account, payer) = stack.customer(1).await;
    let rival = stack.chain.wallet(2).await;
    // The demo's history is final, so that nothing of it changes any more.
    stack.chain.mine(FINALITY_DEPTH).await;
    stack.synced().await;
    let before = rows(&stack).await;

    // Even one that pays our merchant.
    for payee in [rival.address(), stack.chain.merchant] {
        let plan = stack.chain.create_plan(&rival, &stack.chain.monthly(1, payee)).await;
        let receipt = stack.chain.subscribe(&payer, plan, account.reference).await;
        let id = event::<Dues::Charged>(&receipt).id;
        stack.chain.cancel(&payer, id).await;
        stack.chain.resume(&payer, id).await;
        stack.chain.cancel_now(&payer, id).await;
        stack.chain.execute(&rival, stack.chain.contract, &Dues::retirePlanCall { planId: plan }).await;
    }
    // A failure of a subscription that does not exist names no plan and nobody.
    stack.chain.charge_batch(&[U256::from(1_000)]).await;
    stack.synced().await;
    assert_eq!(rows(&stack).await, before);
    assert_eq!(stack.api.entitlements(account.id).await["tier"], "free");
    let unknown = stack.api.entitlements_of_wallet(payer.address()).await;
    unknown.assert_problem("the payer's wallet", 404, "account_not_found");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plan_that_the_catalogue_does_not_sell_is_recorded_and_gives_nothing() {
    let stack = Stack::start().await;
    let (account, payer) = stack.customer(1).await;
    let terms = stack.chain.monthly(7_000_000, Address::repeat_byte(5));
    let plan = stack.chain.create_plan(&stack.chain.merchant_wallet(), &terms).await;
    stack.chain.subscribe(&payer, plan, account.reference).await;
    stack.synced().await;
    assert_eq!(stack.api.entitlements(account.id).await["tier"], "free");
    let transactions = stack.api.transactions(account.id).await;
    assert_eq!((transactions.len(), &transactions[0]["money"]["amount"]), (1, &json!("7.00")));
}

/// Every table's rows but those of where the indexer is.
async fn rows(stack: &Stack) -> std::collections::BTreeMap<String, String> {
    let mut rows = stack.ledger.digest().await;
    rows.retain(|table, _| !["chain_blocks", "chain_checkpoints"].contains(&table.as_str()));
    rows
}
