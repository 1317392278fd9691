//! What is due is charged, once, whoever else charges.

use std::collections::BTreeSet;

use alloy::primitives::U256;
use chrono::TimeDelta;
use dues_chain::contract::Dues;
use dues_keeper::{BatchLimits, HeldBack};
use dues_tests::{RunningKeeper, SOON, Stack, event, eventually, keeper_config};

fn ids<W>(payers: &[(W, U256)]) -> Vec<U256> {
    payers.iter().map(|(_, id)| *id).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_due_is_charged_together_and_appears_in_the_ledger() {
    let stack = Stack::start().await;
    let plan = stack.plan("basic-month");
    let payers = stack.subscribers(plan.onchain_id, 1..=5).await;
    let (leaver, rest) = payers.split_first().unwrap();
    stack.chain.cancel(&leaver.0, leaver.1).await;
    let signer = stack.keeper_signer(100).await;
    let keeper = RunningKeeper::start(stack.keeper(keeper_config(&stack), &signer).await);

    // Nothing is due yet, by the chain's clock.
    stack.synced().await;
    assert_eq!(stack.keeper_plan().await.found.ready(), 0);
    for period in 2..=3 {
        stack.fall_due(&ids(rest)).await;
        stack.each_has_paid(rest, period).await;
    }
    stack.each_has_paid(std::slice::from_ref(leaver), 1).await;
    let rows = stack.keeper_rows_become("two batches are in blocks", |rows| {
        rows.len() == 2 && rows.iter().all(|row| row.status == "mined")
    });
    let charged: BTreeSet<_> = rows.await.into_iter().map(|row| row.onchain_ids).collect();
    let wanted: Vec<i64> = ids(rest).into_iter().map(|id| id.to()).collect();
    assert_eq!(charged, BTreeSet::from([wanted]));

    stack.chain.mine(dues_tests::FINALITY_DEPTH + 1).await;
    stack.keeper_rows_become("they are final", |rows| rows.iter().all(|row| row.status == "final")).await;
    keeper.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dry_run_says_what_would_be_done_and_does_nothing() {
    let stack = Stack::start().await;
    let payers = stack.subscribers(stack.plan("basic-month").onchain_id, 1..=3).await;
    stack.chain.approve(&payers[0].0, 0).await;
    stack.fall_due(&ids(&payers)).await;
    let (before, head) = (stack.ledger.digest().await, stack.chain.head().await.header.number);
    let plan = stack.keeper_plan().await;
    assert_eq!(plan.found.ready(), 2);
    let (charge, reason) = &plan.found.refused[0];
    assert_eq!((U256::from(charge.onchain_id), reason.as_str()), (payers[0].1, "allowance"));
    assert!(plan.max_fee.is_some());
    assert_eq!(stack.ledger.digest().await, before);
    assert_eq!(stack.chain.head().await.header.number, head);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_keepers_charge_once_and_the_second_takes_over() {
    let stack = Stack::start().await;
    let payers = stack.subscribers(stack.plan("basic-month").onchain_id, 1..=6).await;
    let (one, other) = (stack.keeper_signer(100).await, stack.keeper_signer(101).await);
    let mut first = RunningKeeper::start(stack.keeper(keeper_config(&stack), &one).await);
    // The same key, and another one.
    let second = RunningKeeper::start(stack.keeper(keeper_config(&stack), &one).await);
    let third = RunningKeeper::start(stack.keeper(keeper_config(&stack), &other).await);
    for period in 2..=5 {
        stack.fall_due(&ids(&payers)).await;
        stack.each_has_paid(&payers, period).await;
        if period == 3 {
            first.kill().await;
            first = RunningKeeper::start(stack.keeper(keeper_config(&stack), &other).await);
        }
    }
    let rows = stack.keeper_rows().await;
    assert_eq!(rows.len(), 4, "one transaction for each time that they were due: {rows:?}");
    for keeper in [first, second, third] {
        keeper.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_foreign_keeper_in_the_same_block_takes_nothing_from_anybody() {
    let stack = Stack::start().await;
    let payers = stack.subscribers(stack.plan("basic-month").onchain_id, 1..=4).await;
    let signer = stack.keeper_signer(100).await;
    stack.fall_due(&ids(&payers)).await;
    stack.chain.automine(false).await;
    let keeper = RunningKeeper::start(stack.keeper(keeper_config(&stack), &signer).await);
    stack.chain.pending_becomes(1).await;
    // Somebody else charges two of them, before it in the same block: with a higher tip.
    let foreign = stack.chain.wallet(200).await;
    let call = Dues::chargeBatchCall { ids: ids(&payers[..2]) };
    let tx = stack.chain.sign_as(&foreign, stack.chain.contract, &call, 0, 3_000_000).await;
    stack.chain.send(&tx).await;
    stack.chain.pending_becomes(2).await;
    stack.chain.mine(1).await;
    stack.each_has_paid(&payers, 2).await;
    let foreign = stack.chain.receipt(tx.hash).await;
    let charged = foreign.logs().iter().filter(|log| log.log_decode::<Dues::Charged>().is_ok()).count();
    assert_eq!((charged, foreign.transaction_index), (2, Some(0)));
    let rows = stack.keeper_rows_become("the keeper's own is in a block", |rows| {
        rows.len() == 1 && rows[0].status == "mined"
    });
    assert_eq!(rows.await[0].succeeded, Some(true));
    keeper.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn many_are_charged_within_the_limits_of_a_block() {
    let stack = Stack::start().await;
    let payers = stack.subscribers(stack.plan("basic-month").onchain_id, 1..=12).await;
    let signer = stack.keeper_signer(100).await;
    stack.fall_due(&ids(&payers)).await;
    stack.chain.automine(false).await;
    let mut config = keeper_config(&stack);
    // Batches of three take 1,130,000 gas: two of them fit.
    config.limits.batches = BatchLimits { items: 3, gas_per_block: 2_500_000, ..config.limits.batches };
    let keeper = RunningKeeper::start(stack.keeper(config, &signer).await);
    for paid in [6, 12] {
        stack.chain.pending_becomes(2).await;
        stack.chain.mine(1).await;
        stack.synced().await;
        let renewals = "SELECT count(*) FROM ledger.transactions WHERE period = 2";
        assert_eq!(stack.ledger.count(renewals).await, paid);
    }
    stack.each_has_paid(&payers, 2).await;
    let rows =
        stack.keeper_rows_become("all are in blocks", |rows| rows.iter().all(|row| row.status == "mined"));
    let nonces: Vec<_> = rows.await.iter().map(|row| row.nonce).collect();
    assert_eq!(nonces, [0, 1, 2, 3]);
    keeper.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn once_charges_what_is_due_and_says_how_much() {
    let stack = Stack::start().await;
    let payers = stack.subscribers(stack.plan("basic-month").onchain_id, 1..=3).await;
    let signer = stack.keeper_signer(100).await;
    let (round, charges) = stack.keep_once(keeper_config(&stack), &signer).await;
    assert_eq!((charges, round.held_back), (0, None));
    stack.fall_due(&ids(&payers)).await;
    let (round, charges) = stack.keep_once(keeper_config(&stack), &signer).await;
    assert_eq!((charges, round.waiting, round.held_back), (3, 0, None));
    stack.each_has_paid(&payers, 2).await;
    // With an empty purse.
    stack.fall_due(&ids(&payers)).await;
    stack.chain.set_ether(signer.address(), 0).await;
    let (round, charges) = stack.keep_once(keeper_config(&stack), &signer).await;
    assert_eq!((charges, round.held_back), (0, Some(HeldBack::Purse)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trial_and_a_scheduled_change_are_charged_when_they_begin() {
    let stack = Stack::start().await;
    let trial = TimeDelta::days(14);
    let mut terms = stack.chain.monthly(5_000_000, stack.chain.merchant);
    terms.trial = trial.num_seconds().try_into().unwrap();
    let plan = stack.sell("trial-month", dues_domain::catalogue::Tier::Basic, terms).await;
    let (account, payer) = stack.customer(1).await;
    let receipt = stack.chain.subscribe(&payer, plan, account.reference).await;
    let on_trial = event::<Dues::Subscribed>(&receipt).id;
    let basic = stack.plan("basic-month");
    let changing = stack.subscribers(stack.plan("premium-month").onchain_id, [2]).await.remove(0);
    stack.chain.schedule_change(&changing.0, changing.1, basic.onchain_id).await;
    let signer = stack.keeper_signer(100).await;
    let keeper = RunningKeeper::start(stack.keeper(keeper_config(&stack), &signer).await);
    stack.fall_due(&[on_trial]).await;
    stack.charges_become(payer.address(), 1).await;
    stack.fall_due(&[changing.1]).await;
    stack.charges_become(changing.0.address(), 2).await;
    let rows = stack.ledger.transactions(changing.0.address()).await;
    assert_eq!(
        (rows[1].plan, rows[1].amount.clone()),
        (i64::from(basic.onchain_id), basic.price.to_string())
    );
    keeper.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn for_how_long_means_last_is_known_before_they_run_out() {
    let stack = Stack::start().await;
    let plan = stack.plan("basic-month");
    let (account, payer) = stack.customer(1).await;
    let receipt = stack.chain.subscribe(&payer, plan.onchain_id, account.reference).await;
    stack.chain.approve(&payer, plan.price * 3 + 1).await;
    stack.synced().await;
    let signer = stack.keeper_signer(100).await;
    let keeper = RunningKeeper::start(stack.keeper(keeper_config(&stack), &signer).await);
    let renewals_become = async |left: u64| {
        eventually(SOON, &format!("{left} renewals are left"), || async {
            let answer = stack.api.entitlements(account.id).await;
            let found = &answer["renewal"];
            let is = found["renewals_left"] == left && found["limited_by"] == "allowance";
            if is { Ok(()) } else { Err(answer.to_string()) }
        })
        .await;
    };
    renewals_become(3).await;
    // Each charge uses up one, which is seen without waiting for the next look.
    stack.fall_due(&[event::<Dues::Charged>(&receipt).id]).await;
    renewals_become(2).await;
    keeper.stop().await;
}
