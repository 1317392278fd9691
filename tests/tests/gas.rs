//! What the contract's calls cost, by receipts: whole transactions, an OpenZeppelin ERC20Permit token, finite
//! allowances, balances that are not zero before or after.

use alloy::primitives::{Address, U256};
use dues_chain::contract::Dues;
use dues_tests::{Stack, event};
use futures::future::join_all;

fn within(what: &str, gas: u64, limit: u64) {
    println!("{what}: {gas} gas, at most {limit}");
    assert!(gas <= limit, "{what} takes {gas} gas, more than {limit}");
}

#[tokio::test(flavor = "multi_thread")]
async fn single_calls_stay_within_their_gas() {
    let stack = Stack::start().await;
    let chain = &stack.chain;
    let plan = stack.plan("basic-month");
    let account = stack.api.account("gas").await;
    assert!(chain.dollars().balanceOf(chain.merchant).call().await.unwrap() > U256::ZERO);

    let create = Dues::createPlanCall { terms: chain.monthly(1_000_000, Address::repeat_byte(9)) };
    let created = chain.execute(&chain.merchant_wallet(), chain.contract, &create).await;
    within("createPlan", created.gas_used, 110_000);

    let payer = chain.wallet(1).await;
    chain.fund(&payer).await;
    let begun =
        chain.subscribe_with_permit(&payer, plan.onchain_id, account.reference, plan.price * 12).await;
    within("subscribeWithPermit", begun.gas_used, 135_000);

    let id = event::<Dues::Charged>(&begun).id;
    let due = chain.dues().paidThrough(id).call().await.unwrap();
    chain.next_block_at(due.try_into().unwrap()).await;
    let allowance = chain.dollars().allowance(payer.address(), chain.contract).call().await.unwrap();
    assert!(allowance > U256::from(plan.price) && allowance < U256::MAX, "finite and not used up");
    within("charge", chain.charge(id).await.gas_used, 56_000);
    within("cancel", chain.cancel(&payer, id).await.gas_used, 30_000);
    println!("resume: {} gas", chain.resume(&payer, id).await.gas_used);
    println!("cancelNow: {} gas", chain.cancel_now(&payer, id).await.gas_used);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_of_fifty_payers_stays_within_its_gas_for_each() {
    const PAYERS: u64 = 50;
    let stack = Stack::start().await;
    let chain = &stack.chain;
    let plan = stack.plan("basic-month");
    let account = stack.api.account("gas").await;
    let payers = join_all((1..=PAYERS).map(|number| chain.payer(number))).await;
    let begun = join_all(payers.iter().map(|p| chain.subscribe(p, plan.onchain_id, account.reference))).await;
    let ids: Vec<_> = begun.iter().map(|receipt| event::<Dues::Charged>(receipt).id).collect();
    let mut due = 0;
    for id in &ids {
        due = due.max(chain.dues().paidThrough(*id).call().await.unwrap());
    }
    chain.next_block_at(due.try_into().unwrap()).await;
    let receipt = chain.charge_batch(&ids).await;
    let charged = receipt.logs().iter().filter(|log| log.log_decode::<Dues::Charged>().is_ok()).count();
    assert_eq!(u64::try_from(charged).unwrap(), PAYERS);
    within("chargeBatch of 50, each", receipt.gas_used / PAYERS, 24_500);

    // And the ledger has one renewal of each.
    stack.synced().await;
    let renewals = "SELECT count(DISTINCT subscription_id) FROM ledger.transactions WHERE period = 2";
    assert_eq!(stack.ledger.count(renewals).await, 50);
}
