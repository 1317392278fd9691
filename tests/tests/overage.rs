//! Usage beyond what is included is charged on chain once its window is over: once, and at most the cap.

use std::time::Duration;

use alloy::{
    primitives::{B256, U256, aliases::U96},
    signers::local::PrivateKeySigner,
};
use chrono::{DateTime, TimeDelta, Utc};
use dues_chain::{
    contract::{Dues, IDues},
    source::RpcSource,
};
use dues_domain::{
    calendar::Span,
    catalogue::{Quota, Tier},
    ids::AccountId,
    money::BaseUnits,
    overage::OveragePrices,
    usage::{Allowance, Quantity},
};
use dues_keeper::{
    FeeLimits, KeeperSigner,
    merchant::{Merchant, MerchantConfig},
    overage::{OverageCollector, OverageConfig, OverageRound, overage_key},
};
use dues_store::usage::{Act, Event, Order, UsageConfig, UsageStore};
use dues_tests::{FINALITY_DEPTH, Stack, TransactionRow, event};

const GWEI: u64 = 1_000_000_000;
/// Included, and used: 2,000 requests and 10,000 tokens are overage.
const INCLUDED: u64 = 1_000;
/// 2,000 requests at 0.50 a thousand, 10,000 tokens at 0.02: 1.20.
const PRICE: u64 = 1_200_000;

struct Shop {
    stack: Stack,
    payer: PrivateKeySigner,
    account: AccountId,
    id: u64,
    anchor: DateTime<Utc>,
    usage: UsageStore,
}

impl Shop {
    /// A customer with a subscription to a plan with `cap`, who has used more than is included in its first month.
    async fn used(cap: u64) -> Self {
        let stack = Stack::start().await;
        let chain = &stack.chain;
        let terms =
            IDues::PlanTerms { usageCap: U96::from(cap), ..chain.monthly(99_990_000, chain.merchant) };
        let plan = stack.sell("premium-metered", Tier::Premium, terms).await;
        let (customer, payer) = stack.customer(1).await;
        let receipt = chain.subscribe(&payer, plan, customer.reference).await;
        stack.synced().await;
        let id = event::<Dues::Subscribed>(&receipt).id.to();
        let anchor = stack.ledger.subscriptions(payer.address()).await[0].anchor;
        let usage = UsageStore::connect(stack.site().database.url(), UsageConfig::default()).await.unwrap();
        let account = AccountId::from_uuid(customer.id);
        let soft = Quota::Soft { included: INCLUDED, hard: None };
        let quantity = Quantity { requests: 3_000, tokens: 11_000, conversations: 0 };
        let order = Order {
            account,
            allowance: Allowance { requests: soft, tokens: soft, anchor },
            now: anchor + TimeDelta::days(3),
            act: Act::Consume(Event { id: "all of it".into(), occurred_at: None, quantity }),
        };
        usage.act(order).await.unwrap().unwrap();
        Self { stack, payer, account, id, anchor, usage }
    }

    async fn collector_of(&self, wallet: &PrivateKeySigner) -> OverageCollector {
        let source = self.stack.source();
        let signer = KeeperSigner::from_private_key(&wallet.to_bytes().to_string().into()).unwrap();
        let config = MerchantConfig {
            source,
            fees: FeeLimits { max_fee: 100 * GWEI, max_priority_fee: GWEI },
            poll_interval: Duration::from_millis(20),
            patience: Duration::from_secs(20),
        };
        let rpc = RpcSource::new(self.stack.node(), source).unwrap();
        let merchant = Merchant::new(self.stack.store().await, rpc.clone(), config, signer);
        let prices = OveragePrices {
            per_1000_requests: BaseUnits::new(500_000),
            per_1000_tokens: BaseUnits::new(20_000),
        };
        let config = OverageConfig { source, prices, poll_interval: Duration::from_millis(50) };
        OverageCollector::new(self.stack.store().await, self.usage.clone(), rpc, merchant, config)
    }

    async fn collector(&self) -> OverageCollector {
        self.collector_of(&self.stack.chain.merchant_wallet()).await
    }

    /// Lets the first month end.
    async fn month_ends(&self) {
        self.stack.chain.next_block_at(self.window().end.timestamp() + 60).await;
        self.stack.chain.mine(1).await;
        self.stack.synced().await;
    }

    fn window(&self) -> Span {
        dues_domain::calendar::quota_window(self.anchor, self.anchor).unwrap()
    }

    fn key(&self) -> B256 {
        overage_key(self.account, self.window(), self.stack.source(), self.id, 1)
    }

    async fn charged(&self) -> Vec<TransactionRow> {
        self.stack.synced().await;
        let mut rows = self.stack.ledger.movements(self.payer.address()).await;
        rows.retain(|row| row.kind == "usage");
        rows
    }

    async fn billing(&self) -> String {
        let query = "SELECT billing FROM usage.closed_windows";
        sqlx::query_scalar(query).fetch_one(self.stack.ledger.pool()).await.unwrap()
    }
}

fn round(charged: usize, billed: usize, waived: usize, waiting: usize) -> OverageRound {
    OverageRound { charged, billed, waived, waiting }
}

