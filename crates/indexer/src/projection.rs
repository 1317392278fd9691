//! From events to subscriptions and transactions.
//!
//! A segment is projected as a whole, however many events it has: first its logs are read and what they touch is loaded
//! ([`Reading`]), then they are folded in memory ([`Fold`]), then everything is written, each table at once. One event
//! at the head and thousands of a backfill go the same way.

use std::{
    collections::{BTreeSet, HashMap, hash_map::Entry},
    hash::Hash,
    sync::Arc,
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
    money::{Asset, Money},
};
use dues_store::mirror::{
    Begun, MirroredSubscription, NewEvent, NewMovement, Origin, Purpose, Step, TouchedPlan,
    TouchedSubscription,
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
    if segment.logs.is_empty() {
        return Ok(changes);
    }

    let mut reading = Reading::new(config, step.plans().await?);
    for log in &segment.logs {
        reading.log(step, log).await?;
    }
    let Reading { events, happened, ids, origins, .. } = reading;
    let ids: Vec<OnchainSubscriptionId> = ids.into_iter().collect();
    // Wallets before subscriptions, as whoever links a wallet does: neither waits for what the other one has.
    let begun = step.begin_subscriptions(&origins).await?;
    let known = step.subscriptions(&ids).await?;
    let begun = origins.into_iter().zip(begun).collect();

    let mut fold = Fold::new(config, known, begun, changes);
    for event in &happened {
        fold.event(event)?;
    }
    fold.write(step, &events, final_number).await
}

