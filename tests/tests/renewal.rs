//! Renewals. The chain's clock is moved ahead and the API's is the machine's, so that what is looked at here is the
//! ledger.

use alloy::{primitives::U256, sol_types::SolEvent};
use chrono::{DateTime, Datelike, Days, Months, NaiveDate, TimeDelta, Utc};
use dues_chain::contract::Dues;
use dues_tests::{Stack, event};

/// The next 31 January after the chain's head, in the morning.
async fn next_january_31(stack: &Stack) -> DateTime<Utc> {
    let head = i64::try_from(stack.chain.head().await.header.timestamp).unwrap();
    let year = DateTime::from_timestamp(head, 0).unwrap().year() + 1;
    NaiveDate::from_ymd_opt(year, 1, 31).unwrap().and_hms_opt(10, 30, 15).unwrap().and_utc()
}

#[tokio::test(flavor = "multi_thread")]
async fn renewals_pay_consecutive_calendar_months_counted_from_the_anchor() {
    let stack = Stack::start().await;
    let (account, payer) = stack.customer(1).await;
    let anchor = next_january_31(&stack).await;
    stack.chain.next_block_at(anchor.timestamp()).await;
    let receipt =
        stack.chain.subscribe(&payer, stack.plan("basic-month").onchain_id, account.reference).await;
    let id = event::<Dues::Charged>(&receipt).id;
    // Exactly when it is due; five days late; a second before grace is over.
    let second = |at: DateTime<Utc>| at.timestamp();
    let end = |months| anchor + Months::new(months);
    let late = [
        second(end(1)),
        second(end(2) + Days::new(5)),
        second(end(3) + Days::new(7) - TimeDelta::seconds(1)),
    ];
    for time in late {
        stack.chain.next_block_at(time).await;
        stack.chain.charge(id).await;
    }
    stack.synced().await;

    let rows = stack.ledger.transactions(payer.address()).await;
    let periods: Vec<_> = rows.iter().map(|row| (row.period, row.start, row.end)).collect();
    let expected: Vec<_> =
        (0..4).map(|n| (Some(i32::try_from(n + 1).unwrap()), Some(end(n)), Some(end(n + 1)))).collect();
    assert_eq!(periods, expected);
    let days: Vec<_> = rows.iter().map(|row| row.end.unwrap().day()).collect();
    let leap = anchor.date_naive().leap_year();
    assert_eq!(days, [if leap { 29 } else { 28 }, 31, 30, 31], "{periods:?}");
    assert!(rows.iter().all(|row| row.amount == "29990000" && row.status != "failed"));
    assert_eq!(stack.api.transactions(account.id).await.len(), 4);
    let subscription = &stack.ledger.subscriptions(payer.address()).await[0];
    assert_eq!((subscription.periods, subscription.paid_through), (4, end(4)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_yearly_plan_pays_twelve_calendar_months() {
    let stack = Stack::start().await;
    let (account, payer) = stack.customer(1).await;
    let anchor = next_january_31(&stack).await;
    stack.chain.next_block_at(anchor.timestamp()).await;
    let receipt =
        stack.chain.subscribe(&payer, stack.plan("premium-year").onchain_id, account.reference).await;
    stack.chain.next_block_at((anchor + Months::new(12)).timestamp()).await;
    stack.chain.charge(event::<Dues::Charged>(&receipt).id).await;
    stack.synced().await;
    let rows = stack.ledger.transactions(payer.address()).await;
    let periods: Vec<_> = rows.iter().map(|row| (row.start, row.end)).collect();
    let year = |n: u32| Some(anchor + Months::new(12 * n));
    assert_eq!(periods, [(year(0), year(1)), (year(1), year(2))]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_charge_that_fails_in_a_batch_leaves_no_transaction_and_harms_no_other() {
    let stack = Stack::start().await;
    let plan = stack.plan("basic-month").onchain_id;
    let (account, solvent) = stack.customer(1).await;
    let broke = stack.chain.payer(2).await;
    let mut ids = Vec::new();
    for payer in [&broke, &solvent] {
        let receipt = stack.chain.subscribe(payer, plan, account.reference).await;
        ids.push(event::<Dues::Charged>(&receipt).id);
    }
    stack.chain.approve(&broke, 0).await;
    stack.synced().await;
    let before = stack.ledger.subscriptions(broke.address()).await;

    let due = stack.chain.dues().paidThrough(ids[1]).call().await.unwrap();
    stack.chain.next_block_at(due.try_into().unwrap()).await;
    let receipt = stack.chain.charge_batch(&ids).await;
    let failed: Dues::ChargeFailed = event(&receipt);
    assert_eq!((failed.id, failed.reason), (ids[0], 5), "5 is the allowance");
    stack.synced().await;

    assert_eq!(stack.ledger.transactions(broke.address()).await.len(), 1);
    assert_eq!(stack.ledger.transactions(solvent.address()).await.len(), 2);
    assert_eq!(stack.ledger.subscriptions(broke.address()).await, before);
    // The attempt itself is on record.
    let attempts: i64 = sqlx::query_scalar("SELECT count(*) FROM ledger.chain_events WHERE topics[1] = $1")
        .bind(Dues::ChargeFailed::SIGNATURE_HASH.to_vec())
        .fetch_one(stack.ledger.pool())
        .await
        .unwrap();
    assert_eq!(attempts, 1);

    // Within grace, the next attempt succeeds and pays the same period.
    stack.chain.approve(&broke, 100_000_000).await;
    stack.chain.charge(ids[0]).await;
    stack.synced().await;
    let rows = stack.ledger.transactions(broke.address()).await;
    assert_eq!((rows.len(), rows[1].start), (2, rows[0].end));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_early_charge_is_refused_and_changes_nothing() {
    let stack = Stack::start().await;
    let (account, payer) = stack.customer(1).await;
    let receipt =
        stack.chain.subscribe(&payer, stack.plan("basic-month").onchain_id, account.reference).await;
    let id = event::<Dues::Charged>(&receipt).id;
    stack.synced().await;
    let before = stack.ledger.transactions(payer.address()).await;
    // The last second of the paid period is still too early.
    let due: i64 = stack.chain.dues().paidThrough(id).call().await.unwrap().try_into().unwrap();
    stack.chain.next_block_at(due - 1).await;
    let keeper = stack.chain.merchant_wallet();
    let refused = stack.chain.attempt(&keeper, stack.chain.contract, &Dues::chargeOneCall { id }).await;
    assert!(!refused.status());
    stack.synced().await;
    assert_eq!(stack.ledger.transactions(payer.address()).await, before);
    let balance = stack.chain.dollars().balanceOf(payer.address()).call().await.unwrap();
    assert_eq!(balance, U256::from(100_000_000_000_u64 - 29_990_000));
}
