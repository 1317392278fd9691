//! From events to subscriptions and transactions.

use std::{
    collections::{HashMap, hash_map::Entry},
    hash::Hash,
};

use alloy_primitives::{Address, B256};
use dues_chain::{
    contract::{self, Concerns},
    source::{RawLog, Segment},
};
use dues_domain::{
    chain::{
        BlockRef, ContractEvent, EventPosition, OnchainPlan, OnchainPlanId, OnchainSubscriptionId,
        SubscriptionEvent, SubscriptionEventKind,
    },
    fold::{ChainSubscription, FoldError, Movement, MovementKind},
    money::Money,
};
use dues_store::mirror::{
    MirroredSubscription, Recorded, Step, StoredEvent, TouchedPlan, TouchedSubscription,
};

use crate::{IndexerConfig, IndexerError, LedgerChange, LedgerChangeKind};

/// Writes what `segment` says into `step`, after taking back everything above `unwind_to`.
pub(crate) async fn apply(
    step: &mut Step<'_>,
    config: &IndexerConfig,
    unwind_to: Option<BlockRef>,
    segment: &Segment,
    final_number: u64,
) -> Result<Vec<LedgerChange>, IndexerError> {
    let mut changes = Vec::new();
    if let Some(fork) = unwind_to {
        unwind(step, fork, &mut changes).await?;
    }
    // The final block itself is the lowest possible fork point; the last block is where the next step begins.
    let kept = |block: &BlockRef| block.number >= final_number || *block == segment.last;
    let blocks: Vec<BlockRef> = segment.headers.iter().map(|header| header.block).filter(kept).collect();
    step.record_blocks(&blocks).await?;

    let plans = step.plans().await?;
    let mut projection = Projection {
        step,
        config,
        plans,
        touched: HashMap::new(),
        beginnings: HashMap::new(),
        charges: HashMap::new(),
        changes,
    };
    for log in &segment.logs {
        projection.log(log).await?;
    }
    projection.finish().await
}

async fn unwind(
    step: &mut Step<'_>,
    fork: BlockRef,
    changes: &mut Vec<LedgerChange>,
) -> Result<(), IndexerError> {
    let unwound = step.unwind(fork).await?;
    for TouchedSubscription { onchain_id, id, account, events } in unwound.subscriptions {
        let mut state = None;
        for event in events {
            if let ContractEvent::Subscription(kept) = decode(event.at, event.topics, event.data)? {
                state = Some(ChainSubscription::apply(state, &kept, event.at)?.0);
            }
        }
        if let Some(state) = state {
            step.save_subscription(&MirroredSubscription { id, account, state }).await?;
        }
        changes.push(LedgerChange { account, onchain_id, block: fork, kind: LedgerChangeKind::Reorganised });
    }
    for TouchedPlan { id, events } in unwound.plans {
        let mut payee = None;
        for event in events {
            match decode(event.at, event.topics, event.data)? {
                ContractEvent::PlanCreated(OnchainPlan { payee: kept, .. })
                | ContractEvent::PayeeChanged { payee: kept, .. } => payee = Some(kept),
                _ => {}
            }
        }
        if let Some(payee) = payee {
            step.save_payee(id, payee).await?;
        }
    }
    Ok(step.forget_above(fork).await?)
}

fn decode(at: EventPosition, topics: Vec<B256>, data: Vec<u8>) -> Result<ContractEvent, IndexerError> {
    contract::decode(topics, data).map_err(|source| IndexerError::Decode { block: at.block.number, source })
}

struct Projection<'a, 'b> {
    step: &'a mut Step<'b>,
    config: &'a IndexerConfig,
    plans: HashMap<OnchainPlanId, OnchainPlan>,
    touched: HashMap<OnchainSubscriptionId, MirroredSubscription>,
    beginnings: HashMap<(B256, Address, OnchainPlanId, B256), u32>,
    /// Charges by transaction, subscription and number of the period.
    charges: HashMap<(B256, OnchainSubscriptionId, u16), u32>,
    changes: Vec<LedgerChange>,
}

impl Projection<'_, '_> {
    async fn log(&mut self, log: &RawLog) -> Result<(), IndexerError> {
        // Other merchants share the contract, and anybody can have it emit events: what is not ours is not even read.
        let ours = match contract::concerns(&log.topics) {
            Some(Concerns::Merchant(merchant)) => merchant == self.config.scope.merchant,
            Some(Concerns::Plan(plan)) => self.plans.contains_key(&plan),
            // Nothing in the ledger depends on who may act for whom: what comes of it has events of its own.
            Some(Concerns::Permissions) | None => false,
        };
        if !ours {
            return Ok(());
        }
        let event = StoredEvent { at: log.at, topics: log.topics.clone(), data: log.data.clone() };
        match decode(log.at, log.topics.clone(), log.data.clone())? {
            ContractEvent::PlanCreated(plan) => {
                self.step.record_event(&event, None).await?;
                self.step.record_plan(&plan, log.at).await?;
                self.plans.insert(plan.id, plan);
            }
            ContractEvent::PlanRetired(plan) => {
                self.step.record_event(&event, None).await?;
                self.step.retire_plan(plan, log.at).await?;
            }
            ContractEvent::PayeeChanged { plan, payee } => {
                self.step.record_event(&event, None).await?;
                self.step.save_payee(plan, payee).await?;
                if let Some(plan) = self.plans.get_mut(&plan) {
                    plan.payee = payee;
                }
            }
            // Only a record: nothing is paid to the proposed account before it accepts.
            ContractEvent::PayeeProposed { .. } => self.step.record_event(&event, None).await?,
            ContractEvent::Subscription(change) => {
                let plan = self.plans.get(&change.plan).cloned().ok_or(FoldError::NotBegun(change.id))?;
                self.step.record_event(&event, Some(change.id)).await?;
                self.subscription(&change, &plan, log.at).await?;
            }
            // Not ours, by `concerns`.
            ContractEvent::OperatorSet { .. } | ContractEvent::NoncesSpent { .. } => {}
        }
        Ok(())
    }

