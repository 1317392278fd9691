//! What the merchant does, as a daemon would: by the library.

use std::time::Duration;

use alloy::{
    primitives::{B256, U256, aliases::U96},
    signers::local::PrivateKeySigner,
};
use dues_chain::{
    contract::{Dues, IDues},
    source::RpcSource,
};
use dues_domain::{catalogue::Tier, chain::ChargeFailure, money::BaseUnits};
use dues_keeper::{
    FeeLimits, KeeperSigner,
    merchant::{Act, Merchant, MerchantConfig, MerchantError, Outcome},
};
use dues_tests::{Stack, TransactionRow, event};

const KEY: B256 = B256::repeat_byte(0x4b);
const GWEI: u64 = 1_000_000_000;

struct Shop {
    stack: Stack,
    payer: PrivateKeySigner,
    /// A subscription to a plan with a usage cap of 50.00.
    id: u64,
}

impl Shop {
    async fn new() -> Self {
        let stack = Stack::start().await;
        let chain = &stack.chain;
        let terms =
            IDues::PlanTerms { usageCap: U96::from(50_000_000), ..chain.monthly(99_990_000, chain.merchant) };
        let plan = stack.sell("premium-metered", Tier::Premium, terms).await;
        let (account, payer) = stack.customer(1).await;
        let receipt = chain.subscribe(&payer, plan, account.reference).await;
        chain.approve(&chain.merchant_wallet(), 1_000_000_000).await;
        stack.synced().await;
        let id = event::<Dues::Subscribed>(&receipt).id.to();
        Self { stack, payer, id }
    }

    async fn merchant(&self, max_fee: u64) -> Merchant {
        let source = self.stack.source();
        let key = self.stack.chain.merchant_wallet().to_bytes().to_string();
        let signer = KeeperSigner::from_private_key(&key.into()).unwrap();
        let config = MerchantConfig {
            source,
            fees: FeeLimits { max_fee, max_priority_fee: GWEI },
            poll_interval: Duration::from_millis(20),
            patience: Duration::from_secs(20),
        };
        let rpc = RpcSource::new(self.stack.node(), source).unwrap();
        Merchant::new(self.stack.store().await, rpc, config, signer)
    }

    async fn moved(&self, kind: &str) -> Vec<TransactionRow> {
        self.stack.synced().await;
        let mut rows = self.stack.ledger.movements(self.payer.address()).await;
        rows.retain(|row| row.kind == kind && row.status != "failed");
        rows
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_charges_usage_once_for_a_key_and_is_told_why_not() {
    let shop = Shop::new().await;
    let merchant = shop.merchant(100 * GWEI).await;
    let mut lead = merchant.lead().await.unwrap();
    let mut charge = async |period, amount, key| {
        merchant.charge_usage(&mut lead, shop.id, period, BaseUnits::new(amount), key).await.unwrap()
    };
    assert!(matches!(charge(1, 30_000_000, KEY).await, Outcome::Mined { .. }));
    // Whatever is charged with it, and though it would be above the cap.
    assert_eq!(charge(1, 30_000_000, KEY).await, Outcome::KeySpent);
    assert_eq!(charge(1, 1, KEY).await, Outcome::KeySpent);
    let other = B256::repeat_byte(0x4c);
    for (period, amount, why) in [
        (1, 20_000_001, "UsageCapExceeded"),
        (2, 1, "PeriodClosed"),
        (1, 0, "InvalidAmount"),
        (1, 1 << 96, "the contract takes no such amount"),
    ] {
        let Outcome::Refused(refusal) = charge(period, amount, other).await else { panic!("{why}") };
        assert!(refusal.words.contains(why), "{refusal:?}");
    }
    shop.stack.chain.approve(&shop.payer, 0).await;
    let Outcome::Refused(refusal) = charge(1, 1, other).await else { panic!("there is no allowance") };
    assert_eq!(refusal.reason, Some(ChargeFailure::Allowance));
    shop.stack.chain.approve(&shop.payer, 1).await;
    assert!(matches!(charge(1, 1, other).await, Outcome::Mined { .. }));
    assert_eq!(shop.moved("usage").await.len(), 2);
    // Refused, it was not even begun.
    assert_eq!(shop.stack.ledger.count("SELECT count(*) FROM ledger.merchant_acts").await, 2);
    // And where gas costs more than the cap, nothing is.
    lead.release().await.unwrap();
    shop.stack.chain.approve(&shop.payer, 1).await;
    let frugal = shop.merchant(1).await;
    let mut lead = frugal.lead().await.unwrap();
    let key = B256::repeat_byte(0x4d);
    let held = frugal.charge_usage(&mut lead, shop.id, 1, BaseUnits::new(1), key).await;
    assert!(matches!(held, Err(MerchantError::FeeAboveCap { cap: 1, .. })), "{held:?}");
    assert!(matches!(frugal.lead().await, Err(MerchantError::NotLeading(_))), "one at a time");
    assert_eq!(shop.stack.ledger.count("SELECT count(*) FROM ledger.merchant_acts").await, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_act_that_a_reorganisation_takes_away_is_sent_again_and_not_done_anew() {
    let shop = Shop::new().await;
    let chain = &shop.stack.chain;
    let merchant = shop.merchant(100 * GWEI).await;
    let mut lead = merchant.lead().await.unwrap();
    let refund = |byte| Act::Refund {
        subscription: shop.id,
        amount: BaseUnits::new(5_000_000),
        // A new one at every start of the command.
        key: B256::repeat_byte(byte),
        key_was_given: false,
    };
    let Outcome::Mined { hash, at } = merchant.perform(&mut lead, &refund(1)).await.unwrap() else {
        panic!()
    };
    assert_eq!(shop.moved("refund").await.len(), 1);
    chain.reorg_from(at.block.number, &[]).await;
    assert!(chain.try_receipt(hash).await.is_none());
    let again = merchant.perform(&mut lead, &refund(2)).await.unwrap();
    assert!(matches!(again, Outcome::Mined { hash: same, .. } if same == hash), "{again:?}");
    let rows = shop.moved("refund").await;
    assert_eq!((rows.len(), rows[0].tx_hash, rows[0].key), (1, hash, Some(B256::repeat_byte(1))));
    // What is known to be done is not in the way of doing it once more.
    assert!(matches!(merchant.perform(&mut lead, &refund(3)).await.unwrap(), Outcome::Mined { .. }));
    let record = chain.dues().subscriptions(U256::from(shop.id), U256::ONE).call().await.unwrap().remove(0);
    assert_eq!(record.refunded, U256::from(10_000_000));
    let outcomes = "SELECT count(*) FROM ledger.audit_log WHERE action = 'merchant.refund'
        AND detail->>'outcome' IN ('intended', 'done', 'reorganised', 'done')";
    assert_eq!(shop.stack.ledger.count(outcomes).await, 6);
}