async fn unwind(
    step: &mut Step<'_>,
    fork: BlockRef,
    changes: &mut Vec<LedgerChange>,
) -> Result<(), IndexerError> {
    let unwound = step.unwind(fork).await?;
    let mut folded = Vec::new();
    for TouchedSubscription { onchain_id, id, account, events } in unwound.subscriptions {
        let mut state = None;
        for event in events {
            if let ContractEvent::Subscription(kept) = decode(event.at, &event.topics, &event.data)? {
                state = Some(ChainSubscription::apply(state, &kept, event.at)?.0);
            }
        }
        folded.extend(state.map(|state| MirroredSubscription { id, account, state }));
        changes.push(LedgerChange { account, onchain_id, block: fork, kind: LedgerChangeKind::Reorganised });
    }
    step.update_subscriptions(&folded.iter().collect::<Vec<_>>()).await?;
    for TouchedPlan { id, events } in unwound.plans {
        let mut payee = None;
        for event in events {
            match decode(event.at, &event.topics, &event.data)? {
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

fn decode(at: EventPosition, topics: &[B256], data: &[u8]) -> Result<ContractEvent, IndexerError> {
    contract::decode(topics, data).map_err(|source| IndexerError::Decode { block: at.block.number, source })
}

/// A segment's logs as events, as far as they are ours.
struct Reading<'a> {
    config: &'a IndexerConfig,
    plans: HashMap<OnchainPlanId, Arc<OnchainPlan>>,
    /// Everything that is kept.
    events: Vec<NewEvent<'a>>,
    /// What happened to subscriptions.
    happened: Vec<Happened>,
    /// Which subscriptions those are.
    ids: BTreeSet<OnchainSubscriptionId>,
    /// Those that begin, in the order of their events.
    origins: Vec<Origin>,
    beginnings: HashMap<(B256, Address, OnchainPlanId, B256), u32>,
}

/// Something that happened to a subscription.
struct Happened {
    event: SubscriptionEvent,
    at: EventPosition,
    /// The plan that it is on after the event, as it was then: its payee can change.
    plan: Arc<OnchainPlan>,
}

impl<'a> Reading<'a> {
    fn new(config: &'a IndexerConfig, plans: HashMap<OnchainPlanId, OnchainPlan>) -> Self {
        Self {
            config,
            plans: plans.into_iter().map(|(id, plan)| (id, Arc::new(plan))).collect(),
            events: Vec::new(),
            happened: Vec::new(),
            ids: BTreeSet::new(),
            origins: Vec::new(),
            beginnings: HashMap::new(),
        }
    }

    /// Reads a log. Plans are few: what happens to them is written at once.
    async fn log(&mut self, step: &mut Step<'_>, log: &'a RawLog) -> Result<(), IndexerError> {
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
        let mut subscription = None;
        match decode(log.at, &log.topics, &log.data)? {
            ContractEvent::PlanCreated(plan) => {
                step.record_plan(&plan, log.at).await?;
                self.plans.insert(plan.id, Arc::new(plan));
            }
            ContractEvent::PlanRetired(plan) => step.retire_plan(plan, log.at).await?,
            ContractEvent::PayeeChanged { plan, payee } => {
                step.save_payee(plan, payee).await?;
                if let Some(plan) = self.plans.get_mut(&plan) {
                    Arc::make_mut(plan).payee = payee;
                }
            }
            // Only a record: nothing is paid to the proposed account before it accepts.
            ContractEvent::PayeeProposed { .. } => {}
            ContractEvent::Subscription(event) => {
                let plan = self.plans.get(&event.plan).cloned().ok_or(FoldError::NotBegun(event.id))?;
                subscription = Some(event.id);
                self.ids.insert(event.id);
                if let SubscriptionEventKind::Subscribed { reference, .. } = event.kind {
                    let (tx_hash, payer, plan) = (log.at.tx_hash, event.payer, event.plan);
                    let ordinal = count(&mut self.beginnings, (tx_hash, payer, plan, reference));
                    self.origins.push(Origin { tx_hash, payer, plan, reference, ordinal });
                }
                self.happened.push(Happened { event, at: log.at, plan });
            }
            // Not ours, by `concerns`.
            ContractEvent::OperatorSet { .. } | ContractEvent::NoncesSpent { .. } => return Ok(()),
        }
        self.events.push(NewEvent { at: log.at, topics: &log.topics, data: &log.data, subscription });
        Ok(())
    }
}

/// The fold of a segment's events over the subscriptions that they touch.
struct Fold<'a> {
    config: &'a IndexerConfig,
    touched: HashMap<OnchainSubscriptionId, Touched>,
    /// The rows of those that begin, in the order of their events.
    begun: std::vec::IntoIter<(Origin, Begun)>,
    /// Charges by transaction, subscription and number of the period.
    charges: HashMap<(B256, OnchainSubscriptionId, u16), u32>,
    assets: HashMap<Address, Asset>,
    movements: Vec<NewMovement>,
    changes: Vec<LedgerChange>,
}

/// A subscription of a segment, with its origin where its row is new.
struct Touched {
    subscription: MirroredSubscription,
    origin: Option<Origin>,
}

impl<'a> Fold<'a> {
    fn new(
        config: &'a IndexerConfig,
        known: HashMap<OnchainSubscriptionId, MirroredSubscription>,
        begun: Vec<(Origin, Begun)>,
        changes: Vec<LedgerChange>,
    ) -> Self {
        let touched = known
            .into_iter()
            .map(|(id, subscription)| (id, Touched { subscription, origin: None }))
            .collect();
        Self {
            config,
            touched,
            begun: begun.into_iter(),
            charges: HashMap::new(),
            assets: HashMap::new(),
            movements: Vec::new(),
            changes,
        }
    }

    fn event(&mut self, Happened { event, at, plan }: &Happened) -> Result<(), IndexerError> {
        let (subscription, movement) = match self.touched.entry(event.id) {
            Entry::Occupied(touched) => {
                let subscription = &mut touched.into_mut().subscription;
                let (state, movement) =
                    ChainSubscription::apply(Some(subscription.state.clone()), event, *at)?;
                subscription.state = state;
                (subscription, movement)
            }
            Entry::Vacant(place) => {
                let (state, movement) = ChainSubscription::apply(None, event, *at)?;
                let (origin, Begun { id, account, revived }) =
                    self.begun.next().ok_or(FoldError::NotBegun(event.id))?;
                let subscription = MirroredSubscription { id, account, state };
                let origin = (!revived).then_some(origin);
                (&mut place.insert(Touched { subscription, origin }).subscription, movement)
            }
        };
        let money = movement.as_ref().map(|moved| Money {
            amount: moved.amount,
            asset: self.assets.entry(plan.token).or_insert_with(|| self.config.asset(plan.token)).clone(),
        });
        if let Some((movement, money)) = movement.zip(money.clone()) {
            let (purpose, payer, payee) =
                purpose(&movement, event.id, &subscription.state, plan, *at, &mut self.charges);
            self.movements.push(NewMovement {
                subscription: subscription.id,
                account: subscription.account,
                plan: plan.id,
                purpose,
                money,
                token: plan.token,
                payer,
                payee,
                at: *at,
            });
        }
        if let Some(kind) = change_kind(event, money) {
            let (account, onchain_id, block) = (subscription.account, event.id, at.block);
            self.changes.push(LedgerChange { account, onchain_id, block, kind });
        }
        Ok(())
    }

    async fn write(
        self,
        step: &mut Step<'_>,
        events: &[NewEvent<'_>],
        final_number: u64,
    ) -> Result<Vec<LedgerChange>, IndexerError> {
        step.record_events(events).await?;
        let mut rows: Vec<_> = self.touched.into_values().collect();
        rows.sort_unstable_by_key(|row| row.subscription.id);
        let (new, there): (Vec<_>, Vec<_>) = rows.iter().partition(|row| row.origin.is_some());
        let new: Vec<_> = new.into_iter().filter_map(|row| Some((&row.subscription, row.origin?))).collect();
        let there: Vec<_> = there.into_iter().map(|row| &row.subscription).collect();
        step.insert_subscriptions(&new).await?;
        step.record_movements(&self.movements, final_number).await?;
        step.update_subscriptions(&there).await?;
        Ok(self.changes)
    }
}

/// What `movement` is for, from whom and to whom it went; `state` is its subscription's after the event.
fn purpose(
    movement: &Movement,
    id: OnchainSubscriptionId,
    state: &ChainSubscription,
    plan: &OnchainPlan,
    at: EventPosition,
    charges: &mut HashMap<(B256, OnchainSubscriptionId, u16), u32>,
) -> (Purpose, Address, Address) {
    match movement.kind {
        MovementKind::Charge { period, span } => {
            let ordinal = count(charges, (at.tx_hash, id, period));
            let plan_changes = state.plan_changes;
            (Purpose::Charge { period, span, plan_changes, ordinal }, state.payer, plan.payee)
        }
        MovementKind::Usage { key, period } => {
            let span = plan.interval.period(state.anchor, period.into());
            (Purpose::Usage { key, period, span }, state.payer, plan.payee)
        }
        MovementKind::Refund { key, from } => (Purpose::Refund { key }, from, state.payer),
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

#[cfg(test)]
mod tests;