    async fn subscription(
        &mut self,
        event: &SubscriptionEvent,
        plan: &OnchainPlan,
        at: EventPosition,
    ) -> Result<(), IndexerError> {
        let before = self.current(event.id).await?;
        let row = before.as_ref().map(|s| (s.id, s.account));
        let (state, movement) = ChainSubscription::apply(before.map(|s| s.state), event, at)?;
        let subscription = match row {
            Some((id, account)) => MirroredSubscription { id, account, state },
            None => {
                let ordinal =
                    count(&mut self.beginnings, (at.tx_hash, state.payer, state.plan, state.reference));
                self.step.begin_subscription(state, ordinal).await?
            }
        };
        let money =
            movement.map(|moved| Money { amount: moved.amount, asset: self.config.asset(plan.token) });
        if let Some((movement, money)) = movement.as_ref().zip(money.as_ref()) {
            let ordinal = self.ordinal(event.id, movement, at);
            let subscription = &subscription;
            let recorded = Recorded { subscription, plan, movement, ordinal, money, at };
            self.step.record_movement(&recorded).await?;
        }
        if let Some(kind) = change_kind(event, money) {
            let (account, onchain_id, block) = (subscription.account, event.id, at.block);
            self.changes.push(LedgerChange { account, onchain_id, block, kind });
        }
        self.touched.insert(event.id, subscription);
        Ok(())
    }

    /// How many equal charges the transaction has had before this one. Usage and refunds have keys of their own.
    fn ordinal(&mut self, id: OnchainSubscriptionId, movement: &Movement, at: EventPosition) -> u32 {
        match movement.kind {
            MovementKind::Charge { period, .. } => count(&mut self.charges, (at.tx_hash, id, period)),
            MovementKind::Usage { .. } | MovementKind::Refund { .. } => 0,
        }
    }

    async fn current(
        &mut self,
        id: OnchainSubscriptionId,
    ) -> Result<Option<MirroredSubscription>, IndexerError> {
        match self.touched.entry(id) {
            Entry::Occupied(known) => Ok(Some(known.get().clone())),
            Entry::Vacant(_) => Ok(self.step.subscription(id).await?),
        }
    }

    async fn finish(self) -> Result<Vec<LedgerChange>, IndexerError> {
        for subscription in self.touched.values() {
            self.step.save_subscription(subscription).await?;
        }
        Ok(self.changes)
    }
}

/// How many of `key` there were before this one.
fn count<K: Eq + Hash>(counts: &mut HashMap<K, u32>, key: K) -> u32 {
    let seen = counts.entry(key).or_default();
    let ordinal = *seen;
    *seen = seen.saturating_add(1);
    ordinal
}

/// What `event`, which moved `money`, is to whoever watches.
fn change_kind(event: &SubscriptionEvent, money: Option<Money>) -> Option<LedgerChangeKind> {
    Some(match event.kind {
        SubscriptionEventKind::Subscribed { .. } => LedgerChangeKind::Subscribed,
        SubscriptionEventKind::Charged { .. } => LedgerChangeKind::Charged(money?),
        SubscriptionEventKind::ChargeFailed { reason } => LedgerChangeKind::ChargeFailed(reason),
        SubscriptionEventKind::PlanChanged { from, .. } => {
            LedgerChangeKind::PlanChanged { from, to: event.plan }
        }
        SubscriptionEventKind::ChangeScheduled { to, by } => LedgerChangeKind::ChangeScheduled { to, by },
        SubscriptionEventKind::ChangeRevoked => LedgerChangeKind::ChangeRevoked,
        SubscriptionEventKind::CancelScheduled { by } => LedgerChangeKind::CancelScheduled(by),
        SubscriptionEventKind::Cancelled { by } => LedgerChangeKind::Cancelled(by),
        SubscriptionEventKind::Resumed => LedgerChangeKind::Resumed,
        SubscriptionEventKind::UsageCharged { .. } => LedgerChangeKind::UsageCharged(money?),
        SubscriptionEventKind::Refunded { .. } => LedgerChangeKind::Refunded(money?),
    })
}
