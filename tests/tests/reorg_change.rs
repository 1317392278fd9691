//! Reorganisations of changes.

use alloy::{primitives::U256, signers::local::PrivateKeySigner};
use dues_chain::contract::Dues;
use dues_domain::catalogue::Tier;
use dues_tests::{Account, FINALITY_DEPTH, SignedTx, Stack, TransactionRow, event};
use serde_json::Value;

/// A subscription to basic that was upgraded to premium.
struct Upgraded {
    stack: Stack,
    account: Account,
    payer: PrivateKeySigner,
    tx: SignedTx,
    block: u64,
    before: Value,
}

async fn upgraded() -> Upgraded {
    let stack = Stack::start().await;
    let (account, payer) = stack.customer(1).await;
    let receipt =
        stack.chain.subscribe(&payer, stack.plan("basic-month").onchain_id, account.reference).await;
    let id = event::<Dues::Subscribed>(&receipt).id;
    let before = stack.tier_becomes(account.id, "basic").await;
    let premium = stack.plan("premium-month").onchain_id;
    let change = Dues::changeNowCall { id, planId: premium, count: 1, maxAmount: u128::MAX };
    let tx = stack.chain.sign(&payer, stack.chain.contract, &change).await;
    stack.chain.send(&tx).await;
    let block = stack.chain.receipt(tx.hash).await.block_number.unwrap();
    stack.chain.mine(3).await;
    stack.tier_becomes(account.id, "premium").await;
    stack.synced().await;
    Upgraded { stack, account, payer, tx, block, before }
}

impl Upgraded {
    async fn rows(&self) -> Vec<TransactionRow> {
        self.stack.synced().await;
        self.stack.ledger.movements(self.payer.address()).await
    }

    async fn assert_taken_back(&self, upgrade: &TransactionRow) {
        let rows = self.rows().await;
        assert_eq!(rows.len(), 2);
        let row = rows.iter().find(|row| row.id == upgrade.id).unwrap();
        assert_eq!((row.status.as_str(), row.failure_reason.as_deref()), ("failed", Some("reorganised")));
        let mut answer = self.stack.api.entitlements(self.account.id).await;
        answer["as_of"] = self.before["as_of"].clone();
        assert_eq!(answer, self.before);
    }

    async fn assert_made_again(&self, upgrade: &TransactionRow) {
        self.stack.tier_becomes(self.account.id, "premium").await;
        let rows = self.rows().await;
        let receipt = self.stack.chain.receipt(self.tx.hash).await;
        assert_eq!(rows.len(), 2, "{rows:?}");
        assert_eq!((rows[1].id, rows[1].status.as_str()), (upgrade.id, "pending"));
        assert_eq!(Some(rows[1].block_hash), receipt.block_hash);
        // All of it is of the new block, whose time decides the anchor and the price.
        let charged: Dues::Charged = event(&receipt);
        assert_eq!(rows[1].amount, charged.amount.to_string());
        assert_eq!(rows[1].start, Some(self.stack.chain.time_of(&receipt).await));
        assert_eq!(rows[1].end.unwrap().timestamp(), i64::try_from(charged.paidThrough).unwrap());
        let subscription = &self.stack.ledger.subscriptions(self.payer.address()).await[0];
        assert_eq!(
            (Some(subscription.anchor), Some(subscription.paid_through)),
            (rows[1].start, rows[1].end)
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upgrade_that_is_reorganised_away_and_mined_elsewhere_is_the_same_row() {
    let it = upgraded().await;
    let upgrade = it.rows().await.remove(1);
    it.stack.chain.reorg_from(it.block, &[]).await;
    it.assert_taken_back(&upgrade).await;
    it.stack.chain.increase_time(std::time::Duration::from_secs(3_600)).await;
    it.stack.chain.send(&it.tx).await;
    it.assert_made_again(&upgrade).await;

    let block = it.stack.chain.receipt(it.tx.hash).await.block_number.unwrap();
    it.stack.chain.mine(3).await;
    it.stack.chain.reorg_from(block, &[(&it.tx, 2)]).await;
    it.assert_made_again(&upgrade).await;
    it.stack.chain.mine(FINALITY_DEPTH).await;
    assert!(it.rows().await.iter().all(|row| row.status == "completed"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plan_that_is_reorganised_away_gives_its_subscriptions_back_to_the_plan_before() {
    let stack = Stack::start().await;
    let (account, payer) = stack.customer(1).await;
    let (_, other) = stack.customer(2).await;
    let basic = stack.plan("basic-month").onchain_id;
    let mut ids = Vec::new();
    for payer in [&payer, &other] {
        let receipt = stack.chain.subscribe(payer, basic, account.reference).await;
        ids.push(event::<Dues::Subscribed>(&receipt).id);
    }
    stack.synced().await;
    let before = stack.ledger.digest().await;
    let head = stack.chain.head().await.header.number;
    let plan =
        stack.sell("dear", Tier::Enterprise, stack.chain.monthly(900_000_000, stack.chain.merchant)).await;
    stack.chain.change_now(&payer, ids[0], plan).await;
    stack.chain.schedule_change(&other, ids[1], plan).await;
    stack.tier_becomes(account.id, "enterprise").await;
    stack.synced().await;
    assert_eq!(stack.ledger.subscriptions(other.address()).await[0].scheduled_plan, Some(plan.into()));

    stack.chain.reorg_from(head + 1, &[]).await;
    stack.synced().await;
    assert_eq!(stack.api.entitlements(account.id).await["tier"], "basic");
    for payer in [&payer, &other] {
        let subscription = stack.ledger.subscriptions(payer.address()).await.remove(0);
        assert_eq!((subscription.onchain_plan, subscription.scheduled_plan), (Some(basic.into()), None));
    }
    let after = stack.ledger.digest().await;
    assert_eq!(
        (&after["chain_events"], &after["chain_plans"]),
        (&before["chain_events"], &before["chain_plans"])
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_downgrade_at_the_renewal_that_is_reorganised_away_is_scheduled_again() {
    let stack = Stack::start().await;
    let (account, payer) = stack.customer(1).await;
    let (basic, premium) = (stack.plan("basic-month").onchain_id, stack.plan("premium-month").onchain_id);
    let receipt = stack.chain.subscribe(&payer, premium, account.reference).await;
    let id: U256 = event::<Dues::Subscribed>(&receipt).id;
    stack.chain.schedule_change(&payer, id, basic).await;
    stack.synced().await;
    let scheduled = stack.ledger.subscriptions(payer.address()).await;
    assert_eq!(scheduled[0].scheduled_plan, Some(basic.into()));
    let renewal = stack.chain.renew(id, std::time::Duration::from_secs(60)).await;
    stack.tier_becomes(account.id, "basic").await;

    stack.chain.reorg_from(renewal.block_number.unwrap(), &[]).await;
    stack.synced().await;
    assert_eq!(stack.ledger.subscriptions(payer.address()).await, scheduled);
    // Revoked on the new fork, the very same period is paid at the old price: another movement of another transaction.
    stack.chain.revoke_change(&payer, id).await;
    stack.chain.renew(id, std::time::Duration::from_secs(60)).await;
    stack.tier_becomes(account.id, "premium").await;
    stack.synced().await;
    let rows = stack.ledger.movements(payer.address()).await;
    let live: Vec<_> =
        rows.iter().filter(|row| row.status == "pending").map(|row| row.amount.as_str()).collect();
    assert_eq!(live, ["99990000", "99990000"]);
}
