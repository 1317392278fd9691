//! Charges overage: what was used beyond what is included, once its window is over.
//!
//! The counters name each window's overage, and the one key that it is charged with for ever; the contract takes that key once
//! and never more than the cap that the payer agreed to. What was charged is learned from the ledger, like everything.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use alloy::primitives::{B256, keccak256};
use chrono::{DateTime, TimeDelta, Utc};
use dues_chain::source::{RpcSource, SourceError};
use dues_domain::{
    calendar::Span,
    chain::{BlockHeader, ChainSource, OnchainSubscriptionId},
    ids::AccountId,
    money::BaseUnits,
    overage::OveragePrices,
};
use dues_store::{
    Billable, Store, StoreError, TransactionStatus,
    merchant::MerchantLead,
    usage::{Billing, Overage, UsageStore},
};
use tokio_util::sync::CancellationToken;

use crate::{
    error::chain,
    merchant::{Merchant, MerchantError, Outcome},
};

/// Windows that are looked at in one round.
const AT_ONCE: u32 = 500;
/// How soon what was refused is tried again.
const RETRY_AFTER: Duration = Duration::from_secs(600);
/// How long to wait for a period to be paid that somebody was let into by grace. No grace is longer than a period.
const GIVE_UP_AFTER: TimeDelta = TimeDelta::days(366);

/// How overage is charged on one chain.
#[derive(Debug, Clone, Copy)]
pub struct OverageConfig {
    /// The contract.
    pub source: ChainSource,
    /// What it costs.
    pub prices: OveragePrices,
    /// How often to look.
    pub poll_interval: Duration,
}

/// What one round came to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct OverageRound {
    /// Windows that were charged now.
    pub charged: usize,
    /// Windows whose charge is final.
    pub billed: usize,
    /// Windows for which nothing can be charged any more.
    pub waived: usize,
    /// Windows that wait: for their charge to be final, for a payer's money, for a period to be paid.
    pub waiting: usize,
}

