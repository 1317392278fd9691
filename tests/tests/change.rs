//! Changing plans. The chain's clock is moved ahead and the API's is the machine's: what an answer says of status and
//! time is looked at only where the two agree.

use std::time::Duration;

use alloy::{
    primitives::{U256, aliases::U96},
    rpc::types::TransactionReceipt,
    signers::local::PrivateKeySigner,
    sol_types::SolCall,
};
use chrono::{Months, TimeDelta};
use dues_chain::contract::{Dues, IDues};
use dues_domain::catalogue::Tier;
use dues_tests::{Account, Stack, TransactionRow, event};
use serde_json::{Value, json};

const DAY: Duration = Duration::from_secs(86_400);

struct Subscriber {
    account: Account,
    payer: PrivateKeySigner,
    id: U256,
    receipt: TransactionReceipt,
}

async fn subscriber(stack: &Stack, plan: &str) -> Subscriber {
    let (account, payer) = stack.customer(1).await;
    let receipt = stack.chain.subscribe(&payer, stack.plan(plan).onchain_id, account.reference).await;
    let id = event::<Dues::Subscribed>(&receipt).id;
    stack.synced().await;
    Subscriber { account, payer, id, receipt }
}

impl Subscriber {
    async fn rows(&self, stack: &Stack) -> Vec<TransactionRow> {
        stack.synced().await;
        stack.ledger.movements(self.payer.address()).await
    }

    async fn tier(&self, stack: &Stack) -> Value {
        stack.synced().await;
        stack.api.entitlements(self.account.id).await["tier"].clone()
    }
}

