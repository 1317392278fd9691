//! From events to subscriptions and transactions.

use std::collections::{HashMap, hash_map::Entry};

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
    money::{Asset, Money},
    subscription::{ChainSubscription, FoldError},
};
use dues_store::mirror::{MirroredSubscription, Step, StoredEvent, Touched};

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
    let mut projection =
        Projection { step, config, plans, touched: HashMap::new(), beginnings: HashMap::new(), changes };
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
    for Touched { onchain_id, id, account, events } in step.unwind(fork).await? {
        let mut state = None;
        for event in events {
            let decoded = decode(event.at, event.topics, event.data)?;
            if let ContractEvent::Subscription(kept) = decoded {
                state = Some(ChainSubscription::apply(state, &kept, event.at)?.0);
            }
        }
        if let Some(state) = state {
            step.save_subscription(&MirroredSubscription { id, account, state }).await?;
        }
        changes.push(LedgerChange { account, onchain_id, block: fork, kind: LedgerChangeKind::Reorganised });
    }
    Ok(())
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
    changes: Vec<LedgerChange>,
}

impl Projection<'_, '_> {
    async fn log(&mut self, log: &RawLog) -> Result<(), IndexerError> {
        // Other merchants share the contract, and anybody can have it emit events: what is not ours is not even read.
        let ours = match contract::concerns(&log.topics) {
            Some(Concerns::Merchant(merchant)) => merchant == self.config.scope.merchant,
            Some(Concerns::Plan(plan)) => self.plans.contains_key(&plan),
            None => false,
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
            ContractEvent::Subscription(change) => {
                let plan = self.plans.get(&change.plan).cloned().ok_or(FoldError::NotBegun(change.id))?;
                self.step.record_event(&event, Some(change.id)).await?;
                self.subscription(&change, &plan, log.at).await?;
            }
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
        let (state, charge) = ChainSubscription::apply(before.map(|s| s.state), event, at)?;
        let subscription = match row {
            Some((id, account)) => MirroredSubscription { id, account, state },
            None => {
                let ordinal = self.count(at.tx_hash, &state);
                self.step.begin_subscription(state, ordinal).await?
            }
        };
        let kind = match (event.kind, charge) {
            (_, Some(charge)) => {
                let money = Money { amount: charge.amount, asset: self.asset(plan.token) };
                self.step.record_charge(&subscription, &charge, &money, plan, at).await?;
                LedgerChangeKind::Charged(money)
            }
            (SubscriptionEventKind::Subscribed { .. }, None) => LedgerChangeKind::Subscribed,
            (SubscriptionEventKind::ChargeFailed { reason }, None) => LedgerChangeKind::ChargeFailed(reason),
            (SubscriptionEventKind::CancelScheduled, None) => LedgerChangeKind::CancelScheduled,
            (SubscriptionEventKind::Cancelled, None) => LedgerChangeKind::Cancelled,
            (SubscriptionEventKind::Resumed, None) => LedgerChangeKind::Resumed,
            // `apply` gives a charge for every `Charged`.
            (SubscriptionEventKind::Charged { .. }, None) => return Err(FoldError::NotBegun(event.id).into()),
        };
        let account = subscription.account;
        self.changes.push(LedgerChange { account, onchain_id: event.id, block: at.block, kind });
        self.touched.insert(event.id, subscription);
        Ok(())
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

    /// How many equal beginnings the transaction has had before this one.
    fn count(&mut self, tx: B256, state: &ChainSubscription) -> u32 {
        let next = self.beginnings.entry((tx, state.payer, state.plan, state.reference)).or_default();
        let ordinal = *next;
        *next = next.saturating_add(1);
        ordinal
    }

    fn asset(&self, token: Address) -> Asset {
        // A token that the configuration does not know is named in full (CAIP-19) and counted in base units.
        self.config.assets.get(&token).cloned().unwrap_or_else(|| Asset {
            code: format!("eip155:{}/erc20:{token}", self.config.source.chain_id),
            exponent: 0,
        })
    }

    async fn finish(self) -> Result<Vec<LedgerChange>, IndexerError> {
        for subscription in self.touched.values() {
            self.step.save_subscription(subscription).await?;
        }
        Ok(self.changes)
    }
}