/// Why a round could not be ended.
#[derive(Debug, thiserror::Error)]
pub enum OverageError {
    /// The chain could not be asked.
    #[error("the chain could not be asked")]
    Source(#[from] SourceError),
    /// What was used, or the ledger, could not be read or written.
    #[error("the database could not be read or written")]
    Store(#[from] StoreError),
    /// Nothing could be charged.
    #[error("nothing could be charged")]
    Merchant(#[from] MerchantError),
}

/// Charges overage on one chain.
#[derive(Debug)]
pub struct OverageCollector {
    store: Store,
    usage: UsageStore,
    rpc: RpcSource,
    merchant: Merchant,
    config: OverageConfig,
    /// When what was refused is tried again.
    retry_at: HashMap<B256, Instant>,
}

enum Step {
    Charged,
    Billed,
    Waived(&'static str),
    Waiting,
}

impl OverageCollector {
    /// One that charges with `merchant`, which may be an operator.
    #[must_use]
    pub fn new(
        store: Store,
        usage: UsageStore,
        rpc: RpcSource,
        merchant: Merchant,
        config: OverageConfig,
    ) -> Self {
        Self { store, usage, rpc, merchant, config, retry_at: HashMap::new() }
    }

    /// Runs until `shutdown`. What fails is tried again in the next round.
    pub async fn run(mut self, shutdown: CancellationToken) {
        let signer = self.merchant.address();
        tracing::info!(chain_id = self.config.source.chain_id, %signer, "overage is charged");
        loop {
            match shutdown.run_until_cancelled(self.round()).await {
                None => return,
                Some(Ok(round)) if round == OverageRound::default() => {}
                Some(Ok(round)) => tracing::debug!(?round, "overage"),
                // A command of the merchant is at work with this account.
                Some(Err(OverageError::Merchant(error @ MerchantError::NotLeading(_)))) => {
                    tracing::debug!(error = %chain(&error), "overage waits");
                }
                Some(Err(error)) => {
                    tracing::warn!(error = %chain(&error), "overage could not be charged");
                }
            }
            if shutdown.run_until_cancelled(tokio::time::sleep(self.config.poll_interval)).await.is_none() {
                return;
            }
        }
    }

    /// Charges every window that is over and can be charged; notes what became of those that were charged before.
    ///
    /// # Errors
    /// [`OverageError`]: what was done before it stays done.
    pub async fn round(&mut self) -> Result<OverageRound, OverageError> {
        let head = self.rpc.head(0).await?;
        let now = head.timestamp;
        let mut round = OverageRound::default();
        let mut lead = None;
        for overage in self.usage.unbilled_overage(now, AT_ONCE).await? {
            let step = self.step(&overage, &head, &mut lead).await;
            let Overage { account, window, .. } = overage;
            let (count, ended) = match step? {
                Step::Charged => (&mut round.charged, None),
                Step::Billed => (&mut round.billed, Some(Billing::Billed)),
                Step::Waived(why) => {
                    tracing::warn!(%account, window = %window.start, why, "overage cannot be charged any more");
                    (&mut round.waived, Some(Billing::Waived))
                }
                Step::Waiting => (&mut round.waiting, None),
            };
            *count = count.saturating_add(1);
            if let Some(billing) = ended {
                self.usage.end_billing(account, window.start, billing, now).await?;
            }
        }
        if let Some(lead) = lead {
            lead.release().await?;
        }
        Ok(round)
    }

    async fn step(
        &mut self,
        overage: &Overage,
        head: &BlockHeader,
        lead: &mut Option<MerchantLead>,
    ) -> Result<Step, OverageError> {
        let Overage { account, window, requests, tokens, key } = *overage;
        let source = self.config.source;
        if let Some(key) = key {
            match self.store.usage_charge_status(source, key).await? {
                Some(TransactionStatus::Completed) => return Ok(Step::Billed),
                Some(_) => return Ok(Step::Waiting),
                None => {}
            }
        }
        let price = self.config.prices.of(requests, tokens);
        if price == BaseUnits::new(0) {
            return Ok(Step::Waived("it costs less than a base unit"));
        }
        let begun = key;
        let Some(billable) = self.store.billable_at(account, source, window.end).await? else {
            // It may be in grace, and be paid yet; or be another chain's.
            let over = window.end.checked_add_signed(GIVE_UP_AFTER).is_none_or(|over| over < head.timestamp);
            let waits =
                !over && (begun.is_some() || self.store.may_be_billable_at(account, window.end).await?);
            return Ok(if waits {
                Step::Waiting
            } else {
                Step::Waived("no subscription has paid for that time")
            });
        };
        let Some((period, closes_at)) = period_of(&billable, window.end) else {
            return Ok(Step::Waived("its period has no number"));
        };
        let id = billable.onchain_id;
        let key = overage_key(account, window, source, id, period);
        // What was begun with another subscription, of another chain say, may have been charged there.
        if begun.is_some_and(|begun| begun != key)
            || self.retry_at.get(&key).is_some_and(|at| Instant::now() < *at)
        {
            return Ok(Step::Waiting);
        }
        if self.rpc.is_key_spent(head.block, id, key).await? {
            // It is in a block that the ledger has not seen yet.
            return Ok(Step::Waiting);
        }
        if closes_at <= head.timestamp {
            return Ok(Step::Waived("its period is closed"));
        }
        let charged = self.rpc.usage_charged(head.block, id, period).await?;
        let room = billable.usage_cap.get().saturating_sub(charged.get());
        if room == 0 {
            return Ok(Step::Waived("the cap is reached"));
        }
        // More than the payer agreed to is never asked for.
        let amount = BaseUnits::new(price.get().min(room));
        // Whoever begins first decides on what is charged, for ever.
        let decided = self.usage.begin_billing(account, window.start, key, head.timestamp).await?;
        if decided != Some(key) {
            return Ok(Step::Waiting);
        }
        let lead = match lead {
            Some(lead) => lead,
            None => lead.insert(self.merchant.lead().await?),
        };
        let step = match self.merchant.charge_usage(lead, id, period, amount, key).await? {
            Outcome::Mined { hash, .. } => {
                tracing::info!(%account, subscription = id, %amount, of = %price, %hash, "overage was charged");
                self.retry_at.remove(&key);
                return Ok(Step::Charged);
            }
            Outcome::Refused(refusal) => {
                tracing::info!(%account, subscription = id, why = refusal.words, "overage was refused");
                Step::Waiting
            }
            Outcome::KeySpent
            | Outcome::Reverted { .. }
            | Outcome::Waiting { .. }
            | Outcome::Superseded { .. } => Step::Waiting,
        };
        if let Some(later) = Instant::now().checked_add(RETRY_AFTER) {
            self.retry_at.insert(key, later);
        }
        Ok(step)
    }
}

/// The key that the overage of a window is charged with: keccak-256 of a prefix, the account's id, the window's start in
/// microseconds since 1970, and what it is charged to: chain, contract, subscription and period. The counters keep the first
/// one of a window, so that it is never charged to two subscriptions.
#[must_use]
pub fn overage_key(
    account: AccountId,
    window: Span,
    source: ChainSource,
    subscription: OnchainSubscriptionId,
    period: u16,
) -> B256 {
    let parts = [
        b"dues overage".as_slice(),
        account.as_uuid().as_bytes(),
        &window.start.timestamp_micros().to_be_bytes(),
        &source.chain_id.to_be_bytes(),
        source.contract.as_slice(),
        &subscription.to_be_bytes(),
        &period.to_be_bytes(),
    ]
    .concat();
    keccak256(parts)
}

/// The period that the last instant before `end` lies in, counted from 1, and when it can no longer be charged to.
fn period_of(billable: &Billable, end: DateTime<Utc>) -> Option<(u16, DateTime<Utc>)> {
    let Billable { anchor, interval, grace_seconds, .. } = billable;
    // Periods are at least a day long and ends grow with their numbers, so the first that reaches `end` is found by halving.
    let (mut below, mut number) = (0_u16, u16::MAX);
    let reaches = |n: u16| interval.period(*anchor, n.into()).end >= end;
    if !reaches(number) {
        return None;
    }
    while number.saturating_sub(below) > 1 {
        let middle = below.midpoint(number);
        if reaches(middle) { number = middle } else { below = middle }
    }
    let closes_at = interval
        .period(*anchor, number.into())
        .end
        .checked_add_signed(TimeDelta::try_seconds(*grace_seconds)?)?;
    Some((number, closes_at))
}

#[cfg(test)]
mod tests {
    use dues_domain::calendar::Interval;

    use super::*;

    fn at(text: &str) -> DateTime<Utc> {
        text.parse().unwrap()
    }

    #[test]
    fn a_window_belongs_to_the_period_that_its_last_instant_lies_in() {
        let monthly = Billable {
            onchain_id: 1,
            anchor: at("2026-01-31T10:00:00Z"),
            interval: Interval::MONTH,
            grace_seconds: 86_400,
            usage_cap: BaseUnits::new(1),
        };
        let number = |billable, end| period_of(&billable, at(end)).unwrap().0;
        assert_eq!(period_of(&monthly, at("2026-02-28T10:00:00Z")), Some((1, at("2026-03-01T10:00:00Z"))));
        assert_eq!(number(monthly, "2026-02-28T10:00:01Z"), 2);
        assert_eq!(number(monthly, "2026-03-31T10:00:00Z"), 2);
        assert_eq!(number(monthly, "2027-01-31T10:00:00Z"), 12);
        let yearly = Billable { interval: Interval::YEAR, ..monthly };
        assert_eq!(number(yearly, "2026-02-28T10:00:00Z"), 1);
        assert_eq!(number(yearly, "2027-02-28T10:00:00Z"), 2);
    }

    #[test]
    fn each_window_has_a_key_of_its_own_and_always_the_same() {
        let (account, other) = (AccountId::generate(), AccountId::generate());
        let window = |month| Span {
            start: at(&format!("2026-0{month}-01T00:00:00Z")),
            end: at("2026-09-01T00:00:00Z"),
        };
        let source = |chain_id| ChainSource { chain_id, contract: alloy::primitives::Address::ZERO };
        let key = overage_key(account, window(1), source(1), 7, 3);
        assert_eq!(key, overage_key(account, window(1), source(1), 7, 3));
        for another in [
            overage_key(other, window(1), source(1), 7, 3),
            overage_key(account, window(2), source(1), 7, 3),
            overage_key(account, window(1), source(2), 7, 3),
            overage_key(account, window(1), source(1), 8, 3),
            overage_key(account, window(1), source(1), 7, 4),
        ] {
            assert_ne!(key, another);
        }
    }
}