fn amounts(rows: &[TransactionRow]) -> Vec<&str> {
    rows.iter().map(|row| row.amount.as_str()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upgrade_gives_the_tier_at_once_and_costs_the_prorated_difference() {
    let stack = Stack::start().await;
    let (basic, premium) = (stack.plan("basic-month"), stack.plan("premium-month"));
    let it = subscriber(&stack, "basic-month").await;
    let begun = stack.chain.time_of(&it.receipt).await;
    let end = stack.chain.paid_through(it.id).await;
    let at = begun + 10 * DAY;
    stack.chain.next_block_at(at.timestamp()).await;
    let receipt = stack.chain.change_now(&it.payer, it.id, premium.onchain_id).await;
    assert_eq!(stack.chain.time_of(&receipt).await, at);

    let answer = stack.tier_becomes(it.account.id, "premium").await;
    let charged = receipt.logs().iter().find(|log| log.log_decode::<Dues::Charged>().is_ok()).unwrap();
    assert_eq!(answer["source"]["log_index"], json!(charged.log_index));
    assert_eq!(answer["source"]["block_hash"], json!(receipt.block_hash));
    assert_eq!(answer["scheduled_plan"], Value::Null);

    let left = u128::try_from((end - at).num_seconds()).unwrap();
    let whole = u128::try_from((end - begun).num_seconds()).unwrap();
    let credit = u128::from(basic.price) * left / whole;
    let rows = it.rows(&stack).await;
    assert_eq!(amounts(&rows), ["29990000", &(u128::from(premium.price) - credit).to_string()]);
    let numbers: Vec<_> = rows.iter().map(|row| (row.period.unwrap(), row.plan)).collect();
    assert_eq!(numbers, [(1, basic.onchain_id.into()), (1, premium.onchain_id.into())], "counted anew");
    assert_eq!((rows[1].start, rows[1].end), (Some(at), Some(at + Months::new(1))));
    let listed = stack.api.transactions(it.account.id).await;
    assert_eq!(
        (&listed[0]["kind"], &listed[0]["money"]["base_units"]),
        (&json!("charge"), &json!(rows[1].amount))
    );
    let subscription = &stack.ledger.subscriptions(it.payer.address()).await[0];
    assert_eq!((subscription.anchor, subscription.periods), (at, 1));
    assert_eq!(subscription.onchain_plan, Some(premium.onchain_id.into()));

    // It renews at the new plan's price, counted from the upgrade.
    stack.chain.renew(it.id, DAY).await;
    let rows = it.rows(&stack).await;
    assert_eq!(rows[2].amount, premium.price.to_string());
    assert_eq!((rows[2].period, rows[2].end), (Some(2), Some(at + Months::new(2))));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_downgrade_takes_effect_at_the_renewal_and_not_before() {
    let stack = Stack::start().await;
    let basic = stack.plan("basic-month").onchain_id;
    let it = subscriber(&stack, "premium-month").await;
    stack.chain.schedule_change(&it.payer, it.id, basic).await;
    stack.synced().await;
    let answer = stack.api.entitlements(it.account.id).await;
    assert_eq!((&answer["tier"], &answer["status"]), (&json!("premium"), &json!("active")));
    let scheduled = json!({ "plan": "basic-month", "tier": "basic", "onchain_id": basic.to_string() });
    assert_eq!(answer["scheduled_plan"], scheduled);
    let before = stack.ledger.subscriptions(it.payer.address()).await.remove(0);
    assert_eq!((before.scheduled_plan, it.rows(&stack).await.len()), (Some(basic.into()), 1));

    stack.chain.renew(it.id, 2 * DAY).await;
    let answer = stack.tier_becomes(it.account.id, "basic").await;
    assert_eq!(answer["scheduled_plan"], Value::Null);
    let rows = it.rows(&stack).await;
    assert_eq!(amounts(&rows), ["99990000", "29990000"]);
    // The interval is the same: counted on, and the keeper's two days cost nothing.
    assert_eq!((rows[1].period, rows[1].start), (Some(2), rows[0].end));
    let after = stack.ledger.subscriptions(it.payer.address()).await.remove(0);
    assert_eq!((after.anchor, after.periods, after.scheduled_plan), (before.anchor, 2, None));
    assert_eq!(after.paid_through, before.anchor + Months::new(2));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scheduled_change_of_the_interval_counts_anew_from_the_end_of_the_paid_time() {
    let stack = Stack::start().await;
    let it = subscriber(&stack, "premium-month").await;
    stack.chain.schedule_change(&it.payer, it.id, stack.plan("basic-year").onchain_id).await;
    let end = stack.chain.paid_through(it.id).await;
    stack.chain.renew(it.id, 3 * DAY).await;
    assert_eq!(it.tier(&stack).await, "basic");
    let rows = it.rows(&stack).await;
    assert_eq!(amounts(&rows), ["99990000", "299990000"]);
    assert_eq!(
        (rows[1].period, rows[1].start, rows[1].end),
        (Some(1), Some(end), Some(end + Months::new(12)))
    );
    assert_eq!(stack.ledger.subscriptions(it.payer.address()).await[0].anchor, end);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_change_never_happens() {
    let stack = Stack::start().await;
    let it = subscriber(&stack, "premium-month").await;
    let before = stack.api.entitlements(it.account.id).await;
    stack.chain.schedule_change(&it.payer, it.id, stack.plan("basic-month").onchain_id).await;
    stack.chain.revoke_change(&it.payer, it.id).await;
    stack.synced().await;
    let mut after = stack.api.entitlements(it.account.id).await;
    after["as_of"] = before["as_of"].clone();
    assert_eq!(after, before);
    stack.chain.renew(it.id, DAY).await;
    assert_eq!(it.tier(&stack).await, "premium");
    assert_eq!(amounts(&it.rows(&stack).await), ["99990000", "99990000"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_merchant_can_lower_the_price_for_those_who_are_there() {
    let stack = Stack::start().await;
    let it = subscriber(&stack, "premium-month").await;
    let lower = stack.chain.monthly(49_990_000, stack.chain.merchant);
    let loyal = stack.sell("premium-loyal", Tier::Premium, lower).await;
    let merchant = stack.chain.merchant_wallet();
    let migrate = Dues::migrateCall { id: it.id, planId: loyal };
    stack.chain.execute(&merchant, stack.chain.contract, &migrate).await;
    stack.synced().await;
    let answer = stack.api.entitlements(it.account.id).await;
    assert_eq!(
        (&answer["tier"], &answer["scheduled_plan"]["plan"]),
        (&json!("premium"), &json!("premium-loyal"))
    );
    stack.chain.renew(it.id, DAY).await;
    assert_eq!(it.tier(&stack).await, "premium");
    assert_eq!(amounts(&it.rows(&stack).await), ["99990000", "49990000"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn several_periods_at_once_are_one_payment_for_all_of_their_time() {
    let stack = Stack::start().await;
    let it = subscriber(&stack, "basic-month").await;
    stack.chain.prepay(&it.payer, it.id, 3).await;
    let rows = it.rows(&stack).await;
    assert_eq!(amounts(&rows), ["29990000", "89970000"]);
    let anchor = rows[0].start.unwrap();
    assert_eq!(
        (rows[1].period, rows[1].start, rows[1].end),
        (Some(4), rows[0].end, Some(anchor + Months::new(4)))
    );
    assert_eq!(stack.ledger.subscriptions(it.payer.address()).await[0].periods, 4);
    stack.chain.renew(it.id, DAY).await;
    assert_eq!(it.rows(&stack).await[2].period, Some(5));
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_in_one_second_and_one_transaction_is_still_told_apart() {
    let stack = Stack::start().await;
    let (account, payer) = stack.customer(1).await;
    let plan = |key: &str| stack.plan(key).onchain_id;
    let id = stack.chain.dues().subscriptionCount().call().await.unwrap() + U256::ONE;
    let change = |plan| Dues::changeNowCall { id, planId: plan, count: 1, maxAmount: u128::MAX }.abi_encode();
    let calls = vec![
        Dues::subscribeCall { planId: plan("basic-month"), r#ref: account.reference }.abi_encode().into(),
        change(plan("premium-month")).into(),
        change(plan("enterprise-month")).into(),
        Dues::prepayCall { id, count: 1 }.abi_encode().into(),
    ];
    let receipt = stack.chain.multicall(&payer, calls).await;
    stack.tier_becomes(account.id, "enterprise").await;
    stack.synced().await;
    let rows = stack.ledger.movements(payer.address()).await;
    // Nothing of the paid time was used up: the full price was credited each time.
    assert_eq!(amounts(&rows), ["29990000", "70000000", "400000000", "499990000"]);
    assert_eq!(rows.iter().map(|row| row.period.unwrap()).collect::<Vec<_>>(), [1, 1, 1, 2]);
    let now = stack.chain.time_of(&receipt).await;
    assert!(rows[..3].iter().all(|row| row.start == Some(now) && row.tx_hash == receipt.transaction_hash));
    assert_eq!(rows[3].start, rows[2].end);
    let pulled: u64 = rows.iter().map(|row| row.amount.parse::<u64>().unwrap()).sum();
    let balance = stack.chain.dollars().balanceOf(payer.address()).call().await.unwrap();
    assert_eq!(balance, U256::from(100_000_000_000 - pulled));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_that_costs_nothing_has_no_row_and_gives_the_tier() {
    let stack = Stack::start().await;
    let twin = stack.chain.monthly(29_990_000, stack.chain.merchant);
    let twin = stack.sell("premium-promotion", Tier::Premium, twin).await;
    let (account, payer) = stack.customer(1).await;
    let id = stack.chain.dues().subscriptionCount().call().await.unwrap() + U256::ONE;
    let calls = vec![
        Dues::subscribeCall { planId: stack.plan("basic-month").onchain_id, r#ref: account.reference }
            .abi_encode()
            .into(),
        Dues::changeNowCall { id, planId: twin, count: 1, maxAmount: 0 }.abi_encode().into(),
    ];
    let receipt = stack.chain.multicall(&payer, calls).await;
    let answer = stack.tier_becomes(account.id, "premium").await;
    stack.synced().await;
    assert_eq!(amounts(&stack.ledger.movements(payer.address()).await), ["29990000"]);
    let changed = receipt.logs().iter().find(|log| log.log_decode::<Dues::PlanChanged>().is_ok()).unwrap();
    assert_eq!(answer["source"]["log_index"], json!(changed.log_index));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_to_a_plan_that_the_catalogue_does_not_sell_takes_the_tier() {
    let stack = Stack::start().await;
    let it = subscriber(&stack, "basic-month").await;
    let terms =
        IDues::PlanTerms { price: U96::from(500_000_000), ..stack.chain.monthly(1, stack.chain.merchant) };
    let unknown = stack.chain.create_plan(&stack.chain.merchant_wallet(), &terms).await;
    stack.chain.schedule_change(&it.payer, it.id, unknown).await;
    stack.synced().await;
    let scheduled = &stack.api.entitlements(it.account.id).await["scheduled_plan"];
    assert_eq!(*scheduled, json!({ "plan": null, "tier": null, "onchain_id": unknown.to_string() }));
    stack.chain.change_now(&it.payer, it.id, unknown).await;
    assert_eq!(it.tier(&stack).await, "free");
    assert_eq!(it.rows(&stack).await.len(), 2, "what was paid is in the ledger all the same");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trial_is_free_and_the_first_charge_at_its_end_is_for_the_first_period() {
    let stack = Stack::start().await;
    let terms =
        IDues::PlanTerms { trial: 14 * 86_400, ..stack.chain.monthly(99_990_000, stack.chain.merchant) };
    let plan = stack.sell("premium-trial", Tier::Premium, terms).await;
    let (account, payer) = stack.customer(1).await;
    let receipt = stack.chain.subscribe(&payer, plan, account.reference).await;
    let begun = stack.chain.time_of(&receipt).await;
    let answer = stack.tier_becomes(account.id, "premium").await;
    assert_eq!(answer["status"], "trialing");
    stack.synced().await;
    assert!(stack.api.transactions(account.id).await.is_empty());
    let id = event::<Dues::Subscribed>(&receipt).id;
    assert_eq!(stack.chain.paid_through(id).await, begun + TimeDelta::days(14));

    stack.chain.renew(id, DAY).await;
    stack.synced().await;
    let rows = stack.ledger.movements(payer.address()).await;
    let anchor = begun + TimeDelta::days(14);
    assert_eq!(amounts(&rows), ["99990000"]);
    assert_eq!(
        (rows[0].period, rows[0].start, rows[0].end),
        (Some(1), Some(anchor), Some(anchor + Months::new(1)))
    );
    assert_eq!(stack.ledger.subscriptions(payer.address()).await[0].status, "active");
    // Once per payer and merchant: the next one is charged at once.
    let again = stack.chain.subscribe(&payer, plan, account.reference).await;
    assert_eq!(event::<Dues::Charged>(&again).periods, 1);
    stack.synced().await;
    assert_eq!(stack.ledger.movements(payer.address()).await.len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_period_that_is_paid_ahead_in_a_trial_leaves_it_a_trial() {
    let stack = Stack::start().await;
    let terms =
        IDues::PlanTerms { trial: 14 * 86_400, ..stack.chain.monthly(99_990_000, stack.chain.merchant) };
    let plan = stack.sell("premium-trial", Tier::Premium, terms).await;
    let (account, payer) = stack.customer(1).await;
    let receipt = stack.chain.subscribe(&payer, plan, account.reference).await;
    let id = event::<Dues::Subscribed>(&receipt).id;
    stack.chain.prepay(&payer, id, 1).await;
    stack.synced().await;
    let answer = stack.api.entitlements(account.id).await;
    assert_eq!((&answer["tier"], &answer["status"]), (&json!("premium"), &json!("trialing")));
    // An upgrade ends it.
    stack.chain.change_now(&payer, id, stack.plan("enterprise-month").onchain_id).await;
    let answer = stack.tier_becomes(account.id, "enterprise").await;
    assert_eq!(answer["status"], "active");
    stack.synced().await;
    // What was paid ahead is credited whole.
    assert_eq!(amounts(&stack.ledger.movements(payer.address()).await), ["99990000", "400000000"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_years_that_are_paid_ahead_stop_nothing() {
    let stack = Stack::start().await;
    let terms = IDues::PlanTerms { count: 120, ..stack.chain.monthly(1, stack.chain.merchant) };
    let decade = stack.sell("basic-decade", Tier::Basic, terms).await;
    let (account, payer) = stack.customer(1).await;
    let receipt = stack.chain.subscribe_prepaid(&payer, decade, account.reference, 60_000, true).await;
    let id = event::<Dues::Subscribed>(&receipt).id;
    stack.chain.prepay(&payer, id, 5_000).await;
    let answer = stack.tier_becomes(account.id, "basic").await;
    assert_eq!(answer["valid_until"], "9999-12-31T23:59:59Z");
    stack.synced().await;
    assert_eq!(amounts(&stack.ledger.movements(payer.address()).await), ["60000", "5000"]);
    assert_eq!(stack.api.transactions(account.id).await.len(), 2);
}