#[tokio::test(flavor = "multi_thread")]
async fn overage_is_charged_once_by_one_key_from_the_counters_to_the_event_and_the_ledger() {
    let shop = Shop::used(50_000_000).await;
    // An operator's key is enough.
    let operator = shop.stack.chain.payer(7).await;
    let (merchant, to) = (shop.stack.chain.merchant_wallet(), shop.stack.chain.contract);
    let allow = Dues::setOperatorCall { operator: operator.address(), approved: true };
    shop.stack.chain.execute(&merchant, to, &allow).await;
    let mut collector = shop.collector_of(&operator).await;
    assert_eq!(collector.round().await.unwrap(), round(0, 0, 0, 0), "the window still runs");
    shop.month_ends().await;
    assert_eq!(collector.round().await.unwrap(), round(1, 0, 0, 0));
    // Whoever asks again, also one who remembers nothing, while it is in a block that may go.
    for _ in 0..2 {
        assert_eq!(shop.collector().await.round().await.unwrap(), round(0, 0, 0, 1));
        assert_eq!(collector.round().await.unwrap(), round(0, 0, 0, 1));
    }
    let rows = shop.charged().await;
    let key = shop.key();
    assert_eq!(
        (rows.len(), rows[0].amount.as_str(), rows[0].key),
        (1, PRICE.to_string().as_str(), Some(key))
    );
    assert_eq!((rows[0].payer, rows[0].period), (shop.payer.address(), Some(1)));
    assert_eq!(shop.billing().await, "charging");
    let spent = shop.stack.chain.dues().isKeySpent(U256::from(shop.id), key).call().await.unwrap();
    assert!(spent);

    shop.stack.chain.mine(FINALITY_DEPTH + 1).await;
    shop.stack.synced().await;
    assert_eq!(collector.round().await.unwrap(), round(0, 1, 0, 0));
    assert_eq!(shop.billing().await, "billed");
    assert_eq!(collector.round().await.unwrap(), round(0, 0, 0, 0));
    assert_eq!(shop.charged().await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_more_than_the_payer_agreed_to_is_charged() {
    let shop = Shop::used(1_000_000).await;
    shop.month_ends().await;
    assert_eq!(shop.collector().await.round().await.unwrap(), round(1, 0, 0, 0));
    assert_eq!(shop.charged().await[0].amount, "1000000");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_payer_without_money_is_asked_again_until_its_period_is_closed() {
    let shop = Shop::used(50_000_000).await;
    let chain = &shop.stack.chain;
    chain.approve(&shop.payer, 0).await;
    shop.month_ends().await;
    assert_eq!(shop.collector().await.round().await.unwrap(), round(0, 0, 0, 1));
    assert!(shop.charged().await.is_empty());
    chain.approve(&shop.payer, 1_000_000_000).await;
    assert_eq!(shop.collector().await.round().await.unwrap(), round(1, 0, 0, 0), "with the same key");
    assert_eq!(shop.charged().await[0].key, Some(shop.key()));
    let shop = Shop::used(50_000_000).await;
    shop.stack.chain.approve(&shop.payer, 0).await;
    // Grace is seven days.
    shop.stack.chain.next_block_at(shop.window().end.timestamp() + 8 * 86_400).await;
    shop.stack.chain.mine(1).await;
    shop.stack.synced().await;
    assert_eq!(shop.collector().await.round().await.unwrap(), round(0, 0, 1, 0));
    assert_eq!(shop.billing().await, "waived");
}

#[tokio::test(flavor = "multi_thread")]
async fn where_nothing_can_be_charged_to_overage_is_waived() {
    let shop = Shop::used(50_000_000).await;
    shop.stack.chain.cancel_now(&shop.payer, U256::from(shop.id)).await;
    shop.month_ends().await;
    assert_eq!(shop.collector().await.round().await.unwrap(), round(0, 0, 1, 0));
    assert!(shop.charged().await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_charge_that_a_reorganisation_takes_away_is_made_again_with_its_key() {
    let shop = Shop::used(50_000_000).await;
    shop.month_ends().await;
    let mut collector = shop.collector().await;
    assert_eq!(collector.round().await.unwrap(), round(1, 0, 0, 0));
    let block = shop.charged().await[0].block_number;
    shop.stack.chain.reorg_from(block, &[]).await;
    shop.stack.synced().await;
    assert_eq!(shop.charged().await[0].status, "failed");
    assert_eq!(collector.round().await.unwrap(), round(1, 0, 0, 0));
    let rows = shop.charged().await;
    assert_eq!((rows.len(), rows[0].status.as_str()), (1, "pending"));
    assert_eq!(rows[0].key, Some(shop.key()));
}

/// As a collector of another chain does, that has found a subscription there.
#[tokio::test(flavor = "multi_thread")]
async fn a_window_that_was_begun_with_another_subscription_is_not_charged_again() {
    let shop = Shop::used(50_000_000).await;
    shop.month_ends().await;
    let now = shop.window().end + TimeDelta::minutes(1);
    assert_eq!(shop.usage.unbilled_overage(now, 10).await.unwrap().len(), 1);
    let elsewhere = B256::repeat_byte(0x77);
    let begun = shop.usage.begin_billing(shop.account, shop.window().start, elsewhere, now).await.unwrap();
    assert_eq!(begun, Some(elsewhere));
    assert_eq!(shop.collector().await.round().await.unwrap(), round(0, 0, 0, 1));
    assert!(shop.charged().await.is_empty());
    assert_eq!(shop.billing().await, "charging");
}
