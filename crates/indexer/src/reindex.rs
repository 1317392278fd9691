//! Rebuilding the mirror from the chain.
//!
//! The chain is read first, while the indexer goes on. Then one transaction takes everything back, projects it again
//! with the indexer's own code, and says what is different. Where nothing is, it is undone, so that a rebuild of a
//! right ledger leaves no trace.

use std::collections::HashMap;

use alloy_primitives::{Address, B256};
use dues_chain::{
    contract,
    source::{BlockTag, RpcSource, Segment, SourceError},
};
use dues_domain::chain::{BlockRef, ContractEvent, OnchainPlanId, SubscriptionEventKind};
use dues_store::{
    Store, StoreError,
    mirror::{Beginning, Checkpoint, MirrorScope, Rebuild, Rebuilt, Repairer},
};

use crate::{
    IndexerConfig, IndexerError,
    error::chain,
    final_number, projection,
    scan::{Ours, Scan},
};

/// How often everything is tried where the chain is reorganised meanwhile.
const ATTEMPTS: u32 = 5;
/// Small segments are put together up to this many events.
const EVENTS_PER_SEGMENT: usize = 5_000;

/// Why a ledger was not rebuilt. Nothing was changed then.
#[derive(Debug, thiserror::Error)]
pub enum ReindexError {
    /// Another process rebuilds the same.
    #[error("another `dues reindex` of this chain is running: wait for its end")]
    Busy,
    /// The node does not have what the ledger has.
    #[error(
        "the node is at block {head}, the ledger at block {checkpoint}: the node is behind, try again later"
    )]
    NodeBehind {
        /// The node's head.
        head: u64,
        /// The ledger's last block.
        checkpoint: u64,
    },
    /// The chain could not be read.
    #[error("the chain could not be read")]
    Source(#[from] SourceError),
    /// The ledger could not be written.
    #[error("the ledger could not be written")]
    Store(#[from] StoreError),
    /// The chain's events are no history of the contract.
    #[error("the chain's events could not be projected")]
    Projection(#[from] IndexerError),
}

impl ReindexError {
    /// Whether trying again at once may help: the chain was reorganised while it was read, or somebody who links a wallet
    /// that has paid and the rebuild waited for each other.
    fn may_pass(&self) -> bool {
        match self {
            Self::Source(SourceError::Inconsistent(_)) => true,
            Self::Store(error) | Self::Projection(IndexerError::Store(error)) => error.is_transient(),
            _ => false,
        }
    }
}

/// How far the reading of the chain is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reading {
    /// Blocks that are read.
    pub done: u64,
    /// Blocks that there are.
    pub blocks: u64,
    /// Events of ours among them.
    pub events: u64,
}

/// Rebuilds what `config` has mirrored into `store` from the chain behind `rpc`, and gives what is different. With
/// `dry_run`, everything is undone at the end. `reading` is told how far the reading of the chain is.
///
/// # Errors
/// [`ReindexError`]; nothing was changed then.
pub async fn reindex(
    store: &Store,
    rpc: &RpcSource,
    config: &IndexerConfig,
    dry_run: bool,
    mut reading: impl FnMut(Reading) + Send,
) -> Result<Rebuilt, ReindexError> {
    rpc.verify_chain().await?;
    let mut repairer = store.repair(config.source, config.scope).await?.ok_or(ReindexError::Busy)?;
    let config = IndexerConfig { scope: repairer.scope(), ..config.clone() };
    let goal = Goal::of(rpc, &config, repairer.checkpoint().await?).await?;
    // Blocks below are as final as they will be when the ledger is written.
    let floor = goal.final_number;
    let mut read = History::new(config.scope, floor);
    let mut attempt = 1;
    loop {
        let tried = try_once(rpc, &config, &mut repairer, &mut read, dry_run, &mut reading).await;
        match tried {
            Err(error) if attempt < ATTEMPTS && error.may_pass() => {
                tracing::warn!(error = %chain(&error), "rebuilding again");
                attempt = attempt.saturating_add(1);
                read.forget_reorganised(rpc).await?;
            }
            done => return done,
        }
    }
}

async fn try_once(
    rpc: &RpcSource,
    config: &IndexerConfig,
    repairer: &mut Repairer,
    read: &mut History,
    dry_run: bool,
    reading: &mut (impl FnMut(Reading) + Send),
) -> Result<Rebuilt, ReindexError> {
    let goal = Goal::of(rpc, config, repairer.checkpoint().await?).await?;
    read.up_to(rpc, goal.block, reading).await?;
    // From here on the indexer waits.
    let mut rebuild = repairer.begin().await?;
    let goal = Goal::of(rpc, config, rebuild.checkpoint()).await?;
    read.up_to(rpc, goal.block, reading).await?;
    let rebuilt = rebuild_with(&mut rebuild, config, read, goal).await?;
    if dry_run || rebuilt.is_unchanged() {
        rebuild.roll_back().await?;
    } else {
        rebuild.commit(&rebuilt).await?;
    }
    Ok(rebuilt)
}

async fn rebuild_with(
    rebuild: &mut Rebuild<'_>,
    config: &IndexerConfig,
    read: &History,
    goal: Goal,
) -> Result<Rebuilt, ReindexError> {
    rebuild.take_back(&read.beginnings()?).await?;
    for segment in &read.segments {
        // Whoever watches is told of what happens on the chain, and nothing has.
        projection::apply(rebuild.step(), config, None, segment, goal.final_number).await?;
    }
    Ok(rebuild.finish(Checkpoint { block: goal.block, final_number: goal.final_number }).await?)
}

/// Up to where the ledger is rebuilt.
#[derive(Debug, Clone, Copy)]
struct Goal {
    block: BlockRef,
    final_number: u64,
}

impl Goal {
    /// The checkpoint, so that nothing changes but what was wrong; the head, where the checkpoint's block is gone.
    async fn of(rpc: &RpcSource, config: &IndexerConfig, at: Checkpoint) -> Result<Self, ReindexError> {
        let head =
            rpc.header(BlockTag::Latest).await?.ok_or(SourceError::Inconsistent("the node has no head"))?;
        let behind = ReindexError::NodeBehind { head: head.block.number, checkpoint: at.block.number };
        if head.block.number < at.block.number {
            return Err(behind);
        }
        let there = rpc.header(at.block.number.into()).await?.ok_or(behind)?;
        if there.block == at.block {
            return Ok(Self { block: at.block, final_number: at.final_number });
        }
        let final_number = final_number(rpc, config.finality, &head).await?.min(head.block.number);
        Ok(Self { block: head.block, final_number })
    }
}

/// What the chain has of ours, verified.
#[derive(Debug)]
struct History {
    scope: MirrorScope,
    /// Of blocks below, headers are not kept.
    floor: u64,
    segments: Vec<Segment>,
}

impl History {
    const fn new(scope: MirrorScope, floor: u64) -> Self {
        Self { scope, floor, segments: Vec::new() }
    }

    fn last(&self) -> Option<BlockRef> {
        self.segments.last().map(|segment| segment.last)
    }

    /// Reads on to `goal`.
    async fn up_to(
        &mut self,
        rpc: &RpcSource,
        goal: BlockRef,
        reading: &mut (impl FnMut(Reading) + Send),
    ) -> Result<(), SourceError> {
        // The checkpoint may have gone back in a reorganisation.
        while self.last().is_some_and(|last| last.number > goal.number) {
            self.segments.pop();
        }
        let mut ours = Ours::new(self.scope.merchant);
        let mut events: u64 = 0;
        for log in self.segments.iter().flat_map(|segment| &segment.logs) {
            ours.keep(&log.topics);
            events = events.saturating_add(1);
        }
        let start = self.scope.start_block;
        let blocks = goal.number.saturating_add(1).saturating_sub(start);
        let mut scan = Scan::after(rpc, self.last(), start);
        while let Some(mut segment) = scan.next(goal.number).await? {
            segment.headers.retain(|header| header.block.number >= self.floor);
            segment.logs.retain(|log| ours.keep(&log.topics));
            events = events.saturating_add(u64::try_from(segment.logs.len()).unwrap_or(u64::MAX));
            let done = segment.last.number.saturating_add(1).saturating_sub(start);
            self.append(segment);
            reading(Reading { done, blocks, events });
        }
        if self.last() == Some(goal) {
            Ok(())
        } else {
            Err(SourceError::Inconsistent("the chain was reorganised while it was read"))
        }
    }

    fn append(&mut self, segment: Segment) {
        match self.segments.last_mut() {
            // Those whose blocks may still change stay as small as they are.
            Some(before) if segment.headers.is_empty() && before.logs.len() < EVENTS_PER_SEGMENT => {
                before.logs.extend(segment.logs);
                before.last = segment.last;
            }
            _ => self.segments.push(segment),
        }
    }

    /// Forgets what is no longer in the chain.
    async fn forget_reorganised(&mut self, rpc: &RpcSource) -> Result<(), SourceError> {
        while let Some(last) = self.last() {
            let there = rpc.header(last.number.into()).await?;
            if there.is_some_and(|header| header.block == last) {
                break;
            }
            self.segments.pop();
        }
        Ok(())
    }

    /// How every subscription began, with the same ordinals as the projection's.
    fn beginnings(&self) -> Result<Vec<Beginning>, IndexerError> {
        let mut equal: HashMap<(B256, Address, OnchainPlanId, B256), u32> = HashMap::new();
        let mut beginnings = Vec::new();
        for log in self.segments.iter().flat_map(|segment| &segment.logs) {
            let decoded = contract::decode(log.topics.clone(), log.data.clone());
            let event =
                decoded.map_err(|source| IndexerError::Decode { block: log.at.block.number, source })?;
            if let ContractEvent::Subscription(event) = event
                && let SubscriptionEventKind::Subscribed { reference, .. } = event.kind
            {
                let ordinal = equal.entry((log.at.tx_hash, event.payer, event.plan, reference)).or_default();
                beginnings.push(Beginning {
                    onchain_id: event.id,
                    tx_hash: log.at.tx_hash,
                    payer: event.payer,
                    plan: event.plan,
                    reference,
                    ordinal: *ordinal,
                });
                *ordinal = ordinal.saturating_add(1);
            }
        }
        Ok(beginnings)
    }
}
