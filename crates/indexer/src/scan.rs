//! Reading a long stretch of the chain again, from one end to the other.

use std::{collections::HashSet, time::Duration};

use alloy_primitives::{Address, B256, U256};
use dues_chain::{
    contract::{self, Concerns},
    source::{RpcSource, Segment, SourceError},
};
use dues_domain::chain::{BlockRef, OnchainPlanId};

/// The most blocks of one request, where nothing objects.
const MAX_SPAN: u64 = 2_000;
/// How often a stretch is tried before the node is given up.
const ATTEMPTS: u32 = 6;
/// The wait after the first failure; it doubles.
const FIRST_WAIT: Duration = Duration::from_millis(100);

/// Verified segments, each on top of the one before.
#[derive(Debug)]
pub(crate) struct Scan<'a> {
    rpc: &'a RpcSource,
    next: u64,
    parent: Option<B256>,
    span: u64,
}

impl<'a> Scan<'a> {
    /// From block `next` on, whose parent is `parent` where that is known.
    pub(crate) const fn new(rpc: &'a RpcSource, next: u64, parent: Option<B256>) -> Self {
        Self { rpc, next, parent, span: MAX_SPAN }
    }

    /// On top of `last`, or from `start` on where nothing was read yet.
    pub(crate) fn after(rpc: &'a RpcSource, last: Option<BlockRef>, start: u64) -> Self {
        let next = last.map_or(start, |last| last.number.saturating_add(1));
        Self::new(rpc, next, last.map(|last| last.hash))
    }

    /// The next segment of those up to `to`; `None` after the last.
    pub(crate) async fn next(&mut self, to: u64) -> Result<Option<Segment>, SourceError> {
        if self.next > to {
            return Ok(None);
        }
        let (mut attempt, mut wait) = (1, FIRST_WAIT);
        loop {
            let last = self.next.saturating_add(self.span).saturating_sub(1).min(to);
            match self.rpc.segment(self.next, last, self.parent).await {
                Ok(segment) => {
                    self.next = last.saturating_add(1);
                    self.parent = Some(segment.last.hash);
                    self.span = self.span.saturating_mul(2).min(MAX_SPAN);
                    return Ok(Some(segment));
                }
                Err(error) if attempt == ATTEMPTS => return Err(error),
                Err(_) => {
                    // Providers refuse large answers in many wordings; a smaller question never hurts.
                    self.span = (self.span / 2).max(1);
                    tokio::time::sleep(wait).await;
                    (attempt, wait) = (attempt.saturating_add(1), wait.saturating_mul(2));
                }
            }
        }
    }
}

/// Which logs the mirror keeps, asked in the chain's order.
#[derive(Debug)]
pub(crate) struct Ours {
    merchant: Address,
    plans: HashSet<OnchainPlanId>,
}

impl Ours {
    pub(crate) fn new(merchant: Address) -> Self {
        Self { merchant, plans: HashSet::new() }
    }

    /// Whether a log with `topics` concerns our merchant or one of its plans.
    pub(crate) fn keep(&mut self, topics: &[B256]) -> bool {
        match contract::concerns(topics) {
            Some(Concerns::Merchant(merchant)) => {
                let number = topics.get(1).and_then(|word| U256::from_be_bytes(word.0).try_into().ok());
                if merchant == self.merchant
                    && let Some(number) = number
                {
                    self.plans.insert(number);
                }
                merchant == self.merchant
            }
            Some(Concerns::Plan(plan)) => self.plans.contains(&plan),
            Some(Concerns::Permissions) | None => false,
        }
    }
}
